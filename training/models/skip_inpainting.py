"""Encoder-decoder with skip connections that fills a hole in a face.

The network that its authors compare with Context-Encoder models 0 to 3, trained with 0.999
reconstruction and 0.001 adversarial loss against a critic with instance norm. Their text was not
available to us: the layers are those of the Context Encoder (`context_encoder.py`, Note [Models 0
to 3]), the skip connections those of the U-Net (Ronneberger et al. 2015; Isola et al. 2017): each
decoder level also sees the encoder's map of its size, decoder part first. The critic is
`HoleCritic(norm="instance")`.

With `prefilled`, which is ours, the network sees the hole filled by diffusion instead of painted in
one colour, and predicts what is to be added to that: it learns faster.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from revisage.training.models.context_encoder import (
    decoder_widths,
    encoder_widths,
    initialise,
    picture_with_hole,
)
from revisage.training.models.wrinkle_filler import prefill

__all__ = ["SkipInpainting", "composite_hole"]


class SkipInpainting(nn.Module):
    """image [N, 3, H, W] in [0, 1], mask [N, 1, H, W] (1 = hole) -> prediction [N, 3, H, W].

    Sides are multiples of 2 ** levels. The prediction covers the whole picture; only what lies in
    the hole is used: see `composite_hole`.

    Args:
        ngf: channels of the first convolution; 1, 1, 2, 4, 8, 8, ... times that per level.
        levels: how often the size is halved; 5 at 128 px leaves a map of 4 x 4.
        mask_input: show the mask as a fourth channel. Without it the hole is told by its colour
            alone, as for the Context Encoder: enough for a hole that is always in the middle.
        prefilled: show the hole filled smoothly, and predict the difference to that.
    """

    critic_norm = "instance"

    def __init__(
        self,
        ngf: int = 64,
        levels: int = 5,
        *,
        mask_input: bool = False,
        prefilled: bool = False,
    ) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"levels must be at least 2, not {levels}")
        self.multiple_of, self.mask_input, self.prefilled = 2**levels, mask_input, prefilled
        down = encoder_widths(ngf, levels)
        up = [*decoder_widths(ngf, levels)[1:], 3]
        first = nn.Sequential(nn.Conv2d(4 if mask_input else 3, ngf, 4, 2, 1), nn.LeakyReLU(0.2))
        self.encoder = nn.ModuleList([first])
        for inputs, outputs in itertools.pairwise(down):
            self.encoder.append(
                nn.Sequential(
                    nn.Conv2d(inputs, outputs, 4, 2, 1),
                    nn.BatchNorm2d(outputs),
                    nn.LeakyReLU(0.2),
                )
            )
        self.decoder = nn.ModuleList()
        before = down[-1]
        for skip, outputs in zip([*reversed(down[:-1]), 0], up, strict=True):
            layers: list[nn.Module] = [nn.ConvTranspose2d(before, outputs, 4, 2, 1)]
            layers += [nn.BatchNorm2d(outputs), nn.ReLU()] if skip else [nn.Tanh()]
            self.decoder.append(nn.Sequential(*layers))
            before = outputs + skip
        if prefilled:
            self._start_at_the_smooth_fill()
        else:
            initialise(self)

    def _start_at_the_smooth_fill(self) -> None:
        """He et al. 2015; the last layer nearly zero. DCGAN's small weights learn slowly here."""
        for module in self.modules():
            if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                continue
            # A transposed kernel of 4 at stride 2 reaches each output with a quarter of its taps.
            taps = 16 if isinstance(module, nn.Conv2d) else 4
            gain = 0.02 if module.out_channels == 3 else 1.0
            nn.init.normal_(module.weight, std=gain * (2 / (taps * module.in_channels)) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    @classmethod
    def paper(cls) -> SkipInpainting:
        """128 px with a hole of 64 px in the middle."""
        return cls()

    @classmethod
    def compact(cls) -> SkipInpainting:
        """256 px and any hole: a quarter of the channels, one level more, the mask as input."""
        return cls(ngf=16, levels=6, mask_input=True)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        multiple = self.multiple_of
        if height % multiple or width % multiple:
            raise ValueError(f"sides must be multiples of {multiple}, not {height} x {width}")
        if self.prefilled:
            # Holes are wide here: fine diffusion would cost time and change nothing.
            start = prefill(image, mask, levels=min(5, len(self.encoder)), sweeps=2)
            return start + self.correction(start, mask)
        return (self._decoded(picture_with_hole(image, mask), mask) + 1) / 2

    def correction(self, start: Tensor, mask: Tensor) -> Tensor:
        """What a `prefilled` network adds to a smooth fill `start`, [N, 3, H, W] from -1 to 1."""
        return self._decoded(2 * start - 1, mask)

    def _decoded(self, x: Tensor, mask: Tensor) -> Tensor:
        """Of a picture in [-1, 1]: what the last layer says, [N, 3, H, W] in [-1, 1]."""
        if self.mask_input:
            x = torch.cat([x, 2 * mask - 1], dim=1)  # [N, 4, H, W]
        skips = []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
        for level, block in enumerate(self.decoder):
            if level:
                x = torch.cat([x, skips[-1 - level]], dim=1)
            x = block(x)
        return x


def composite_hole(predicted: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """The prediction in the hole, the picture elsewhere: [N, 3, H, W]."""
    return mask * predicted + (1 - mask) * image
