"""DMFN: inpainting with dense multi-scale fusion blocks, and its global and local discriminator.

Source: Hui et al. 2020, "Image Fine-grained Inpainting" (arXiv 2002.02609), and the authors' code
(Zheng222/DMFN), whose state-dict keys the attribute names and the order of layers give; the code is
our own.

Pictures are RGB in [-1, 1], [N, 3, H, W]; masks [N, 1, H, W], 1 = hole. All padding is zeros. The
instance norms have neither weights nor running statistics, so the generator does the same in train
and eval mode.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = [
    "DMFB",
    "DMFNDiscriminator",
    "DMFNGenerator",
    "composite",
    "dmfn_decoder",
    "dmfn_encoder",
]

DILATIONS = (1, 2, 4, 8)


class _Conv(nn.Module):
    """Convolution with bias, norm, activation; the size is kept or divided by `stride`."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        stride: int = 1,
        norm: nn.Module | None = None,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2)
        self.norm = norm or nn.Identity()
        self.activation = activation or nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.norm(self.conv(x)))
        return out


class _Up(nn.Module):
    """Twice the size: transposed convolution, then a convolution; norm and ReLU behind both."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.deconv = nn.ConvTranspose2d(channels_in, channels_out, 4, 2, 1)
        self.norm = nn.InstanceNorm2d(channels_out)
        self.conv = _Conv(channels_out, channels_out, 3, norm=nn.InstanceNorm2d(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(torch.relu(self.norm(self.deconv(x))))
        return out


class DMFB(nn.Module):
    """Dense multi-scale fusion block: [N, C, H, W] -> [N, C, H, W], C a multiple of 4.

    The input is reduced to C / 4 channels, which four convolutions of growing dilation see side by
    side. Their results are added up one by one, so that each sum looks further than the one before
    it without the holes of a single dilated convolution; the four sums are fused by a convolution
    and added to the input.
    """

    def __init__(self, nc: int) -> None:
        super().__init__()
        if nc % 4:
            raise ValueError(f"the channels must be a multiple of 4, not {nc}")
        part = nc // 4
        self.c1 = nn.Conv2d(nc, part, 3, padding=1)
        self.d1, self.d2, self.d3, self.d4 = (
            nn.Conv2d(part, part, 3, padding=dilation, dilation=dilation) for dilation in DILATIONS
        )
        self.c2 = nn.Conv2d(nc, nc, 3, padding=1)
        self.norm_part = nn.InstanceNorm2d(part)
        self.norm = nn.InstanceNorm2d(nc)

    def forward(self, x: Tensor) -> Tensor:
        reduced = torch.relu(self.norm_part(self.c1(x)))  # [N, C / 4, H, W]
        sums = [self.d1(reduced)]
        for branch in (self.d2, self.d3, self.d4):
            sums.append(sums[-1] + branch(reduced))
        fused = self.c2(torch.relu(self.norm(torch.cat(sums, dim=1))))
        out: Tensor = x + self.norm(fused)
        return out


def dmfn_encoder(channels_in: int, nf: int) -> nn.Sequential:
    """[N, channels_in, H, W] -> [N, 4 * nf, H / 4, W / 4]."""
    return nn.Sequential(
        _Conv(channels_in, nf, 5),
        _Conv(nf, 2 * nf, 3, 2, norm=nn.InstanceNorm2d(2 * nf)),
        _Conv(2 * nf, 2 * nf, 3, norm=nn.InstanceNorm2d(2 * nf)),
        _Conv(2 * nf, 4 * nf, 3, 2, norm=nn.InstanceNorm2d(4 * nf)),
    )


def dmfn_decoder(nf: int) -> list[nn.Module]:
    """[N, 4 * nf, h, w] -> [N, nf, 4 * h, 4 * w], everything but the head."""
    return [
        _Conv(4 * nf, 4 * nf, 3, norm=nn.InstanceNorm2d(4 * nf)),
        _Up(4 * nf, 2 * nf),
        _Up(2 * nf, nf),
    ]


class DMFNGenerator(nn.Module):
    """[N, in_nc, H, W] -> [N, out_nc, H, W] in [-1, 1]; H and W multiples of 4.

    The input is the picture with the hole set to 0 and the mask behind it (`composite`).

    Args:
        nf: channels at full size, four times as many in the trunk.
        n_res: fusion blocks.
    """

    def __init__(self, in_nc: int = 4, out_nc: int = 3, nf: int = 64, n_res: int = 8) -> None:
        super().__init__()
        self.encoder = dmfn_encoder(in_nc, nf)
        self.blocks = nn.Sequential(*(DMFB(4 * nf) for _ in range(n_res)))
        self.decoder = nn.Sequential(*dmfn_decoder(nf), _Conv(nf, out_nc, 3, activation=nn.Tanh()))

    @classmethod
    def paper(cls) -> DMFNGenerator:
        """64 channels, 8 blocks, 256 px."""
        return cls()

    @classmethod
    def compact(cls) -> DMFNGenerator:
        """An eighth of the multiply-adds: 24 channels, 6 blocks."""
        return cls(nf=24, n_res=6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.blocks(self.encoder(x)))
        return out


class DMFNDiscriminator(nn.Module):
    """One score from the whole picture and the part of half its side that holds the hole.

    Args:
        in_nc: channels of a picture.
        nf: channels behind the first convolution, doubling up to 8 * nf.
        size: side of the whole picture, a multiple of 64 (published: 256).
        hidden: values that each branch is reduced to.
    """

    def __init__(self, in_nc: int = 3, nf: int = 64, size: int = 256, hidden: int = 512) -> None:
        super().__init__()
        if size < 64 or size % 64:
            raise ValueError(f"size must be a multiple of 64, not {size}")
        self.size = size
        widths = (in_nc, nf, 2 * nf, 4 * nf, 8 * nf, 8 * nf, 8 * nf)

        def block(level: int) -> _Conv:
            wide = widths[level + 1]
            return _Conv(widths[level], wide, 5, 2, nn.BatchNorm2d(wide), nn.LeakyReLU(0.2))

        self.global_model = nn.Sequential(*(block(level) for level in range(6)))
        for level in range(5):
            self.add_module(f"local_fea{level + 1}", block(level))
        values = 8 * nf * (size // 64) ** 2
        self.global_classifier = nn.Linear(values, hidden)
        self.local_classifier = nn.Linear(values, hidden)
        self.classifier = nn.Sequential(nn.LeakyReLU(0.2), nn.Linear(2 * hidden, 1))

    @classmethod
    def paper(cls) -> DMFNDiscriminator:
        """64 channels at 256 px."""
        return cls()

    def forward(self, x_local: Tensor, x_global: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores [N, 1] of `x_local` [N, C, size / 2, size / 2] and `x_global` [N, C, size, size].

        Also returns the five feature maps of the local branch, for feature matching.
        """
        features: list[Tensor] = []
        near = x_local
        for level in range(5):
            near = self.get_submodule(f"local_fea{level + 1}")(near)
            features.append(near)
        far = self.global_model(x_global)
        both = [
            self.local_classifier(near.flatten(1)),
            self.global_classifier(far.flatten(1)),
        ]
        return self.classifier(torch.cat(both, dim=1)), features


def composite(generator: nn.Module, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Run a generator on a picture with a hole.

    Args:
        image: [N, 3, H, W] in [-1, 1]; mask: [N, 1, H, W], 1 = hole.

    Returns:
        The prediction for the whole picture, and mask * prediction + (1 - mask) * image.
    """
    known = image * (1 - mask)
    predicted: Tensor = generator(torch.cat([known, mask], dim=1))
    return predicted, mask * predicted + known
