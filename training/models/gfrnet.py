"""GFRNet: a degraded face rebuilt with the help of another photo of the same person.

Source: Li et al. 2018, "Learning Warped Guidance for Blind Face Restoration" (ECCV). The
authors published WarpNet (`gfrnet_warpnet.py`), but RecNet and the discriminators only as a binary
of another framework; their layers here follow the independent re-implementation
sonack/GFRNet_pytorch_new, whose WarpNet agrees with the authors' own.

Note [Variants of the ablation]
    The paper's table names them. What -W, -WG, -W2 and -WG2 are is confirmed by the options of the
    re-implementation, -F by the caption of the paper's figure 1 ("without landmark loss"). That R
    is for a random guide is our reading of the paper's text; no public code has it.

    | variant | WarpNet | RecNet sees | difference from the full network |
    |---|---|---|---|
    | full | yes | degraded, warped guide | |
    | -F | yes | degraded, warped guide | trained without the landmark loss (we keep TV) |
    | R | yes | degraded, warped guide | the guide is a random photo of another person |
    | -W | no | degraded, guide as it is | no warping |
    | -WG | no | degraded | neither warping nor guide |
    | -W2, -WG2 | no | as -W, -WG | RecNet with twice the channels, about as many weights as full |

    -F and R have the layers of the full network: the training task changes the loss and the data.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from revisage.training.models.folded_unet import FoldedRecNet
from revisage.training.models.gfrnet_warpnet import PyramidWarpNet, WarpNet, identity_grid, warp

__all__ = [
    "PARTS",
    "VARIANTS",
    "GFRNet",
    "RecNet",
    "Restoration",
    "RestorationDiscriminator",
    "face_boxes",
    "make_warpnet",
    "part_boxes",
    "predicted_grid",
]

VARIANTS = ("full", "-F", "R", "-W", "-WG", "-W2", "-WG2")

# Landmarks of the parts that have a discriminator of their own, iBUG 300-W order.
PARTS = {"left_eye": (36, 42), "right_eye": (42, 48), "nose": (27, 36), "mouth": (48, 68)}


class RecNet(nn.Module):
    """U-Net after pix2pix: [N, inputs, H, W] in [0, 1] -> restored face [N, 3, H, W] in [0, 1].

    Unlike pix2pix's it has leaky rectifiers in the decoder too, and ends in a sigmoid. Sides are
    multiples of 2 ** levels.

    Args:
        inputs: 6 for degraded and guide, 3 for degraded alone.
        ngf: channels of the first convolution; they double up to 8 times that.
        levels: how often the size is halved; 8 in the paper (1 x 1 at 256 px).
        dropout: probability in all levels of the decoder but the five largest (d1 to d3 of 8).
    """

    def __init__(
        self, inputs: int = 6, ngf: int = 64, levels: int = 8, dropout: float = 0.5
    ) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"levels must be at least 2, not {levels}")
        self.multiple_of = 2**levels
        widths = [ngf * min(8, 2**level) for level in range(levels)]
        self.encoder = nn.ModuleList([nn.Conv2d(inputs, ngf, 4, 2, 1)])
        for level in range(1, levels):
            layers = [nn.LeakyReLU(0.2), nn.Conv2d(widths[level - 1], widths[level], 4, 2, 1)]
            if level < levels - 1:
                layers.append(nn.BatchNorm2d(widths[level]))
            self.encoder.append(nn.Sequential(*layers))
        self.decoder = nn.ModuleList()
        for level in range(levels - 1, -1, -1):
            wide = widths[level] * (1 if level == levels - 1 else 2)  # the skip doubles it
            narrow = widths[level - 1] if level else 3
            layers = [nn.LeakyReLU(0.2), nn.ConvTranspose2d(wide, narrow, 4, 2, 1)]
            if level:
                layers.append(nn.BatchNorm2d(narrow))
            if level > 4:
                layers.append(nn.Dropout(dropout))
            self.decoder.append(nn.Sequential(*layers))
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
        for step, block in enumerate(self.decoder):
            if step:
                x = torch.cat([x, skips[-1 - step]], dim=1)  # decoder part first
            x = block(x)
        return torch.sigmoid(x)


class RestorationDiscriminator(nn.Module):
    """Judges a whole picture: [N, inputs, S, S] -> one score (logit) per picture, [N].

    The paper's sigmoid is part of the loss (binary cross entropy with logits). Used for the whole
    face (global), for the face box resized to the same size (local), and, with two levels fewer,
    for 64 px crops of eyes, nose and mouth (parts).

    Args:
        inputs: 3 (picture), 6 (warped guide, picture) or 9 (warped guide, guide, picture).
        ndf: channels of the first convolution; they double up to 8 times that.
        levels: S = 8 * 2 ** levels, so 5 for 256 px and 3 for 64 px.
    """

    def __init__(self, inputs: int = 3, ndf: int = 64, levels: int = 5) -> None:
        super().__init__()
        if levels < 1:
            raise ValueError(f"levels must be at least 1, not {levels}")
        self.size = 8 * 2**levels
        widths = [ndf * min(8, 2**level) for level in range(levels)]
        layers: list[nn.Module] = [nn.Conv2d(inputs, ndf, 4, 2, 1), nn.LeakyReLU(0.2)]
        for level in range(1, levels):
            layers += [
                nn.Conv2d(widths[level - 1], widths[level], 4, 2, 1),
                nn.BatchNorm2d(widths[level]),
                nn.LeakyReLU(0.2),
            ]
        layers += [
            nn.Conv2d(widths[-1], widths[-1], 4, 2, 0),  # 8 x 8 -> 3 x 3, nothing behind it
            nn.Conv2d(widths[-1], 1, 3, 1, 0),  # -> 1 x 1
        ]
        self.model = nn.Sequential(*layers)
        _initialise(self)

    @classmethod
    def paper(cls, inputs: int = 3, *, part: bool = False) -> RestorationDiscriminator:
        """For 256 px (global and local), or for the 64 px crop of a part."""
        return cls(inputs, levels=3 if part else 5)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (self.size, self.size):
            raise ValueError(
                f"this discriminator judges {self.size} x {self.size} px, got "
                f"{x.shape[-2]} x {x.shape[-1]}: resize, or choose other levels"
            )
        scores: Tensor = self.model(x)
        return scores.flatten()


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)


def predicted_grid(
    warpnet: nn.Module, degraded: Tensor, guide: Tensor, reach: float = 0.0, reduced: int = 1
) -> Tensor:
    """The grid [N, 2, H, W] of either WarpNet, from pictures [N, 3, H, W] in [0, 1].

    The paper's version sees them as they are; the later one was trained on [-1, 1].

    Args:
        reach: 0 takes what the network says as the grid, as published. An untrained network then
            samples the middle of the guide everywhere, and has to learn where every pixel is before
            it can learn where it moves. Above 0 (ours), what it says, in (-1, 1), times `reach` is
            added to the identity grid.
        reduced: show the network the means of blocks of so many pixels along a side, and enlarge
            the means of as large blocks of what it says (ours): fields are smooth, few faces do
            not teach it to be, and a small picture takes a fraction of the time. Above 1 only
            with a reach, because positions cannot be enlarged at the border.
    """
    if reduced > 1:
        degraded, guide = (functional.avg_pool2d(x, reduced) for x in (degraded, guide))
    if isinstance(warpnet, PyramidWarpNet):
        grids: tuple[Tensor, ...] = warpnet(2 * degraded - 1, 2 * guide - 1)
        grid = grids[0]
    else:
        grid = warpnet(degraded, guide)
    if reduced > 1:
        grid = functional.interpolate(
            functional.avg_pool2d(grid, reduced),
            scale_factor=reduced * reduced,
            mode="bilinear",
            align_corners=False,
        )
    if reach > 0:
        height, width = grid.shape[-2:]
        grid = identity_grid(height, width, degraded) + reach * grid.to(degraded.dtype)
    return grid


def make_warpnet(
    kind: str, ngf: int = 0, levels: int = 8, *, at_rest: bool = False
) -> WarpNet | PyramidWarpNet:
    """WarpNet "paper" or "pyramid"; `ngf` 0 takes the published width.

    `at_rest`, for a grid with a reach, starts the later version without its random shift.
    """
    if kind == "paper":
        return WarpNet(ngf or 64, levels)
    if kind == "pyramid":
        return PyramidWarpNet(ngf or 32, at_rest=at_rest)
    raise ValueError(f"warpnet is paper or pyramid, not {kind!r}")


def make_recnet(
    kind: str, inputs: int = 6, width: int = 64, levels: int = 8
) -> RecNet | FoldedRecNet:
    """RecNet "paper" or "folded"; `levels` is of the paper's."""
    if kind == "paper":
        return RecNet(inputs, width, levels)
    if kind == "folded":
        return FoldedRecNet(inputs, width)
    raise ValueError(f"recnet is paper or folded, not {kind!r}")


