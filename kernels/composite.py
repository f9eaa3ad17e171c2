"""The compositor: `original + strength * mask * delta`, in the photo's own depth.

This is the residual contract of Revisage as one operation: an edit is a delta and a soft mask in an
aligned square, and the photo's samples are moved by it, never resampled.

Note [Compositing arithmetic]
    All implementations compute exactly the following, so they agree bit for bit. Coordinates are
    float64, everything else float32, nothing is fused or reordered:

        u = m00 * x + (m01 * y + m02),  v = m10 * x + (m11 * y + m12)
        fx = float32(u - floor(u)),     fy = float32(v - floor(v))
        sample(t) = (t00 * (1 - fx) + t01 * fx) * (1 - fy) + (t10 * (1 - fx) + t11 * fx) * fy
        change = strength * (sample(mask) * sample(delta))

    with 0 for taps outside the square. A sample whose change is 0 (or NaN) keeps its bits. Others:

        u8, u16:  clip(round_half_even(original + change * 255), 0, 255); 65535 for u16
        f16, f32: original + change, rounded once to the dtype, never clamped

    Every step is monotone in strength, so a larger strength never moves a sample less.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np

from revisage.errors import OptionError, ShapeError
from revisage.kernels import _arrays, _dispatch
from revisage.kernels._arrays import HostArray, Matrix

__all__ = ["composite", "composite_into"]

A = TypeVar("A")

_SAMPLES = ("uint8", "uint16", "float16", "float32")
_FULL_RANGE = {"uint8": 255.0, "uint16": 65535.0}


def composite(
    original: A,
    delta: Any,
    mask: Any,
    matrix: Any,
    strength: float = 1.0,
    *,
    threads: int | None = None,
    impl: str | None = None,
    stream: Any = None,
) -> A:
    """Apply an edit to a photo and return the edited photo as a new array.

    | argument | shape | dtype | layout | device |
    | --- | --- | --- | --- | --- |
    | original | [H, W] or [H, W, C] | u8, u16, f16, f32 | HWC, C order | CPU, CUDA |
    | delta | [S, T, D] | f32 | HWC; D <= C | as original |
    | mask | [S, T] | f32 | | as original |
    | matrix | [2, 3] | float64 | photo pixel (x, y, 1) -> square pixel | CPU |
    | result | as original | as original | HWC, C order | as original |

    Integer coordinates are pixel centres. Delta is in units of the full range (1.0 is 255 in u8,
    65535 in u16, 1.0 in float), mask in 0..1; both are sampled bilinearly, and are 0 outside the
    square. The channels from D on (alpha) are copied. Only the box of the square in the photo is
    computed; the rest is a copy. See Note [Compositing arithmetic] for the exact numbers.

    Source: the residual contract; the soft mask is that of StarGAN-style mask heads (Pumarola et
    al. 2018, "GANimation", equation 1) written as a residual.

    Args:
        strength: finite, at least 0; 0 returns the original's bits.
        threads: CPU threads; None takes REVISAGE_NUM_THREADS, else all cores. Never changes bits.
        impl: "native", "reference" (NumPy), or None for native where it is built.
        stream: CUDA stream for CUDA arrays.

    Returns:
        An array of the library and on the device of `original`; inputs are not modified. Inputs
        that are not C-contiguous are copied first (on the CPU; refused on CUDA).

    Raises:
        ShapeError: wrong shape, dtype or strides.
        OptionError: matrix singular or not finite, strength negative, delta or mask not finite.
        DeviceError: arrays on different devices, or on one that cannot run here.
    """
    device = _arrays.device_of("original", original)
    shape = _arrays.shape_of("original", original, device)
    out: A = _arrays.new_output(original, shape, device)
    composite_into(
        out, original, delta, mask, matrix, strength, threads=threads, impl=impl, stream=stream
    )
    return out


def composite_into(
    out: Any,
    original: Any,
    delta: Any,
    mask: Any,
    matrix: Any,
    strength: float = 1.0,
    *,
    threads: int | None = None,
    impl: str | None = None,
    stream: Any = None,
) -> None:
    """`composite`, written into `out`.

    `out` has the shape and dtype of `original`, is writable and C-contiguous. It may be `original`
    itself: then the photo is edited in place, nothing is copied, and samples outside the square
    (on CUDA: 16 or more pixels outside the box around it) are not even read. Any other overlap with
    an input is refused.

    Arguments and errors as for `composite`.
    """
    device = _arrays.common_device({"out": out, "original": original, "delta": delta, "mask": mask})
    chosen = _dispatch.choose(impl, device)
    if device == "cpu":
        original = _arrays.host_input("original", original, _SAMPLES)
        delta = _arrays.host_input("delta", delta, ("float32",))
        mask = _arrays.host_input("mask", mask, ("float32",))
        out = _arrays.host_output("out", out, original.shape, str(original.dtype))
        if out.ctypes.data != original.ctypes.data:
            _arrays.refuse_overlap(out, {"original": original})
        _arrays.refuse_overlap(out, {"delta": delta, "mask": mask})
    shape, dtype = _arrays.describe("original", original, device, _SAMPLES)
    if device == "cuda":
        _arrays.check_output("out", *_arrays.cuda_description("out", out), shape, dtype)
    _check_edit(shape, delta, mask, device)
    transform = _arrays.affine_matrix(matrix)
    determinant = transform[0] * transform[4] - transform[1] * transform[3]
    if not (math.isfinite(determinant) and abs(determinant) > 1e-12):
        raise OptionError(f"matrix is singular, it cannot place a square: {transform}")
    strength = _arrays.checked_strength(strength)
    count = _dispatch.thread_count(threads)
    handle = _dispatch.stream_handle(stream, device, original)
    if chosen == "reference":
        _reference(out, original, delta, mask, transform, strength)
    else:
        _dispatch._native.composite_into(
            out, original, delta, mask, transform, strength, count, handle
        )


def _check_edit(shape: tuple[int, ...], delta: Any, mask: Any, device: str) -> None:
    if len(shape) not in (2, 3) or 0 in shape:
        raise ShapeError(f"original must be [H, W] or [H, W, C] and not empty, got {list(shape)}")
    channels = shape[2] if len(shape) == 3 else 1
    delta_shape, _ = _arrays.describe("delta", delta, device, ("float32",))
    mask_shape, _ = _arrays.describe("mask", mask, device, ("float32",))
    _arrays.check_shape("delta", delta_shape, ("S", "T", "D"))
    _arrays.check_shape("mask", mask_shape, delta_shape[:2])
    if delta_shape[2] > channels:
        raise ShapeError(
            f"delta has {delta_shape[2]} channels, the original only {channels}; "
            "reduce delta to the original's channels"
        )
    if device == "cpu":
        for name, array in (("delta", delta), ("mask", mask)):
            # min and max of a NaN are NaN: two passes without a temporary array.
            if not (np.isfinite(array.min()) and np.isfinite(array.max())):
                raise OptionError(f"{name} must be finite; the network gave NaN or infinity")


def _photo_box(
    shape: tuple[int, ...], square: tuple[int, int], matrix: Matrix
) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 (half open) of the photo pixels that the square's bilinear taps can reach."""
    height, width = shape[:2]
    a, b, c, d, e, f = matrix
    determinant = a * e - b * d
    corners = [(u - c, v - f) for u in (-1.0, float(square[1])) for v in (-1.0, float(square[0]))]
    xs = [(e * u - b * v) / determinant for u, v in corners]
    ys = [(a * v - d * u) / determinant for u, v in corners]
    if not np.isfinite(xs + ys).all():
        return 0, 0, width, height
    # One pixel of margin pays for the rounding of the inverse.
    x0, x1 = (int(np.clip(v, 0, width)) for v in (math.floor(min(xs)) - 1, math.ceil(max(xs)) + 2))
    y0, y1 = (int(np.clip(v, 0, height)) for v in (math.floor(min(ys)) - 1, math.ceil(max(ys)) + 2))
    return x0, y0, x1, y1


