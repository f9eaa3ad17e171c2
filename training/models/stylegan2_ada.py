"""StyleGAN2 in the layout of its PyTorch release with adaptive augmentation, to load its weights.

Source: Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data" (NeurIPS).
Attribute names and the order of layers give the state-dict keys of NVlabs/stylegan2-ada-pytorch;
the code is our own. The mathematics are those of `stylegan2`; what differs: class labels, weights
of 3x3 layers without the 1 / sqrt(fan in) that demodulation would cancel, clamped activations, and
the mean of w stored with the mapping. Of the published architectures only "skip", its default, is
here. `StyleGAN2` is the one to train; `as_stylegan2` makes one of weights in this layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from revisage.training.models.stylegan2 import (
    BINOMIAL,
    EqualLinear,
    StyleGAN2,
    level_widths,
    modulated_conv2d,
    normalise_second_moment,
    scaled_leaky_relu,
    upsample_by_two,
)

__all__ = ["NvStyleGAN2", "as_stylegan2"]

NOISE_MODES = ("random", "const", "none")


def _resample_filter() -> Tensor:
    row = torch.tensor(BINOMIAL)
    plane = torch.outer(row, row)
    return plane / plane.sum()  # [4, 4], sum 1


def _clamped(x: Tensor, limit: float | None) -> Tensor:
    return x if limit is None else x.clamp(-limit, limit)


class Mapping(nn.Module):
    """z [N, z_dim] and label c [N, c_dim] to w, repeated for every layer: [N, num_ws, w_dim]."""

    w_avg: Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int,
        num_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
    ) -> None:
        super().__init__()
        if z_dim + c_dim < 1 or num_layers < 1:
            raise ValueError("the mapping needs an input (z_dim or c_dim) and at least one layer")
        self.z_dim, self.c_dim, self.num_ws, self.num_layers = z_dim, c_dim, num_ws, num_layers
        self.register_buffer("w_avg", torch.zeros(w_dim))
        embedded = (embed_features or w_dim) if c_dim else 0
        if c_dim:
            self.embed = EqualLinear(c_dim, embedded)
        widths = [z_dim + embedded, *[layer_features or w_dim] * (num_layers - 1), w_dim]
        for layer in range(num_layers):
            dense = EqualLinear(widths[layer], widths[layer + 1], rate=0.01, activate=True)
            self.add_module(f"fc{layer}", dense)

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """Map, and draw the first `truncation_cutoff` copies (None: all) towards `w_avg`."""
        parts = [normalise_second_moment(z)] if self.z_dim else []
        if self.c_dim:
            if c is None or c.shape[1:] != (self.c_dim,):
                raise ValueError(f"this network is conditional: give labels c [N, {self.c_dim}]")
            parts.append(normalise_second_moment(self.embed(c.to(self.w_avg.dtype))))
        w = torch.cat(parts, dim=1)
        for layer in range(self.num_layers):
            w = self.get_submodule(f"fc{layer}")(w)
        ws = w[:, None].repeat(1, self.num_ws, 1)
        if truncation_psi != 1:
            cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
            near = self.w_avg.lerp(ws[:, :cutoff], truncation_psi)
            ws = torch.cat([near, ws[:, cutoff:]], dim=1)
        return ws


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU, clamp."""

    noise_const: Tensor
    resample_filter: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        w_dim: int,
        side: int,
        *,
        up: bool,
        conv_clamp: float | None,
    ) -> None:
        super().__init__()
        self.up, self.side, self.conv_clamp = up, side, conv_clamp
        self.register_buffer("resample_filter", _resample_filter())
        self.affine = EqualLinear(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.register_buffer("noise_const", torch.randn(side, side))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, w: Tensor, noise_mode: str) -> Tensor:
        x = modulated_conv2d(x, self.weight, self.affine(w), up=self.up)
        if self.up:
            kernel = 4 * self.resample_filter
            weight = kernel.to(x.dtype).expand(x.shape[1], 1, 4, 4)
            x = functional.conv2d(x, weight, padding=1, groups=x.shape[1])
        if noise_mode == "random":
            x = x + self.noise_strength * torch.randn_like(x[:, :1])
        elif noise_mode == "const":
            x = x + self.noise_strength * self.noise_const
        return _clamped(scaled_leaky_relu(x + self.bias[:, None, None]), self.conv_clamp)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to colours."""

    def __init__(self, inputs: int, outputs: int, w_dim: int, conv_clamp: float | None) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = EqualLinear(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.affine(w) / math.sqrt(self.weight.shape[1])
        x = modulated_conv2d(x, self.weight, style, demodulate=False)
        return _clamped(x + self.bias[:, None, None], self.conv_clamp)


class SynthesisBlock(nn.Module):
    """One level: the constant or an upsampling layer, a second layer, colours."""

    resample_filter: Tensor

    def __init__(
        self,
        inputs: int | None,
        outputs: int,
        w_dim: int,
        side: int,
        img_channels: int,
        conv_clamp: float | None,
    ) -> None:
        super().__init__()
        self.register_buffer("resample_filter", _resample_filter())
        self.first = inputs is None
        if inputs is None:
            self.const = nn.Parameter(torch.randn(outputs, side, side))
        else:
            self.conv0 = SynthesisLayer(
                inputs, outputs, w_dim, side, up=True, conv_clamp=conv_clamp
            )
        self.conv1 = SynthesisLayer(outputs, outputs, w_dim, side, up=False, conv_clamp=conv_clamp)
        self.torgb = ToRGB(outputs, img_channels, w_dim, conv_clamp)

    def forward(
        self, x: Tensor | None, image: Tensor | None, ws: Iterator[Tensor], noise_mode: str
    ) -> tuple[Tensor, Tensor | None]:
        """Features and the picture of the level below (None before the first) to this level's."""
        w = next(ws)
        if x is None:
            x = self.const.expand(w.shape[0], -1, -1, -1)
        else:
            x = self.conv0(x, w, noise_mode)
            w = next(ws)
        x = self.conv1(x, w, noise_mode)
        colours = self.torgb(x, next(ws))
        if image is not None:
            colours = colours + upsample_by_two(image, 4 * self.resample_filter)
        return x, colours


