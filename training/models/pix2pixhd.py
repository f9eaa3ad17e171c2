"""pix2pixHD: the global generator, the local enhancer, and the multi-scale discriminator.

Source: Wang et al. 2018, "High-Resolution Image Synthesis and Semantic Manipulation with
Conditional GANs" (CVPR), sections 3.2 and appendix A. Attribute names and the order of layers give
the state-dict keys of the published checkpoints (NVIDIA/pix2pixHD); the code is our own.

Pictures are RGB in [-1, 1], [N, C, H, W]. All convolutions have a bias, whatever the norm.
"""

from __future__ import annotations

import itertools
from typing import Literal

from torch import Tensor, nn

__all__ = ["GlobalGenerator", "LocalEnhancer", "MultiscaleDiscriminator", "Norm"]

Norm = Literal["instance", "batch"]
WIDEST = 512  # of the discriminator


def _norm(kind: Norm, channels: int) -> nn.Module:
    if kind == "instance":
        return nn.InstanceNorm2d(channels)  # no weights, no running statistics
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    raise ValueError(f"norm is instance or batch, not {kind!r}")


def _halved() -> nn.AvgPool2d:
    """To half the size; the border averages what there is."""
    return nn.AvgPool2d(3, 2, 1, count_include_pad=False)


class _Block(nn.Module):
    """x + norm(conv(ReLU(norm(conv(x))))), reflecting at the border."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            _norm(norm, channels),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            _norm(norm, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv_block(x)
        return out


def _stem(inputs: int, outputs: int, norm: Norm) -> list[nn.Module]:
    return [nn.ReflectionPad2d(3), nn.Conv2d(inputs, outputs, 7), _norm(norm, outputs), nn.ReLU()]


def _down(inputs: int, norm: Norm) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, 2 * inputs, 3, stride=2, padding=1)
    return [conv, _norm(norm, 2 * inputs), nn.ReLU()]


def _up(inputs: int, norm: Norm) -> list[nn.Module]:
    conv = nn.ConvTranspose2d(inputs, inputs // 2, 3, stride=2, padding=1, output_padding=1)
    return [conv, _norm(norm, inputs // 2), nn.ReLU()]


def _head(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.ReflectionPad2d(3), nn.Conv2d(inputs, outputs, 7), nn.Tanh()]


def _global_body(
    input_nc: int, ngf: int, n_downsampling: int, n_blocks: int, norm: Norm
) -> list[nn.Module]:
    """The global generator without its head: [N, input_nc, H, W] -> [N, ngf, H, W]."""
    layers = _stem(input_nc, ngf, norm)
    for level in range(n_downsampling):
        layers += _down(ngf * 2**level, norm)
    layers += [_Block(ngf * 2**n_downsampling, norm) for _ in range(n_blocks)]
    for level in range(n_downsampling, 0, -1):
        layers += _up(ngf * 2**level, norm)
    return layers


class GlobalGenerator(nn.Module):
    """G1: [N, input_nc, H, W] -> [N, output_nc, H, W] in [-1, 1].

    H and W are multiples of 2 ** n_downsampling.

    Args:
        ngf: channels at full size; they double at every halving.
        n_downsampling: halvings; 4 in the paper (1024 x 512).
        n_blocks: residual blocks at the smallest size; 9 in the paper.
        norm: "instance" in all published networks.
    """

    def __init__(
        self,
        input_nc: int = 3,
        output_nc: int = 3,
        ngf: int = 64,
        n_downsampling: int = 4,
        n_blocks: int = 9,
        norm: Norm = "instance",
    ) -> None:
        super().__init__()
        if n_downsampling < 1 or n_blocks < 0:
            raise ValueError(
                "n_downsampling must be at least 1 and n_blocks at least 0, not "
                f"{n_downsampling} and {n_blocks}"
            )
        self.multiple_of = 2**n_downsampling
        body = _global_body(input_nc, ngf, n_downsampling, n_blocks, norm)
        self.model = nn.Sequential(*body, *_head(ngf, output_nc))

    @classmethod
    def paper(cls) -> GlobalGenerator:
        """64 channels, four halvings, nine blocks."""
        return cls()

    @classmethod
    def compact(cls) -> GlobalGenerator:
        """16 channels, three halvings, four blocks."""
        return cls(ngf=16, n_downsampling=3, n_blocks=4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


class LocalEnhancer(nn.Module):
    """G2: the global generator on the halved picture, and enhancers around it.

    [N, input_nc, H, W] -> [N, output_nc, H, W] in [-1, 1]; H and W are multiples of `multiple_of`.
    The last feature map of the global generator is added to that of the enhancer's first half.

    Args:
        ngf: channels at full size; the global generator has ngf * 2 ** n_local_enhancers.
        n_downsample_global, n_blocks_global: of the global generator.
        n_local_enhancers: each doubles the size of the result.
        n_blocks_local: residual blocks of each enhancer; 3 in the paper.
        norm: as of `GlobalGenerator`.
    """

    def __init__(
        self,
        input_nc: int = 3,
        output_nc: int = 3,
        ngf: int = 32,
        n_downsample_global: int = 4,
        n_blocks_global: int = 9,
        n_local_enhancers: int = 1,
        n_blocks_local: int = 3,
        norm: Norm = "instance",
    ) -> None:
        super().__init__()
        if n_local_enhancers < 1 or n_downsample_global < 1 or n_blocks_local < 0:
            raise ValueError(
                "n_local_enhancers and n_downsample_global must be at least 1, n_blocks_local at "
                f"least 0, not {n_local_enhancers}, {n_downsample_global}, {n_blocks_local}"
            )
        self.n_local_enhancers = n_local_enhancers
        self.multiple_of = 2 ** (n_downsample_global + n_local_enhancers)
        wide = ngf * 2**n_local_enhancers
        body = _global_body(input_nc, wide, n_downsample_global, n_blocks_global, norm)
        self.model = nn.Sequential(*body)
        for level in range(1, n_local_enhancers + 1):
            width = ngf * 2 ** (n_local_enhancers - level)
            first = [*_stem(input_nc, width, norm), *_down(width, norm)]
            second: list[nn.Module] = [_Block(2 * width, norm) for _ in range(n_blocks_local)]
            second += _up(2 * width, norm)
            if level == n_local_enhancers:
                second += _head(ngf, output_nc)
            self.add_module(f"model{level}_1", nn.Sequential(*first))
            self.add_module(f"model{level}_2", nn.Sequential(*second))
        self.downsample = _halved()

    @classmethod
    def paper(cls) -> LocalEnhancer:
        """32 channels, one enhancer of three blocks, the paper's global generator."""
        return cls()

    @classmethod
    def compact(cls) -> LocalEnhancer:
        """8 channels, the compact global generator."""
        return cls(ngf=8, n_downsample_global=3, n_blocks_global=4, n_blocks_local=1)

    def forward(self, x: Tensor) -> Tensor:
        pictures = [x]
        for _ in range(self.n_local_enhancers):
            pictures.append(self.downsample(pictures[-1]))
        out: Tensor = self.model(pictures.pop())
        for level in range(1, self.n_local_enhancers + 1):
            first = self.get_submodule(f"model{level}_1")(pictures.pop())
            out = self.get_submodule(f"model{level}_2")(first + out)
        return out


