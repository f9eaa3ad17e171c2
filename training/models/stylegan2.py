"""StyleGAN2: generator and discriminator.

Source: Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN" (CVPR),
configuration F. Attribute names and the order of layers give the state-dict keys of
rosinality/stylegan2-pytorch (MIT; its converted official weights too); the code is our own.

Pictures are [N, 3, size, size], about [-1, 1], not clamped. A *level* is one resolution: level 0 is
4 x 4, the last one `size`. Two layers of latents belong to a level, and one more colours the last:
n_latent = 2 * log2(size) - 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "ConvLayer",
    "EqualConv2d",
    "EqualLinear",
    "ModulatedConv2d",
    "ResidualBlock",
    "StyleGAN2",
    "StyleGAN2Discriminator",
    "level_widths",
    "modulated_conv2d",
    "normalise_second_moment",
    "scaled_leaky_relu",
    "upsample_by_two",
    "use_modulation",
]

BINOMIAL = (1.0, 3.0, 3.0, 1.0)  # the low-pass filter of every change of resolution
EPSILON = 1e-8
MODULATIONS = ("activations", "weights")


def level_widths(size: int, channel_multiplier: int = 2, largest_width: int = 512) -> list[int]:
    """Channels of every level, 4 px first: `largest_width` up to 32 px, then halving.

    Above 32 px a level of r px has 32 / r * largest_width * channel_multiplier channels; the
    defaults are the paper's configuration F (multiplier 1 is its configuration E).

    Raises:
        ValueError: `size` is not a power of two from 8 up, or a level would have no channel.
    """
    levels = size.bit_length() - 2
    if size != 2 ** (levels + 1) or levels < 2:
        raise ValueError(f"size must be a power of two, at least 8, not {size}")
    widths = []
    for level in range(levels):
        resolution = 4 * 2**level
        wide = 32 * largest_width * channel_multiplier // resolution
        widths.append(largest_width if resolution <= 32 else wide)
    if min(widths) < 1:
        raise ValueError(f"largest_width {largest_width} leaves no channel at {size} px")
    return widths


def normalise_second_moment(x: Tensor) -> Tensor:
    """Divide by the root of the mean square over axis 1 ("pixel norm" of a latent)."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + EPSILON)


def scaled_leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2, times sqrt(2): keeps the variance of its input."""
    return functional.leaky_relu(x, 0.2) * math.sqrt(2)


def _kernel(gain: float = 1.0) -> Tensor:
    row = torch.tensor(BINOMIAL)
    plane = torch.outer(row, row)
    return gain * plane / plane.sum()  # [4, 4]


def _filter(x: Tensor, kernel: Tensor, padding: int) -> Tensor:
    """Filter every channel of [N, C, H, W] with one symmetric kernel [k, k]."""
    channels = x.shape[1]
    weight = kernel.to(x.dtype).expand(channels, 1, *kernel.shape)
    return functional.conv2d(x, weight, padding=padding, groups=channels)


def upsample_by_two(x: Tensor, kernel: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, 2H, 2W]: zeros between the samples, then `kernel` [4, 4], sum 4."""
    channels = x.shape[1]
    weight = kernel.to(x.dtype).expand(channels, 1, *kernel.shape)
    return functional.conv_transpose2d(x, weight, stride=2, padding=1, groups=channels)


class Blur(nn.Module):
    """The low-pass filter, once; `gain` 4 where a stride-2 transposed convolution went before."""

    kernel: Tensor

    def __init__(self, padding: int, gain: float = 1.0) -> None:
        super().__init__()
        self.padding = padding
        self.register_buffer("kernel", _kernel(gain))

    def forward(self, x: Tensor) -> Tensor:
        return _filter(x, self.kernel, self.padding)


