"""Blemish synthesis: spots, scars, redness and shine on an aligned face, with the exact residual.

Note [How a blemish is coloured]
    Pigments absorb: in linear light, skin under a density M of melanin and H of haemoglobin is
    I * exp(-(M * MELANIN + H * BLOOD)), per channel (Beer-Lambert; the extinction of melanin falls
    with the wavelength, that of blood is high in green and blue: Jacques 2013, "Optical properties
    of biological tissues: a review"; skin colour as these two densities: Tsumura et al. 1999,
    "Independent-component analysis of skin color image"). Being factors, they keep texture and
    light of the photo and act alike on light and dark skin, where adding a red would glow. Bumps
    and pits are shaded as factors too, by the slope against the light that the photo itself shows.
    Shine is light that never entered the skin, so it is added, with the colour of the light and
    not of the skin. Linear light is approximated by the square of the sample.

All lengths are in eye distances, so the same code serves any square size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import cv2
import numba
import numpy as np
import numpy.typing as npt

__all__ = [
    "KINDS",
    "Blemished",
    "LambdaRange",
    "add_blemishes",
    "blemish_skin",
    "feature_region",
    "lambda_augment",
]

Picture = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]

# Relative extinction in R, G, B (about 610, 545 and 465 nm).
MELANIN = np.array([0.45, 0.75, 1.15], np.float32)
BLOOD = np.array([0.27, 1.00, 1.00], np.float32)
# Of dark skin, the surface sends back most of the blue and green that comes: more melanin darkens
# all channels about alike.
_MELANIN_IN_DARK = np.array([0.72, 0.80, 0.86], np.float32)

_FULL = 0.30  # a relative change that counts as wholly blemished
_MOST = 2.0  # the largest amount
_PIXELS = 128  # side at which the skin is looked for


@dataclasses.dataclass(frozen=True, eq=False)
class Blemished:
    """A face with blemishes.

    image: [S, S, 3] uint8 RGB.
    residual: [S, S, 3] float32, (image - clean) / 255 of the uint8 pictures: exact, after clipping,
        so that round(255 * (clean / 255 + residual)) is the image.
    mask: [S, S] float32 in 0..1, how much each pixel is blemished: the relative change of its most
        changed channel, 1 from 30 % on; 0 exactly where the image is untouched.
    """

    image: Picture
    residual: FloatArray
    mask: FloatArray


# --- where skin is ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class _Face:
    """Landmarks with the lengths and directions of the face; positions in pixels of the square."""

    points: Points
    eyes: Points
    unit: float
    across: Points
    down: Points

    @staticmethod
    def of(landmarks: npt.ArrayLike) -> _Face:
        points = np.asarray(landmarks, dtype=np.float64)
        left, right = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
        unit = max(float(np.hypot(*(right - left))), 1e-6)
        across = (right - left) / unit
        down = points[57] - points[27]
        down = down / max(float(np.hypot(*down)), 1e-6)
        return _Face(points, (left + right) / 2, unit, across, down)


def _fill(mask: Picture, points: Points, value: int, grow: float = 0.0) -> None:
    hull = cv2.convexHull(np.rint(points).astype(np.int32))
    cv2.fillConvexPoly(mask, hull, value)
    if grow >= 0.5:
        cv2.polylines(mask, [hull], True, value, max(1, round(2 * grow)))


def _barred(face: _Face, size: int) -> Picture:
    """1 on eyes with their lids, brows, lips and nostrils: no blemish reaches there."""
    points, unit = face.points, face.unit
    barred: Picture = np.zeros((size, size), np.uint8)
    for eye in (points[36:42], points[42:48]):
        _fill(barred, eye, 1, 0.09 * unit)
    for brow in (points[17:22], points[22:27]):
        _fill(barred, brow, 1, 0.08 * unit)
    _fill(barred, points[48:60], 1, 0.03 * unit)
    _fill(barred, points[31:36] - 0.02 * unit * face.down, 1, 0.04 * unit)
    return barred


def feature_region(landmarks: npt.ArrayLike, size: int) -> Picture:
    """[S, S] uint8, 1 on the eyes with their lids, brows, lips and nostrils of a face.

    Args:
        landmarks: [68, 2] in pixels of the aligned square of side `size`, iBUG 300-W order.
    """
    return _barred(_Face.of(landmarks), size)


def blemish_skin(image: Picture, landmarks: npt.ArrayLike) -> FloatArray:
    """Where blemishes may lie: the skin of the face, without its features, hair and beard.

    The colour of skin is learnt from the cheeks, the nose and the forehead of this very face.

    Args:
        image: [S, S, 3] uint8 RGB aligned square.
        landmarks: [68, 2] in its pixels, iBUG 300-W order.

    Returns:
        [S, S] float32 in 0..1: 1 on skin, falling to 0 over a few pixels at its edge, and 0 on
        eyes, brows, lips and nostrils. All 0 where no skin can be told from the rest.
    """
    size = image.shape[0]
    side = min(size, _PIXELS)
    factor = side / size
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) if side < size else image
    points = (np.asarray(landmarks, dtype=np.float64) + 0.5) * factor - 0.5
    face = _Face.of(points)
    area: Picture = np.zeros((side, side), np.uint8)
    brows = points[17:27]
    middle = brows.mean(axis=0)
    rise = -0.75 * face.unit * face.down
    raised = [brows + 0.4 * rise, middle + 0.75 * (brows - middle) + rise]
    jaw = points[:17] + 0.05 * (points[30] - points[:17])
    _fill(area, np.concatenate([jaw, *raised]), 1)
    barred = _barred(face, side)
    area[barred > 0] = 0
    soft = cv2.medianBlur(np.ascontiguousarray(small), 5)
    lab = cv2.cvtColor(soft, cv2.COLOR_RGB2LAB)
    seeds: Picture = np.zeros((side, side), np.uint8)
    between = (points[21] + points[22]) / 2
    places = [points[29], between + 0.5 * rise]
    places += [0.5 * points[36] + 0.5 * points[48], 0.5 * points[45] + 0.5 * points[54]]
    places += [0.4 * points[2] + 0.6 * points[31], 0.4 * points[14] + 0.6 * points[35]]
    for place in places:
        centre = (round(float(place[0])), round(float(place[1])))
        cv2.circle(seeds, centre, max(2, round(0.12 * face.unit)), 1, -1)
    sample = lab[(seeds > 0) & (area > 0)].astype(np.float32)
    if len(sample) < 20:
        return np.zeros((size, size), np.float32)
    centre_colour = np.median(sample, axis=0)
    spread = 1.4826 * np.median(np.abs(sample - centre_colour), axis=0)
    low = centre_colour - np.array(
        [centre_colour[0] * np.clip(3.5 * spread[0] / centre_colour[0], 0.25, 0.45), 0, 0]
    )
    high = centre_colour + np.array([max(4 * spread[0], 80.0), 0, 0])
    tolerance = np.maximum(4.5 * spread[1:], 12.0)
    low[1:] -= tolerance
    high[1:] += tolerance
    likely = np.asarray(
        cv2.inRange(lab, np.clip(low, 0, 255), np.clip(high, 0, 255)), dtype=np.uint8
    )
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    likely = np.asarray(cv2.morphologyEx(likely, cv2.MORPH_OPEN, disc), dtype=np.uint8)
    likely = np.asarray(cv2.morphologyEx(likely, cv2.MORPH_CLOSE, disc), dtype=np.uint8)
    skin = np.asarray(cv2.erode(((likely > 0) & (area > 0)).astype(np.uint8), disc))
    sigma = max(0.6, 0.02 * face.unit)
    weight = cv2.GaussianBlur(skin.astype(np.float32), (0, 0), sigma)
    # The blurred half outside of the skin is taken away: the edge lies inside.
    weight = np.clip(2 * np.asarray(weight) - 1, 0, 1).astype(np.float32)
    if side < size:
        weight = cv2.resize(weight, (size, size), interpolation=cv2.INTER_LINEAR)
    full = _barred(_Face.of(landmarks), size)
    weight[full > 0] = 0
    return np.asarray(weight, dtype=np.float32)


def _regions(face: _Face) -> dict[str, tuple[Points, Points]]:
    """Centre [2] and half axes (across, down) [2] of each region, in pixels."""
    p, unit, down = face.points, face.unit, face.down
    between = (p[21] + p[22]) / 2
    return {
        "cheek_left": (
            0.5 * p[2] + 0.5 * p[31] + 0.02 * unit * down,
            np.array([0.30, 0.36]) * unit,
        ),
        "cheek_right": (
            0.5 * p[14] + 0.5 * p[35] + 0.02 * unit * down,
            np.array([0.30, 0.36]) * unit,
        ),
        "forehead": (between - 0.38 * unit * down, np.array([0.62, 0.26]) * unit),
        "chin": (0.45 * p[57] + 0.55 * p[8], np.array([0.33, 0.22]) * unit),
        "nose": (0.4 * p[28] + 0.6 * p[33], np.array([0.16, 0.30]) * unit),
        "jaw_left": (0.75 * p[4] + 0.25 * p[48], np.array([0.20, 0.35]) * unit),
        "jaw_right": (0.75 * p[12] + 0.25 * p[54], np.array([0.20, 0.35]) * unit),
        "temple_left": (0.6 * p[0] + 0.4 * p[17], np.array([0.14, 0.30]) * unit),
        "temple_right": (0.6 * p[16] + 0.4 * p[26], np.array([0.14, 0.30]) * unit),
    }


# How likely each region is for each kind: by where acne, sun and oil strike.
_PLACES: dict[str, dict[str, float]] = {
    "pimple": {
        "cheek_left": 2.0, "cheek_right": 2.0, "forehead": 2.5, "chin": 2.5, "nose": 0.6,
        "jaw_left": 1.2, "jaw_right": 1.2, "temple_left": 0.6, "temple_right": 0.6,
    },
    "comedone": {"nose": 4.0, "chin": 2.0, "forehead": 1.5, "cheek_left": 1.0, "cheek_right": 1.0},
    "freckle": {
        "nose": 2.0, "cheek_left": 3.0, "cheek_right": 3.0, "forehead": 1.2,
        "temple_left": 0.6, "temple_right": 0.6,
    },
    "age_spot": {
        "temple_left": 2.0, "temple_right": 2.0, "cheek_left": 2.0, "cheek_right": 2.0,
        "forehead": 2.0, "jaw_left": 0.7, "jaw_right": 0.7,
    },
    "pit": {
        "cheek_left": 3.0, "cheek_right": 3.0, "temple_left": 1.0, "temple_right": 1.0,
        "chin": 0.5, "jaw_left": 1.0, "jaw_right": 1.0, "forehead": 0.5,
    },
    "mark": {
        "cheek_left": 2.0, "cheek_right": 2.0, "chin": 1.5, "jaw_left": 1.5, "jaw_right": 1.5,
        "forehead": 1.0,
    },
}  # fmt: skip


# --- what is drawn ------------------------------------------------------------------------------

# Columns of the table of spots; lengths in pixels.
_X, _Y, _RADIUS, _STRETCH, _ANGLE = 0, 1, 2, 3, 4
_MELANIN, _BLOOD, _EDGE = 5, 6, 7  # densities, and how hard the edge is
_HALO, _HALO_BLOOD = 8, 9  # radius of the red surround in radii, and its density
_HEIGHT, _GLOSS, _PALE = 10, 11, 12  # bump (+) or pit (-), highlight, pale tip
_WAVES = 13  # outline: cosine and sine amplitudes of 2, 3 and 4 waves around
_COLUMNS = 19


def _log_uniform(rng: np.random.Generator, low: float, high: float, count: int) -> Points:
    return np.asarray(np.exp(rng.uniform(np.log(low), np.log(high), count)), dtype=np.float64)


def _placed(
    kind: str, count: int, face: _Face, rng: np.random.Generator, clusters: float
) -> Points:
    """[count, 2] positions: regions by weight, in part around common centres."""
    regions = _regions(face)
    weights = _PLACES[kind]
    # People differ in where it strikes them.
    share = np.array(list(weights.values())) * np.exp(rng.normal(0, 0.7, len(weights)))
    edges = np.cumsum(share) / share.sum()
    chosen = np.searchsorted(edges, rng.random(count)).clip(max=len(weights) - 1)
    offset = rng.normal(0, 0.62, (count, 2)).clip(-1.6, 1.6)
    hub = rng.normal(0, 0.5, (len(weights), 2))
    gathered = rng.random(count) < clusters
    offset[gathered] = hub[chosen[gathered]] + 0.22 * rng.standard_normal((gathered.sum(), 2))
    centre = np.array([regions[name][0] for name in weights])[chosen]
    axes = np.array([regions[name][1] for name in weights])[chosen]
    return np.asarray(
        centre
        + (offset[:, :1] * axes[:, :1]) * face.across
        + (offset[:, 1:] * axes[:, 1:]) * face.down,
        dtype=np.float64,
    )


def _table(
    kind: str, count: int, face: _Face, rng: np.random.Generator, clusters: float = 0.0
) -> Points:
    """[count, _COLUMNS] with places, outlines and turns set and everything else 0."""
    spots = np.zeros((count, _COLUMNS))
    spots[:, [_X, _Y]] = _placed(kind, count, face, rng, clusters)
    spots[:, _STRETCH] = np.exp(np.abs(rng.normal(0, 0.18, count)))
    spots[:, _ANGLE] = rng.uniform(0, np.pi, count)
    waves = rng.normal(0, 0.75, (count, 6)).clip(-1.5, 1.5)
    spots[:, _WAVES:] = waves * (0.10, 0.10, 0.08, 0.08, 0.06, 0.06)
    spots[:, _EDGE] = 2.0
    return spots


def _pimples(face: _Face, dark: float, rng: np.random.Generator, count: int) -> Points:
    """Papules and pustules: red, raised, with a soft red surround; some with a pale tip."""
    spots = _table("pimple", count, face, rng, clusters=0.35)
    spots[:, _RADIUS] = face.unit * _log_uniform(rng, 0.010, 0.036, count)
    strength = _log_uniform(rng, 0.35, 1.1, count)
    spots[:, _BLOOD] = strength * (1 - 0.35 * dark)
    spots[:, _MELANIN] = strength * (0.10 + 0.75 * dark) * rng.uniform(0.4, 1.2, count)
    spots[:, _EDGE] = rng.uniform(1.8, 3.0, count)
    spots[:, _HALO] = rng.uniform(1.8, 3.2, count)
    spots[:, _HALO_BLOOD] = strength * rng.uniform(0.15, 0.45, count) * (1 - 0.3 * dark)
    spots[:, _HEIGHT] = rng.uniform(0.15, 0.6, count) * np.minimum(1, strength + 0.3)
    spots[:, _GLOSS] = np.where(rng.random(count) < 0.45, rng.uniform(0.05, 0.22, count), 0)
    pustule = rng.random(count) < 0.22
    spots[:, _PALE] = np.where(pustule, rng.uniform(0.4, 1.0, count), 0)
    return spots


def _marks(face: _Face, dark: float, rng: np.random.Generator, count: int) -> Points:
    """Flat marks that pimples leave: red on light skin, brown on dark."""
    spots = _table("mark", count, face, rng, clusters=0.3)
    spots[:, _RADIUS] = face.unit * _log_uniform(rng, 0.012, 0.034, count)
    strength = _log_uniform(rng, 0.2, 0.65, count)
    spots[:, _BLOOD] = strength * (1 - 0.7 * dark) * rng.uniform(0.5, 1.2, count)
    spots[:, _MELANIN] = strength * (0.20 + 1.30 * dark) * rng.uniform(0.5, 1.2, count)
    spots[:, _EDGE] = rng.uniform(1.6, 2.6, count)
    return spots


def _comedones(face: _Face, dark: float, rng: np.random.Generator, count: int) -> Points:
    """Clogged pores: tiny, dark (open) or pale and raised (closed)."""
    spots = _table("comedone", count, face, rng, clusters=0.15)
    spots[:, _RADIUS] = face.unit * _log_uniform(rng, 0.004, 0.010, count)
    closed = rng.random(count) < 0.35
    strength = _log_uniform(rng, 0.3, 0.9, count)
    spots[:, _MELANIN] = np.where(closed, -0.10, 0.8) * strength
    spots[:, _BLOOD] = np.where(closed, -0.10, 0.25) * strength
    spots[:, _HEIGHT] = np.where(closed, rng.uniform(0.15, 0.4, count), 0)
    spots[:, _RADIUS] *= np.where(closed, 1.5, 1.0)
    return spots


def _freckles(face: _Face, dark: float, rng: np.random.Generator, count: int) -> Points:
    """Small flat spots of melanin, many and faint."""
    spots = _table("freckle", count, face, rng)
    spots[:, _RADIUS] = face.unit * _log_uniform(rng, 0.005, 0.016, count)
    spots[:, _MELANIN] = _log_uniform(rng, 0.15, 0.6, count) * rng.uniform(0.6, 1.1)
    spots[:, _EDGE] = rng.uniform(1.6, 2.4, count)
    spots[:, _WAVES:] *= 1.3
    return spots


def _age_spots(face: _Face, dark: float, rng: np.random.Generator, count: int) -> Points:
    """Solar lentigines: flat brown spots with an irregular, fairly sharp outline."""
    spots = _table("age_spot", count, face, rng, clusters=0.2)
    spots[:, _RADIUS] = face.unit * _log_uniform(rng, 0.018, 0.075, count)
    spots[:, _MELANIN] = _log_uniform(rng, 0.15, 0.52, count)
    spots[:, _BLOOD] = spots[:, _MELANIN] * rng.uniform(0.0, 0.25, count)
    spots[:, _EDGE] = rng.uniform(2.0, 3.4, count)
    spots[:, _WAVES:] *= 1.25
    spots[:, _STRETCH] *= rng.uniform(1.0, 1.3, count)
    return spots


def _pits(face: _Face, dark: float, rng: np.random.Generator, count: int) -> Points:
    """Pitted scars: ice-pick (small, deep) and rolling or boxcar (wide, shallow)."""
    spots = _table("pit", count, face, rng, clusters=0.5)
    spots[:, _RADIUS] = face.unit * _log_uniform(rng, 0.008, 0.030, count)
    spots[:, _HEIGHT] = -rng.uniform(0.2, 0.75, count)
    # Less light reaches the bottom.
    depth = rng.uniform(0.12, 0.42, count)
    spots[:, _MELANIN] = depth
    spots[:, _BLOOD] = depth * rng.uniform(0.0, 0.8, count)
    spots[:, _EDGE] = rng.uniform(2.0, 4.0, count)
    spots[:, _STRETCH] *= rng.uniform(1.0, 1.5, count)
    return spots


_SPOTS = {
    # kind: (maker, range of how many at amount 1)
    "pimple": (_pimples, (2, 28)),
    "mark": (_marks, (3, 28)),
    "comedone": (_comedones, (5, 45)),
    "freckle": (_freckles, (20, 160)),
    "age_spot": (_age_spots, (2, 10)),
    "pit": (_pits, (6, 45)),
}
_CHANCES = {
    "pimple": 0.75,
    "mark": 0.5,
    "comedone": 0.35,
    "freckle": 0.22,
    "age_spot": 0.25,
    "pit": 0.22,
    "scar": 0.2,
    "redness": 0.45,
    "shine": 0.45,
}
KINDS = tuple(_CHANCES)
"""What `add_blemishes` can draw."""


def _spots(
    face: _Face, dark: float, rng: np.random.Generator, amount: float, present: frozenset[str]
) -> FloatArray:
    """The table of all spots of a face, strengths included; same draws for every amount."""
    tables = []
    for kind in (kind for kind in _SPOTS if kind in present):
        maker, (low, high) = _SPOTS[kind]
        count = int(_log_uniform(rng, low, high, 1)[0])
        made = maker(face, dark, rng, int(np.ceil(_MOST * count)))
        # Spot i is there once the amount reaches its rank; then it grows stronger.
        rank = (np.arange(len(made)) + 1) / count - 0.999
        tables.append(made[rank <= amount])
    spots = np.concatenate(tables) if tables else np.zeros((0, _COLUMNS))
    columns = [_MELANIN, _BLOOD, _HALO_BLOOD, _HEIGHT, _GLOSS]
    spots[:, columns] *= _strength(amount)
    return np.ascontiguousarray(spots, dtype=np.float32)


def _strength(amount: float) -> float:
    """Factor of all strengths: in full at 1, 1.3 times at most."""
    return min(amount, 1.0) ** 0.5 if amount <= 1 else 1 + 0.3 * (amount - 1)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _stamp_spots(
    spots: FloatArray,
    light_x: float,
    light_y: float,
    melanin: FloatArray,
    blood: FloatArray,
    shade: FloatArray,
    gloss: FloatArray,
) -> None:
    """Draw the spots [N, _COLUMNS] into four fields [S, S]; `shade` is log linear light."""
    size = melanin.shape[0]
    for i in range(spots.shape[0]):
        x0, y0, radius = spots[i, 0], spots[i, 1], spots[i, 2]
        # What is smaller than a pixel is drawn as large as one and fainter.
        drawn = max(radius, np.float32(0.8))
        faint = (radius / drawn) ** 2
        stretch = np.sqrt(spots[i, 3])
        cos, sin = np.cos(spots[i, 4]), np.sin(spots[i, 4])
        edge, halo = spots[i, 7], spots[i, 8]
        # Beyond, the core, the halo and the relief are below 1 % of their middle.
        extent = max(max(np.float32(7.0) ** (1 / edge), 1.6 * halo), np.float32(2.2))
        extent *= 1 + 0.5 * np.abs(spots[i, 13:19]).sum()
        reach = drawn * stretch * extent + 1
        left, right = max(0, int(x0 - reach)), min(size - 1, int(x0 + reach) + 1)
        top, bottom = max(0, int(y0 - reach)), min(size - 1, int(y0 + reach) + 1)
        tip_x = x0 - 0.35 * drawn * light_x
        tip_y = y0 - 0.35 * drawn * light_y
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                dx, dy = x - x0, y - y0
                u = (cos * dx + sin * dy) / (drawn * stretch)
                v = (cos * dy - sin * dx) * stretch / drawn
                square = u * u + v * v
                if square > extent * extent:
                    continue
                outline = np.float32(1)
                if square > 1e-6:
                    # cos and sin of 2, 3 and 4 times the angle, by multiplication.
                    c1, s1 = u / np.sqrt(square), v / np.sqrt(square)
                    c, s = c1 * c1 - s1 * s1, 2 * c1 * s1
                    for k in range(3):
                        outline += spots[i, 13 + 2 * k] * c + spots[i, 14 + 2 * k] * s
                        c, s = c * c1 - s * s1, s * c1 + c * s1
                outline = max(outline, np.float32(0.4))
                square /= outline * outline
                distance = np.sqrt(square)
                core = faint * np.exp(-0.7 * distance**edge)
                m, h = spots[i, 5] * core, spots[i, 6] * core
                if halo > 0:
                    h += spots[i, 9] * faint * np.exp(-0.5 * square / (halo * halo) * 4)
                if spots[i, 12] > 0:
                    # The tip of a pustule: pus hides the blood below and is yellowish.
                    pale = spots[i, 12] * np.exp(-2.5 * square)
                    h *= 1 - 0.9 * pale
                    m = m * (1 - pale) - 0.12 * pale * faint
                melanin[y, x] += m
                blood[y, x] += h
                if spots[i, 10] != 0:
                    bell = np.exp(-0.9 * square)
                    slope = -(dx * light_x + dy * light_y) / drawn
                    # light_x, light_y point the way that light travels.
                    shade[y, x] += faint * spots[i, 10] * slope * bell
                if spots[i, 11] > 0:
                    ex, ey = (x - tip_x) / (0.32 * drawn), (y - tip_y) / (0.32 * drawn)
                    gloss[y, x] += faint * spots[i, 11] * np.exp(-0.5 * (ex * ex + ey * ey))


@numba.njit(cache=True, nogil=True, fastmath=True)
def _stamp_scar(
    points: FloatArray,
    width: float,
    pale: float,
    red: float,
    height: float,
    light_x: float,
    light_y: float,
    melanin: FloatArray,
    blood: FloatArray,
    shade: FloatArray,
) -> None:
    """Draw a linear scar along the polyline [N, 2]: thin, tapered, pale or red, with a ridge."""
    size = melanin.shape[0]
    count = points.shape[0]
    reach = 4 * width + 1
    left = max(0, int(points[:, 0].min() - reach))
    right = min(size - 1, int(points[:, 0].max() + reach) + 1)
    top = max(0, int(points[:, 1].min() - reach))
    bottom = min(size - 1, int(points[:, 1].max() + reach) + 1)
    for y in range(top, bottom + 1):
        for x in range(left, right + 1):
            best, side, place = np.float32(1e9), np.float32(0), np.float32(0)
            for i in range(count - 1):
                ax, ay = points[i, 0], points[i, 1]
                ex, ey = points[i + 1, 0] - ax, points[i + 1, 1] - ay
                length = max(ex * ex + ey * ey, np.float32(1e-6))
                t = min(max(((x - ax) * ex + (y - ay) * ey) / length, np.float32(0)), np.float32(1))
                dx, dy = x - ax - t * ex, y - ay - t * ey
                d = dx * dx + dy * dy
                if d < best:
                    best = d
                    side = -(dx * light_x + dy * light_y)
                    place = (i + t) / (count - 1)
            taper = min(np.float32(1), 5 * place) * min(np.float32(1), 5 * (1 - place))
            wide = width * (0.4 + 0.6 * taper)
            bell = taper * np.exp(-0.5 * best / (wide * wide))
            melanin[y, x] -= pale * bell
            blood[y, x] += red * bell - 0.4 * pale * bell
            shade[y, x] += height * bell * side / wide


@numba.njit(cache=True, nogil=True, fastmath=True)
def _compose(
    image: Picture,
    skin: FloatArray,
    melanin: FloatArray,
    blood: FloatArray,
    shade: FloatArray,
    gloss: FloatArray,
    uneven: FloatArray,
    melanin_colour: FloatArray,
    blood_colour: FloatArray,
    light_colour: FloatArray,
    full: float,
    out: Picture,
    residual: FloatArray,
    mask: FloatArray,
) -> None:
    """Note [How a blemish is coloured], for every pixel of the skin."""
    height, width = skin.shape
    for y in range(height):
        for x in range(width):
            weight = skin[y, x]
            if weight <= 0:
                continue
            m, h = weight * melanin[y, x], weight * blood[y, x]
            s, g = weight * shade[y, x], weight * gloss[y, x]
            if abs(m) + abs(h) + abs(s) + g < 0.004:
                continue
            m *= uneven[y, x]
            h *= uneven[y, x]
            # Where many overlap, densities saturate instead of adding up to black.
            m, h = 1.6 * np.tanh(m / 1.6), 1.6 * np.tanh(h / 1.6)
            s = 0.8 * np.tanh(s / 0.8)
            change = np.float32(0)
            value0 = value1 = value2 = np.float32(0)
            for c in range(3):
                before = image[y, x, c] / np.float32(255)
                density = m * melanin_colour[c] + h * blood_colour[c] - s
                linear = before * before * np.exp(-density) + g * light_colour[c]
                after = min(np.sqrt(linear), np.float32(1))
                change = max(change, abs(after - before) / (before + np.float32(0.06)))
                if c == 0:
                    value0 = after
                elif c == 1:
                    value1 = after
                else:
                    value2 = after
            out[y, x, 0] = np.uint8(np.rint(value0 * 255))
            out[y, x, 1] = np.uint8(np.rint(value1 * 255))
            out[y, x, 2] = np.uint8(np.rint(value2 * 255))
            changed = False
            for c in range(3):
                step = np.float32(out[y, x, c]) - np.float32(image[y, x, c])
                residual[y, x, c] = step / np.float32(255)
                changed = changed or step != 0
            if changed:
                mask[y, x] = min(np.float32(1), change / full)


# --- fields -------------------------------------------------------------------------------------


def _noise(side: int, cells: int, rng: np.random.Generator) -> FloatArray:
    """[side, side] smooth noise of about unit deviation with `cells` cells across."""
    grid = rng.standard_normal((cells + 3, cells + 3), dtype=np.float32)
    large = cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.asarray(large, dtype=np.float32)


def _patch(
    side: int, centre: Points, axes: Points, across: Points, down: Points, power: float
) -> FloatArray:
    """[side, side] soft ellipse, 1 in the middle."""
    grid = np.arange(side, dtype=np.float32)
    dx, dy = grid[None] - np.float32(centre[0]), grid[:, None] - np.float32(centre[1])
    u = (dx * np.float32(across[0]) + dy * np.float32(across[1])) / np.float32(axes[0])
    v = (dx * np.float32(down[0]) + dy * np.float32(down[1])) / np.float32(axes[1])
    return np.asarray(np.exp(-np.float32(0.7) * (u * u + v * v) ** np.float32(power)))


_Place = tuple[Points, tuple[float, float], float]  # centre, half axes in eye distances, chance


def _chosen(places: list[_Place], rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which places are struck, at least the one that is struck most often."""
    chances = np.array([chance for _, _, chance in places])
    struck = rng.random(len(places)) < chances
    struck[int(np.argmax(chances))] |= not struck.any()
    return np.asarray(struck, dtype=np.bool_)