class Synthesis(nn.Module):
    """W+ [N, num_ws, w_dim] to pictures [N, img_channels, size, size]."""

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        channels: Sequence[int],
        conv_clamp: float | None,
    ) -> None:
        super().__init__()
        self.w_dim, self.num_ws, self.widths = w_dim, 2 * len(channels), list(channels)
        self.sides = [4 * 2**level for level in range(len(channels))]
        if self.sides[-1] != img_resolution:
            raise ValueError(f"{len(channels)} levels end at {self.sides[-1]} px")
        below: int | None = None
        for side, width in zip(self.sides, channels, strict=True):
            block = SynthesisBlock(below, width, w_dim, side, img_channels, conv_clamp)
            self.add_module(f"b{side}", block)
            below = width

    def forward(self, ws: Tensor, noise_mode: str = "random", *, force_fp32: bool = True) -> Tensor:
        """The picture, not clamped.

        Args:
            ws: [N, num_ws, w_dim].
            noise_mode: "random", "const" (the stored planes) or "none".
            force_fp32: taken because the published class has it; nothing here is ever halved.
        """
        if noise_mode not in NOISE_MODES:
            raise ValueError(f"noise_mode is one of {', '.join(NOISE_MODES)}, not {noise_mode!r}")
        if ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"ws must be [N, {self.num_ws}, {self.w_dim}], not {tuple(ws.shape)}")
        x: Tensor | None = None
        image: Tensor | None = None
        first = 0
        for side in self.sides:
            # The colours of a level share their latent with the first layer of the next.
            x, image = self.get_submodule(f"b{side}")(
                x, image, iter(ws[:, first:].unbind(dim=1)), noise_mode
            )
            first += 1 if side == 4 else 2
        assert image is not None
        return image


