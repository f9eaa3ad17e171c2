"""Feature trunks of perceptual losses: VGG, AlexNet and the dilated ResNet-50.

Each trunk takes a normalised picture and returns its feature maps by layer name, in the order of
execution. The state-dict keys are those of the published weights, so that a file fits as it is.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn
from torch.nn import functional

__all__ = ["AlexNetTrunk", "DilatedResNet50", "SequentialTrunk", "VggTrunk"]

Features = dict[str, torch.Tensor]


class SequentialTrunk(nn.Module):
    """A chain of layers, numbered in `features` as in torchvision's state dicts.

    Args:
        chain: (name, layer) in the order of execution; `names` are these names.
    """

    def __init__(self, chain: list[tuple[str, nn.Module]]) -> None:
        super().__init__()
        self.names = tuple(name for name, _ in chain)
        self.features = nn.Sequential(*(layer for _, layer in chain))

    def forward(self, image: torch.Tensor, wanted: Collection[str]) -> Features:
        """Features of the wanted layers; layers behind the deepest of them are not run."""
        found: Features = {}
        for name, layer in zip(self.names, self.features, strict=True):
            if len(found) == len(wanted):
                break
            image = layer(image)
            if name in wanted:
                found[name] = image
        return found


_VGG_WIDTHS = (64, 128, 256, 512, 512)
_VGG_CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VggTrunk(SequentialTrunk):
    """VGG's convolutions (Simonyan and Zisserman 2015): configurations D (16) and E (19).

    Layer j of block i is `convI_J` and `reluI_J`, the end of the block `poolI`; `features.N` of
    torchvision's `vgg16` and `vgg19`.

    Args:
        depth: 16 or 19.
    """

    def __init__(self, depth: int) -> None:
        chain: list[tuple[str, nn.Module]] = []
        inside = 3
        for block, (width, count) in enumerate(
            zip(_VGG_WIDTHS, _VGG_CONVOLUTIONS[depth], strict=True), start=1
        ):
            for index in range(1, count + 1):
                chain.append((f"conv{block}_{index}", nn.Conv2d(inside, width, 3, padding=1)))
                chain.append((f"relu{block}_{index}", nn.ReLU()))
                inside = width
            chain.append((f"pool{block}", nn.MaxPool2d(2)))
        super().__init__(chain)


class AlexNetTrunk(SequentialTrunk):
    """AlexNet's convolutions (Krizhevsky 2014, "One weird trick"), torchvision's `alexnet`.

    Layers `conv1`, `relu1`, `pool1`, ... `relu5`, with 64, 192, 384, 256 and 256 channels. Inputs
    are at least 31 pixels high and wide.
    """

    def __init__(self) -> None:
        super().__init__(
            [
                ("conv1", nn.Conv2d(3, 64, 11, 4, 2)),
                ("relu1", nn.ReLU()),
                ("pool1", nn.MaxPool2d(3, 2)),
                ("conv2", nn.Conv2d(64, 192, 5, padding=2)),
                ("relu2", nn.ReLU()),
                ("pool2", nn.MaxPool2d(3, 2)),
                ("conv3", nn.Conv2d(192, 384, 3, padding=1)),
                ("relu3", nn.ReLU()),
                ("conv4", nn.Conv2d(384, 256, 3, padding=1)),
                ("relu4", nn.ReLU()),
                ("conv5", nn.Conv2d(256, 256, 3, padding=1)),
                ("relu5", nn.ReLU()),
            ]
        )


class _DilatedBottleneck(nn.Module):
    """1 x 1 down, 3 x 3 (strided or dilated), 1 x 1 up, around a shortcut."""

    def __init__(self, inside: int, planes: int, stride: int, dilation: int) -> None:
        super().__init__()
        outside = 4 * planes
        self.conv1 = nn.Conv2d(inside, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outside, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outside)
        self.downsample: nn.Sequential | None = None
        if inside != outside:
            self.downsample = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        shortcut = features if self.downsample is None else self.downsample(features)
        out = functional.relu(self.bn1(self.conv1(features)))
        out = functional.relu(self.bn2(self.conv2(out)))
        return functional.relu(self.bn3(self.conv3(out)) + shortcut)


class DilatedResNet50(nn.Module):
    """The encoder that LaMa's high-receptive-field perceptual loss compares.

    A ResNet-50 with a stem of three 3 x 3 convolutions, trained for the segmentation of ADE20K
    (Zhou et al. 2018, "Semantic Understanding of Scenes"). The last two stages keep the stride at 8
    and are dilated by 2 and 4 instead; their first block by half of that. Layers `layer1` (256
    channels, 1/4) to `layer4` (2048 channels, 1/8).
    """

    names = ("layer1", "layer2", "layer3", "layer4")

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.conv3 = nn.Conv2d(64, 128, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(128)
        self.layer1 = self._stage(128, 64, 3)
        self.layer2 = self._stage(256, 128, 4, stride=2)
        self.layer3 = self._stage(512, 256, 6, dilation=2)
        self.layer4 = self._stage(1024, 512, 3, dilation=4)

    @staticmethod
    def _stage(
        inside: int, planes: int, count: int, stride: int = 1, dilation: int = 1
    ) -> nn.Sequential:
        first = _DilatedBottleneck(inside, planes, stride, max(dilation // 2, 1))
        rest = [_DilatedBottleneck(4 * planes, planes, 1, dilation) for _ in range(count - 1)]
        return nn.Sequential(first, *rest)

    def forward(self, image: torch.Tensor, wanted: Collection[str]) -> Features:
        """Features of the wanted layers; stages behind the deepest of them are not run."""
        out = functional.relu(self.bn1(self.conv1(image)))
        out = functional.relu(self.bn2(self.conv2(out)))
        out = functional.relu(self.bn3(self.conv3(out)))
        out = functional.max_pool2d(out, 3, 2, 1)
        found: Features = {}
        for name in self.names:
            if len(found) == len(wanted):
                break
            out = self.get_submodule(name)(out)
            if name in wanted:
                found[name] = out
        return found