def _redness(face: _Face, side: int, dark: float, rng: np.random.Generator) -> FloatArray:
    """[side, side] density of blood: flushed cheeks, nose wings, chin; blotchy."""
    field = np.zeros((side, side), np.float32)
    density = _log_uniform(rng, 0.18, 0.65, 1)[0]
    p, unit = face.points, face.unit
    places: list[_Place] = [
        (0.52 * p[2] + 0.48 * p[31] - 0.05 * unit * face.down, (0.34, 0.27), 0.85),
        (0.52 * p[14] + 0.48 * p[35] - 0.05 * unit * face.down, (0.34, 0.27), 0.85),
        (0.3 * p[30] + 0.7 * p[33], (0.20, 0.16), 0.5),
        (0.5 * p[57] + 0.5 * p[8], (0.24, 0.16), 0.35),
        (p[27] - 0.45 * unit * face.down, (0.5, 0.2), 0.15),
    ]
    common = rng.uniform(0.5, 1.0)  # both sides are about equally red
    for (centre, axes, _), there in zip(places, _chosen(places, rng), strict=True):
        strength = common * rng.uniform(0.6, 1.0)
        place = centre + unit * rng.normal(0, 0.05, 2)
        size = unit * np.array(axes) * np.exp(rng.normal(0, 0.2, 2))
        if there:
            field += np.float32(strength) * _patch(side, place, size, face.across, face.down, 1.0)
    blotches = 0.9 + 0.45 * _noise(side, 7, rng) + 0.3 * _noise(side, 16, rng)
    field *= np.clip(blotches, 0.05, 2.0)
    return np.asarray(field * density * (1 - 0.4 * dark), dtype=np.float32)


