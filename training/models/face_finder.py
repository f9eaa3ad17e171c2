"""The finder: a small fully convolutional network that points at faces of one octave and a half.

One cell per 8 x 8 pixels says whether the centre of a face lies there and how its upright crop is
placed (Zhou et al. 2019, "Objects as Points"). A pyramid of the photo covers all sizes, so that the
network needs to know only faces whose crop (`revisage.alignment.face_crop_matrix`) is 20 to 56
pixels wide, which is a face 14 to 38 pixels wide.
"""

from __future__ import annotations

import torch
from torch import nn

from revisage.training.models.face_landmarks import InvertedResidual

__all__ = ["FaceFinder"]


class FaceFinder(nn.Module):
    """[N, 3, H, W] RGB in [0, 1], H and W multiples of 8 -> [N, 6, H/8, W/8].

    Output channels: score logit; x and y of the crop's centre from the cell's centre, in cells;
    natural logarithm of the crop's side over 32 pixels; cosine and sine (not normalised) of the
    angle by which the face is turned (positive: its left eye in the picture is higher).

    Args:
        widths: channels at 1/2, 1/4 and 1/8 of the input size.
        blocks: inverted residuals at 1/8.
    """

    stride = 8
    channels = 6
    reference_side = 32.0  # crop side in pixels where the size output is 0
    smallest_side = 20.0  # crop sides in pixels that the network is trained to report
    largest_side = 56.0

    def __init__(self, widths: tuple[int, int, int] = (16, 32, 64), blocks: int = 6) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inside = 3
        for width in widths:
            layers += [
                nn.Conv2d(inside, width, 3, 2, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            inside = width
        layers += [InvertedResidual(inside, inside, 2) for _ in range(blocks)]
        layers += [
            nn.Conv2d(inside, inside, 1, bias=False),
            nn.BatchNorm2d(inside),
            nn.ReLU(inplace=True),
        ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Conv2d(inside, self.channels, 1)
        nn.init.constant_(self.head.bias[:1], -4.0)  # type: ignore[index]  # faces are rare

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.features(image - 0.5))
        return out
