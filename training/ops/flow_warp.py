"""Backward bilinear sampling by a flow, as a torch operator.

The contract is that of `revisage.kernels.flow_warp` with layout "chw", and so are its notes on
arithmetic and on the upsampling of flows.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional

from revisage import kernels
from revisage.training.ops.native import execution, plain, runs_native

__all__ = ["flow_warp"]

Padding = Literal["border", "zero", "reflect"]

# What ONNX calls them: the attribute `padding_mode` of GridSample, and of our node.
ONNX_PADDINGS = {"border": "border", "zero": "zeros", "reflect": "reflection"}

_FAR = 2.0**30


def flow_warp(
    image: Tensor, flow: Tensor, *, padding: Padding = "border", impl: str | None = None
) -> Tensor:
    """Warp pictures: out[n, :, y, x] = image[n] at (x + flow[n, y, x, 0], y + flow[n, y, x, 1]).

    Args:
        image: [N, C, H, W].
        flow: [N, h, w, 2], (dx, dy) in pixels of the picture; [h, w, 2] is shared by the batch. h
            and w are at most H and W: a smaller flow is upsampled on the fly, with half-pixel
            centres.
        padding: what lies outside: "border" repeats the edge, "zero" is 0, "reflect" mirrors about
            the centres of the edge pixels.
        impl: "native", "reference" (torch.gather), or None; see `revisage.training.ops`.

    Returns:
        [N, C, H, W], contiguous, with gradients for both. Where a position is whole, the gradient
        of the flow is that towards larger positions.
    """
    if torch.onnx.is_in_onnx_export():
        node: Tensor = torch.onnx.ops.symbolic(
            "revisage::FlowWarp",
            (image, flow.expand(image.shape[0], -1, -1, -1)),
            {"padding_mode": ONNX_PADDINGS[padding]},
            dtype=image.dtype,
            shape=image.shape,
            version=1,
        )
        return node
    out: Tensor = _flow_warp(image, flow, padding, impl)
    return out


@torch.library.custom_op("revisage::flow_warp", mutates_args=())
def _flow_warp(image: Tensor, flow: Tensor, padding: str, impl: str | None = None) -> Tensor:
    if not runs_native(image, impl):
        return _reference(image, flow, padding).contiguous()
    out = _like_image(image)
    target, *inputs = plain(out, image, flow)
    kernels.flow_warp_into(
        target, *inputs, padding=cast(Padding, padding), layout="chw", **execution(image)
    )
    return out


def _like_image(image: Tensor, *_: Any) -> Tensor:
    return image.new_empty(image.shape)


_flow_warp.register_fake(_like_image)


@torch.library.custom_op("revisage::flow_warp_backward", mutates_args=())
def _flow_warp_backward(
    grad: Tensor,
    image: Tensor,
    flow: Tensor,
    of_image: bool,
    of_flow: bool,
    padding: str,
    impl: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Both gradients; one that is not wanted is empty."""
    outs = _like_wanted(grad, image, flow, of_image, of_flow)
    if not runs_native(image, impl):
        gradients = _reference_backward(grad, image, flow, padding)
        return (
            gradients[0].contiguous() if of_image else outs[0],
            gradients[1].contiguous() if of_flow else outs[1],
        )
    grad_image, grad_flow, *given = plain(*outs, grad, image, flow)
    kernels.flow_warp_backward_into(
        (grad_image if of_image else None, grad_flow if of_flow else None),
        *given,
        padding=cast(Padding, padding),
        layout="chw",
        **execution(image),
    )
    return outs


def _like_wanted(
    grad: Tensor, image: Tensor, flow: Tensor, of_image: bool, of_flow: bool, *_: Any
) -> tuple[Tensor, Tensor]:
    return (
        image.new_empty(image.shape if of_image else 0),
        flow.new_empty(flow.shape if of_flow else 0),
    )


_flow_warp_backward.register_fake(_like_wanted)