def _shine(face: _Face, side: int, rng: np.random.Generator) -> FloatArray:
    """[side, side] gloss: the forehead, the ridge and tip of the nose, cheekbones, chin."""
    field = np.zeros((side, side), np.float32)
    bright = np.float32(_log_uniform(rng, 0.08, 0.34, 1)[0])
    p, unit, down = face.points, face.unit, face.down
    between = (p[21] + p[22]) / 2
    places: list[_Place] = [
        (between - 0.35 * unit * down, (0.34, 0.15), 0.7),
        (0.6 * p[28] + 0.4 * p[29], (0.05, 0.17), 0.6),
        (p[30] - 0.03 * unit * down, (0.07, 0.06), 0.7),
        (0.66 * p[1] + 0.34 * p[30] - 0.08 * unit * down, (0.15, 0.10), 0.6),
        (0.66 * p[15] + 0.34 * p[30] - 0.08 * unit * down, (0.15, 0.10), 0.6),
        (0.5 * p[57] + 0.5 * p[8], (0.12, 0.07), 0.35),
    ]
    for (centre, axes, _), there in zip(places, _chosen(places, rng), strict=True):
        strength = rng.uniform(0.4, 1.0)
        place = centre + unit * rng.normal(0, 0.05, 2)
        size = unit * np.array(axes) * np.exp(rng.normal(0, 0.25, 2))
        if there:
            field += np.float32(strength) * _patch(side, place, size, face.across, down, 0.9)
    field *= bright * np.clip(1 + 0.4 * _noise(side, 12, rng), 0.2, 1.8)
    return field


