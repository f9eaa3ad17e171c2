"""Compact networks that work at a quarter of the size, on blocks of pixels folded into channels.

What small budgets can learn about a face, and what a four-fold reduction leaves of it, fits into a
quarter of its size. So blocks of 4 x 4 pixels become channels there, and channels become blocks
again at the end (Shi et al. 2016, "Real-Time Single Image and Video Super-Resolution Using an
Efficient Sub-Pixel Convolutional Neural Network"). Residual blocks without norms are those of Lim
et al. 2017, "Enhanced Deep Residual Networks for Single Image Super-Resolution"; their U-Net is
ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["FoldedRecNet", "FoldedUNet", "unfolding"]

FOLD = 4  # pixels along a side of the blocks
_LOCAL = 8  # pixels along a side of the blocks whose mean is the local light
_GAIN = 4.0  # detail is some hundredths strong; so magnified it is about as strong as the light


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():
            self.second.weight.mul_(0.3)  # no norm tames the sums

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(functional.relu(self.first(x)))
        return out


class FoldedUNet(nn.Module):
    """Pictures [N, inputs, H, W] in [0, 1] -> features [N, widths[0], H / 4, W / 4].

    Args:
        inputs: channels of the pictures together.
        widths: channels at a quarter of the size, at an eighth, and so on. Sides are multiples of
            `multiple_of`: 4 for one width, and twice that for each more.
    """

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.multiple_of = max(_LOCAL, FOLD * 2 ** (len(widths) - 1))
        steps = list(itertools.pairwise(widths))
        self.enter = nn.Conv2d(inputs * (FOLD * FOLD + 1), widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(_Residual(width) for width, _ in steps)
        self.down = nn.ModuleList(nn.Conv2d(width, below, 3, 2, 1) for width, below in steps)
        self.bottom = nn.Sequential(_Residual(widths[-1]), _Residual(widths[-1]))
        self.up = nn.ModuleList(nn.Conv2d(below, 4 * width, 1) for width, below in steps)
        self.decoder = nn.ModuleList(_Residual(width) for width, _ in steps)
        self.last = _Residual(widths[0])

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height % self.multiple_of or width % self.multiple_of:
            raise ValueError(
                f"sides must be multiples of {self.multiple_of}, not {height} x {width}: resize"
            )
        light = functional.avg_pool2d(x, _LOCAL)
        smooth = functional.interpolate(
            light, scale_factor=_LOCAL, mode="bilinear", align_corners=False
        )
        detail = functional.pixel_unshuffle(_GAIN * (x - smooth), FOLD)
        mean = 2 * functional.avg_pool2d(smooth, FOLD) - 1
        out: Tensor = functional.relu(self.enter(torch.cat([detail, mean], dim=1)))
        skips = []
        for encode, down in zip(self.encoder, self.down, strict=True):
            out = encode(out)
            skips.append(out)
            out = functional.relu(down(out))
        out = self.bottom(out)
        for level in reversed(range(len(skips))):
            out = skips[level] + functional.pixel_shuffle(self.up[level](out), 2)
            out = self.decoder[level](out)
        features: Tensor = self.last(out)
        return features


def unfolding(width: int, outputs: int) -> nn.Sequential:
    """Features [N, width, H / 4, W / 4] of a `FoldedUNet` -> pictures [N, outputs, H, W]."""
    convolution = nn.Conv2d(width, outputs * FOLD * FOLD, 3, padding=1)
    return nn.Sequential(convolution, nn.PixelShuffle(FOLD))


class FoldedRecNet(nn.Module):
    """degraded, with or without a guide behind it [N, 3 or 6, H, W] in [0, 1] -> [N, 3, H, W].

    It corrects the degraded picture, and starts with no correction. Sides are multiples of 16.

    Args:
        inputs: 6 for degraded and guide, 3 for degraded alone.
        width: channels at a quarter of the size, twice as many below.
    """

    multiple_of = 16

    def __init__(self, inputs: int = 6, width: int = 32) -> None:
        super().__init__()
        self.body = FoldedUNet(inputs, (width, 2 * width, 2 * width))
        self.correct = unfolding(width, 3)
        for parameter in self.correct.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        correction = self.correct(self.body(x)).to(x.dtype)
        out: Tensor = (x[:, :3] + correction / _GAIN).clamp(0, 1)
        return out
