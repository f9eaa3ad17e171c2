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

from revisage.training.data.blemish_patches import redness, shine, smooth_noise
from revisage.training.data.blemish_spots import (
    MOST,
    draw_spots,
    face_regions,
    log_uniform,
    stamp_spots,
    strength_of,
)
from revisage.training.data.face_skin import Face, blemish_skin

__all__ = ["KINDS", "Blemished", "add_blemishes"]

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

# How often a face has each kind.
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


def _scars(face: Face, rng: np.random.Generator) -> list[tuple[FloatArray, Points]]:
    """Linear scars at amount 2: polylines [N, 2], and width, paleness, redness, ridge [4]."""
    scars = []
    regions = list(face_regions(face).values())
    for _ in range(4):
        centre, axes = regions[int(rng.integers(len(regions)))]
        middle = centre + 0.35 * axes * rng.standard_normal(2)
        length = face.unit * float(log_uniform(rng, 0.12, 0.45, 1)[0])
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
    if not 0 <= amount <= MOST:
        raise ValueError(f"amount must be in 0..{MOST:g}, got {amount}")
    unknown = sorted(set(kinds or ()) - set(KINDS))
    if unknown:
        raise ValueError(f"kinds must be of {', '.join(KINDS)}; got {', '.join(unknown)}")
    size = image.shape[0]
    drawn = [kind for kind, chance in _CHANCES.items() if rng.random() < chance]
    present = frozenset(drawn or ["pimple"] if kinds is None else kinds)
    if skin is None:
        skin = blemish_skin(image, points)
    face = Face.of(points)
    light = _light(image, skin)
    # Dark skin by the luminance of its linear light: 0 light to 1 dark.
    dark = float(np.clip((0.62 - light.middle) / 0.37, 0, 1))

    melanin, blood, shade, gloss = (np.zeros((size, size), np.float32) for _ in range(4))
    spots = draw_spots(face, dark, rng, amount, present)
    stamp_spots(spots, light.x, light.y, melanin, blood, shade, gloss)

    strength = strength_of(amount)
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
        coarse = Face.of((points + 0.5) * factor - 0.5)
        inner = cv2.resize(skin, (side, side), interpolation=cv2.INTER_AREA)
        inner = cv2.GaussianBlur(inner, (0, 0), 0.09 * coarse.unit)
        inner = np.float32(strength) * np.clip(1.6 * np.asarray(inner) - 0.6, 0, 1)
        if "redness" in present:
            field = inner * redness(coarse, side, dark, rng)
            blood += np.asarray(cv2.resize(field, (size, size), interpolation=cv2.INTER_LINEAR))
        if "shine" in present:
            field = inner * shine(coarse, side, rng)
            broad = np.asarray(cv2.resize(field, (size, size), interpolation=cv2.INTER_LINEAR))
            gloss += broad * _pores(image, face.unit)
    # Gloss is as bright as the light that falls there.
    lit = np.clip(light.relative, 0.3, 1.25) ** 2
    gloss *= np.asarray(cv2.resize(lit, (size, size), interpolation=cv2.INTER_LINEAR))

    uneven = np.float32(1) + np.float32(0.22) * smooth_noise(
        size, max(8, int(5 * size / face.unit)), rng
    )
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
