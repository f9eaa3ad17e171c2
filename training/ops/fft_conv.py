"""LaMa's Fourier unit as a torch operator; the contract is that of `revisage.kernels.fft_conv`.

Note [Gradients of the Fourier unit]
    Let k_j be 1 for a column j of the half spectrum that is its own conjugate (j = 0, and j = W / 2
    where W is even) and 2 for the others, which also stand for the conjugate that was left out.
    With norm "ortho", real and imaginary parts taken as separate real numbers,

        irfft2(Y)[p] = sum over the half spectrum of k_j Re(Y[i, j] exp(+i angle)) / sqrt(H W)
        rfft2(x)[i, j] = sum over pixels of x[p] exp(-i angle) / sqrt(H W)

    so the adjoint of irfft2 is k * rfft2, and the adjoint of rfft2 is irfft2 of (spectrum / k).
    What lies between is a 1x1 convolution, an affine map and a ReLU. The convolved spectrum is
    computed again and not kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from revisage import kernels
from revisage.training.ops.native import execution, plain, runs_native

__all__ = ["fft_conv"]


def fft_conv(
    x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, *, impl: str | None = None
) -> Tensor:
    """Fourier unit: irfft2(relu(scale * conv1x1(rfft2(x)) + shift)), with gradients for all four.

    Args:
        x: [N, C, H, W], any H and W.
        weight: [2D, 2C], rows and columns interleaved (re, im) per channel.
        scale, shift: [2D]; an affine map per channel, such as a folded batch norm.
        impl: "native", "reference" (torch.fft), or None; see `revisage.training.ops`.

    Returns:
        [N, D, H, W], contiguous. Native and reference agree within 1e-5 of the largest output.
    """
    if torch.onnx.is_in_onnx_export():
        shape = (x.shape[0], weight.shape[0] // 2, x.shape[2], x.shape[3])
        node: Tensor = torch.onnx.ops.symbolic(
            "revisage::FftConv", (x, weight, scale, shift), dtype=x.dtype, shape=shape, version=1
        )
        return node
    out: Tensor = _fft_conv(x, weight, scale, shift, impl)
    return out


@torch.library.custom_op("revisage::fft_conv", mutates_args=())
def _fft_conv(
    x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, impl: str | None = None
) -> Tensor:
    inputs = (x, weight, scale, shift)
    if not runs_native(x, impl):
        return _reference(*inputs).contiguous()
    out = _like_result(x, weight)
    kernels.fft_conv_into(*plain(out, *inputs), **execution(x))
    return out


def _like_result(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0] // 2, *x.shape[2:]))


_fft_conv.register_fake(_like_result)


def _pairs(spectrum: Tensor) -> Tensor:
    """Complex [N, C, H, F] -> real [N, 2C, H, F], interleaved."""
    return torch.stack((spectrum.real, spectrum.imag), dim=2).flatten(1, 2)


def _spectrum(pairs: Tensor) -> Tensor:
    """The inverse of `_pairs`."""
    return torch.complex(pairs[:, 0::2].contiguous(), pairs[:, 1::2].contiguous())


def _convolve(pairs: Tensor, weight: Tensor) -> Tensor:
    return functional.conv2d(pairs, weight[:, :, None, None])


def _reference(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The twin: the definition, in torch's own operators."""
    mixed = _convolve(_pairs(torch.fft.rfft2(x, norm="ortho")), weight)
    active = torch.relu(scale[:, None, None] * mixed + shift[:, None, None])
    out: Tensor = torch.fft.irfft2(_spectrum(active), s=x.shape[-2:], norm="ortho")
    return out


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Note [Gradients of the Fourier unit], in torch's operators on any device."""
    x, weight, scale, shift = ctx.saved_tensors
    height, width = x.shape[-2:]
    column = torch.arange(width // 2 + 1, device=x.device)
    own_conjugate = (2 * column) % width == 0
    counts = torch.where(own_conjugate, 1, 2).to(x.dtype)  # [F]

    pairs = _pairs(torch.fft.rfft2(x, norm="ortho"))  # [N, 2C, H, F]
    mixed = _convolve(pairs, weight)  # [N, 2D, H, F]
    active = scale[:, None, None] * mixed + shift[:, None, None] > 0
    grad_active = _pairs(torch.fft.rfft2(grad, norm="ortho")) * counts * active
    grad_mixed = grad_active * scale[:, None, None]

    grad_x = grad_weight = grad_scale = grad_shift = None
    if ctx.needs_input_grad[0]:
        half = _spectrum(_convolve(grad_mixed, weight.T) / counts)
        grad_x = torch.fft.irfft2(half, s=(height, width), norm="ortho")
    if ctx.needs_input_grad[1]:
        grad_weight = torch.einsum("nohf,nihf->oi", grad_mixed, pairs)
    if ctx.needs_input_grad[2]:
        grad_scale = (grad_active * mixed).sum((0, 2, 3))
    if ctx.needs_input_grad[3]:
        grad_shift = grad_active.sum((0, 2, 3))
    return grad_x, grad_weight, grad_scale, grad_shift, None


_fft_conv.register_autograd(_backward, setup_context=_keep)