def _scars(face: _Face, rng: np.random.Generator) -> list[tuple[FloatArray, Points]]:
    """Linear scars at amount 2: polylines [N, 2], and width, paleness, redness, ridge [4]."""
    scars = []
    regions = list(_regions(face).values())
    for _ in range(4):
        centre, axes = regions[int(rng.integers(len(regions)))]
        middle = centre + 0.35 * axes * rng.standard_normal(2)
        length = face.unit * float(_log_uniform(rng, 0.12, 0.45, 1)[0])
        angle, bend = rng.uniform(0, np.pi), rng.normal(0, 0.12)
        t = np.linspace(-0.5, 0.5, 9)[:, None]
        along = np.array([np.cos(angle), np.sin(angle)])
        normal = np.array([-along[1], along[0]])
        line = middle + length * (t * along + bend * (4 * t * t - 1) * normal)
        line = line + 0.004 * face.unit * rng.standard_normal((9, 1)) * normal
        fresh = rng.random() < 0.45
        look = np.array(
            [
                face.unit * rng.uniform(0.007, 0.016),
                0.0 if fresh else rng.uniform(0.15, 0.34),
                rng.uniform(0.3, 0.7) if fresh else 0.0,
                rng.uniform(-0.35, 0.35),
            ]
        )
        scars.append((line.astype(np.float32), look))
    return scars