def _reference(
    out: HostArray,
    original: HostArray,
    delta: HostArray,
    mask: HostArray,
    matrix: Matrix,
    strength: float,
) -> None:
    """The twin: Note [Compositing arithmetic] in NumPy."""
    if out.ctypes.data != original.ctypes.data:
        np.copyto(out, original)
    rows, columns, channels = delta.shape
    x0, y0, x1, y1 = _photo_box(original.shape, (rows, columns), matrix)
    if x0 >= x1 or y0 >= y1:
        return
    # One ring of zeros, so that every tap outside the square reads 0.
    edit = np.pad(np.concatenate([delta, mask[..., None]], axis=2), ((1, 1), (1, 1), (0, 0)))

    a, b, c, d, e, f = matrix
    x = np.arange(x0, x1, dtype=np.float64)[None, :]
    y = np.arange(y0, y1, dtype=np.float64)[:, None]
    u, v = a * x + (b * y + c), d * x + (e * y + f)
    inside = (u > -1) & (u < columns) & (v > -1) & (v < rows)
    u, v = u[inside], v[inside]  # [P]
    column, row = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    fx = (u - column).astype(np.float32)[:, None]
    fy = (v - row).astype(np.float32)[:, None]
    column, row = column + 1, row + 1  # into the padded square
    one = np.float32(1)
    top = edit[row, column] * (one - fx) + edit[row, column + 1] * fx  # [P, D + 1]
    bottom = edit[row + 1, column] * (one - fx) + edit[row + 1, column + 1] * fx
    sampled = top * (one - fy) + bottom * fy
    change = np.float32(strength) * (sampled[:, -1:] * sampled[:, :-1])  # [P, D]

    box = out.reshape(*out.shape[:2], -1)[y0:y1, x0:x1, :channels]
    before = box[inside]
    with np.errstate(over="ignore", invalid="ignore"):
        if out.dtype.name in _FULL_RANGE:
            full = np.float32(_FULL_RANGE[out.dtype.name])
            value = np.rint(before.astype(np.float32) + change * full).clip(0, full)
        else:
            value = before.astype(np.float32) + change
        after = value.astype(out.dtype)
        box[inside] = np.where((change != 0) & ~np.isnan(change), after, before)
