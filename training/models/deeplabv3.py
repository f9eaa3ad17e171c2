"""DeepLabV3 with a ResNeXt-50 32x4d encoder, at paper size.

Chen et al. 2017, "Rethinking Atrous Convolution for Semantic Image Segmentation", in the form of
segmentation_models.pytorch (`DeepLabV3`, encoder `resnext50_32x4d`), whose checkpoints load
unchanged. Its encoder keeps 1/8 of the size and dilates instead; atrous spatial pyramid pooling
looks at the last feature at five scales. Unlike the paper there is one more 3 x 3 convolution
before the classifier, and no multi-grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from revisage.training.models.resnext import ResNeXt50

__all__ = ["DeepLabV3"]


def _convolution(inside: int, outside: int, dilation: int = 0) -> nn.Sequential:
    """3 x 3 with a dilation, or 1 x 1 where that is 0; batch norm and ReLU."""
    kernel = 3 if dilation else 1
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, padding=dilation, dilation=max(1, dilation), bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(),
    )


class _ImagePooling(nn.Sequential):
    """The mean over the whole picture, mixed by a 1 x 1 convolution and spread out again."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), *_convolution(inside, outside))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        out = features
        for layer in self:
            out = layer(out)
        # One pixel enlarged by any interpolation is that pixel everywhere.
        return out.expand(-1, -1, *features.shape[-2:])


class _PyramidPooling(nn.Module):
    """ASPP: 1 x 1, three dilated 3 x 3 and the picture's mean, joined and mixed."""

    def __init__(self, inside: int, outside: int, rates: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                _convolution(inside, outside),
                *(_convolution(inside, outside, rate) for rate in rates),
                _ImagePooling(inside, outside),
            ]
        )
        self.project = nn.Sequential(
            *_convolution(len(self.convs) * outside, outside), nn.Dropout(dropout)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.project(torch.cat([conv(features) for conv in self.convs], dim=1))
        return out


class _Decoder(nn.Module):
    """ASPP and one 3 x 3 convolution."""

    def __init__(self, inside: int, outside: int, rates: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.aspp = _PyramidPooling(inside, outside, rates, dropout)
        self.conv = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(outside)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.bn(self.conv(self.aspp(feature))))


class DeepLabV3(nn.Module):
    """[N, in_channels, H, W] -> logits [N, classes, H, W]; H and W multiples of 8 (output stride).

    Args:
        in_channels: channels of the input.
        classes: channels of the output.
        decoder_channels: channels of the pyramid pooling.
        depth: features of the encoder that are used, 3 to 5.
        output_stride: 8 or 16: size of the input over that of the encoder's last feature.
        atrous_rates: the three dilations of the pyramid pooling.
        dropout: share of the pooled channels that training leaves out.
        encoder_width: channels behind the encoder's stem; 64 is ResNeXt-50.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 1,
        decoder_channels: int = 256,
        *,
        depth: int = 5,
        output_stride: int = 8,
        atrous_rates: Sequence[int] = (12, 24, 36),
        dropout: float = 0.5,
        encoder_width: int = 64,
    ) -> None:
        super().__init__()
        if not 3 <= depth <= 5:
            raise ValueError(f"DeepLabV3 uses 3 to 5 features of its encoder, not {depth}")
        if output_stride not in {8, 16}:
            raise ValueError(f"the output stride is 8 or 16, not {output_stride}")
        self.multiple = min(output_stride, 2**depth)
        self.encoder = ResNeXt50(in_channels, depth, output_stride, encoder_width)
        self.decoder = _Decoder(
            self.encoder.channels[depth - 1], decoder_channels, atrous_rates, dropout
        )
        self.segmentation_head = nn.Sequential(nn.Conv2d(decoder_channels, classes, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise ValueError(
                f"height and width must be multiples of {self.multiple}, got {height} x {width}"
            )
        logits = self.segmentation_head(self.decoder(self.encoder(image)[-1]))
        return functional.interpolate(
            logits, size=(height, width), mode="bilinear", align_corners=True
        )