class MultiscaleDiscriminator(nn.Module):
    """`num_D` patch critics, each on half the size of the one before.

    `forward(x)`: [N, input_nc, H, W] -> for each scale, largest picture first, the outputs of all
    its layers; the last is the score map [N, 1, h, w], the others serve feature matching. For a
    conditional critic, x is the condition with the picture behind it.

    Args:
        ndf: channels behind the first convolution, doubling up to 512.
        n_layers: halvings of each critic; one block and the score at stride 1 follow.
        num_D: scales; 3 in the paper, 2 as the published code's default.
    """

    def __init__(
        self,
        input_nc: int = 6,
        ndf: int = 64,
        n_layers: int = 3,
        num_D: int = 3,
        norm: Norm = "instance",
    ) -> None:
        super().__init__()
        if n_layers < 1 or num_D < 1:
            raise ValueError(f"n_layers and num_D must be at least 1, not {n_layers}, {num_D}")
        self.n_layers, self.num_D = n_layers, num_D
        widths = [min(WIDEST, ndf * 2**level) for level in range(n_layers + 1)]
        for scale in range(num_D):
            first = nn.Sequential(nn.Conv2d(input_nc, ndf, 4, 2, 2), nn.LeakyReLU(0.2))
            self.add_module(f"scale{scale}_layer0", first)
            for layer, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=1):
                stride = 2 if layer < n_layers else 1
                block = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 4, stride, 2),
                    _norm(norm, outputs),
                    nn.LeakyReLU(0.2),
                )
                self.add_module(f"scale{scale}_layer{layer}", block)
            score = nn.Sequential(nn.Conv2d(widths[-1], 1, 4, 1, 2))
            self.add_module(f"scale{scale}_layer{n_layers + 1}", score)
        self.downsample = _halved()

    @classmethod
    def paper(cls) -> MultiscaleDiscriminator:
        """Three scales of 70 x 70 patches, on condition and picture."""
        return cls()

    @classmethod
    def compact(cls) -> MultiscaleDiscriminator:
        """A quarter of the width, two scales."""
        return cls(ndf=16, num_D=2)

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        found = []
        # The published code gives the largest picture to the critic with the highest number.
        for scale in reversed(range(self.num_D)):
            features, out = [], x
            for layer in range(self.n_layers + 2):
                out = self.get_submodule(f"scale{scale}_layer{layer}")(out)
                features.append(out)
            found.append(features)
            if scale:
                x = self.downsample(x)
        return found