# Linear light of average skin under white light, for the colour of the light in a photo.
_SKIN = np.array([0.615, 0.346, 0.240], np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class _Light:
    """The light of a photo, judged by its skin.

    x, y: where it travels to in the plane of the picture, a unit vector. relative: [s, s] smoothed
    luminance of the skin relative to its median. middle: that median, 0..1. colour: [3] of about 1.
    """

    x: float
    y: float
    relative: FloatArray
    middle: float
    colour: FloatArray


def _light(image: Picture, skin: FloatArray) -> _Light:
    side = 48
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    weight = np.asarray(cv2.resize(skin, (side, side), interpolation=cv2.INTER_AREA))
    luma = small.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    chosen = weight > 0.5
    if chosen.sum() < 10:
        one = np.ones((side, side), np.float32)
        return _Light(0.0, 1.0, one, 0.5, np.ones(3, np.float32))
    middle = max(float(np.median(luma[chosen])), 0.02)
    y, x = np.nonzero(chosen)
    # A plane through the log luminance: brightness rises towards the light.
    columns = np.stack([x / side - 0.5, y / side - 0.5, np.ones(len(x))], axis=1)
    plane = np.linalg.lstsq(columns, np.log(luma[chosen] + 0.05), rcond=None)[0]
    towards = plane[:2] + np.array([0.0, -0.5])  # light mostly comes from above
    towards = towards / max(float(np.hypot(*towards)), 1e-6)
    filled = np.where(chosen, luma, np.float32(middle)).astype(np.float32)
    relative = cv2.GaussianBlur(filled, (0, 0), 3.0) / np.float32(middle)
    # Seen through skin of unknown tone, so only part of the cast is believed.
    colour = (np.median(small[chosen] / np.float32(255), axis=0) ** 2 / _SKIN + 1e-3) ** 0.6
    colour = (colour / colour.mean()).astype(np.float32)
    return _Light(-float(towards[0]), -float(towards[1]), np.asarray(relative), middle, colour)


def add_blemishes(
    image: Picture,
    landmarks: npt.ArrayLike,
    rng: np.random.Generator,
    *,
    amount: float = 1.0,
    kinds: Collection[str] | None = None,
    skin: FloatArray | None = None,
) -> Blemished:
    """Draw blemishes on a face.

    Args:
        image: [S, S, 3] uint8 RGB aligned square, the clean face.
        landmarks: [68, 2] in its pixels, iBUG 300-W order.
        amount: 0 for none, 1 as faces come, up to 2. With the same generator state, a larger amount
            draws the same blemishes stronger, and more of them.
        kinds: exactly these of `KINDS`; None draws which ones the face has.
        skin: [S, S] float32, the `blemish_skin` of this face where it is known already.

    Returns:
        The blemished face with its residual and mask (`Blemished`).

    Raises:
        ValueError: the picture is not [S, S, 3] uint8, the landmarks are not [68, 2], the amount
            is outside 0..2, or a kind is unknown.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] != image.shape[1]:
        raise ValueError(f"image must be [S, S, 3] uint8, got {image.dtype} {list(image.shape)}")
    if points.shape != (68, 2):
        raise ValueError(f"landmarks must be [68, 2], got {list(points.shape)}")
    if not 0 <= amount <= _MOST:
        raise ValueError(f"amount must be in 0..{_MOST:g}, got {amount}")
    unknown = sorted(set(kinds or ()) - set(KINDS))
    if unknown:
        raise ValueError(f"kinds must be of {', '.join(KINDS)}; got {', '.join(unknown)}")
    size = image.shape[0]
    drawn = [kind for kind, chance in _CHANCES.items() if rng.random() < chance]
    present = frozenset(drawn or ["pimple"] if kinds is None else kinds)
    if skin is None:
        skin = blemish_skin(image, points)
    face = _Face.of(points)
    light = _light(image, skin)
    # Dark skin by the luminance of its linear light: 0 light to 1 dark.
    dark = float(np.clip((0.62 - light.middle) / 0.37, 0, 1))

    melanin, blood, shade, gloss = (np.zeros((size, size), np.float32) for _ in range(4))
    spots = _spots(face, dark, rng, amount, present)
    _stamp_spots(spots, light.x, light.y, melanin, blood, shade, gloss)

    strength = _strength(amount)
    scars = _scars(face, rng) if "scar" in present else []
    for rank, (line, (width, pale, red, ridge)) in enumerate(scars):
        if rank < 2 * amount:
            look = (width, strength * pale, strength * red, strength * ridge)
            _stamp_scar(line, *look, light.x, light.y, melanin, blood, shade)

    if present & {"redness", "shine"}:
        # Patches are smooth, so they are drawn small. They fade out before the skin does, or their
        # outline would show where it ends.
        side = min(size, max(64, size // 8))
        factor = side / size
        coarse = _Face.of((points + 0.5) * factor - 0.5)
        inner = cv2.resize(skin, (side, side), interpolation=cv2.INTER_AREA)
        inner = cv2.GaussianBlur(inner, (0, 0), 0.09 * coarse.unit)
        inner = np.float32(strength) * np.clip(1.6 * np.asarray(inner) - 0.6, 0, 1)
        if "redness" in present:
            field = inner * _redness(coarse, side, dark, rng)
            blood += np.asarray(cv2.resize(field, (size, size), interpolation=cv2.INTER_LINEAR))
        if "shine" in present:
            field = inner * _shine(coarse, side, rng)
            broad = np.asarray(cv2.resize(field, (size, size), interpolation=cv2.INTER_LINEAR))
            gloss += broad * _pores(image, face.unit)
    # Gloss is as bright as the light that falls there.
    lit = np.clip(light.relative, 0.3, 1.25) ** 2
    gloss *= np.asarray(cv2.resize(lit, (size, size), interpolation=cv2.INTER_LINEAR))

    uneven = np.float32(1) + np.float32(0.22) * _noise(size, max(8, int(5 * size / face.unit)), rng)
    gray = bool(np.ptp(image[:: max(1, size // 32), :: max(1, size // 32)], axis=2).max() == 0)
    toned = MELANIN + np.float32(dark) * (_MELANIN_IN_DARK - MELANIN)
    colours = (toned, BLOOD)
    if gray:  # black and white stays so
        weights = np.array([0.299, 0.587, 0.114], np.float32)
        light = dataclasses.replace(light, colour=np.ones(3, np.float32))
        colours = tuple(np.full(3, c @ weights, np.float32) for c in colours)  # type: ignore[assignment]
    out = image.copy()
    residual = np.zeros((size, size, 3), np.float32)
    mask = np.zeros((size, size), np.float32)
    if amount > 0:
        _compose(
            np.array(image),  # one specialisation, whether the picture may be written or not
            skin,
            melanin,
            blood,
            shade,
            gloss,
            uneven,
            *colours,
            light.colour,
            _FULL,
            out,
            residual,
            mask,
        )
    return Blemished(out, residual, mask)


def _pores(image: Picture, unit: float) -> FloatArray:
    """[S, S] how much of the gloss each pixel shows: more on top of the texture, less in pores."""
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    broad = cv2.GaussianBlur(luma, (0, 0), max(0.8, 0.02 * unit))
    ratio = (luma + 8) / (np.asarray(broad) + 8)
    return np.asarray(np.clip(1 + 3.0 * (ratio - 1), 0.2, 2.2), dtype=np.float32)


# --- lambda augmentation ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LambdaRange:
    """How lambda is drawn: evenly from low..high, and exactly 0 for a share of the samples.

    low and high are ours (see `lambda_augment`): from a faint trace to half as much again.
    """

    low: float = 0.1
    high: float = 1.5
    clean_share: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high or not 0 <= self.clean_share <= 1:
            raise ValueError(
                "lambda needs 0 <= low <= high and a clean_share in 0..1, got "
                f"{self.low}, {self.high}, {self.clean_share}"
            )


def lambda_augment(
    clean: npt.NDArray[np.generic],
    residual: npt.NDArray[np.floating],
    rng: np.random.Generator,
    *,
    range_: LambdaRange | None = None,
) -> tuple[FloatArray, FloatArray, float]:
    """Draw an input of another severity from a pair of clean and blemished face.

        input = clip(clean + lambda * residual, 0, 1), target = clean

    This is the augmentation of StyleRetoucher (Su et al. 2023, arXiv 2312.14389): the residual
    between a photo and its retouch, scaled by a lambda. No code of it is public; the distribution
    of lambda here is ours: even over `LambdaRange`, beyond 1 so that the network meets skin worse
    than in any pair, and now and then 0 so that it learns to leave clean skin alone. The target is
    the clean face whatever lambda is; the strength dial belongs to the network.

    Args:
        clean: [H, W, 3] uint8, or float in 0..1.
        residual: [H, W, 3] float, blemished - clean in 0..1 units, e.g. `Blemished.residual`, or
            the difference of a retouched pair.

    Returns:
        input and target, [H, W, 3] float32 in 0..1, and the lambda.

    Raises:
        ValueError: shapes differ.
    """
    if clean.shape != residual.shape:
        raise ValueError(
            f"clean and residual must have one shape, got {list(clean.shape)} and "
            f"{list(residual.shape)}"
        )
    chosen = range_ or LambdaRange()
    is_clean = rng.random() < chosen.clean_share
    factor = float(rng.uniform(chosen.low, chosen.high))
    if is_clean:
        factor = 0.0
    target = clean.astype(np.float32)
    if np.issubdtype(clean.dtype, np.integer):
        target /= np.float32(255)
    blemished = np.clip(target + np.float32(factor) * residual.astype(np.float32), 0, 1)
    return blemished.astype(np.float32), target, factor
