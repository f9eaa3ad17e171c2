"""StyleRetoucher's blend as a torch operator.

The contract is that of `revisage.kernels.feature_blend`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from revisage import kernels
from revisage.training.ops.native import execution, plain, runs_native

__all__ = ["feature_blend"]


def feature_blend(
    style: Tensor,
    image: Tensor,
    spatial_logits: Tensor,
    channel_logits: Tensor,
    *,
    strength: float | Tensor = 1.0,
    impl: str | None = None,
) -> Tensor:
    """Ms * Mc * style + (1 - Ms) * (1 - Mc) * image, with gradients for all four tensors.

    Ms is entry 0 of the softmax of the spatial logits, Mc that of the channel logits times
    `strength`.

    Args:
        style, image: [N, C, H, W].
        spatial_logits: [N, 2, H, W], entry 0 for `style`.
        channel_logits: [N, 2, C], entry 0 for `style`.
        strength: finite, at least 0; no gradient. In an export it may be a tensor, [] or
            [N, 1, 1, 1] with one for each sample.
        impl: "native", "reference" (torch.softmax), or None; see `revisage.training.ops`.

    Returns:
        [N, C, H, W], contiguous. Native and reference agree within 2e-6 of the larger feature.
    """
    tensors = (style, image, spatial_logits, channel_logits)
    if torch.onnx.is_in_onnx_export():
        node: Tensor = torch.onnx.ops.symbolic(
            "revisage::FeatureBlend",
            (*tensors, torch.as_tensor(strength, dtype=style.dtype)),
            dtype=style.dtype,
            shape=style.shape,
            version=1,
        )
        return node
    out: Tensor = _feature_blend(*tensors, float(strength), impl)
    return out


@torch.library.custom_op("revisage::feature_blend", mutates_args=())
def _feature_blend(
    style: Tensor,
    image: Tensor,
    spatial_logits: Tensor,
    channel_logits: Tensor,
    strength: float,
    impl: str | None = None,
) -> Tensor:
    inputs = (style, image, spatial_logits, channel_logits)
    if not runs_native(style, impl):
        return _reference(*inputs, strength).contiguous()
    out = _like_style(style)
    kernels.feature_blend_into(*plain(out, *inputs), strength=strength, **execution(style))
    return out


def _like_style(style: Tensor, *_: Any) -> Tensor:
    return style.new_empty(style.shape)


_feature_blend.register_fake(_like_style)


@torch.library.custom_op("revisage::feature_blend_backward", mutates_args=())
def _feature_blend_backward(
    grad: Tensor,
    style: Tensor,
    image: Tensor,
    spatial_logits: Tensor,
    channel_logits: Tensor,
    strength: float,
    impl: str | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs = (style, image, spatial_logits, channel_logits)
    if not runs_native(style, impl):
        gradients = _reference_backward(grad, *inputs, strength)
        return tuple(gradient.contiguous() for gradient in gradients)  # type: ignore[return-value]
    outs = _like_inputs(grad, *inputs)
    a, b, c, d, *given = plain(*outs, grad, *inputs)
    kernels.feature_blend_backward_into((a, b, c, d), *given, strength=strength, **execution(style))
    return outs


def _like_inputs(
    grad: Tensor, style: Tensor, image: Tensor, spatial: Tensor, channel: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a, b, c, d = (tensor.new_empty(tensor.shape) for tensor in (style, image, spatial, channel))
    return a, b, c, d


_feature_blend_backward.register_fake(_like_inputs)


def _masks(spatial_logits: Tensor, channel_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Entry 0 of both softmaxes: [N, 1, H, W] and [N, C, 1, 1]."""
    spatial = torch.softmax(spatial_logits, dim=1)[:, :1]
    channel = torch.softmax(channel_logits, dim=1)[:, 0, :, None, None]
    return spatial, channel


def _reference(
    style: Tensor, image: Tensor, spatial_logits: Tensor, channel_logits: Tensor, strength: float
) -> Tensor:
    """The twin: the definition, in torch's own operators."""
    spatial, channel = _masks(spatial_logits, channel_logits)
    channel = strength * channel
    return spatial * channel * style + (1 - spatial) * (1 - channel) * image


def _reference_backward(
    grad: Tensor,
    style: Tensor,
    image: Tensor,
    spatial_logits: Tensor,
    channel_logits: Tensor,
    strength: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The twin of the backward: Note [Blend gradients] of `revisage.kernels.feature_blend`."""
    spatial, softmax = _masks(spatial_logits, channel_logits)
    channel = strength * softmax
    by_pixel = (grad * (channel * style - (1 - channel) * image)).sum(1, keepdim=True)
    by_pixel = by_pixel * spatial * (1 - spatial)  # [N, 1, H, W]
    by_channel = (grad * (spatial * style - (1 - spatial) * image)).sum((2, 3))
    by_channel = strength * by_channel * (softmax * (1 - softmax))[:, :, 0, 0]  # [N, C]
    return (
        grad * spatial * channel,
        grad * (1 - spatial) * (1 - channel),
        torch.cat((by_pixel, -by_pixel), dim=1),
        torch.stack((by_channel, -by_channel), dim=1),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.strength, ctx.impl = inputs[4:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    gradients = _feature_blend_backward(grad, *ctx.saved_tensors, ctx.strength, ctx.impl)
    return (*gradients, None, None)


_feature_blend.register_autograd(_backward, setup_context=_keep)