class Upsample(nn.Module):
    """Twice the size, for the sum of the colour outputs."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", _kernel(4.0))

    def forward(self, x: Tensor) -> Tensor:
        return upsample_by_two(x, self.kernel)


class EqualLinear(nn.Module):
    """Linear layer with equalised learning rate: weights are N(0, 1) and scaled when used.

    Args:
        rate: learning-rate multiplier; the mapping network has 0.01.
        activate: end with the scaled leaky ReLU.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: float = 0.0,
        rate: float = 1.0,
        activate: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), float(bias)))
        self.rate, self.activate = rate, activate

    def forward(self, x: Tensor) -> Tensor:
        scale = self.rate / math.sqrt(self.weight.shape[1])
        x = functional.linear(x, self.weight * scale, self.bias * self.rate)
        return scaled_leaky_relu(x) if self.activate else x


class EqualConv2d(nn.Module):
    """Convolution with equalised learning rate: weights N(0, 1) times 1 / sqrt(fan in)."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        # A strided one comes behind a blur, which has done the padding.
        self.stride, self.padding = stride, kernel // 2 if stride == 1 else 0

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight / math.sqrt(self.weight[0].numel())
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    *,
    demodulate: bool = True,
    up: bool = False,
    form: str = "activations",
) -> Tensor:
    """A convolution whose input channels are scaled per sample: modulation, demodulation.

    Args:
        x: [N, I, H, W]; weight: [O, I, k, k]; style: [N, I].
        demodulate: scale every output channel to unit norm of its modulated weights.
        up: transposed convolution of stride 2, without the blur that has to follow.
        form: "weights" modulates the weights as the paper writes it, one group per sample;
            "activations" scales the input before and the output after one plain convolution,
            which is the same, needs no groups and therefore exports.

    Returns:
        [N, O, H, W], or [N, O, 2H + k - 2, 2W + k - 2] with `up`.
    """
    batch, inputs = style.shape
    outputs, padding = weight.shape[0], weight.shape[-1] // 2
    if form == "activations":
        x = x * style[:, :, None, None]
        if up:
            x = functional.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        else:
            x = functional.conv2d(x, weight, padding=padding)
        if demodulate:
            power = style.square() @ weight.square().sum(dim=(2, 3)).T  # [N, O]
            x = x * torch.rsqrt(power + EPSILON)[:, :, None, None]
        return x
    if form != "weights":
        raise ValueError(f"form is one of {', '.join(MODULATIONS)}, not {form!r}")
    weights = weight[None] * style[:, None, :, None, None]  # [N, O, I, k, k]
    if demodulate:
        norm = torch.rsqrt(weights.square().sum(dim=(2, 3, 4), keepdim=True) + EPSILON)
        weights = weights * norm
    x = x.reshape(1, batch * inputs, *x.shape[2:])
    if up:
        weights = weights.transpose(1, 2).flatten(0, 1)  # [N * I, O, k, k]
        x = functional.conv_transpose2d(x, weights, stride=2, groups=batch)
    else:
        x = functional.conv2d(x, weights.flatten(0, 1), padding=padding, groups=batch)
    return x.reshape(batch, outputs, *x.shape[2:])


class ModulatedConv2d(nn.Module):
    """`modulated_conv2d` with the affine layer that makes the style (bias 1), and the blur."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        style_dim: int,
        *,
        demodulate: bool = True,
        up: bool = False,
    ) -> None:
        super().__init__()
        if up:
            self.blur = Blur(padding=1, gain=4.0)
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, kernel, kernel))
        self.modulation = EqualLinear(style_dim, inputs, bias=1.0)
        self.demodulate, self.up, self.form = demodulate, up, "activations"

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        weight = self.weight[0] / math.sqrt(self.weight[0, 0].numel())
        x = modulated_conv2d(
            x,
            weight,
            self.modulation(latent),
            demodulate=self.demodulate,
            up=self.up,
            form=self.form,
        )
        return self.blur(x) if self.up else x


def use_modulation(network: nn.Module, form: str) -> None:
    """Set the form of every modulated convolution of a network; see `modulated_conv2d`."""
    if form not in MODULATIONS:
        raise ValueError(f"form is one of {', '.join(MODULATIONS)}, not {form!r}")
    for module in network.modules():
        if isinstance(module, ModulatedConv2d):
            module.form = form


