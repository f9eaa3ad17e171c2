"""Layers of trained networks in the form that engines run best, exchanged at export.

A network here is written for training: weights are scaled when they are used, biases follow
convolutions, noise is an argument. `portable_form` puts a layer that computes the same in the place
of each of them. The gate compares the graph with the network as it was, so a wrong exchange does
not pass.

Note [Styled convolutions for engines]
    With input x, style s and weights w, a styled convolution is
    lrelu(d * conv(x * s, w) + noise + bias) * sqrt(2), where d = 1 / sqrt(sum of (s * w)^2) per
    output channel. The batch keeps one weight for all samples: no groups. Three things are done
    beforehand or elsewhere:

    * sqrt(2) goes through the leaky ReLU into d, noise and bias.
    * w has unit norm per output channel and s a largest magnitude of 1. d does not change by more
      than its epsilon does, and no value in the picture's path exceeds what float16 holds; what is
      squared and summed is [N, C] and may stay in float32 at no cost.
    * Noise times its learned number is one constant.

Note [Few channels]
    Engines for CPUs compute 16 output channels at once. A 3x3 convolution to 4 channels therefore
    costs as much as one to 16, unless it makes a block of 2x2 pixels at once: a 4x4 convolution of
    stride 2 to 4 x 4 channels, whose values the next convolution takes from the blocks.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from revisage.training.models.live import LiveRetoucher
from revisage.training.models.style_retoucher import FeatureSelection, blend_features
from revisage.training.models.stylegan2 import (
    EPSILON,
    Blur,
    ConvLayer,
    EqualConv2d,
    EqualLinear,
    ScaledLeakyReLU,
    StyledConv,
    ToRGB,
)

__all__ = ["portable_form"]

SLOPE, GAIN = 0.2, math.sqrt(2)  # of StyleGAN2's leaky ReLU
VECTOR = 16  # output channels that a CPU computes at once


def portable_form(network: nn.Module) -> nn.Module:
    """A copy of a network in eval mode, each layer exchanged that has another form here."""
    return _exchanged(copy.deepcopy(network).cpu().float().eval())


def _exchanged(module: nn.Module) -> nn.Module:
    form = _FORMS.get(type(module))
    if form is not None:
        with torch.no_grad():
            made: nn.Module = form(module)
        return made.requires_grad_(False).eval()
    for name, child in module.named_children():
        setattr(module, name, _exchanged(child))
    return module


def _convolution(weight: Tensor, bias: Tensor | None = None, **arguments: Any) -> nn.Conv2d:
    outputs, inputs, *kernel = weight.shape
    groups = arguments.get("groups", 1)
    made = nn.Conv2d(
        groups * inputs,
        outputs,
        tuple(kernel),  # type: ignore[arg-type]
        bias=bias is not None,
        **arguments,
    )
    made.weight.copy_(weight)
    if bias is not None and made.bias is not None:
        made.bias.copy_(bias)
    return made


# --- StyleGAN2 and StyleRetoucher ----------------------------------------------------------------


def _blur(layer: Blur, channels: int) -> nn.Conv2d:
    weight = layer.kernel.expand(channels, 1, *layer.kernel.shape)
    return _convolution(weight, padding=layer.padding, groups=channels)


def _equal_conv(layer: EqualConv2d, gain: float = 1.0, bias: Tensor | None = None) -> nn.Conv2d:
    weight = gain * layer.weight / math.sqrt(layer.weight[0].numel())
    bias = layer.bias if bias is None else gain * bias
    return _convolution(weight, bias, stride=layer.stride, padding=layer.padding)


def _equal_linear(layer: EqualLinear) -> nn.Module:
    gain = GAIN if layer.activate else 1.0
    outputs, inputs = layer.weight.shape
    made = nn.Linear(inputs, outputs)
    made.weight.copy_(layer.weight * (gain * layer.rate / math.sqrt(inputs)))
    made.bias.copy_(layer.bias * (gain * layer.rate))
    return nn.Sequential(made, nn.LeakyReLU(SLOPE)) if layer.activate else made


def _conv_layer(layer: ConvLayer) -> nn.Module:
    parts = list(layer)
    made: list[nn.Module] = []
    if isinstance(parts[0], Blur):
        made.append(_blur(parts.pop(0), parts[0].weight.shape[1]))  # type: ignore[index, arg-type]
    if isinstance(parts[-1], ScaledLeakyReLU):
        made += [_equal_conv(parts[0], GAIN, parts[-1].bias), nn.LeakyReLU(SLOPE)]  # type: ignore[arg-type]
    else:
        made.append(_equal_conv(parts[0]))  # type: ignore[arg-type]
    return nn.Sequential(*made)


class _Styled(nn.Module):
    """`StyledConv` with its stored noise; see Note [Styled convolutions for engines]."""

    noise_weight: Tensor
    power: Tensor
    least: Tensor

    def __init__(self, layer: StyledConv) -> None:
        super().__init__()
        convolution = layer.conv
        weight = convolution.weight[0] / math.sqrt(convolution.weight[0, 0].numel())
        norm = weight.square().sum(dim=(1, 2, 3)).sqrt().clamp_min(EPSILON)
        weight = weight / norm[:, None, None, None]
        self.style = _equal_linear(convolution.modulation)
        self.register_buffer("power", weight.square().sum(dim=(2, 3)).T.contiguous() / GAIN**2)
        self.register_buffer("least", EPSILON / norm.square() / GAIN**2)
        self.up = convolution.up
        if self.up:
            outputs, inputs = weight.shape[:2]
            self.conv: nn.Module = nn.ConvTranspose2d(
                inputs, outputs, weight.shape[-1], stride=2, bias=False
            )
            self.conv.weight.copy_(weight.transpose(0, 1))
            self.blur = _blur(convolution.blur, outputs)
        else:
            self.conv = _convolution(weight, padding=weight.shape[-1] // 2)
        self.register_buffer("noise_weight", GAIN * layer.noise.weight)
        self.bias = nn.Parameter(GAIN * layer.activate.bias[:, None, None])

    def forward(self, x: Tensor, latent: Tensor, noise: Tensor) -> Tensor:
        style = self.style(latent)
        largest = style.abs().amax(dim=1, keepdim=True)
        style = style / largest
        least = self.least / largest.square()
        x = self.conv(x * style[:, :, None, None])
        if self.up:
            x = self.blur(x)
        norm = torch.rsqrt(style.square() @ self.power + least)
        x = x * norm[:, :, None, None] + noise * self.noise_weight + self.bias
        return functional.leaky_relu(x, SLOPE)


class _Colours(nn.Module):
    """`ToRGB`: three outputs, so the weights take the style, and not the picture."""

    weight: Tensor

    def __init__(self, layer: ToRGB) -> None:
        super().__init__()
        self.style = _equal_linear(layer.conv.modulation)
        weight = layer.conv.weight[0, :, :, 0, 0]  # [3, I]
        self.register_buffer("weight", weight / math.sqrt(weight.shape[1]))
        self.bias = layer.bias
        if hasattr(layer, "upsample"):
            self.upsample = layer.upsample

    def forward(self, x: Tensor, latent: Tensor, below: Tensor | None = None) -> Tensor:
        weight = self.weight * self.style(latent)[:, None]  # [N, 3, I]
        colours: Tensor = (weight @ x.flatten(2)).unflatten(2, x.shape[2:]) + self.bias
        if below is not None:
            colours = colours + self.upsample(below)
        return colours


def _to_blocks(weight: Tensor) -> Tensor:
    """[O, I, 3, 3] of padding 1 -> [4O, I, 4, 4] of padding 1 and stride 2.

    See Note [Few channels]. Outputs are ordered (channel, row in the block, column in the block),
    as `pixel_shuffle` takes them.
    """
    outputs, inputs = weight.shape[:2]
    made = weight.new_zeros(outputs, 2, 2, inputs, 4, 4)
    for row, column in itertools.product(range(2), repeat=2):
        made[:, row, column, :, row : row + 3, column : column + 3] = weight
    return made.flatten(0, 2)


def _between_blocks(weight: Tensor) -> Tensor:
    """[O, I, 3, 3] of padding 1 -> [4O, I, 2, 2, 3, 3] of padding 1, on blocks of 2x2 pixels.

    Outputs as those of `_to_blocks`; axes 2 and 3 are the place in the block of an input.
    """
    outputs, inputs = weight.shape[:2]
    made = weight.new_zeros(outputs, 2, 2, inputs, 2, 2, 3, 3)
    for row, column, down, right in itertools.product(range(2), range(2), range(3), range(3)):
        block_row, in_row = divmod(row + down + 1, 2)
        block_column, in_column = divmod(column + right + 1, 2)
        tap = made[:, row, column, :, in_row, in_column, block_row, block_column]
        tap.copy_(weight[:, :, down, right])
    return made.flatten(0, 2)


def _rounded(channels: int) -> int:
    return -(-channels // VECTOR) * VECTOR


class _Logits(nn.Module):
    """The spatial logits of `FeatureSelection`: one convolution of each map, no concatenation."""

    def __init__(self, channels: int, layers: nn.Sequential) -> None:
        super().__init__()
        first, second = (cast(Any, _exchanged(layer)) for layer in layers)
        weight, bias, last, last_bias = first[0].weight, first[0].bias, second.weight, second.bias
        hidden = weight.shape[0]
        self.blocks = 4 * _rounded(4 * hidden) < 9 * _rounded(hidden)
        if self.blocks:
            weight, last = _to_blocks(weight), _between_blocks(last).flatten(1, 3)
            bias, last_bias = bias.repeat_interleave(4), last_bias.repeat_interleave(4)
        stride = 2 if self.blocks else 1
        self.style = _convolution(weight[:, :channels], bias, stride=stride, padding=1)
        self.image = _convolution(weight[:, channels:], stride=stride, padding=1)
        self.last = _convolution(last, last_bias, padding=1)

    def forward(self, style: Tensor, image: Tensor) -> Tensor:
        hidden = functional.leaky_relu(self.style(style) + self.image(image), SLOPE)
        logits: Tensor = self.last(hidden)
        return functional.pixel_shuffle(logits, 2) if self.blocks else logits


class _Selection(nn.Module):
    """`FeatureSelection` without a concatenation of maps."""

    def __init__(self, layer: FeatureSelection) -> None:
        super().__init__()
        self.blend, self.channels = layer.blend, layer.channels
        if layer.blend in ("spatial", "both"):
            self.spatial = _Logits(layer.channels, layer.spatial)
        if layer.blend in ("channel", "both"):
            self.channel = _exchanged(layer.channel)
        if layer.blend == "concat":
            self.join = _exchanged(layer.join)

    def forward(self, style: Tensor, image: Tensor, strength: Tensor | float = 1.0) -> Tensor:
        if self.blend == "none":
            return style
        if self.blend == "concat":
            joined: Tensor = self.join(torch.cat([style, image], dim=1))
            return joined
        spatial = channel = None
        if self.blend in ("spatial", "both"):
            spatial = self.spatial(style, image)
        if self.blend in ("channel", "both"):
            means = [functional.adaptive_avg_pool2d(x, 1).flatten(1) for x in (style, image)]
            channel = self.channel(torch.cat(means, dim=1)).reshape(-1, 2, self.channels)
        return blend_features(style, image, spatial, channel, strength)


# --- the live network ----------------------------------------------------------------------------


class _Live(nn.Module):
    """`LiveRetoucher`, full size in blocks of 2x2 pixels; see Note [Few channels].

    What is doubled by repetition before a 3x3 convolution is not doubled: the four pixels of a
    block see nine of the small ones together.
    """

    def __init__(self, network: LiveRetoucher) -> None:
        super().__init__()
        self.network = network
        layers, head = cast(Any, network.fine), cast(Any, network.head)
        fine: Any = fuse_conv_bn_eval(layers[0], layers[1])
        of_small, of_picture = fine.weight.split((fine.in_channels - 3, 3), dim=1)
        self.small = _convolution(
            _between_blocks(of_small).sum(dim=(2, 3)), fine.bias.repeat_interleave(4), padding=1
        )
        self.picture = _convolution(_to_blocks(of_picture), stride=2, padding=1)
        self.head = _convolution(
            _between_blocks(head.weight).flatten(1, 3), head.bias.repeat_interleave(4), padding=1
        )
        del network.fine, network.head

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        centred = 2 * image - 1
        small = self.network.narrow(self.network.features(centred))
        blocks = functional.relu6(self.small(small) + self.picture(centred))
        return self.network.ranged(functional.pixel_shuffle(self.head(blocks), 2))


_FORMS: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    ConvLayer: _conv_layer,
    EqualConv2d: _equal_conv,
    EqualLinear: _equal_linear,
    FeatureSelection: _Selection,
    LiveRetoucher: _Live,
    StyledConv: _Styled,
    ToRGB: _Colours,
}