class NvStyleGAN2(nn.Module):
    """The generator: z [N, z_dim] and labels to pictures [N, img_channels, size, size].

    Args:
        z_dim, c_dim, w_dim: lengths of the latent, the label (0: unconditional) and w.
        channels: widths of all levels, 4 px first; None takes those of the paper.
        num_layers, embed_features, layer_features: of the mapping; None takes `w_dim`.
        conv_clamp: limit of every activation; published networks with half-precision levels have
            256, and apply it in float32 too.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        img_resolution: int,
        img_channels: int = 3,
        *,
        channels: Sequence[int] | None = None,
        num_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.img_resolution, self.img_channels = img_resolution, img_channels
        widths = level_widths(img_resolution) if channels is None else channels
        self.synthesis = Synthesis(w_dim, img_resolution, img_channels, widths, conv_clamp)
        self.num_ws = self.synthesis.num_ws
        self.mapping = Mapping(
            z_dim, c_dim, w_dim, self.num_ws, num_layers, embed_features, layer_features
        )

    def use_clamp(self, limit: float | None) -> NvStyleGAN2:
        """Set the limit of every activation; None takes it away. No weight tells it."""
        for module in self.modules():
            if isinstance(module, SynthesisLayer | ToRGB):
                module.conv_clamp = limit
        return self

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "random",
        *,
        force_fp32: bool = True,
    ) -> Tensor:
        """Mapping and synthesis."""
        ws = self.mapping(z, c, truncation_psi, truncation_cutoff)
        image: Tensor = self.synthesis(ws, noise_mode, force_fp32=force_fp32)
        return image


def as_stylegan2(network: NvStyleGAN2) -> StyleGAN2:
    """The same generator as a `StyleGAN2`, to train on or to take as a prior.

    Weights of 3x3 layers are kept: `StyleGAN2` scales them by 1 / sqrt(fan in), which demodulation
    cancels up to its epsilon. What has no place there is refused; a clamp is dropped.

    Raises:
        ValueError: class labels, other than three colours, or a mapping of other widths.
    """
    mapping, widths = network.mapping, network.synthesis.widths
    square = [network.w_dim, network.w_dim]
    dense = [mapping.get_submodule(f"fc{layer}") for layer in range(mapping.num_layers)]
    if (
        network.c_dim
        or network.img_channels != 3
        or any(list(layer.get_parameter("weight").shape) != square for layer in dense)
    ):
        raise ValueError(
            "only an unconditional RGB generator whose z, w and mapping layers have one length can "
            "become a StyleGAN2"
        )
    source = network.state_dict()
    state = {"input.input": source["synthesis.b4.const"][None]}
    for layer in range(mapping.num_layers):
        for part in ("weight", "bias"):
            state[f"style.{layer + 1}.{part}"] = source[f"mapping.fc{layer}.{part}"]
    for level, side in enumerate(network.synthesis.sides):
        block = f"synthesis.b{side}"
        if level == 0:
            layers, colours = {"conv1": "conv1"}, "to_rgb1"
        else:
            layers = {"conv0": f"convs.{2 * level - 2}", "conv1": f"convs.{2 * level - 1}"}
            colours = f"to_rgbs.{level - 1}"
        for offset, (theirs, ours) in enumerate(layers.items()):
            conv = f"{block}.{theirs}"
            number = 0 if level == 0 else 2 * level - 1 + offset
            state[f"noises.noise_{number}"] = source[f"{conv}.noise_const"][None, None]
            state[f"{ours}.noise.weight"] = source[f"{conv}.noise_strength"].reshape(1)
            state[f"{ours}.activate.bias"] = source[f"{conv}.bias"]
            state[f"{ours}.conv.weight"] = source[f"{conv}.weight"][None]
            for part in ("weight", "bias"):
                state[f"{ours}.conv.modulation.{part}"] = source[f"{conv}.affine.{part}"]
        state[f"{colours}.bias"] = source[f"{block}.torgb.bias"].reshape(1, 3, 1, 1)
        state[f"{colours}.conv.weight"] = source[f"{block}.torgb.weight"][None]
        for part in ("weight", "bias"):
            state[f"{colours}.conv.modulation.{part}"] = source[f"{block}.torgb.affine.{part}"]
    result = StyleGAN2(network.img_resolution, network.w_dim, mapping.num_layers, channels=widths)
    result.load_state_dict({**result.state_dict(), **state})
    return result.train(network.training)
