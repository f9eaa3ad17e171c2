"""StyleRetoucher's blend of prior features and image features, with its two softmaxes fused."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from revisage.kernels import _arrays, _dispatch
from revisage.kernels._arrays import HostArray

__all__ = ["feature_blend", "feature_blend_into"]

A = TypeVar("A")

_SAMPLES = ("float32",)


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
    | style, image | [N, C, H, W] | f32 | NCHW, C order | CPU, CUDA |
    | spatial_logits | [N, 2, H, W] | f32 | entry 0 for style, 1 for image | as style |
    | channel_logits | [N, 2, C] | f32 | entry 0 for style, 1 for image | as style |
    | result | [N, C, H, W] | f32 | NCHW, C order | as style |

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
            within 2e-6 of the larger feature.
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
    if device == "cpu":
        inputs = {n: _arrays.host_input(n, array, _SAMPLES) for n, array in inputs.items()}
        out = _arrays.host_output("out", out, inputs["style"].shape, np.dtype(np.float32))
        for name, array in inputs.items():
            in_place = name in ("style", "image") and array.ctypes.data == out.ctypes.data
            if not in_place:
                _arrays.refuse_overlap(out, {name: array})
    style, image = inputs["style"], inputs["image"]
    spatial_logits, channel_logits = inputs["spatial_logits"], inputs["channel_logits"]
    shapes = {n: _arrays.describe(n, array, device, _SAMPLES)[0] for n, array in inputs.items()}
    _arrays.check_shape("style", shapes["style"], ("N", "C", "H", "W"))
    n, c, h, w = shapes["style"]
    _arrays.check_shape("image", shapes["image"], (n, c, h, w))
    _arrays.check_shape("spatial_logits", shapes["spatial_logits"], (n, 2, h, w))
    _arrays.check_shape("channel_logits", shapes["channel_logits"], (n, 2, c))
    if device == "cuda":
        described = _arrays.cuda_description("out", out)
        _arrays.check_output("out", *described, shapes["style"], np.dtype(np.float32))
    strength = _arrays.checked_strength(strength)
    count = _dispatch.thread_count(threads)
    handle = _dispatch.stream_handle(stream, device, style)
    if chosen == "reference":
        np.copyto(out, _reference(style, image, spatial_logits, channel_logits, strength))
    else:
        _dispatch._native.feature_blend_into(
            out, style, image, spatial_logits, channel_logits, strength, count, handle
        )


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
