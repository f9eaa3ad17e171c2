"""ResNeXt-50 32x4d as a feature pyramid (Xie et al. 2017, "Aggregated Residual Transformations").

The state-dict keys are torchvision's without the classifier, as segmentation_models.pytorch stores
the encoders of its networks: `conv1`, `bn1`, `layer1.0.conv1`, ...
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

__all__ = ["ResNeXt50", "decoder_convolution"]


def decoder_convolution(inside: int, outside: int) -> nn.Sequential:
    """3 x 3 that keeps the size, batch norm, ReLU: what the decoders are made of."""
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
    )


class _Bottleneck(nn.Module):
    """1 x 1 down, grouped 3 x 3, 1 x 1 up, around a shortcut (torchvision's key names)."""

    expansion = 4

    def __init__(self, inside: int, planes: int, stride: int, dilation: int, groups: int) -> None:
        super().__init__()
        width = 2 * planes  # 32 groups of 4 channels where there are 64 planes
        outside = planes * self.expansion
        self.conv1 = nn.Conv2d(inside, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(
            width, width, 3, stride, dilation, dilation=dilation, groups=groups, bias=False
        )
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outside, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outside)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inside != outside:
            self.downsample = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        shortcut = features if self.downsample is None else self.downsample(features)
        out = functional.relu(self.bn1(self.conv1(features)))
        out = functional.relu(self.bn2(self.conv2(out)))
        return functional.relu(self.bn3(self.conv3(out)) + shortcut)


class ResNeXt50(nn.Module):
    """[N, in_channels, H, W] -> features at 1/2, 1/4, 1/8, 1/16 and 1/32, H and W multiples of 32.

    `forward` returns the first `depth` of them; `channels` are those of all five.

    Args:
        in_channels: channels of the input.
        depth: features that `forward` returns, 1 to 5.
        output_stride: 32; or 16 or 8, where the stages that would go below that size keep it and
            all their 3 x 3 convolutions are dilated twofold, then fourfold (Chen et al. 2017,
            "Rethinking Atrous Convolution", without its multi-grid).
        width: channels behind the stem, even. 64 is ResNeXt-50 32x4d; with less there are as many
            times fewer channels and groups everywhere.
    """

    def __init__(
        self, in_channels: int = 3, depth: int = 5, output_stride: int = 32, width: int = 64
    ) -> None:
        super().__init__()
        if not 1 <= depth <= 5:
            raise ValueError(f"the encoder has features of depth 1 to 5, not {depth}")
        if output_stride not in {8, 16, 32}:
            raise ValueError(f"the output stride is 8, 16 or 32, not {output_stride}")
        if width < 2 or width % 2:
            raise ValueError(f"the width is an even number from 2 on, not {width}")
        self.depth = depth
        self.channels = (width, *(4 * width * 2**stage for stage in range(4)))
        self.conv1 = nn.Conv2d(in_channels, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        # All four stages exist whatever the depth, because checkpoints hold them all.
        inside = width
        for index, count in enumerate((3, 4, 6, 3)):
            reached = 4 * 2**index  # stride of the stage in an undilated network
            dilation = max(1, reached // output_stride)
            blocks = []
            for block in range(count):
                stride = 2 if block == 0 and index > 0 and dilation == 1 else 1
                planes = width * 2**index
                blocks.append(_Bottleneck(inside, planes, stride, dilation, groups=width // 2))
                inside = planes * _Bottleneck.expansion
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        features = [functional.relu(self.bn1(self.conv1(image)))]
        out = functional.max_pool2d(features[0], 3, 2, 1)
        for index in range(1, self.depth):
            out = self.get_submodule(f"layer{index}")(out)
            features.append(out)
        return features
