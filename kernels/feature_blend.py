"""StyleRetoucher's blend of prior features and image features, with its two softmaxes fused.

Note [Blend gradients]
    With s = Ms the spatial mask of a pixel, m the channel softmax, k = strength * m, F = style,
    I = image and g the gradient of the result, the blend is s k F + (1 - s)(1 - k) I, so

        grad_style = g s k                      grad_image = g (1 - s)(1 - k)
        ds = sum over channels of g (k F - (1 - k) I)       one number per pixel
        dm = strength * sum over pixels of g (s F - (1 - s) I)      one number per channel

    and a softmax over two logits has the slope s (1 - s) in its first logit, minus that in its
    second: grad_spatial_logits = (+, -) ds s (1 - s), grad_channel_logits = (+, -) dm m (1 - m).
    The slope is computed as e / (1 + e)^2 with e = exp(-|first - second|), which keeps its digits
    where s rounds to 1.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from revisage.kernels import _arrays, _dispatch
from revisage.kernels._arrays import HostArray

__all__ = [
    "feature_blend",
    "feature_blend_backward",
    "feature_blend_backward_into",
    "feature_blend_into",
]

A = TypeVar("A")

_FEATURES = {"cpu": ("float32",), "cuda": ("float32", "float16", "bfloat16")}
_INPUTS = ("style", "image", "spatial_logits", "channel_logits")
_GRADIENTS = ("grad_style", "grad_image", "grad_spatial_logits", "grad_channel_logits")


def feature_blend(
    style: A,
    image: Any,
    spatial_logits: Any,
    channel_logits: Any,
    *,
    strength: float = 1.0,
    threads: int | None = None,
    impl: str | None = None,
    stream: Any = None,
) -> A:
    """Blend features of a generator prior (`style`) with features of the photo (`image`).

    | argument | shape | dtype | layout | device |
    | --- | --- | --- | --- | --- |
    | style, image | [N, C, H, W] | f32; on CUDA also f16, bf16 | NCHW, C order | CPU, CUDA |
    | spatial_logits | [N, 2, H, W] | f32 | entry 0 for style, 1 for image | as style |
    | channel_logits | [N, 2, C] | f32 | entry 0 for style, 1 for image | as style |
    | result | [N, C, H, W] | as style | NCHW, C order | as style |

    1. Ms = softmax over the pair of spatial logits, entry 0: [N, 1, H, W].
    2. Mc = strength * softmax over the pair of channel logits, entry 0: [N, C, 1, 1].
    3. result = Ms * Mc * style + (1 - Ms) * (1 - Mc) * image.

    Source: StyleRetoucher (Su et al. 2023, arXiv 2312.14389), the blemish-aware feature selection;
    strength multiplies the channel mask, as its editing section does for levels 2 to 8. The weights
    do not sum to 1: that is the paper's blend, and the layers behind it are trained with it.

    Args:
        strength: finite, at least 0; 1 is the paper's network.
        threads: CPU threads; None takes REVISAGE_NUM_THREADS, else all cores. Never changes bits.
        impl: "native", "reference" (NumPy), or None for native where it is built. The two agree
            within 2e-6 of the larger feature; float16 and bfloat16 are computed in float32 and
            rounded once.
        stream: CUDA stream for CUDA arrays.

    Returns:
        An array of the library and on the device of `style`; inputs are not modified.

    Raises:
        ShapeError: wrong shape, dtype or strides.
        OptionError: strength negative or not finite.
        DeviceError: arrays on different devices, or on one that cannot run here.
    """
    device = _arrays.device_of("style", style)
    shape = _arrays.shape_of("style", style, device)
    out: A = _arrays.new_output(style, shape, device)
    feature_blend_into(
        out,
        style,
        image,
        spatial_logits,
        channel_logits,
        strength=strength,
        threads=threads,
        impl=impl,
        stream=stream,
    )
    return out


def feature_blend_into(
    out: Any,
    style: Any,
    image: Any,
    spatial_logits: Any,
    channel_logits: Any,
    *,
    strength: float = 1.0,
    threads: int | None = None,
    impl: str | None = None,
    stream: Any = None,
) -> None:
    """`feature_blend`, written into `out`, which may be `style` or `image` itself.

    Any other overlap with an input is refused. Arguments and errors as for `feature_blend`.
    """
    inputs = {
        "style": style,
        "image": image,
        "spatial_logits": spatial_logits,
        "channel_logits": channel_logits,
    }
    device = _arrays.common_device({"out": out, **inputs})
    chosen = _dispatch.choose(impl, device)
    inputs, described = _checked_inputs(inputs, device)
    out = _arrays.output("out", out, *described["style"], device)
    if device == "cpu":
        for name, array in inputs.items():
            in_place = name in ("style", "image") and array.ctypes.data == out.ctypes.data
            if not in_place:
                _arrays.refuse_overlap(out, {name: array})
    strength = _arrays.checked_strength(strength)
    count = _dispatch.thread_count(threads)
    handle = _dispatch.stream_handle(stream, device, style)
    if chosen == "reference":
        np.copyto(out, _reference(**inputs, strength=strength))
    else:
        _dispatch._native.feature_blend_into(
            out, **inputs, strength=strength, threads=count, stream=handle
        )


def feature_blend_backward(
    grad: Any,
    style: A,
    image: Any,
    spatial_logits: Any,
    channel_logits: Any,
    *,
    strength: float = 1.0,
    threads: int | None = None,
    impl: str | None = None,
    stream: Any = None,
) -> tuple[A, A, A, A]:
    """The gradients of `feature_blend` in its four inputs, in one pass over memory.

    | argument | shape | dtype | layout | device |
    | --- | --- | --- | --- | --- |
    | grad | [N, C, H, W] | as style | gradient of the result, C order | as style |
    | style, image, spatial_logits, channel_logits | as for `feature_blend` | | | CPU, CUDA |
    | results | shapes and dtypes of style, image and both logits | | C order | as style |

    See Note [Blend gradients]. Source: as for `feature_blend`.

    Args:
        strength: as it was in the forward call; it has no gradient.
        threads: CPU threads; None takes REVISAGE_NUM_THREADS, else all cores. Never changes bits.
        impl: "native", "reference" (NumPy, sums in float64), or None for native where it is built.
            The native sums are in float32: within 1e-5 of the largest sum of absolute terms.
        stream: CUDA stream for CUDA arrays. On CUDA the order of the sums over pixels varies from
            call to call, and with it the last bits of grad_channel_logits; for small planes those
            of grad_spatial_logits too.

    Returns:
        (grad_style, grad_image, grad_spatial_logits, grad_channel_logits), each of the library of
        its input; inputs are not modified.

    Raises:
        ShapeError: wrong shape, dtype or strides.
        OptionError: strength negative or not finite.
        DeviceError: arrays on different devices, or on one that cannot run here.
    """
    inputs = (style, image, spatial_logits, channel_logits)
    out: tuple[A, A, A, A] = tuple(_like(*named) for named in zip(_INPUTS, inputs, strict=True))
    feature_blend_backward_into(
        out, grad, *inputs, strength=strength, threads=threads, impl=impl, stream=stream
    )
    return out


def feature_blend_backward_into(
    out: tuple[Any, Any, Any, Any],
    grad: Any,
    style: Any,
    image: Any,
    spatial_logits: Any,
    channel_logits: Any,
    *,
    strength: float = 1.0,
    threads: int | None = None,
    impl: str | None = None,
    stream: Any = None,
) -> None:
    """`feature_blend_backward`, written into the four arrays of `out`, in the order it returns.

    They overlap neither each other nor an input. Arguments and errors as for
    `feature_blend_backward`.
    """
    inputs = {
        "grad": grad,
        "style": style,
        "image": image,
        "spatial_logits": spatial_logits,
        "channel_logits": channel_logits,
    }
    outputs = dict(zip(_GRADIENTS, out, strict=True))
    device = _arrays.common_device({**outputs, **inputs})
    chosen = _dispatch.choose(impl, device)
    inputs, described = _checked_inputs(inputs, device)
    for name, array in outputs.items():
        wanted = described[name.removeprefix("grad_")]
        outputs[name] = _arrays.output(name, array, *wanted, device)
    if device == "cpu":
        for name, array in outputs.items():
            others = {other: outputs[other] for other in outputs if other != name}
            _arrays.refuse_overlap(array, {**inputs, **others}, name)
    strength = _arrays.checked_strength(strength)
    count = _dispatch.thread_count(threads)
    handle = _dispatch.stream_handle(stream, device, style)
    if chosen == "reference":
        gradients = _reference_backward(**inputs, strength=strength)
        for array, gradient in zip(outputs.values(), gradients, strict=True):
            np.copyto(array, gradient, casting="same_kind")
    else:
        _dispatch._native.feature_blend_backward_into(
            **outputs, **inputs, strength=strength, threads=count, stream=handle
        )


def _like(name: str, array: Any) -> Any:
    """An uninitialised array of the shape, dtype, library and device of an input."""
    device = _arrays.device_of(name, array)
    return _arrays.new_output(array, _arrays.shape_of(name, array, device), device)


def _checked_inputs(
    inputs: dict[str, Any], device: str
) -> tuple[dict[str, Any], dict[str, tuple[tuple[int, ...], str]]]:
    """The inputs, prepared where they lie on the CPU, and their shapes and dtypes, which fit."""
    features = _FEATURES[device]
    allowed = {name: ("float32",) if "logits" in name else features for name in inputs}
    if device == "cpu":
        inputs = {name: _arrays.host_input(name, a, allowed[name]) for name, a in inputs.items()}
    described = {
        name: _arrays.describe(name, a, device, allowed[name]) for name, a in inputs.items()
    }
    shape, dtype = described["style"]
    _arrays.check_shape("style", shape, ("N", "C", "H", "W"))
    n, c, h, w = shape
    wanted = {"spatial_logits": (n, 2, h, w), "channel_logits": (n, 2, c)}
    for name, (its_shape, its_dtype) in described.items():
        _arrays.check_shape(name, its_shape, wanted.get(name, shape))
        if name not in wanted:
            _arrays.check_output(name, its_shape, its_dtype, shape, dtype)
    return inputs, described


def _reference(
    style: HostArray,
    image: HostArray,
    spatial_logits: HostArray,
    channel_logits: HostArray,
    strength: float,
) -> HostArray:
    """The twin: the three steps of the docstring in NumPy."""
    spatial = _softmax_first(spatial_logits)[:, None]  # [N, 1, H, W]
    channel = (
        np.float32(strength) * _softmax_first(channel_logits)[:, :, None, None]
    )  # [N, C, 1, 1]
    one = np.float32(1)
    return np.asarray(spatial * channel * style + (one - spatial) * (one - channel) * image)


def _softmax_first(logits: HostArray) -> HostArray:
    """Entry 0 of the softmax over axis 1 of [N, 2, ...], as a sigmoid that cannot overflow."""
    difference = logits[:, 0] - logits[:, 1]
    decay = np.exp(-np.abs(difference))
    return np.asarray(np.where(difference >= 0, np.float32(1), decay) / (np.float32(1) + decay))


def _reference_backward(
    grad: HostArray,
    style: HostArray,
    image: HostArray,
    spatial_logits: HostArray,
    channel_logits: HostArray,
    strength: float,
) -> tuple[HostArray, HostArray, HostArray, HostArray]:
    """The twin of the backward: Note [Blend gradients] in NumPy, in float64."""
    grad, style, image, spatial_logits, channel_logits = (
        array.astype(np.float64) for array in (grad, style, image, spatial_logits, channel_logits)
    )
    spatial = _softmax_first(spatial_logits)[:, None]  # [N, 1, H, W]
    channel = strength * _softmax_first(channel_logits)[:, :, None, None]  # [N, C, 1, 1]
    by_pixel = (grad * (channel * style - (1 - channel) * image)).sum(axis=1)
    by_channel = (grad * (spatial * style - (1 - spatial) * image)).sum(axis=(2, 3))
    by_pixel *= _softmax_slope(spatial_logits)
    by_channel *= strength * _softmax_slope(channel_logits)
    return (
        grad * spatial * channel,
        grad * (1 - spatial) * (1 - channel),
        np.stack([by_pixel, -by_pixel], axis=1),
        np.stack([by_channel, -by_channel], axis=1),
    )


def _softmax_slope(logits: HostArray) -> HostArray:
    """Derivative of `_softmax_first` in the first logit of [N, 2, ...]."""
    decay = np.exp(-np.abs(logits[:, 0] - logits[:, 1]))
    return np.asarray(decay / (1 + decay) ** 2)
