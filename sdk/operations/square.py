"""A face as its networks see it: the aligned square, sampled from the photo without aliasing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from revisage.alignment import invert_affine, transform_points
from revisage.kernels import flow_warp
from revisage.pixels import Pixels, colour_channels, full_range, unit_range

__all__ = ["block_average", "sample_square"]

FloatArray = npt.NDArray[np.float32]


def sample_square(
    pixels: Pixels, matrix: npt.ArrayLike, size: int, *, threads: int | None = None
) -> FloatArray:
    """The part of a photo that lies in an aligned square, as a network sees it.

    Where the photo is denser than the square it is first averaged over k x k blocks (k the whole
    number of photo pixels in a square pixel), then sampled at twice the square's density and
    averaged again, so nothing finer than the square aliases into it. Only the face's own region is
    converted to float, a block row at a time. Beyond the photo its edge is repeated.

    Args:
        pixels: Note [Photos] in `revisage.pixels`; gray is repeated, alpha ignored, floats clamped.
        matrix: [2, 3] photo -> square of side `size`.

    Returns:
        [size, size, 3] float32 RGB in [0, 1].
    """
    placement = np.asarray(matrix, dtype=np.float64)
    inverse = invert_affine(placement)
    pitch = 1.0 / math.sqrt(abs(float(np.linalg.det(placement[:, :2]))))  # photo px / square px
    block = max(1, int(pitch + 1e-9))
    left, top, right, bottom = _region(pixels.shape, inverse, size, margin=2 * block)
    region = pixels[top:bottom, left:right]
    reduced = block_average(region.reshape(*region.shape[:2], -1), block)

    oversample = 2 if pitch / block > 1.0 + 1e-9 else 1
    # Fine square pixel -> square pixel -> photo pixel -> pixel of the reduced region.
    half = (1 / oversample - 1) / 2
    step = np.array([[1 / oversample, 0.0, half], [0.0, 1 / oversample, half], [0.0, 0.0, 1.0]])
    to_region = inverse @ step
    to_region[:, 2] -= (left, top)
    to_region /= block
    to_region[:, 2] += (1 / block - 1) / 2
    side = size * oversample
    square = flow_warp(
        reduced, matrix=to_region, size=(side, side), padding="border", threads=threads
    )
    if oversample == 2:
        square = (
            (square[0::2, 0::2] + square[0::2, 1::2]) + (square[1::2, 0::2] + square[1::2, 1::2])
        ) * np.float32(0.25)
    return np.ascontiguousarray(np.broadcast_to(square, (size, size, 3)))


def _region(
    shape: tuple[int, ...], inverse: npt.NDArray[np.float64], size: int, margin: int
) -> tuple[int, int, int, int]:
    """left, top, right, bottom of the photo pixels that the square reads; never empty."""
    ends = (-0.5, size - 0.5)
    corners = transform_points(inverse, [(u, v) for u in ends for v in ends])
    bounds = []
    for axis, length in ((0, shape[1]), (1, shape[0])):
        low = int(np.clip(math.floor(corners[:, axis].min()) - margin, 0, length - 1))
        high = int(np.clip(math.ceil(corners[:, axis].max()) + margin + 1, low + 1, length))
        bounds.append((low, high))
    (left, right), (top, bottom) = bounds
    return left, top, right, bottom


def block_average(region: npt.NDArray[Any], block: int) -> FloatArray:
    """Mean over block x block pixels, float32 in [0, 1], colour channels only; [h, w, 1 or 3].

    The last block of a row or column repeats the region's edge.
    """
    region = region[:, :, : colour_channels(region)]
    if block == 1:
        return np.ascontiguousarray(unit_range(region))
    height, width, channels = region.shape
    rows, columns = -(-height // block), -(-width // block)
    out = np.empty((rows, columns, channels), dtype=np.float32)
    whole = full_range(region.dtype) * block * block if region.dtype.kind == "u" else block * block
    for row in range(rows):
        strip = region[row * block : (row + 1) * block]
        pad = ((0, block - strip.shape[0]), (0, columns * block - width), (0, 0))
        if any(after for _, after in pad):
            strip = np.pad(strip, pad, mode="edge")
        if strip.dtype.kind == "u":  # whole numbers: exact sums
            total = strip.sum(axis=0, dtype=np.uint64)
        else:
            total = unit_range(strip).sum(axis=0, dtype=np.float64)
        out[row] = total.reshape(columns, block, channels).sum(axis=1) / whole
    return out
