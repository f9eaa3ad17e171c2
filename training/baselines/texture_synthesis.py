"""Exemplar-based texture synthesis in irregular gaps, by constrained image quilting.

The inpainting half of Batool and Chellappa 2014, "Detection and Inpainting of Facial Wrinkles Using
Texture Orientation Fields and Markov Random Field Modeling" (IEEE Transactions on Image Processing
23(9)): gaps that detected wrinkles leave are filled with patches of the surrounding skin, under the
constraint that they agree with what is around the gap. The patches are laid as by Efros and Freeman
2001, "Image Quilting for Texture Synthesis and Transfer" (SIGGRAPH), sections 2 and 2.1: in raster
order, overlapping, each one of the best few by the sum of squared differences where something is
there already, cut along the path of least error.

Chosen here: the size of patch, window and tolerance; that the window doubles where it holds no
whole patch; and that only the texture is quilted. The slow shading is interpolated across the gap
from its rim, because the light changes over a face and a patch from 40 pixels away has another
brightness.
"""

from __future__ import annotations

import cv2
import numba
import numpy as np
import numpy.typing as npt

__all__ = ["smooth_fill", "synthesise_texture"]

FloatArray = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]


def smooth_fill(image: npt.NDArray[np.generic], hole: Mask, reach: float) -> FloatArray:
    """The slow part of a picture, with holes bridged (normalised convolution).

    Args:
        image: [H, W, 3]; what it holds in the hole does not matter.
        hole: [H, W], 1 = hole.
        reach: standard deviation of the Gaussian in pixels; doubled where it sees nothing known.

    Returns:
        [H, W, 3] float32.
    """
    known = (hole == 0).astype(np.float32)
    if not known.any():
        raise ValueError("the hole covers the whole picture: there is nothing to fill it from")
    values = image.astype(np.float32) * known[..., None]
    mean = values.sum(axis=(0, 1)) / known.sum()
    filled = np.broadcast_to(mean, image.shape).astype(np.float32)
    widths = [reach]
    while widths[-1] < max(hole.shape) / 4:
        widths.append(2 * widths[-1])
    for width in reversed(widths):
        colour = cv2.GaussianBlur(values, (0, 0), width, borderType=cv2.BORDER_REFLECT_101)
        weight = cv2.GaussianBlur(known, (0, 0), width, borderType=cv2.BORDER_REFLECT_101)
        trust = np.clip(weight * 20, 0, 1)[..., None]
        filled = filled + trust * (colour / np.maximum(weight, 1e-6)[..., None] - filled)
    return filled


@numba.njit(cache=True, nogil=True, fastmath=True)
def _best_patches(
    texture: FloatArray,
    known: Mask,
    corners: Mask,
    top: int,
    left: int,
    side: int,
    window: int,
    tolerance: float,
    errors: FloatArray,
    draw: float,
) -> tuple[int, int]:
    """Corner of a source patch for the place (top, left); (-1, -1) where the window has none.

    `errors` is scratch of shape [2 window + 1, 2 window + 1].
    """
    height, width, channels = texture.shape
    y0, y1 = max(0, top - window), min(height - side, top + window)
    x0, x1 = max(0, left - window), min(width - side, left + window)
    best = np.float32(np.inf)
    for sy in range(y0, y1 + 1):
        for sx in range(x0, x1 + 1):
            total = np.float32(np.inf)
            if corners[sy, sx]:
                total = np.float32(0.0)
                for y in range(side):
                    for x in range(side):
                        if known[top + y, left + x]:
                            for c in range(channels):
                                d = texture[top + y, left + x, c] - texture[sy + y, sx + x, c]
                                total += d * d
                    # No candidate far beyond the best one can be chosen.
                    if total > best * (1 + tolerance) + np.float32(1e-6):
                        total = np.float32(np.inf)
                        break
                best = min(best, total)
            errors[sy - y0, sx - x0] = total
    if best == np.inf:
        return -1, -1
    limit = best * (1 + tolerance) + np.float32(1e-6)
    count = 0
    for sy in range(y1 - y0 + 1):
        for sx in range(x1 - x0 + 1):
            if errors[sy, sx] <= limit:
                count += 1
    wanted = min(count - 1, int(draw * count))
    for sy in range(y1 - y0 + 1):
        for sx in range(x1 - x0 + 1):
            if errors[sy, sx] <= limit:
                if wanted == 0:
                    return y0 + sy, x0 + sx
                wanted -= 1
    return -1, -1


@numba.njit(cache=True, nogil=True)
def _least_path(cost: FloatArray) -> npt.NDArray[np.int64]:
    """Column of the cheapest way down through cost [rows, columns], by row."""
    rows, columns = cost.shape
    sums = cost.copy()
    for y in range(1, rows):
        for x in range(columns):
            low = sums[y - 1, x]
            if x > 0:
                low = min(low, sums[y - 1, x - 1])
            if x + 1 < columns:
                low = min(low, sums[y - 1, x + 1])
            sums[y, x] += low
    path = np.zeros(rows, np.int64)
    path[-1] = np.argmin(sums[-1])
    for y in range(rows - 2, -1, -1):
        best = path[y + 1]
        for x in range(max(0, path[y + 1] - 1), min(columns, path[y + 1] + 2)):
            if sums[y, x] < sums[y, best]:
                best = x
        path[y] = best
    return path


