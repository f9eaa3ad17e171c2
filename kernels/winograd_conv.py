"""A 3x3 convolution with a quarter of the multiplications, what lies around it fused."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np

from revisage.errors import DeviceError, OptionError, ShapeError
from revisage.kernels import _arrays, _dispatch
from revisage.kernels._arrays import HostArray

__all__ = ["winograd_conv", "winograd_conv_into"]

A = TypeVar("A")

# What a side loses, and the least that it must have.
_PADDINGS = {"none": (2, 3), "zero": (0, 1), "reflect": (0, 2)}


def winograd_conv(
    x: A,
    weight: Any,
    bias: Any = None,
    residual: Any = None,
    skip: Any = None,
    *,
    padding: str = "zero",
    slope: float = 1.0,
    ceiling: float = math.inf,
    threads: int | None = None,
    impl: str | None = None,
) -> A:
    """skip + activation(conv3x3(x, weight) + bias + residual), the stride 1.

    | argument | shape | dtype | layout | device |
    | --- | --- | --- | --- | --- |
    | x | [N, C, H, W] | f32 | NCHW, C order; any H and W | CPU |
    | weight | [D, C, 3, 3] | f32 | as torch's | CPU |
    | bias | [D] or None | f32 | | CPU |
    | residual, skip | as result, or None | f32 | NCHW, C order | CPU |
    | result | [N, D, H, W]; H - 2, W - 2 with padding "none" | f32 | NCHW, C order | CPU |

    Tiles of 4x4 results by F(4x4, 3x3): 36 products for each pair of channels instead of 144. That
    pays from about 8 channels on both sides and 16x16 pixels on; below, tiles are too few to fill
    vectors, or the transforms cost more than they save.
    There is no CUDA version: cuDNN has a Winograd convolution of its own.

    Source: Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4.3,
    with other points: see Note [Winograd convolution] in src/winograd_conv_kernels.h.

    Args:
        padding: "zero", "reflect" (the mirror image without its edge, at least 2 pixels a side) or
            "none" (at least 3).
        slope: activation(v) is v where v >= 0, slope * v below: 1 is no activation, 0 ReLU.
        ceiling: what activation(v) is at most: 6 with slope 0 is ReLU6.
        threads: CPU threads; None takes REVISAGE_NUM_THREADS, else all cores. Never changes bits.
        impl: "native", "reference" (NumPy), or None for native where it is built. The twin computes
            the convolution as defined, in float64; native is within 1e-6 * sqrt(9 C) * the largest
            |x| * the largest |weight| of it. A tile that sees an Inf or NaN is NaN.

    Returns:
        An array of the library of `x`; inputs are not modified. Inputs that are not C-contiguous
        are copied first.

    Raises:
        ShapeError: wrong shape or dtype.
        DeviceError: arrays on a GPU.
        OptionError: an unknown padding, a slope that is not finite, a ceiling that is NaN.
    """
    shapes = {}
    for name, array in (("x", x), ("weight", weight)):
        _on_cpu(name, array)
        shapes[name] = _arrays.shape_of(name, array, "cpu")
    result = _result_shape(shapes["x"], shapes["weight"], padding)
    out: A = _arrays.new_output(x, result, "cpu")
    winograd_conv_into(
        out,
        x,
        weight,
        bias,
        residual,
        skip,
        padding=padding,
        slope=slope,
        ceiling=ceiling,
        threads=threads,
        impl=impl,
    )
    return out


def winograd_conv_into(
    out: Any,
    x: Any,
    weight: Any,
    bias: Any = None,
    residual: Any = None,
    skip: Any = None,
    *,
    padding: str = "zero",
    slope: float = 1.0,
    ceiling: float = math.inf,
    threads: int | None = None,
    impl: str | None = None,
) -> None:
    """`winograd_conv`, written into `out`, which must not overlap an input.

    `out` is writable and C-contiguous. Other arguments and errors as for `winograd_conv`.
    """
    optional = {"bias": bias, "residual": residual, "skip": skip}
    given = {"x": x, "weight": weight, **{n: a for n, a in optional.items() if a is not None}}
    for name, array in {"out": out, **given}.items():
        _on_cpu(name, array)
    chosen = _dispatch.choose(impl, "cpu")
    inputs = {n: _arrays.host_input(n, array, ("float32",)) for n, array in given.items()}
    shape = _result_shape(inputs["x"].shape, inputs["weight"].shape, padding)
    wanted = {"bias": shape[1:2], "residual": shape, "skip": shape}
    for name, want in wanted.items():
        if name in inputs:
            _arrays.check_shape(name, inputs[name].shape, want)
    slope, ceiling = _number("slope", slope), _number("ceiling", ceiling)
    if not abs(slope) <= np.finfo(np.float32).max:
        raise OptionError(f"slope must be a finite float32, got {slope}: 1 for none, 0 for ReLU")
    out = _arrays.host_output("out", out, shape, "float32")
    _arrays.refuse_overlap(out, dict(inputs))
    count = _dispatch.thread_count(threads)
    if chosen == "reference":
        np.copyto(out, _reference(inputs, padding, slope, ceiling))
        return
    addends = {name: inputs.get(name) for name in optional}
    _dispatch._native.winograd_conv_into(
        out,
        inputs["x"],
        inputs["weight"],
        **addends,
        padding=padding,
        slope=slope,
        ceiling=ceiling,
        threads=count,
    )


def _on_cpu(name: str, array: Any) -> None:
    if _arrays.device_of(name, array) != "cpu":
        raise DeviceError(
            f"winograd_conv runs on the CPU, and {name} lies on a GPU: "
            "use torch.nn.functional.conv2d there, or copy it to the host"
        )


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isnan(number):
        raise OptionError(f"{name} must be a number, got {value!r}")
    return number


def _result_shape(
    x: tuple[int, ...], weight: tuple[int, ...], padding: str
) -> tuple[int, int, int, int]:
    if padding not in _PADDINGS:
        raise OptionError(f"padding must be one of {', '.join(_PADDINGS)}, got {padding!r}")
    _arrays.check_shape("x", x, ("N", "C", "H", "W"))
    _arrays.check_shape("weight", weight, ("D", x[1], 3, 3))
    lost, least = _PADDINGS[padding]
    n, _, height, width = x
    if min(height, width) < least:
        raise ShapeError(
            f"x must have at least {least} pixels a side with padding {padding!r}, got {list(x)}"
        )
    return n, weight[0], height - lost, width - lost


def _reference(
    inputs: dict[str, HostArray], padding: str, slope: float, ceiling: float
) -> HostArray:
    """The twin: the sum over nine neighbours, in float64."""
    x, weight = inputs["x"], inputs["weight"]
    around, sides = x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1))
    if padding == "zero":
        around = np.pad(around, sides)
    elif padding == "reflect":
        around = np.pad(around, sides, "reflect")
    rows, columns = around.shape[2] - 2, around.shape[3] - 2
    total = np.zeros((len(x), len(weight), rows, columns))
    for i in range(3):
        for j in range(3):
            shifted = around[:, :, i : i + rows, j : j + columns]
            total += np.einsum("dc,nchw->ndhw", weight[:, :, i, j], shifted, optimize=True)
    if "bias" in inputs:
        total += inputs["bias"][:, None, None]
    if "residual" in inputs:
        total += inputs["residual"]
    total = np.minimum(np.where(total < 0, slope * total, total), ceiling)
    if "skip" in inputs:
        total += inputs["skip"]
    return np.asarray(total.astype(np.float32))
