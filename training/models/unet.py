"""U-Net with a ResNeXt-50 32x4d encoder, at paper size.

Ronneberger et al. 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation", in the
form of segmentation_models.pytorch (`Unet`, encoder `resnext50_32x4d`), whose checkpoints load
unchanged. It differs from Ronneberger's: nearest upsampling instead of transposed convolutions, a
pretrained encoder, padded convolutions with batch norm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from revisage.training.models.resnext import ResNeXt50, decoder_convolution

__all__ = ["UNet"]


class _Block(nn.Module):
    """Enlarge (nearest), join with the skip, two convolutions."""

    def __init__(self, inside: int, skip: int, outside: int) -> None:
        super().__init__()
        self.conv1 = decoder_convolution(inside + skip, outside)
        self.conv2 = decoder_convolution(outside, outside)

    def forward(
        self, deeper: torch.Tensor, skip: torch.Tensor | None, size: torch.Size
    ) -> torch.Tensor:
        joined = functional.interpolate(deeper, size=size, mode="nearest")
        if skip is not None:
            joined = torch.cat([joined, skip], dim=1)
        out: torch.Tensor = self.conv2(self.conv1(joined))
        return out


class _Decoder(nn.Module):
    """Blocks from the deepest feature to full size, under the keys `blocks.0`, `blocks.1`, ..."""

    def __init__(self, encoder_channels: Sequence[int], decoder_channels: Sequence[int]) -> None:
        super().__init__()
        deepest_first = list(encoder_channels)[::-1]
        inside = [deepest_first[0], *decoder_channels[:-1]]
        skips = [*deepest_first[1:], 0]  # the last block, to full size, has none
        self.blocks = nn.ModuleList(
            _Block(*sizes) for sizes in zip(inside, skips, decoder_channels, strict=True)
        )

    def forward(self, features: Sequence[torch.Tensor], size: torch.Size) -> torch.Tensor:
        out, *skips = features[::-1]
        for block, skip in zip(self.blocks, [*skips, None], strict=True):
            out = block(out, skip, size if skip is None else skip.shape[-2:])
        return out


class UNet(nn.Module):
    """[N, in_channels, H, W] -> logits [N, classes, H, W]; any H and W from 32 on.

    Args:
        in_channels: channels of the input.
        classes: channels of the output.
        decoder_channels: channels of the blocks, deepest first; their number is the depth of the
            encoder that is used, 1 to 5.
        encoder_width: channels behind the encoder's stem; 64 is ResNeXt-50.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 1,
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
        encoder_width: int = 64,
    ) -> None:
        super().__init__()
        depth = len(decoder_channels)
        self.encoder = ResNeXt50(in_channels, depth, width=encoder_width)
        self.decoder = _Decoder(self.encoder.channels[:depth], decoder_channels)
        self.segmentation_head = nn.Sequential(
            nn.Conv2d(decoder_channels[-1], classes, 3, padding=1)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        decoded = self.decoder(self.encoder(image), image.shape[-2:])
        out: torch.Tensor = self.segmentation_head(decoded)
        return out
