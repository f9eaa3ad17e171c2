"""A network in the manner of AutoRetouch: fully convolutional, residual, at full resolution.

Source: Shafaei, Little and Schmidt 2021, "AutoRetouch: Automatic Professional Face Retouching"
(WACV). Public are the task (photo to professional retouch, FFHQR), that the network is fully
convolutional, and that it is run on head crops at full resolution. Neither code nor a list of
layers is public.

Chosen here, after EDSR (Lim et al. 2017, "Enhanced Deep Residual Networks for Single Image
Super-Resolution", residual blocks without norms and a long skip): the picture is regrouped into
cells of 4 x 4 pixels, which loses nothing, unlike strided convolutions; residual blocks whose
dilation goes 1, 2, 4, 8 and begins again see a blemish with the skin around it; what is to be
added to the picture is shuffled back to pixels. No norm: statistics of a crop differ from those of
the whole picture, and grain must keep its strength.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["AutoRetouch"]

DILATIONS = (1, 2, 4, 8)
RESIDUAL_SCALE = 0.1  # EDSR, section 3.3: keeps deep residual networks without norms stable


class _Block(nn.Module):
    """x + 0.1 * conv(ReLU(dilated conv(x)))."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.near = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + RESIDUAL_SCALE * self.near(functional.relu(self.wide(x)))
        return out


class AutoRetouch(nn.Module):
    """RGB in [0, 1] -> retouched RGB, about [0, 1], both [N, 3, H, W]; H, W multiples of `cell`.

    Args:
        width: channels of the trunk.
        blocks: residual blocks.
        cell: side of the pixel cells.
    """

    def __init__(self, width: int = 128, blocks: int = 16, cell: int = 4) -> None:
        super().__init__()
        if width < 1 or blocks < 1 or cell < 1:
            raise ValueError(
                f"width, blocks and cell must be at least 1, not {width}, {blocks}, {cell}"
            )
        self.multiple_of = cell
        values = 3 * cell**2
        self.enter = nn.Conv2d(values, width, 3, padding=1)
        self.blocks = nn.Sequential(
            *(_Block(width, DILATIONS[index % len(DILATIONS)]) for index in range(blocks))
        )
        self.leave = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Conv2d(width, values, 3, padding=1)

    @classmethod
    def paper(cls) -> AutoRetouch:
        """The size chosen for crops of full-resolution photos: 128 channels, 16 blocks."""
        return cls()

    @classmethod
    def compact(cls) -> AutoRetouch:
        """32 channels, 8 blocks."""
        return cls(32, 8)

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[-2] % self.multiple_of or image.shape[-1] % self.multiple_of:
            raise ValueError(
                f"sides must be multiples of {self.multiple_of}, not {list(image.shape[-2:])}"
            )
        x = self.enter(functional.pixel_unshuffle(2 * image - 1, self.multiple_of))
        x = x + self.leave(self.blocks(x))  # [N, width, H / cell, W / cell]
        change = functional.pixel_shuffle(self.head(torch.relu(x)), self.multiple_of)
        return image + change
