"""LaMa's Fourier unit: a 1x1 convolution of the spectrum, so one layer sees the whole image."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from revisage.kernels import _arrays, _dispatch
from revisage.kernels._arrays import HostArray

__all__ = ["fft_conv", "fft_conv_into", "fft_conv_workspace_bytes"]

A = TypeVar("A")

_SAMPLES = {"cpu": ("float32",), "cuda": ("float32", "float16", "bfloat16")}


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
    | x | [N, C, H, W] | f32; on CUDA f16, bf16 | NCHW, C order; any H and W | CPU, CUDA |
    | weight | [2D, 2C] | f32, or as x | rows, columns interleaved (re, im) per channel | as x |
    | scale, shift | [2D] | f32, or as x | batch norm: gamma/sqrt(var+eps), beta-mean*scale | as x |
    | result | [N, D, H, W] | as x | NCHW, C order | as x |

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
            within 1e-5 of the largest output; with f16 and bf16 x within 2e-3 and 1e-2.
        stream: CUDA stream for CUDA arrays. Nothing waits for it, and it may be captured into a
            graph. Planes that outgrow the shared memory of a block (beyond 238x238 on an H100,
            154x154 where it is smallest; 169x169 and 111x111 with odd widths) go through cuFFT,
            which makes its plans at the first call of a shape: make that before a capture.

    Returns:
        An array of the library and on the device of `x`; inputs are not modified. Inputs that are
        not C-contiguous are copied first (on the CPU; refused on CUDA).

    Raises:
        ShapeError: wrong shape, dtype or strides.
        DeviceError: arrays on different devices, or on one that cannot run here; cuFFT is needed
            and cannot be loaded.
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
    workspace: Any = None,
) -> None:
    """`fft_conv`, written into `out` [N, D, H, W], which must not overlap an input.

    `out` is writable and C-contiguous. On CUDA, `workspace` is uint8 memory of at least
    `fft_conv_workspace_bytes(x, weight)` that nothing else uses until the call is done on its
    stream; None takes it from the pool of torch or CuPy, whichever x is of. Other arguments and
    errors as for `fft_conv`.
    """
    inputs = {"x": x, "weight": weight, "scale": scale, "shift": shift}
    device = _arrays.common_device({"out": out, **inputs})
    chosen = _dispatch.choose(impl, device)
    if device == "cpu":
        inputs = {n: _arrays.host_input(n, array, _SAMPLES[device]) for n, array in inputs.items()}
    described = {n: _arrays.describe(n, a, device, _SAMPLES[device]) for n, a in inputs.items()}
    shapes = {n: shape for n, (shape, _) in described.items()}
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
        found = _arrays.cuda_description("out", out)
        _arrays.check_output("out", *found, (n, d, h, w), described["x"][1])
    count = _dispatch.thread_count(threads)
    handle = _dispatch.stream_handle(stream, device, inputs["x"])
    arrays = (inputs["x"], inputs["weight"], inputs["scale"], inputs["shift"])
    if chosen == "reference":
        np.copyto(out, _reference(*arrays))
        return
    if device == "cuda" and workspace is None:
        size = _workspace_bytes(inputs["x"], inputs["weight"], handle)
        workspace = _arrays.new_workspace(inputs["x"], size, handle)
    _dispatch._native.fft_conv_into(out, *arrays, count, handle, workspace)


def fft_conv_workspace_bytes(x: Any, weight: Any) -> int:
    """Size of `workspace` for `fft_conv_into` with arrays like these; 0 on the CPU.

    It depends on shapes, the dtype of x, and its device. Errors as for `fft_conv`.
    """
    device = _arrays.common_device({"x": x, "weight": weight})
    if device == "cpu":
        return 0
    _dispatch.choose(None, device)
    return _workspace_bytes(x, weight, _dispatch.stream_handle(None, device, x))


def _workspace_bytes(x: Any, weight: Any, stream: int) -> int:
    _tell_where_cufft_is()
    return _dispatch._native.fft_conv_workspace_bytes(x, weight, stream)


@functools.cache
def _tell_where_cufft_is() -> None:
    """The wheels of cuFFT put it into a folder that no loader looks into."""
    package = importlib.util.find_spec("nvidia")
    folders = package.submodule_search_locations if package else None
    found = [path for folder in folders or () for path in Path(folder).glob("*/lib/libcufft.so.1?")]
    _dispatch._native.set_cufft_candidates([str(path) for path in sorted(found, reverse=True)])


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
