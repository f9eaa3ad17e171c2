"""Wrinkle synthesis: folds drawn over an aligned face, with their ground truth.

A fold is shaded as a valley: dark at the bottom (less light gets in), the slope that faces the
light brighter and the other darker, the shoulders a little brighter than flat skin. All of it
multiplies the picture, so that the grain and the colour of the skin stay, and the dark part turns
slightly red, as shaded skin does.

Note [What counts as a wrinkle]
    A pixel belongs to the ground truth where the valley darkens it by at least `MIN_CONTRAST` of
    its luminance and by at least `CORE` of what the fold's bottom darkens nearest to it. The first
    drops what cannot be seen, the second keeps the truth of a deep fold a few pixels wide.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numba
import numpy as np
import numpy.typing as npt

from revisage.training.data.wrinkle_shapes import Fold, wrinkle_folds

__all__ = ["CORE", "MIN_CONTRAST", "draw_wrinkles", "fold_shading", "wrinkle_mask"]

FloatArray = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]

MIN_CONTRAST = 0.03
CORE = 0.4
_REACH = 4.0  # profiles are drawn up to this many widths from the line


@numba.njit(cache=True, nogil=True, fastmath=True)
def _stamp(
    points: FloatArray,
    width: FloatArray,
    depth: FloatArray,
    sharpness: float,
    shoulder: float,
    light_x: float,
    light_y: float,
    slope: float,
    left: float,
    top: float,
    valley: FloatArray,
    relief: FloatArray,
    core: FloatArray,
    nearest: FloatArray,
    values: FloatArray,
) -> None:
    """Draw one fold into `valley`, `relief` (log luminance) and `core`, each [H, W].

    `nearest` and `values` are scratch of the same height and width ([H, W] and [H, W, 4]).
    """
    height, wide = valley.shape
    count = points.shape[0]
    low_x, low_y, high_x, high_y = wide, height, -1, -1
    for i in range(count - 1):
        ax, ay = points[i, 0] - left, points[i, 1] - top
        bx, by = points[i + 1, 0] - left, points[i + 1, 1] - top
        reach = _REACH * max(width[i], width[i + 1]) + 1.0
        x0, x1 = max(0, int(min(ax, bx) - reach)), min(wide - 1, int(max(ax, bx) + reach) + 1)
        y0, y1 = max(0, int(min(ay, by) - reach)), min(height - 1, int(max(ay, by) + reach) + 1)
        if x1 < x0 or y1 < y0:
            continue
        low_x, low_y = min(low_x, x0), min(low_y, y0)
        high_x, high_y = max(high_x, x1), max(high_y, y1)
        ex, ey = bx - ax, by - ay
        square = max(ex * ex + ey * ey, 1e-8)
        length = np.sqrt(square)
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                px, py = x - ax, y - ay
                t = min(1.0, max(0.0, (px * ex + py * ey) / square))
                dx, dy = px - t * ex, py - t * ey
                w = width[i] + t * (width[i + 1] - width[i])
                d = (dx * dx + dy * dy) / (w * w)
                if d < nearest[y, x]:
                    nearest[y, x] = d
                    side = 1.0 if ex * py - ey * px >= 0 else -1.0
                    values[y, x, 0] = depth[i] + t * (depth[i + 1] - depth[i])
                    # The normal that points from the line to the pixel, against the light.
                    values[y, x, 1] = side * (-ey * light_x + ex * light_y) / length
                    values[y, x, 2] = w
    for y in range(low_y, high_y + 1):
        for x in range(low_x, high_x + 1):
            d = nearest[y, x]
            if d < _REACH * _REACH:
                distance = np.sqrt(d)
                a = values[y, x, 0]
                profile = np.exp(-0.5 * distance**sharpness)
                bottom = -np.log(1.0 - a)
                valley[y, x] += bottom * profile
                facing = values[y, x, 1]
                relief[y, x] += bottom * (
                    slope * facing * distance * np.exp(-0.5 * d)
                    + shoulder * np.exp(-0.5 * (distance - 2.3) * (distance - 2.3) / 0.5)
                )
                darkening = a * profile
                if darkening >= MIN_CONTRAST and profile >= CORE:
                    core[y, x] = max(core[y, x], a)
            nearest[y, x] = np.inf


@numba.njit(cache=True, nogil=True)
def _multiply(
    image: npt.NDArray[np.uint8],
    relief: FloatArray,
    valley: FloatArray,
    colour: FloatArray,
    dither: FloatArray,
) -> None:
    """Multiply [H, W, 3] by exp(relief - valley * colour), in place, with a dithered rounding."""
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            if relief[y, x] == 0 and valley[y, x] == 0:
                continue
            for c in range(3):
                gain = np.exp(relief[y, x] - valley[y, x] * colour[c])
                # Dithered by less than what would change a sample that no wrinkle touches.
                value = image[y, x, c] * gain + 0.98 * (dither[y, x, c] - 0.5)
                image[y, x, c] = np.uint8(min(max(np.rint(value), 0.0), 255.0))


def fold_shading(
    folds: Sequence[Fold],
    size: int,
    rng: np.random.Generator,
    *,
    corner: tuple[int, int] = (0, 0),
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Shade folds in a window of the square.

    Args:
        folds: in square pixels.
        size: side of the window in pixels.
        corner: x, y of the window's first pixel in the square.

    Returns:
        valley [S, S]: darkening as minus log luminance, 0 or more.
        relief [S, S]: brightening of slopes and shoulders as log luminance, either sign.
        core [S, S]: depth of the fold where Note [What counts as a wrinkle] holds, else 0.
    """
    shape = (size, size)
    valley, relief, core = (np.zeros(shape, np.float32) for _ in range(3))
    nearest = np.full(shape, np.inf, np.float32)
    values = np.zeros((*shape, 4), np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    slope = float(rng.uniform(0.0, 0.5))
    left, top = float(corner[0]), float(corner[1])
    for fold in folds:
        margin = _REACH * float(fold.width.max()) + 1
        low, high = fold.points.min(axis=0) - margin, fold.points.max(axis=0) + margin
        if low[0] >= left + size or low[1] >= top + size or high[0] < left or high[1] < top:
            continue
        _stamp(
            fold.points,
            fold.width,
            fold.depth,
            fold.sharpness,
            fold.shoulder,
            float(np.cos(angle)),
            float(np.sin(angle)),
            slope,
            left,
            top,
            valley,
            relief,
            core,
            nearest,
            values,
        )
    return valley, relief, core


def wrinkle_mask(
    landmarks: npt.ArrayLike,
    size: int,
    rng: np.random.Generator,
    *,
    amount: float = 1.0,
    grow: int = 0,
) -> Mask:
    """Only the ground truth of drawn wrinkles, as the filler needs it for its holes.

    Args:
        landmarks: [68, 2] in pixels of the aligned square of side `size`, iBUG 300-W order.
        size: side of the square in pixels.
        amount: how many of the zones wrinkle (see `wrinkle_folds`).
        grow: dilate by this many pixels.

    Returns:
        [size, size] uint8, 1 = wrinkle.
    """
    _, _, core = fold_shading(wrinkle_folds(landmarks, rng, amount=amount), size, rng)
    mask = (core > 0).astype(np.uint8)
    if grow > 0:
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * grow + 1, 2 * grow + 1))
        mask = np.asarray(cv2.dilate(mask, disc), dtype=np.uint8)
    return mask


