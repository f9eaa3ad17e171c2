"""Critics of the unmask system: StarGAN's, PatchGAN and the region ensemble discriminator (RED).

All map pictures [N, C, H, W] in [-1, 1] to a map of scores [N, 1, h, w] without a sigmoid, and
none has a batch norm, so that the gradient penalty of WGAN-GP (which is about single pictures) may
be used with each of them.

| kind | source | one score sees | layers |
|---|---|---|---|
| stargan | Choi et al. 2018 | most of the picture | 4x4 stride 2, no norm |
| patch | Isola et al. 2017 | 70 x 70 pixels | 4x4, instance norm |
| red | Sagong et al. 2019 | nearly all, judged place by place | 5x5 stride 2, spectral norm |

What is known of RED: it is the "region ensemble discriminator" of Sagong et al. 2019, "PEPSI: Fast
Image Inpainting with Parallel Decoding Network" (CVPR), and Shin et al. 2019, "PEPSI++", made for
holes of any shape and place: every place of the last map has a linear layer of its own, and each of
these judges its region as a discriminator by itself. Layers, widths, spectral norm and the slope
0.2 are those of the authors' program (Forty-lock/PEPSI). Two things differ: strided convolutions
pad 2 on all sides (their framework pads 1 and 2), and the bias of a place is added once (there it
is added to each of the products, that is 512 times).
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from revisage.training.models.cyclegan import NLayerDiscriminator
from revisage.training.models.stargan import discriminator_trunk

__all__ = ["DEPTHS", "RegionEnsembleCritic", "StarGANCritic", "make_critic"]

DEPTHS = {"stargan": 6, "patch": 3, "red": 6}  # halvings in each source, at 256 px


class StarGANCritic(nn.Module):
    """StarGAN's discriminator; the class head is there only where there are classes.

    Args:
        size: side of the pictures, at least 2 ** depth. Only the class head depends on it.
        width: channels behind the first convolution, doubling at each of `depth`.
        classes: domains that `judge` tells apart; 0 for a critic of one domain.
    """

    def __init__(self, size: int, width: int = 64, depth: int = 6, classes: int = 0) -> None:
        super().__init__()
        if size < 2**depth:
            raise ValueError(f"{depth} halvings need pictures of {2**depth} px or more, not {size}")
        wide = width * 2 ** (depth - 1)
        self.main = discriminator_trunk(3, width, depth)
        self.conv1 = nn.Conv2d(wide, 1, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(wide, classes, size // 2**depth, bias=False) if classes else None

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.conv1(self.main(x))
        return scores

    def judge(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [N, 1, h, w] and domain logits [N, classes]."""
        if self.conv2 is None:
            raise ValueError("this critic was built without classes")
        features = self.main(x)
        return self.conv1(features), self.conv2(features).flatten(1)


class RegionEnsembleCritic(nn.Module):
    """RED: convolutions shared by all regions, a linear judge for each region of the last map.

    Args:
        size: side of the pictures; the judges are tied to it.
        width: channels behind the first convolution.
        depth: halvings; channels are width * (1, 2, 4, 4, 4, 8), the last always 8.
    """

    def __init__(self, size: int, width: int = 64, depth: int = 6) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth must be at least 1, not {depth}")
        widths = [3, *(width * min(4, 2**level) for level in range(depth - 1)), 8 * width]
        layers: list[nn.Module] = []
        side = size
        for channels_in, channels_out in itertools.pairwise(widths):
            layers += [
                spectral_norm(nn.Conv2d(channels_in, channels_out, 5, stride=2, padding=2)),
                nn.LeakyReLU(0.2),
            ]
            side = (side + 1) // 2
        self.main = nn.Sequential(*layers)
        self.judges = nn.Parameter(torch.empty(widths[-1], side, side))
        self.bias = nn.Parameter(torch.zeros(1, side, side))
        nn.init.normal_(self.judges)

    def forward(self, x: Tensor) -> Tensor:
        features = self.main(x)
        if features.shape[-2:] != self.judges.shape[-2:]:
            wanted = tuple(self.judges.shape[-2:])
            raise ValueError(
                f"the picture gives {tuple(features.shape[-2:])} regions, not {wanted}"
            )
        # The spectral norm of a matrix of one row is its length.
        judges = functional.normalize(self.judges, dim=0)
        scores: Tensor = (features * judges).sum(dim=1, keepdim=True) + self.bias
        return scores


def make_critic(
    kind: str, size: int, width: int = 64, depth: int = 0, classes: int = 0
) -> nn.Module:
    """One of `DEPTHS` for pictures of `size` x `size`, by default in the width of its source.

    `depth` counts halvings; 0 takes the source's.

    Raises:
        ValueError: an unknown kind, or classes for one without a class head.
    """
    if kind not in DEPTHS:
        raise ValueError(f"no critic {kind!r}; known: {', '.join(DEPTHS)}")
    depth = depth or DEPTHS[kind]
    if kind == "stargan":
        return StarGANCritic(size, width, depth, classes)
    if classes:
        raise ValueError(f"only the stargan critic has a class head, not {kind!r}")
    if kind == "patch":
        return NLayerDiscriminator(3, width, depth, "instance")
    return RegionEnsembleCritic(size, width, depth)
