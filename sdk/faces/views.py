"""What the face networks see of a photo: reduced levels of it, and upright crops.

Photos come as [H, W], [H, W, 1..4] in uint8, uint16 or floating point (1.0 is white; alpha is not
looked at). Only what is needed is converted, so that a large photo costs no second copy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from revisage.alignment import invert_affine
from revisage.errors import ShapeError
from revisage.kernels import flow_warp

__all__ = ["check_photo", "crop_photo", "halve", "reduce_photo", "turned_square"]

FloatArray = npt.NDArray[np.float32]

LARGEST_SIDE = 65535  # pixels
_STRIP_SAMPLES = 4 << 20  # samples converted to float at a time


def check_photo(photo: Any) -> npt.NDArray[Any]:
    """The photo as an array of a supported shape and dtype, not copied.

    Raises:
        ShapeError: not [H, W] or [H, W, 1..4], empty, too large, or of another dtype.
    """
    array = np.asarray(photo)
    known = array.dtype in (np.uint8, np.uint16) or array.dtype.kind == "f"
    if not known:
        raise ShapeError(f"photo: dtype {array.dtype} is not uint8, uint16 or floating point")
    if not (array.ndim == 2 or (array.ndim == 3 and 1 <= array.shape[2] <= 4)):
        raise ShapeError(f"photo: expected [H, W] or [H, W, 1..4], got {list(array.shape)}")
    if min(array.shape[:2]) < 1 or max(array.shape[:2]) > LARGEST_SIDE:
        raise ShapeError(f"photo: sides must be 1 to {LARGEST_SIDE}, got {list(array.shape[:2])}")
    return array


def _colour(photo: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A view [h, w, 1 or 3] without alpha."""
    if photo.ndim == 2:
        return photo[..., None]
    return photo[..., :1] if photo.shape[2] < 3 else photo[..., :3]


def _unit(samples: npt.NDArray[Any]) -> FloatArray:
    """Samples as float32 in [0, 1]; brighter than white is white, NaN is black."""
    if samples.dtype == np.uint8:
        return samples * np.float32(1 / 255)
    if samples.dtype == np.uint16:
        return samples * np.float32(1 / 65535)
    with np.errstate(over="ignore"):
        values = samples.astype(np.float32)
    return np.clip(np.nan_to_num(values, copy=False, nan=0.0, posinf=1.0, neginf=0.0), 0, 1)


def reduce_photo(photo: npt.NDArray[Any], factor: int) -> FloatArray:
    """Means of factor x factor blocks as [ceil(H / factor), ceil(W / factor), 3] float32 in [0, 1].

    Pixel p of the result is at factor * p + (factor - 1) / 2 of the photo; blocks at the right and
    lower edge are the means of what is there.
    """
    view = _colour(photo)
    if view.dtype == np.uint8 and view.flags.c_contiguous and view.size > 4096:
        small = _reduce_bytes(view, factor)
    else:
        small = _reduce_samples(view, factor)
    return np.repeat(small, 3, axis=2) if small.shape[2] == 1 else small


def _reduce_bytes(view: npt.NDArray[np.uint8], factor: int) -> FloatArray:
    from PIL import Image

    height, width, channels = view.shape
    picture = Image.fromarray(view if channels == 3 else view[..., 0])
    small = np.asarray(picture.reduce(factor) if factor > 1 else picture)
    return _unit(small.reshape(-(-height // factor), -(-width // factor), channels))


def _reduce_samples(view: npt.NDArray[Any], factor: int) -> FloatArray:
    height, width, channels = view.shape
    rows, columns = -(-height // factor), -(-width // factor)
    if factor == 1:
        return _unit(view)
    out = np.empty((rows, columns, channels), dtype=np.float32)
    starts = np.arange(0, width, factor)
    counts = np.minimum(factor, width - starts).astype(np.float32)[:, None]
    strip = max(1, _STRIP_SAMPLES // (width * channels * factor))
    for row in range(0, rows, strip):
        last = min(rows, row + strip)
        block = _unit(view[row * factor : min(height, last * factor)])
        tops = np.arange(0, block.shape[0], factor)
        depths = np.minimum(factor, block.shape[0] - tops).astype(np.float32)[:, None, None]
        sums = np.add.reduceat(np.add.reduceat(block, tops, axis=0), starts, axis=1)
        out[row:last] = sums / counts / depths
    return out


def halve(level: FloatArray) -> FloatArray:
    """Means of 2 x 2 blocks of [h, w, 3]; an odd last row or column is repeated."""
    height, width = level.shape[:2]
    if height % 2 or width % 2:
        level = np.pad(level, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    rows = level[0::2] + level[1::2]
    out: FloatArray = (rows[:, 0::2] + rows[:, 1::2]) * np.float32(0.25)
    return out


def turned_square(
    x: float, y: float, side: float, angle: float, size: int
) -> npt.NDArray[np.float64]:
    """[2, 3] photo -> crop: the square of `side` around (x, y), turned clockwise by `angle` rad."""
    scale = size / side
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cos, sin], [-sin, cos]])
    offset = (size - 1) / 2 - linear @ np.array([x, y])
    return np.concatenate([linear, offset[:, None]], axis=1)


def crop_photo(photo: npt.NDArray[Any], matrix: npt.NDArray[np.float64], size: int) -> FloatArray:
    """Sample an upright crop [size, size, 3] float32 in [0, 1], without aliasing.

    Args:
        matrix: [2, 3] photo pixels -> crop pixels, a similarity. Where the crop reaches beyond the
            photo, the photo's edge is repeated.
    """
    back = invert_affine(matrix)
    step = float(np.hypot(back[0, 0], back[1, 0]))  # photo pixels per crop pixel
    factor = max(1, round(0.9 * step))
    corners = np.array([[0, 0, 1], [size - 1, 0, 1], [0, size - 1, 1], [size - 1, size - 1, 1]])
    reach = corners @ back.T
    margin = factor + 1
    height, width = photo.shape[:2]
    low = np.floor(reach.min(axis=0)).astype(int) - margin
    high = np.ceil(reach.max(axis=0)).astype(int) + margin + 1
    left, top = int(np.clip(low[0], 0, width - 1)), int(np.clip(low[1], 0, height - 1))
    right, bottom = int(np.clip(high[0], left + 1, width)), int(np.clip(high[1], top + 1, height))
    region = np.ascontiguousarray(_colour(photo[top:bottom, left:right]))
    reduced = reduce_photo(region, factor)
    into = back / factor
    into[:, 2] -= (np.array([left, top]) + (factor - 1) / 2) / factor
    out: FloatArray = flow_warp(reduced, matrix=into, size=(size, size), threads=1)
    return out