class Restoration(NamedTuple):
    """What `GFRNet` gives; without WarpNet there is no grid, and the warped guide is the guide."""

    restored: Tensor  # [N, 3, H, W] in [0, 1]
    warped: Tensor  # [N, 3, H, W], the guide laid over the face
    grid: Tensor | None  # [N, 2, H, W], see Note [Sampling grids]


class GFRNet(nn.Module):
    """degraded, guide [N, 3, H, W] in [0, 1] -> `Restoration`.

    Args:
        variant: one of `VARIANTS`, see Note [Variants of the ablation].
        warpnet: "paper" or "pyramid" (the authors' later version, which needs multiples of 64).
        warp_ngf, rec_ngf: channels of the first convolutions; 0 takes the paper's.
        levels: halvings in RecNet and the paper's WarpNet; sides are multiples of 2 ** levels.
        recnet: "paper", or "folded" (`FoldedRecNet`, ours; `rec_ngf` is its width).
        detach_guide: keep RecNet's losses from WarpNet. The paper trains end to end; the
            re-implementation detaches.
        reach, reduced: of `predicted_grid`.
    """

    def __init__(
        self,
        variant: str = "full",
        *,
        warpnet: str = "paper",
        warp_ngf: int = 0,
        recnet: str = "paper",
        rec_ngf: int = 64,
        levels: int = 8,
        detach_guide: bool = False,
        reach: float = 0.0,
        reduced: int = 1,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant is one of {', '.join(VARIANTS)}, not {variant!r}")
        if not 0 <= reach <= 2:
            raise ValueError(f"reach is between 0 and 2, the width of the picture, not {reach}")
        if reduced < 1 or (reduced > 1 and reach == 0):
            raise ValueError(f"reduced is 1, or above 1 with a reach, not {reduced} with {reach}")
        self.variant, self.detach_guide = variant, detach_guide
        self.reach, self.reduced = reach, reduced
        self.warpnet: WarpNet | PyramidWarpNet | None = None
        if variant in {"full", "-F", "R"}:
            self.warpnet = make_warpnet(warpnet, warp_ngf, levels, at_rest=reach > 0)
        inputs = 3 if variant.startswith("-WG") else 6
        width = rec_ngf * (2 if variant.endswith("2") else 1)
        self.recnet = make_recnet(recnet, inputs, width, levels)
        self.multiple_of = int(self.recnet.multiple_of)
        if self.warpnet is not None:
            self.multiple_of = math.lcm(self.multiple_of, reduced * self.warpnet.multiple_of)

    @classmethod
    def paper(cls, variant: str = "full") -> GFRNet:
        """256 px, as published."""
        return cls(variant)

    @classmethod
    def compact(cls, variant: str = "full") -> GFRNet:
        """256 px with few channels: the later WarpNet at 64 px, and the folded RecNet."""
        return cls(
            variant,
            warpnet="pyramid",
            warp_ngf=8,
            recnet="folded",
            rec_ngf=32,
            reach=0.25,
            reduced=4,
        )

    def forward(self, degraded: Tensor, guide: Tensor) -> Restoration:
        grid = None
        if self.warpnet is not None:
            grid = predicted_grid(self.warpnet, degraded, guide, self.reach, self.reduced)
        warped = guide if grid is None else warp(guide, grid)
        if self.variant.startswith("-WG"):
            seen = degraded
        else:
            seen = torch.cat([degraded, warped.detach() if self.detach_guide else warped], dim=1)
        return Restoration(self.recnet(seen), warped, grid)


def face_boxes(landmarks: Tensor, margin: float = 0.0) -> Tensor:
    """Boxes around all landmarks: [N, 68, 2] in pixels -> [N, 4] as x0, y0, x1, y1.

    `margin` widens them on each side by a share of their width and height. They may leave the
    picture: `crop_resized` gives 0 there.
    """
    low, high = landmarks.amin(dim=1), landmarks.amax(dim=1)  # [N, 2]
    grow = margin * (high - low)
    return torch.cat([low - grow, high + grow], dim=1)


def part_boxes(landmarks: Tensor, part: str, expand: float = 1.2) -> Tensor:
    """Squares around one part: a side is `expand` times the part's larger extent.

    Args:
        landmarks: [N, 68, 2] in pixels; part: a key of `PARTS`.

    Returns:
        [N, 4] as x0, y0, x1, y1.
    """
    if part not in PARTS:
        raise ValueError(f"part is one of {', '.join(PARTS)}, not {part!r}")
    points = landmarks[:, slice(*PARTS[part])]
    extent = (points.amax(dim=1) - points.amin(dim=1)).amax(dim=1, keepdim=True)  # [N, 1]
    centre = points.mean(dim=1)  # [N, 2]
    half = 0.5 * expand * extent
    return torch.cat([centre - half, centre + half], dim=1)
