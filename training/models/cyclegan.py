"""CycleGAN and pix2pix: the ResNet and U-Net generators and the patch and pixel discriminators.

Sources: Zhu et al. 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial
Networks" (ICCV); Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial
Networks" (CVPR). Attribute names and the order of layers give the state-dict keys of the published
checkpoints (junyanz/pytorch-CycleGAN-and-pix2pix, BSD-2-Clause); the code is our own.

Pictures are RGB in [-1, 1], [N, C, H, W].

Note [Which convolutions have a bias]
    A bias in front of a batch norm is undone by it and left out. The published code keeps it in
    front of an instance norm without weights, where it is undone as well, and leaves it out where
    there is no norm at all. Checkpoints fit only if both are done the same way here.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

__all__ = [
    "NLayerDiscriminator",
    "Norm",
    "Padding",
    "PixelDiscriminator",
    "ResnetBlock",
    "ResnetGenerator",
    "UnetGenerator",
    "resnet_body",
]

Norm = Literal["batch", "instance", "none"]
Padding = Literal["reflect", "replicate", "zero"]

WIDEST = 8  # channels stop doubling at this multiple of the first width


def _norm(kind: Norm, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "instance":
        return nn.InstanceNorm2d(channels)  # no weights, no running statistics
    if kind == "none":
        return nn.Identity()
    raise ValueError(f"norm is one of batch, instance, none, not {kind!r}")


def _has_bias(kind: Norm) -> bool:
    """See Note [Which convolutions have a bias]."""
    return kind == "instance"


def _padded_conv(channels: int, kind: Padding, bias: bool) -> list[nn.Module]:
    """A 3x3 convolution that keeps the size; "zero" pads inside the convolution."""
    if kind == "zero":
        return [nn.Conv2d(channels, channels, 3, padding=1, bias=bias)]
    pads = {"reflect": nn.ReflectionPad2d, "replicate": nn.ReplicationPad2d}
    if kind not in pads:
        raise ValueError(f"padding is one of reflect, replicate, zero, not {kind!r}")
    return [pads[kind](1), nn.Conv2d(channels, channels, 3, bias=bias)]


class ResnetBlock(nn.Module):
    """x + norm(conv(dropout(ReLU(norm(conv(x)))))), no activation after the sum."""

    def __init__(
        self,
        channels: int,
        norm: Norm = "instance",
        padding: Padding = "reflect",
        dropout: bool = False,
    ) -> None:
        super().__init__()
        bias = _has_bias(norm)
        self.conv_block = nn.Sequential(
            *_padded_conv(channels, padding, bias),
            _norm(norm, channels),
            nn.ReLU(),
            *([nn.Dropout(0.5)] if dropout else []),
            *_padded_conv(channels, padding, bias),
            _norm(norm, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv_block(x)
        return out


def resnet_body(
    input_nc: int,
    ngf: int,
    n_blocks: int,
    norm: Norm = "instance",
    padding: Padding = "reflect",
    dropout: bool = False,
) -> list[nn.Module]:
    """All layers of the ResNet generator but its head: [N, input_nc, H, W] -> [N, ngf, H, W]."""
    bias = _has_bias(norm)
    layers: list[nn.Module] = [
        nn.ReflectionPad2d(3),
        nn.Conv2d(input_nc, ngf, 7, bias=bias),
        _norm(norm, ngf),
        nn.ReLU(),
    ]
    for wide in (2 * ngf, 4 * ngf):
        layers += [
            nn.Conv2d(wide // 2, wide, 3, stride=2, padding=1, bias=bias),
            _norm(norm, wide),
            nn.ReLU(),
        ]
    layers += [ResnetBlock(4 * ngf, norm, padding, dropout) for _ in range(n_blocks)]
    for wide in (4 * ngf, 2 * ngf):
        layers += [
            nn.ConvTranspose2d(
                wide, wide // 2, 3, stride=2, padding=1, output_padding=1, bias=bias
            ),
            _norm(norm, wide // 2),
            nn.ReLU(),
        ]
    return layers


class ResnetGenerator(nn.Module):
    """[N, input_nc, H, W] -> [N, output_nc, H, W] in [-1, 1]; H and W multiples of 4.

    Args:
        ngf: channels at full size; two steps halve the size and double them.
        n_blocks: residual blocks at a quarter of the size; 9 at 256 px, 6 at 128 px in the paper.
        norm: "instance" (CycleGAN), "batch" (pix2pix) or "none".
        padding: of the residual blocks; the first and last convolution always reflect.
        dropout: 0.5 inside every residual block, active in train mode only.
    """

    def __init__(
        self,
        input_nc: int = 3,
        output_nc: int = 3,
        ngf: int = 64,
        n_blocks: int = 9,
        norm: Norm = "instance",
        padding: Padding = "reflect",
        dropout: bool = False,
    ) -> None:
        super().__init__()
        if n_blocks < 0:
            raise ValueError(f"n_blocks must be at least 0, not {n_blocks}")
        self.model = nn.Sequential(
            *resnet_body(input_nc, ngf, n_blocks, norm, padding, dropout),
            nn.ReflectionPad2d(3),
            nn.Conv2d(ngf, output_nc, 7),
            nn.Tanh(),
        )

    @classmethod
    def paper(cls) -> ResnetGenerator:
        """CycleGAN at 256 px: 64 channels, 9 blocks, instance norm."""
        return cls()

    @classmethod
    def compact(cls) -> ResnetGenerator:
        """Less than a sixteenth of the multiply-adds: 16 channels, 6 blocks."""
        return cls(ngf=16, n_blocks=6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


class _SkipBlock(nn.Module):
    """One level of the U-Net with everything below it inside.

    [N, outer, H, W] -> [N, 2 * outer, H, W]: the input, then what came back from below.
    """

    def __init__(
        self,
        outer: int,
        inner: int,
        norm: Norm,
        inside: _SkipBlock | None = None,
        dropout: bool = False,
    ) -> None:
        super().__init__()
        bias = _has_bias(norm)
        layers: list[nn.Module] = [nn.LeakyReLU(0.2), nn.Conv2d(outer, inner, 4, 2, 1, bias=bias)]
        if inside is not None:
            layers += [_norm(norm, inner), inside]
        back = inner if inside is None else 2 * inner
        layers += [
            nn.ReLU(),
            nn.ConvTranspose2d(back, outer, 4, 2, 1, bias=bias),
            _norm(norm, outer),
        ]
        if dropout:
            layers.append(nn.Dropout(0.5))
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.model(x)], dim=1)


class _Outermost(nn.Module):
    """The level that sees the picture: no norm, no skip, tanh. [N, input_nc, H, W] -> picture."""

    def __init__(
        self, input_nc: int, output_nc: int, ngf: int, norm: Norm, inside: _SkipBlock
    ) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(input_nc, ngf, 4, 2, 1, bias=_has_bias(norm)),
            inside,
            nn.ReLU(),
            nn.ConvTranspose2d(2 * ngf, output_nc, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


class UnetGenerator(nn.Module):
    """[N, input_nc, H, W] -> [N, output_nc, H, W] in [-1, 1]; H, W multiples of 2 ** num_downs.

    Args:
        num_downs: halvings: 6 for 64 px, 7 for 128 px, 8 for 256 px (at least 5).
        ngf: channels at half the size; they double up to 8 * ngf.
        norm: "batch" (pix2pix), "instance" or "none". With "batch" in train mode, a batch of one
            picture of the nominal size has no statistics at the innermost level (one value).
        dropout: 0.5 behind the levels of 8 * ngf channels that are neither innermost nor widening.
    """

    def __init__(
        self,
        input_nc: int = 3,
        output_nc: int = 3,
        num_downs: int = 8,
        ngf: int = 64,
        norm: Norm = "batch",
        dropout: bool = False,
    ) -> None:
        super().__init__()
        if num_downs < 5:
            raise ValueError(f"num_downs must be at least 5, not {num_downs}")
        wide = WIDEST * ngf
        block = _SkipBlock(wide, wide, norm)
        for _ in range(num_downs - 5):
            block = _SkipBlock(wide, wide, norm, block, dropout)
        for outer in (4 * ngf, 2 * ngf, ngf):
            block = _SkipBlock(outer, 2 * outer, norm, block)
        self.model = _Outermost(input_nc, output_nc, ngf, norm, block)

    @classmethod
    def paper(cls) -> UnetGenerator:
        """pix2pix at 256 px: 8 levels, 64 channels, batch norm, dropout."""
        return cls(dropout=True)

    @classmethod
    def compact(cls) -> UnetGenerator:
        """A quarter of the channels."""
        return cls(ngf=16, dropout=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


class NLayerDiscriminator(nn.Module):
    """PatchGAN: [N, input_nc, H, W] -> scores [N, 1, h, w], one for every overlapping patch.

    `n_layers` blocks halve the size, one more and the score keep it (4x4 convolutions padded by 1
    lose a pixel). With 3 layers a score sees 70 x 70 pixels.
    """

    def __init__(
        self, input_nc: int = 3, ndf: int = 64, n_layers: int = 3, norm: Norm = "instance"
    ) -> None:
        super().__init__()
        if n_layers < 1:
            raise ValueError(f"n_layers must be at least 1, not {n_layers}")
        bias = _has_bias(norm)
        layers: list[nn.Module] = [nn.Conv2d(input_nc, ndf, 4, 2, 1), nn.LeakyReLU(0.2)]
        widths = [ndf * min(WIDEST, 2**level) for level in range(n_layers + 1)]
        for level in range(1, n_layers + 1):
            stride = 2 if level < n_layers else 1
            layers += [
                nn.Conv2d(widths[level - 1], widths[level], 4, stride, 1, bias=bias),
                _norm(norm, widths[level]),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(widths[-1], 1, 4, 1, 1))
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


class PixelDiscriminator(nn.Module):
    """Judges every pixel by itself: [N, input_nc, H, W] -> scores [N, 1, H, W]."""

    def __init__(self, input_nc: int = 3, ndf: int = 64, norm: Norm = "instance") -> None:
        super().__init__()
        bias = _has_bias(norm)
        self.net = nn.Sequential(
            nn.Conv2d(input_nc, ndf, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(ndf, 2 * ndf, 1, bias=bias),
            _norm(norm, 2 * ndf),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * ndf, 1, 1, bias=bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out