@numba.njit(cache=True, nogil=True)
def _lay(
    texture: FloatArray,
    filled: Mask,
    hole: Mask,
    place: tuple[int, int],
    source: tuple[int, int],
    side: int,
    overlap: int,
) -> None:
    """Copy a patch into the hole, cut against earlier patches at its left and upper edge."""
    top, left = place
    from_top, from_left = source
    channels = texture.shape[2]
    difference = np.zeros((side, side), np.float32)
    for y in range(side):
        for x in range(side):
            if filled[top + y, left + x]:
                for c in range(channels):
                    d = texture[top + y, left + x, c] - texture[from_top + y, from_left + x, c]
                    difference[y, x] += d * d
    # Pixels of the overlap where nothing was laid yet cost nothing, so cuts run through them.
    across = _least_path(difference[:, :overlap])
    down = _least_path(difference[:overlap].T.copy())
    for y in range(side):
        for x in range(side):
            if hole[top + y, left + x] == 0:
                continue
            older = x < overlap and x < across[y]
            older = older or (y < overlap and y < down[x])
            if filled[top + y, left + x] and older:
                continue
            for c in range(channels):
                texture[top + y, left + x, c] = texture[from_top + y, from_left + x, c]
            filled[top + y, left + x] = 1


def synthesise_texture(
    image: npt.NDArray[np.uint8],
    hole: npt.NDArray[np.uint8],
    *,
    source: npt.NDArray[np.uint8] | None = None,
    patch: int = 9,
    window: int = 28,
    tolerance: float = 0.1,
    shading: float = 8.0,
    seed: int = 0,
) -> npt.NDArray[np.uint8]:
    """Fill a hole with texture from around it.

    Args:
        image: [H, W, 3] uint8.
        hole: [H, W], nonzero = to fill.
        source: [H, W], nonzero where patches may come from; None for everywhere outside the hole.
        patch: side of the patches in pixels, 3 or more; neighbours overlap by a third.
        window: how far from the gap patches are looked for, in pixels; doubled until there is one.
        tolerance: a patch is drawn from those whose error is at most 1 + tolerance times the least.
        shading: standard deviation in pixels that parts slow shading from texture; 0 quilts the
            picture as it is.
        seed: of the draws.

    Returns:
        [H, W, 3] uint8, equal to `image` outside the hole.

    Raises:
        ValueError: wrong shapes, or no whole patch outside the hole.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or hole.shape != image.shape[:2]:
        raise ValueError(
            f"image must be [H, W, 3] uint8 and hole [H, W], got {image.shape} {image.dtype} "
            f"and {hole.shape}"
        )
    if not 3 <= patch <= min(hole.shape):
        raise ValueError(f"patches must have 3 to {min(hole.shape)} px, not {patch}")
    missing = (hole > 0).astype(np.uint8)
    if not missing.any():
        return image.copy()
    usable = (missing == 0) if source is None else (missing == 0) & (np.asarray(source) > 0)
    # corners[y, x]: the whole patch from there on is usable.
    sums = cv2.integral(usable.astype(np.uint8))
    whole = sums[patch:, patch:] - sums[:-patch, patch:] - sums[patch:, :-patch]
    whole = whole + sums[:-patch, :-patch]
    corners = np.zeros(hole.shape, np.uint8)
    corners[: whole.shape[0], : whole.shape[1]] = whole == patch * patch
    if not corners.any():
        raise ValueError(
            f"no patch of {patch} x {patch} px lies wholly in the source and outside the hole: "
            "use smaller patches or a larger source"
        )
    base = (
        smooth_fill(image, missing, shading) if shading > 0 else np.zeros(image.shape, np.float32)
    )
    texture = image.astype(np.float32) - base
    known, filled = 1 - missing, np.zeros_like(missing)
    overlap, rng = max(1, patch // 3), np.random.default_rng(seed)
    step = patch - overlap
    height, width = hole.shape
    for row in range(0, height, step):
        for column in range(0, width, step):
            # The last patches of a row or column end at the edge of the picture.
            top, left = min(row, height - patch), min(column, width - patch)
            place = (slice(top, top + patch), slice(left, left + patch))
            if not (missing[place] & (1 - filled[place])).any():
                continue
            there = known | filled
            reach, found = window, (-1, -1)
            while found[0] < 0:
                scratch = np.empty((2 * reach + 1, 2 * reach + 1), np.float32)
                found = _best_patches(
                    texture, there, corners, top, left, patch, reach, tolerance, scratch,
                    float(rng.random()),
                )  # fmt: skip
                reach *= 2
            _lay(texture, filled, missing, (top, left), found, patch, overlap)
    out = image.copy()
    inside = missing > 0
    out[inside] = np.clip(np.rint((base + texture)[inside]), 0, 255).astype(np.uint8)
    return out
