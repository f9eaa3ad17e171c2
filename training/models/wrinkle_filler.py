"""The compact filler: a small generator of fast Fourier convolutions that corrects a smooth fill.

A hole a few pixels wide is mostly filled by interpolation, so the network starts from one. A fixed
prefill (pyramid, then diffusion) stands in the graph, the network sees it with the mask and returns
only what is to be added. Its last layer starts at zero, so training starts at the prefill.

The generator has the shape of LaMa's (Suvorov et al. 2022): local stem, downsampling whose last
step splits into a local and a global part, residual blocks of fast Fourier convolutions,
upsampling. It differs where small holes ask for it: no batch norm (grain must keep its strength),
two downsamplings of which the first only regroups pixels, and a skip connection at half size.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from revisage.training.models.ffc import FFCBlock, FFCResidualBlock

__all__ = ["CompactFiller", "prefill"]

_SMALL = 1e-4


def _smooth(image: torch.Tensor) -> torch.Tensor:
    """3x3 binomial mean of every channel, edges replicated."""
    channels = image.shape[1]
    taps = torch.tensor([1.0, 2.0, 1.0], dtype=image.dtype, device=image.device) / 4
    kernel = (taps[:, None] * taps[None, :]).expand(channels, 1, 3, 3)
    padded = functional.pad(image, (1, 1, 1, 1), mode="replicate")
    return functional.conv2d(padded, kernel, groups=channels)


def _upsample(image: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)


def prefill(
    image: torch.Tensor, mask: torch.Tensor, *, levels: int = 3, sweeps: int = 6
) -> torch.Tensor:
    """Fill holes smoothly, without parameters.

    Known pixels are averaged down a pyramid (normalised convolution: Knutsson and Westin 1993),
    the coarsest level is filled from ever larger windows, and every level on the way back is
    filled from the next coarser one and then smoothed inside the hole by diffusion sweeps.

    Args:
        image: [N, 3, H, W]; what it holds inside the hole does not matter. H and W are multiples
            of 2 ** levels.
        mask: [N, 1, H, W], 1 = hole, 0 = known; values between are trusted in proportion.

    Returns:
        [N, 3, H, W]: `image` where known, the fill in the hole.
    """
    known = 1 - mask
    colours, weights = [image * known], [known]
    for _ in range(levels):
        colours.append(functional.avg_pool2d(colours[-1], 2))
        weights.append(functional.avg_pool2d(weights[-1], 2))
    colour, weight = colours[-1], weights[-1]
    mean = colour.mean(dim=(2, 3), keepdim=True) / (weight.mean(dim=(2, 3), keepdim=True) + _SMALL)
    near, near_weight = colour, weight
    filled = mean.expand_as(colour)
    # Wider windows count only where the narrower ones saw nothing.
    windows = []
    for radius in (1, 2, 4):
        side = 2 * radius + 1
        near = functional.avg_pool2d(near, side, 1, radius, count_include_pad=False)
        near_weight = functional.avg_pool2d(near_weight, side, 1, radius, count_include_pad=False)
        windows.append((near, near_weight))
    for near, near_weight in [*reversed(windows), (colour, weight)]:
        trust = (near_weight * 16).clamp(0, 1)
        filled = filled + trust * (near / (near_weight + _SMALL) - filled)
    for colour, weight in zip(reversed(colours[:-1]), reversed(weights[:-1]), strict=True):
        guess = _upsample(filled)
        trust = (weight * 4).clamp(0, 1)
        own = colour / (weight + _SMALL)
        base = trust * own
        filled = base + (1 - trust) * guess
        for _ in range(sweeps):
            filled = base + (1 - trust) * _smooth(filled)
    return image * known + filled * mask


class CompactFiller(nn.Module):
    """Fills wrinkle-shaped holes: (image, mask) -> picture.

    Args:
        stem: channels at half size.
        width: channels at quarter size, local and global together.
        blocks: residual FFC blocks.
        ratio: global share of `width`.
    """

    multiple_of = 8

    def __init__(
        self, stem: int = 32, width: int = 96, blocks: int = 4, ratio: float = 0.5
    ) -> None:
        super().__init__()
        self.enter = nn.Sequential(
            nn.Conv2d(19, stem, 3, padding=1, padding_mode="reflect"),
            nn.ReLU(),
            nn.Conv2d(stem, stem, 3, padding=1, padding_mode="reflect"),
            nn.ReLU(),
        )
        self.down = FFCBlock(stem, width, 3, 0.0, ratio, stride=2, padding=1, norm=False)
        self.blocks = nn.ModuleList(
            FFCResidualBlock(width, ratio, norm=False) for _ in range(blocks)
        )
        self.up = nn.Conv2d(width, 4 * stem, 1)
        self.leave = nn.Sequential(
            nn.Conv2d(2 * stem, 48, 3, padding=1, padding_mode="reflect"), nn.ReLU()
        )
        self.head = nn.Conv2d(48, 12, 3, padding=1, padding_mode="reflect")
        self._initialise()

    def _initialise(self) -> None:
        """Residual paths and the head start at (nearly) zero, as there is no norm to tame them."""
        with torch.no_grad():
            for block in self.blocks:
                assert isinstance(block, FFCResidualBlock)
                for path in block.conv2.ffc.children():
                    for parameter in path.parameters():
                        parameter.mul_(0.3)
        self.reset_head()

    def reset_head(self) -> None:
        """Correct nothing, whatever the layers before have learnt."""
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Predict the whole picture.

        Args:
            image: [N, 3, H, W] RGB in [0, 1], H and W multiples of 8; the content of the hole does
                not matter.
            mask: [N, 1, H, W], 1 = hole.

        Returns:
            [N, 3, H, W] in [0, 1]; equal to `image` outside the hole.
        """
        return self.corrected(prefill(image, mask), mask)

    def corrected(self, start: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The same for a picture `start` whose hole is filled somehow."""
        coarse = functional.avg_pool2d(start, 8)
        base = _upsample(_upsample(_upsample(coarse)))
        # Grain is a few hundredths strong: centred on the local mean and magnified, it comes to
        # the network at about unit size, and the result leaves it the same way.
        seen = [
            functional.pixel_unshuffle((start - base) * 8, 2),
            functional.pixel_unshuffle(mask, 2),
            functional.avg_pool2d(base, 2) - 0.5,
        ]
        fine: torch.Tensor = self.enter(torch.cat(seen, dim=1))
        local, global_ = self.down(fine, None)
        for block in self.blocks:
            local, global_ = block(local, global_)
        parts = [part for part in (local, global_) if part is not None]
        wide = functional.pixel_shuffle(self.up(torch.cat(parts, dim=1)), 2)
        correction = self.head(self.leave(torch.cat([wide, fine], dim=1)))
        correction = functional.pixel_shuffle(correction, 2).to(start.dtype)
        out: torch.Tensor = (start + mask * correction / 8).clamp(0, 1)
        return out