class NoiseInjection(nn.Module):
    """Add noise times one learned number; None draws N(0, 1), one plane per sample."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        if noise is None:
            noise = torch.randn_like(x[:, :1])
        return x + self.weight * noise


class ScaledLeakyReLU(nn.Module):
    """Bias, then the scaled leaky ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return scaled_leaky_relu(x + self.bias[:, None, None])


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU: one style block."""

    def __init__(self, inputs: int, outputs: int, style_dim: int, *, up: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(inputs, outputs, 3, style_dim, up=up)
        self.noise = NoiseInjection()
        self.activate = ScaledLeakyReLU(outputs)

    def forward(self, x: Tensor, latent: Tensor, noise: Tensor | None) -> Tensor:
        x = self.noise(self.conv(x, latent), noise)
        return self.activate(x)  # type: ignore[no-any-return]


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to colours, added to those of the level below."""

    def __init__(self, inputs: int, style_dim: int, *, up: bool = True) -> None:
        super().__init__()
        if up:
            self.upsample = Upsample()
        self.conv = ModulatedConv2d(inputs, 3, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor, latent: Tensor, below: Tensor | None = None) -> Tensor:
        colours: Tensor = self.conv(x, latent) + self.bias
        return colours if below is None else colours + self.upsample(below)


class ConstantInput(nn.Module):
    """The learned 4 x 4 start, the same for all samples."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))

    def forward(self, batch: int) -> Tensor:
        return self.input.expand(batch, -1, -1, -1)


class PixelNorm(nn.Module):
    """`normalise_second_moment` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return normalise_second_moment(x)