class _Taps:
    """The four samples of every pixel, and their weights: Note [Warp arithmetic]."""

    def __init__(self, image: Tensor, flow: Tensor, padding: str) -> None:
        self.shape, self.padding = image.shape, padding
        height, width = image.shape[-2:]
        dense = _dense(flow, height, width).expand(len(image), -1, -1, -1)
        position = torch.nan_to_num(dense, nan=-_FAR).clamp(-_FAR, _FAR)  # [N, H, W, 2]
        whole = position.floor()
        self.fx, self.fy = (position - whole).unsqueeze(1).unbind(-1)  # each [N, 1, H, W]
        self.column = whole[..., 0].long() + torch.arange(width, device=image.device)
        self.row = whole[..., 1].long() + torch.arange(height, device=image.device)[:, None]

    def _place(self, dy: int, dx: int) -> tuple[Tensor, Tensor]:
        """Where in the plane a tap lies, [N, C, H W], and whether it counts, [N, 1, H, W]."""
        _, channels, height, width = self.shape
        row, column = self.row + dy, self.column + dx
        at = _fold(row, height, self.padding) * width + _fold(column, width, self.padding)
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        counts = inside | (self.padding != "zero")
        return at.flatten(1)[:, None].expand(-1, channels, -1), counts[:, None]

    def read(self, image: Tensor, dy: int, dx: int) -> Tensor:
        """Samples of one tap, [N, C, H, W]."""
        at, counts = self._place(dy, dx)
        return image.flatten(2).gather(2, at).reshape(self.shape) * counts

    def add(self, total: Tensor, values: Tensor, dy: int, dx: int) -> None:
        """Add values [N, C, H, W] to `total` [N, C, H W] where one tap came from."""
        at, counts = self._place(dy, dx)
        total.scatter_add_(2, at, (values * counts).flatten(2))


def _fold(index: Tensor, size: int, padding: str) -> Tensor:
    """Indices brought into 0 .. size - 1; what "zero" leaves out is masked by the caller."""
    if padding != "reflect" or size == 1:
        return index.clamp(0, size - 1)
    folded = index.remainder(2 * (size - 1))
    return torch.minimum(folded, 2 * (size - 1) - folded)


def _dense(flow: Tensor, height: int, width: int) -> Tensor:
    """Note [Flow upsampling]: [N or 1, height, width, 2]."""
    planes = flow.reshape(-1, *flow.shape[-3:]).permute(0, 3, 1, 2)
    if planes.shape[-2:] != (height, width):
        planes = functional.interpolate(planes, (height, width), mode="bilinear")
    return planes.permute(0, 2, 3, 1)


def _reference(image: Tensor, flow: Tensor, padding: str) -> Tensor:
    """The twin: four gathered samples, mixed along x, then along y."""
    taps = _Taps(image, flow, padding)
    top = taps.read(image, 0, 0) * (1 - taps.fx) + taps.read(image, 0, 1) * taps.fx
    bottom = taps.read(image, 1, 0) * (1 - taps.fx) + taps.read(image, 1, 1) * taps.fx
    return top * (1 - taps.fy) + bottom * taps.fy


def _reference_backward(
    grad: Tensor, image: Tensor, flow: Tensor, padding: str
) -> tuple[Tensor, Tensor]:
    """The twin of the backward: the derivative of `_reference`, written out."""
    taps = _Taps(image, flow, padding)
    fx, fy = taps.fx, taps.fy
    t00, t01, t10, t11 = (taps.read(image, dy, dx) for dy in (0, 1) for dx in (0, 1))
    by_x = (t01 - t00) * (1 - fy) + (t11 - t10) * fy
    by_y = (t10 - t00) * (1 - fx) + (t11 - t01) * fx
    dense = torch.stack(((grad * by_x).sum(1), (grad * by_y).sum(1)), dim=-1)  # [N, H, W, 2]
    grad_image = torch.zeros_like(image).flatten(2)
    for dy, along_y in ((0, 1 - fy), (1, fy)):
        for dx, along_x in ((0, 1 - fx), (1, fx)):
            taps.add(grad_image, grad * along_y * along_x, dy, dx)
    return grad_image.reshape(image.shape), _reduced(dense, flow)


def _reduced(dense: Tensor, flow: Tensor) -> Tensor:
    """The adjoint of `_dense`, summed over the batch where it shares one flow."""
    if flow.ndim == 3:
        dense = dense.sum(0, keepdim=True)
    planes = dense.permute(0, 3, 1, 2).contiguous()
    size, small = planes.shape[-2:], flow.shape[-3:-1]
    if size != small:
        planes = torch.ops.aten.upsample_bilinear2d_backward(
            planes, size, (len(planes), 2, *small), False, None, None
        )
    return planes.permute(0, 2, 3, 1).reshape(flow.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.padding, ctx.impl = inputs[2:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad[:2]
    pair = _flow_warp_backward(grad, *ctx.saved_tensors, *wanted, ctx.padding, ctx.impl)
    gradients = (one if needed else None for one, needed in zip(pair, wanted, strict=True))
    return (*gradients, None, None)


_flow_warp.register_autograd(_backward, setup_context=_keep)
