"""The compact wrinkle segmenter: a small UNet++ with a ResNeXt-style encoder.

The same plan as the paper-size network (`unetpp.py`): an encoder with grouped convolutions (Xie et
al. 2017, "Aggregated Residual Transformations for Deep Neural Networks") and a decoder whose nodes
are all connected by dense skips (Zhou et al. 2018, "UNet++"). Two things make it quick on a CPU:
nothing runs at full size (the head predicts the 2 x 2 pixels of every half-size cell and shuffles
them apart), and every decoder node first mixes its inputs down with a 1 x 1 convolution.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

__all__ = ["CompactSegmenter"]


def _convolution(
    inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution, batch norm and ReLU: [N, inside, H, W] -> [N, outside, H/stride, W/stride]."""
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
    )


class _Bottleneck(nn.Module):
    """ResNeXt block: 1 x 1, grouped 3 x 3, 1 x 1, and a shortcut."""

    def __init__(self, inside: int, outside: int, stride: int, group_width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(inside, outside, 1),
            _convolution(outside, outside, 3, stride, groups=outside // group_width),
            nn.Conv2d(outside, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride) if stride > 1 else nn.Identity(),
                nn.Conv2d(inside, outside, 1, bias=False),
                nn.BatchNorm2d(outside),
            )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.body(features) + self.shortcut(features))


class _Node(nn.Module):
    """Decoder node: the deeper neighbour at twice its size, joined with all nodes before it."""

    def __init__(self, deeper: int, skips: int, outside: int) -> None:
        super().__init__()
        self.mix = _convolution(deeper + skips, outside, 1)
        self.smooth = _convolution(outside, outside, 3)

    def forward(self, deeper: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        larger = functional.interpolate(deeper, scale_factor=2.0, mode="nearest")
        out: torch.Tensor = self.smooth(self.mix(torch.cat([larger, *skips], dim=1)))
        return out


class CompactSegmenter(nn.Module):
    """Logits of "this pixel is a wrinkle".

    `forward(image)`: [N, 3, H, W] float32 RGB in [0, 1] of an aligned square, H and W multiples of
    16 (made for 512) -> [N, 1, H, W] logits. The threshold is probability 0.5, logit 0.

    Args:
        widths: channels at 1/2, 1/4, 1/8 and 1/16 of the input size.
        blocks: ResNeXt blocks of the encoder at 1/4, 1/8 and 1/16.
        group_width: channels per group of the encoder's 3 x 3 convolutions.
    """

    multiple = 16
    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(
        self,
        widths: tuple[int, ...] = (16, 24, 48, 96),
        blocks: tuple[int, ...] = (1, 2, 4),
        group_width: int = 8,
    ) -> None:
        super().__init__()
        if len(widths) != len(blocks) + 1:
            raise ValueError(
                f"{len(widths)} widths need {len(widths) - 1} blocks, got {len(blocks)}"
            )
        self.stem = _convolution(3, widths[0], 5, 2)
        stages = []
        for inside, outside, count in zip(widths[:-1], widths[1:], blocks, strict=True):
            stage = [_Bottleneck(inside, outside, 2, group_width)]
            stage += [_Bottleneck(outside, outside, 1, group_width) for _ in range(count - 1)]
            stages.append(nn.Sequential(*stage))
        self.stages = nn.ModuleList(stages)
        # Node "i_j" works at level i (1 / 2 ** (i + 1) of the input size) and joins the nodes
        # i_0 (the encoder) to i_(j - 1) with i+1_(j - 1).
        self.depth = len(blocks)
        self.nodes = nn.ModuleDict(
            {
                f"{i}_{j}": _Node(widths[i + 1], j * widths[i], widths[i])
                for j in range(1, self.depth + 1)
                for i in range(self.depth + 1 - j)
            }
        )
        self.head = nn.Conv2d(widths[0], 4, 3, padding=1)
        self.register_buffer("mean", torch.tensor([0.5, 0.42, 0.37]).reshape(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.25, 0.24, 0.24]).reshape(1, 3, 1, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.normal_(self.head.weight, std=0.01)
        # Few pixels are wrinkles: start near their share of about 3 %.
        nn.init.constant_(self.head.bias, -3.5)  # type: ignore[arg-type]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.stem((image - self.mean) / self.deviation)
        levels = [[features]]
        for stage in self.stages:
            features = stage(features)
            levels.append([features])
        for j in range(1, self.depth + 1):
            for i in range(self.depth + 1 - j):
                levels[i].append(self.nodes[f"{i}_{j}"](levels[i + 1][j - 1], levels[i]))
        return functional.pixel_shuffle(self.head(levels[0][-1]), 2)