class StyleGAN2(nn.Module):
    """The generator: latents to pictures [N, 3, size, size].

    Args:
        size: height and width of the pictures, a power of two from 8 up.
        style_dim: length of z and w.
        n_mlp: layers of the mapping network z -> w.
        channel_multiplier, largest_width: see `level_widths`.
        channels: widths of all levels, 4 px first, instead of those two.
        lr_mlp: learning-rate multiplier of the mapping network.
    """

    def __init__(
        self,
        size: int,
        style_dim: int = 512,
        n_mlp: int = 8,
        channel_multiplier: int = 2,
        *,
        largest_width: int = 512,
        channels: Sequence[int] | None = None,
        lr_mlp: float = 0.01,
    ) -> None:
        super().__init__()
        widths = level_widths(size, channel_multiplier, largest_width)
        if channels is not None:
            if len(channels) != len(widths):
                raise ValueError(
                    f"{size} px have {len(widths)} levels, but {len(channels)} channels are given"
                )
            widths = list(channels)
        self.size, self.style_dim, self.widths = size, style_dim, widths
        self.num_layers = 2 * len(widths) - 1
        self.n_latent = 2 * len(widths)
        layers: list[nn.Module] = [PixelNorm()]
        layers += [
            EqualLinear(style_dim, style_dim, rate=lr_mlp, activate=True) for _ in range(n_mlp)
        ]
        self.style = nn.Sequential(*layers)
        self.input = ConstantInput(widths[0])
        self.conv1 = StyledConv(widths[0], widths[0], style_dim)
        self.to_rgb1 = ToRGB(widths[0], style_dim, up=False)
        self.convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        for below, width in pairwise(widths):
            self.convs.append(StyledConv(below, width, style_dim, up=True))
            self.convs.append(StyledConv(width, width, style_dim))
            self.to_rgbs.append(ToRGB(width, style_dim))
        self.noises = nn.Module()
        for layer in range(self.num_layers):
            side = 4 * 2 ** ((layer + 1) // 2)
            self.noises.register_buffer(f"noise_{layer}", torch.randn(1, 1, side, side))

    @classmethod
    def paper(cls, size: int = 1024) -> StyleGAN2:
        """Configuration F."""
        return cls(size)

    @classmethod
    def compact(cls, size: int = 256) -> StyleGAN2:
        """A quarter of the width, four layers of mapping: 1.5 million parameters."""
        return cls(size, style_dim=128, n_mlp=4, channel_multiplier=1, largest_width=128)

    def stored_noise(self) -> list[Tensor]:
        """The noise planes [1, 1, side, side] that belong to the weights."""
        return [self.noises.get_buffer(f"noise_{layer}") for layer in range(self.num_layers)]

    def make_noise(self) -> list[Tensor]:
        """Fresh noise planes of the same shapes."""
        return [torch.randn_like(noise) for noise in self.stored_noise()]

    def get_latent(self, z: Tensor) -> Tensor:
        """Map z [N, style_dim] to w."""
        w: Tensor = self.style(z)
        return w

    def mean_latent(self, count: int = 4096) -> Tensor:
        """Mean w [1, style_dim] over random z: the centre for truncation."""
        z = torch.randn(count, self.style_dim, device=self.input.input.device)
        return self.get_latent(z).mean(dim=0, keepdim=True)

    def synthesise(
        self,
        latent: Tensor,
        noise: Sequence[Tensor | None] | None = None,
        edit: Callable[[int, Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """From W+ to the picture, with the features of every level.

        Args:
            latent: [N, n_latent, style_dim].
            noise: one plane per layer, None in a place (or altogether) draws it.
            edit: called with a level and its features [N, C, side, side]; what it returns goes to
                the colours and to the next level instead.

        Returns:
            [N, 3, size, size], and the features of all levels (as `edit` returned them).
        """
        planes = [None] * self.num_layers if noise is None else list(noise)
        if latent.shape[1:] != (self.n_latent, self.style_dim) or len(planes) != self.num_layers:
            raise ValueError(
                f"{self.size} px take latents [N, {self.n_latent}, {self.style_dim}] and "
                f"{self.num_layers} noise planes, got {tuple(latent.shape)} and {len(planes)}"
            )
        x = self.conv1(self.input(latent.shape[0]), latent[:, 0], planes[0])
        if edit is not None:
            x = edit(0, x)
        features = [x]
        image = self.to_rgb1(x, latent[:, 1])
        for level, to_rgb in enumerate(self.to_rgbs, start=1):
            first = 2 * level - 1  # colours share their latent with the first layer above
            x = self.convs[first - 1](x, latent[:, first], planes[first])
            x = self.convs[first](x, latent[:, first + 1], planes[first + 1])
            if edit is not None:
                x = edit(level, x)
            features.append(x)
            image = to_rgb(x, latent[:, first + 2], image)
        return image, features

    def forward(
        self,
        styles: Sequence[Tensor],
        return_latents: bool = False,
        inject_index: int | None = None,
        truncation: float = 1.0,
        truncation_latent: Tensor | None = None,
        input_is_latent: bool = False,
        noise: Sequence[Tensor | None] | None = None,
        randomize_noise: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Pictures of one latent per sample, or of two mixed; called as the published class is.

        Args:
            styles: one or two of z or w [N, style_dim]; or one of W+ [N, n_latent, style_dim].
            inject_index: the layer from which the second is used; None draws it.
            truncation: below 1, w is drawn that close to `truncation_latent` [1, style_dim].
            input_is_latent: `styles` are w or W+, not z.
            noise: as for `synthesise`; without it, drawn, or stored if not `randomize_noise`.

        Returns:
            [N, 3, size, size], and W+ if `return_latents`, else None.
        """
        if not 1 <= len(styles) <= 2:
            raise ValueError(f"one or two styles can be mixed, not {len(styles)}")
        if not input_is_latent:
            styles = [self.style(z) for z in styles]
        if truncation < 1:
            if truncation_latent is None:
                raise ValueError("truncation needs truncation_latent, for example mean_latent()")
            styles = [truncation_latent.lerp(w, truncation) for w in styles]
        if len(styles) == 1:
            first = styles[0]
            latent = first if first.ndim == 3 else first[:, None].repeat(1, self.n_latent, 1)
        else:
            if inject_index is None:
                inject_index = int(torch.randint(1, self.n_latent, ()))
            parts = (inject_index, self.n_latent - inject_index)
            latent = torch.cat(
                [w[:, None].repeat(1, n, 1) for w, n in zip(styles, parts, strict=True)], dim=1
            )
        if noise is None and not randomize_noise:
            noise = self.stored_noise()
        image, _ = self.synthesise(latent, noise)
        return image, latent if return_latents else None


class ConvLayer(nn.Sequential):
    """Blur and stride 2 if `down`, equalised convolution, bias and leaky ReLU if `activate`."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, down: bool = False, activate: bool = True
    ) -> None:
        layers: list[nn.Module] = []
        if down:
            layers.append(Blur(padding=kernel // 2 + 1))
        layers.append(EqualConv2d(inputs, outputs, kernel, stride=2 if down else 1, bias=False))
        if activate:
            layers.append(ScaledLeakyReLU(outputs))
        super().__init__(*layers)


class ResidualBlock(nn.Module):
    """Two convolutions and a 1x1 skip, half the size: [N, I, H, W] -> [N, O, H / 2, W / 2]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = ConvLayer(inputs, inputs, 3)
        self.conv2 = ConvLayer(inputs, outputs, 3, down=True)
        self.skip = ConvLayer(inputs, outputs, 1, down=True, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(self.conv1(x)) + self.skip(x)
        return out / math.sqrt(2)


class StyleGAN2Discriminator(nn.Module):
    """Residual discriminator: [N, 3, size, size] -> scores [N, 1], above 0 = real.

    Args:
        size, channel_multiplier, largest_width, channels: as for `StyleGAN2`.
        stddev_group: samples that share one minibatch standard deviation; fewer where the batch
            has fewer, and it must divide the batch.
    """

    def __init__(
        self,
        size: int,
        channel_multiplier: int = 2,
        *,
        largest_width: int = 512,
        channels: Sequence[int] | None = None,
        stddev_group: int = 4,
    ) -> None:
        super().__init__()
        widths = level_widths(size, channel_multiplier, largest_width)
        if channels is not None:
            if len(channels) != len(widths):
                raise ValueError(
                    f"{size} px have {len(widths)} levels, but {len(channels)} channels are given"
                )
            widths = list(channels)
        self.size, self.stddev_group = size, stddev_group
        blocks: list[nn.Module] = [ConvLayer(3, widths[-1], 1)]
        blocks += [
            ResidualBlock(widths[level], widths[level - 1])
            for level in range(len(widths) - 1, 0, -1)
        ]
        self.convs = nn.Sequential(*blocks)
        self.final_conv = ConvLayer(widths[0] + 1, widths[0], 3)
        self.final_linear = nn.Sequential(
            EqualLinear(widths[0] * 16, widths[0], activate=True), EqualLinear(widths[0], 1)
        )

    @classmethod
    def paper(cls, size: int = 1024) -> StyleGAN2Discriminator:
        """Configuration F."""
        return cls(size)

    @classmethod
    def compact(cls, size: int = 256) -> StyleGAN2Discriminator:
        """The partner of `StyleGAN2.compact`."""
        return cls(size, channel_multiplier=1, largest_width=128)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs(x)  # [N, C, 4, 4]
        batch, channels, height, width = x.shape
        group = min(batch, self.stddev_group)
        if batch % group:
            raise ValueError(f"a batch of {batch} does not divide into groups of {group}")
        spread = x.reshape(group, -1, channels, height, width).var(dim=0, unbiased=False)
        spread = torch.sqrt(spread + EPSILON).mean(dim=(1, 2, 3), keepdim=True)  # [N / g, 1, 1, 1]
        plane = spread.repeat(group, 1, height, width)
        x = self.final_conv(torch.cat([x, plane], dim=1))
        score: Tensor = self.final_linear(x.flatten(1))
        return score
