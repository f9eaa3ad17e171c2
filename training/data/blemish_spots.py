"""Spots on a face as a table: pimples, marks, comedones, freckles, age spots and pits.

How they are coloured: Note [How a blemish is coloured] in `blemishes.py`.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from revisage.training.data.face_skin import Face

__all__ = [
    "MOST",
    "draw_spots",
    "face_regions",
    "log_uniform",
    "stamp_spots",
    "strength_of",
]

FloatArray = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]

MOST = 2.0  # the largest amount


def face_regions(face: Face) -> dict[str, tuple[Points, Points]]:
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


def log_uniform(rng: np.random.Generator, low: float, high: float, count: int) -> Points:
    return np.asarray(np.exp(rng.uniform(np.log(low), np.log(high), count)), dtype=np.float64)


def _placed(kind: str, count: int, face: Face, rng: np.random.Generator, clusters: float) -> Points:
    """[count, 2] positions: regions by weight, in part around common centres."""
    regions = face_regions(face)
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
    kind: str, count: int, face: Face, rng: np.random.Generator, clusters: float = 0.0
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


def _pimples(face: Face, dark: float, rng: np.random.Generator, count: int) -> Points:
    """Papules and pustules: red, raised, with a soft red surround; some with a pale tip."""
    spots = _table("pimple", count, face, rng, clusters=0.35)
    spots[:, _RADIUS] = face.unit * log_uniform(rng, 0.010, 0.036, count)
    strength = log_uniform(rng, 0.35, 1.1, count)
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


def _marks(face: Face, dark: float, rng: np.random.Generator, count: int) -> Points:
    """Flat marks that pimples leave: red on light skin, brown on dark."""
    spots = _table("mark", count, face, rng, clusters=0.3)
    spots[:, _RADIUS] = face.unit * log_uniform(rng, 0.012, 0.034, count)
    strength = log_uniform(rng, 0.2, 0.65, count)
    spots[:, _BLOOD] = strength * (1 - 0.7 * dark) * rng.uniform(0.5, 1.2, count)
    spots[:, _MELANIN] = strength * (0.20 + 1.30 * dark) * rng.uniform(0.5, 1.2, count)
    spots[:, _EDGE] = rng.uniform(1.6, 2.6, count)
    return spots


def _comedones(face: Face, dark: float, rng: np.random.Generator, count: int) -> Points:
    """Clogged pores: tiny, dark (open) or pale and raised (closed)."""
    spots = _table("comedone", count, face, rng, clusters=0.15)
    spots[:, _RADIUS] = face.unit * log_uniform(rng, 0.004, 0.010, count)
    closed = rng.random(count) < 0.35
    strength = log_uniform(rng, 0.3, 0.9, count)
    spots[:, _MELANIN] = np.where(closed, -0.10, 0.8) * strength
    spots[:, _BLOOD] = np.where(closed, -0.10, 0.25) * strength
    spots[:, _HEIGHT] = np.where(closed, rng.uniform(0.15, 0.4, count), 0)
    spots[:, _RADIUS] *= np.where(closed, 1.5, 1.0)
    return spots


def _freckles(face: Face, dark: float, rng: np.random.Generator, count: int) -> Points:
    """Small flat spots of melanin, many and faint."""
    spots = _table("freckle", count, face, rng)
    spots[:, _RADIUS] = face.unit * log_uniform(rng, 0.005, 0.016, count)
    spots[:, _MELANIN] = log_uniform(rng, 0.15, 0.6, count) * rng.uniform(0.6, 1.1)
    spots[:, _EDGE] = rng.uniform(1.6, 2.4, count)
    spots[:, _WAVES:] *= 1.3
    return spots


def _age_spots(face: Face, dark: float, rng: np.random.Generator, count: int) -> Points:
    """Solar lentigines: flat brown spots with an irregular, fairly sharp outline."""
    spots = _table("age_spot", count, face, rng, clusters=0.2)
    spots[:, _RADIUS] = face.unit * log_uniform(rng, 0.018, 0.075, count)
    spots[:, _MELANIN] = log_uniform(rng, 0.15, 0.52, count)
    spots[:, _BLOOD] = spots[:, _MELANIN] * rng.uniform(0.0, 0.25, count)
    spots[:, _EDGE] = rng.uniform(2.0, 3.4, count)
    spots[:, _WAVES:] *= 1.25
    spots[:, _STRETCH] *= rng.uniform(1.0, 1.3, count)
    return spots


def _pits(face: Face, dark: float, rng: np.random.Generator, count: int) -> Points:
    """Pitted scars: ice-pick (small, deep) and rolling or boxcar (wide, shallow)."""
    spots = _table("pit", count, face, rng, clusters=0.5)
    spots[:, _RADIUS] = face.unit * log_uniform(rng, 0.008, 0.030, count)
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


def draw_spots(
    face: Face, dark: float, rng: np.random.Generator, amount: float, present: frozenset[str]
) -> FloatArray:
    """The table of all spots of a face, strengths included; same draws for every amount."""
    tables = []
    for kind in (kind for kind in _SPOTS if kind in present):
        maker, (low, high) = _SPOTS[kind]
        count = int(log_uniform(rng, low, high, 1)[0])
        made = maker(face, dark, rng, int(np.ceil(MOST * count)))
        # Spot i is there once the amount reaches its rank; then it grows stronger.
        rank = (np.arange(len(made)) + 1) / count - 0.999
        tables.append(made[rank <= amount])
    spots = np.concatenate(tables) if tables else np.zeros((0, _COLUMNS))
    columns = [_MELANIN, _BLOOD, _HALO_BLOOD, _HEIGHT, _GLOSS]
    spots[:, columns] *= strength_of(amount)
    return np.ascontiguousarray(spots, dtype=np.float32)


def strength_of(amount: float) -> float:
    """Factor of all strengths: in full at 1, 1.3 times at most."""
    return min(amount, 1.0) ** 0.5 if amount <= 1 else 1 + 0.3 * (amount - 1)


@numba.njit(cache=True, nogil=True, fastmath=True)
def stamp_spots(
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
