"""LaMa's Fourier unit: a 1x1 convolution of the spectrum, so one layer sees the whole image."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from revisage.kernels import _arrays, _dispatch
from revisage.kernels._arrays import HostArray

__all__ = ["fft_conv", "fft_conv_into"]

A = TypeVar("A")

_SAMPLES = ("float32",)


def fft_conv(
    x: A,
    weight: Any,
    scale: Any,
    shift: Any,
    *,
    threads: int | None = None,
    impl: str | None = None,
    stream: Any = None,
) -> A:
    """Fourier unit: irfft2(relu(scale * conv1x1(rfft2(x)) + shift)).

    | argument | shape | dtype | layout | device |
    | --- | --- | --- | --- | --- |
    | x | [N, C, H, W] | f32 | NCHW, C order; any H and W | CPU, CUDA |
    | weight | [2D, 2C] | f32 | rows and columns interleaved (re, im) per channel | as x |
    | scale, shift | [2D] | f32 | batch norm folded: gamma/sqrt(var+eps), beta-mean*scale | as x |
    | result | [N, D, H, W] | f32 | NCHW, C order | as x |

    1. Real 2-D FFT over H and W, norm "ortho": C complex planes [H, W//2 + 1].
    2. Real and imaginary parts as 2C channels, interleaved: c0.re, c0.im, c1.re, c1.im, ...
    3. 1x1 convolution without bias, affine per channel, ReLU: 2D channels, interleaved.
    4. Inverse real FFT to [H, W], norm "ortho" (imaginary parts of the columns that are their own
       conjugates count for nothing, as in numpy.fft.irfft2).

    Source: Suvorov et al. 2022, "Resolution-robust Large Mask Inpainting with Fourier
    Convolutions" (LaMa), section 2.1; Chi et al. 2020, "Fast Fourier Convolution".

    Args:
        threads: CPU threads; None takes REVISAGE_NUM_THREADS, else all cores. Never changes bits.
        impl: "native", "reference" (NumPy), or None for native where it is built. The two agree
            within 1e-5 of the largest output.
        stream: CUDA stream for CUDA arrays. On CUDA, H and W go up to 4096.

    Returns:
        An array of the library and on the device of `x`; inputs are not modified. Inputs that are
        not C-contiguous are copied first (on the CPU; refused on CUDA).

    Raises:
        ShapeError: wrong shape, dtype or strides.
        DeviceError: arrays on different devices, or on one that cannot run here.
    """
    device = _arrays.common_device({"x": x, "weight": weight})
    shape = _arrays.shape_of("x", x, device)
    rows = _arrays.shape_of("weight", weight, device)
    _arrays.check_shape("x", shape, ("N", "C", "H", "W"))
    _arrays.check_shape("weight", rows, ("2D", 2 * shape[1]))
    out: A = _arrays.new_output(x, (shape[0], rows[0] // 2, *shape[2:]), device)
    fft_conv_into(out, x, weight, scale, shift, threads=threads, impl=impl, stream=stream)
    return out


def fft_conv_into(
    out: Any,
    x: Any,
    weight: Any,
    scale: Any,
    shift: Any,
    *,
    threads: int | None = None,
    impl: str | None = None,
    stream: Any = None,
) -> None:
    """`fft_conv`, written into `out` [N, D, H, W], which must not overlap an input.

    `out` is writable and C-contiguous. Arguments and errors as for `fft_conv`.
    """
    inputs = {"x": x, "weight": weight, "scale": scale, "shift": shift}
    device = _arrays.common_device({"out": out, **inputs})
    chosen = _dispatch.choose(impl, device)
    if device == "cpu":
        inputs = {n: _arrays.host_input(n, array, _SAMPLES) for n, array in inputs.items()}
    shapes = {n: _arrays.describe(n, array, device, _SAMPLES)[0] for n, array in inputs.items()}
    _arrays.check_shape("x", shapes["x"], ("N", "C", "H", "W"))
    n, c, h, w = shapes["x"]
    d = shapes["weight"][0] // 2 if shapes["weight"] else 0
    _arrays.check_shape("weight", shapes["weight"], (2 * d, 2 * c))
    _arrays.check_shape("scale", shapes["scale"], (2 * d,))
    _arrays.check_shape("shift", shapes["shift"], (2 * d,))
    if device == "cpu":
        out = _arrays.host_output("out", out, (n, d, h, w), "float32")
        _arrays.refuse_overlap(out, dict(inputs))
    else:
        described = _arrays.cuda_description("out", out)
        _arrays.check_output("out", *described, (n, d, h, w), "float32")
    count = _dispatch.thread_count(threads)
    handle = _dispatch.stream_handle(stream, device, inputs["x"])
    arrays = (inputs["x"], inputs["weight"], inputs["scale"], inputs["shift"])
    if chosen == "reference":
        np.copyto(out, _reference(*arrays))
    else:
        _dispatch._native.fft_conv_into(out, *arrays, count, handle)


def _reference(x: HostArray, weight: HostArray, scale: HostArray, shift: HostArray) -> HostArray:
    """The twin: the four steps of the docstring in NumPy, in float64 inside."""
    n, c, h, w = x.shape
    spectrum = np.fft.rfft2(x.astype(np.float64), norm="ortho")  # [N, C, H, W//2 + 1]
    pairs = np.stack([spectrum.real, spectrum.imag], axis=2)  # [N, C, 2, H, W//2 + 1]
    channels = pairs.reshape(n, 2 * c, h, w // 2 + 1)
    mixed = np.einsum("oi,nihw->nohw", weight.astype(np.float64), channels, optimize=True)
    mixed = np.maximum(scale[:, None, None] * mixed + shift[:, None, None], 0)
    real, imaginary = mixed[:, 0::2], mixed[:, 1::2]  # each [N, D, H, W//2 + 1]
    result = np.fft.irfft2(real + 1j * imaginary, s=(h, w), norm="ortho")
    return np.asarray(result.astype(np.float32))