def draw_wrinkles(
    image: npt.NDArray[np.uint8],
    landmarks: npt.ArrayLike,
    rng: np.random.Generator,
    *,
    amount: float = 1.0,
    skin: npt.NDArray[np.uint8] | None = None,
    corner: tuple[int, int] = (0, 0),
) -> tuple[npt.NDArray[np.uint8], Mask]:
    """Draw wrinkles over a face.

    Args:
        image: [S, S, 3] uint8 RGB: the aligned square, or a window of it.
        landmarks: [68, 2] in pixels of the whole square, iBUG 300-W order.
        amount: how many of the zones wrinkle (see `wrinkle_folds`).
        skin: [S, S] uint8 of the same window, 1 where wrinkles may lie; None for everywhere.
        corner: x, y of the window's first pixel in the square.

    Returns:
        The picture with wrinkles, [S, S, 3] uint8, and the ground truth, [S, S] uint8, 1 = wrinkle
        (Note [What counts as a wrinkle]).
    """
    size = image.shape[0]
    folds = wrinkle_folds(landmarks, rng, amount=amount)
    valley, relief, core = fold_shading(folds, size, rng, corner=corner)
    if not valley.any():
        return image.copy(), np.zeros((size, size), np.uint8)
    mask = core > 0
    if skin is not None:
        soft = cv2.GaussianBlur(skin.astype(np.float32), (0, 0), 1.5)
        valley, relief = valley * soft, relief * soft
        mask &= skin > 0
    # Where folds cross, the darkening saturates instead of adding up to black.
    valley = 1.1 * np.tanh(valley / 1.1)
    softness = float(rng.choice([0.0, 0.0, 0.5, 0.9]))
    if softness:
        valley = np.asarray(cv2.GaussianBlur(valley, (0, 0), softness), dtype=np.float32)
        relief = np.asarray(cv2.GaussianBlur(relief, (0, 0), softness), dtype=np.float32)
    # Skin is uneven: the depth changes from place to place, also across the line.
    grain = rng.normal(0, 1, (size // 4 + 1, size // 4 + 1)).astype(np.float32)
    uneven = cv2.resize(grain, (size, size), interpolation=cv2.INTER_LINEAR)
    valley = valley * (1 + np.float32(rng.uniform(0, 0.25)) * uneven)
    redness = float(rng.uniform(-0.05, 0.2))
    colour = np.array([1 - redness, 1 + 0.5 * redness, 1 + 0.5 * redness], np.float32)
    if rng.random() < 0.1:
        colour[:] = 1.0
    out = image.copy()
    dither = rng.random(image.shape, dtype=np.float32)
    _multiply(out, relief, valley, colour, dither)
    return out, mask.astype(np.uint8)
