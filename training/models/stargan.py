"""StarGAN: one generator for every pair of domains, and its discriminator with a domain head.

Source: Choi et al. 2018, "StarGAN: Unified Generative Adversarial Networks for Multi-Domain
Image-to-Image Translation" (CVPR). Attribute names and the order of layers give the state-dict keys
of the published checkpoints (yunjey/stargan, MIT); the code is our own.

Pictures are RGB in [-1, 1], [N, 3, H, W]; labels are [N, c_dim], 1 for an attribute that the
result shall have.

Note [Statistics of the instance norms]
    The published generator keeps running statistics in its instance norms, but its program never
    leaves train mode, so that its samples were made with the statistics of each picture. Like every
    torch module, ours uses the stored statistics after `eval()`; the result differs a lot. Call
    `use_picture_statistics(True)` to get the published samples in eval mode.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = [
    "StarGANDiscriminator",
    "StarGANGenerator",
    "StarGANResidualBlock",
    "discriminator_trunk",
    "stargan_decoder",
    "stargan_encoder",
]


class _InstanceNorm(nn.InstanceNorm2d):
    """Affine instance norm, with running statistics where `stored` (see the note above)."""

    def __init__(self, channels: int, stored: bool) -> None:
        super().__init__(channels, affine=True, track_running_stats=stored)
        self.per_picture = False

    def forward(self, x: Tensor) -> Tensor:
        if self.per_picture and not self.training:
            return nn.functional.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        return super().forward(x)


class StarGANResidualBlock(nn.Module):
    """x + norm(conv(ReLU(norm(conv(x))))), 3x3, no bias.

    `dilation` spreads the first convolution; published blocks have 1.
    """

    def __init__(self, channels: int, stored: bool = True, dilation: int = 1) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False),
            _InstanceNorm(channels, stored),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            _InstanceNorm(channels, stored),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.main(x)
        return out


def stargan_encoder(channels_in: int, width: int, stored: bool = True) -> list[nn.Module]:
    """[N, channels_in, H, W] -> [N, 4 * width, H / 4, W / 4]."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels_in, width, 7, padding=3, bias=False),
        _InstanceNorm(width, stored),
        nn.ReLU(),
    ]
    for wide in (2 * width, 4 * width):
        layers += [
            nn.Conv2d(wide // 2, wide, 4, stride=2, padding=1, bias=False),
            _InstanceNorm(wide, stored),
            nn.ReLU(),
        ]
    return layers


def stargan_decoder(width: int, stored: bool = True) -> list[nn.Module]:
    """[N, 4 * width, h, w] -> [N, width, 4 * h, 4 * w]."""
    layers: list[nn.Module] = []
    for wide in (4 * width, 2 * width):
        layers += [
            nn.ConvTranspose2d(wide, wide // 2, 4, stride=2, padding=1, bias=False),
            _InstanceNorm(wide // 2, stored),
            nn.ReLU(),
        ]
    return layers


class StarGANGenerator(nn.Module):
    """Picture [N, 3, H, W] and label [N, c_dim] -> picture [N, 3, H, W]; H, W multiples of 4.

    Args:
        conv_dim: channels at full size.
        c_dim: attributes in a label.
        repeat_num: residual blocks at a quarter of the size.
        stored: whether the instance norms keep running statistics, as all published ones do.
    """

    def __init__(
        self, conv_dim: int = 64, c_dim: int = 5, repeat_num: int = 6, stored: bool = True
    ) -> None:
        super().__init__()
        self.c_dim = c_dim
        self.main = nn.Sequential(
            *stargan_encoder(3 + c_dim, conv_dim, stored),
            *(StarGANResidualBlock(4 * conv_dim, stored) for _ in range(repeat_num)),
            *stargan_decoder(conv_dim, stored),
            nn.Conv2d(conv_dim, 3, 7, padding=3, bias=False),
            nn.Tanh(),
        )

    @classmethod
    def paper(cls, c_dim: int = 5) -> StarGANGenerator:
        """As published: 64 channels, 6 blocks."""
        return cls(64, c_dim, 6)

    @classmethod
    def compact(cls, c_dim: int = 5) -> StarGANGenerator:
        """A sixteenth of the multiply-adds."""
        return cls(16, c_dim, 6)

    def use_picture_statistics(self, choice: bool = True) -> StarGANGenerator:
        """In eval mode, normalise by each picture's own statistics, as the published samples."""
        for module in self.modules():
            if isinstance(module, _InstanceNorm):
                module.per_picture = choice
        return self

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        if label.ndim != 2 or label.shape[1] != self.c_dim:
            raise ValueError(f"label must be [N, {self.c_dim}], got {list(label.shape)}")
        maps = label[:, :, None, None].to(x.dtype).expand(-1, -1, *x.shape[-2:])
        out: Tensor = self.main(torch.cat([x, maps], dim=1))
        return out


def discriminator_trunk(channels_in: int, width: int, repeat_num: int) -> nn.Sequential:
    """[N, channels_in, H, W] -> [N, width * 2 ** (n - 1), H / 2 ** n, W / 2 ** n]; no norm."""
    if repeat_num < 1:
        raise ValueError(f"repeat_num must be at least 1, not {repeat_num}")
    layers: list[nn.Module] = []
    for level in range(repeat_num):
        wide = width * 2**level
        layers += [
            nn.Conv2d(channels_in if level == 0 else wide // 2, wide, 4, stride=2, padding=1),
            nn.LeakyReLU(0.01),
        ]
    return nn.Sequential(*layers)


class StarGANDiscriminator(nn.Module):
    """[N, 3, image_size, image_size] -> patch scores [N, 1, h, w] and attribute logits [N, c_dim].

    h = w = image_size / 2 ** repeat_num. The logits see the whole picture, which ties the network
    to its size.
    """

    def __init__(
        self, image_size: int = 128, conv_dim: int = 64, c_dim: int = 5, repeat_num: int = 6
    ) -> None:
        super().__init__()
        if image_size < 2**repeat_num:
            raise ValueError(f"image_size must be at least {2**repeat_num}, not {image_size}")
        wide = conv_dim * 2 ** (repeat_num - 1)
        self.main = discriminator_trunk(3, conv_dim, repeat_num)
        self.conv1 = nn.Conv2d(wide, 1, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(wide, c_dim, image_size // 2**repeat_num, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.main(x)
        return self.conv1(features), self.conv2(features).flatten(1)
