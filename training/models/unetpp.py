"""UNet++ with a ResNeXt-50 32x4d encoder, at paper size.

Zhou et al. 2018, "UNet++: A Nested U-Net Architecture for Medical Image Segmentation", in the form
of segmentation_models.pytorch (`UnetPlusPlus`, encoder `resnext50_32x4d`), whose checkpoints load
unchanged. Inputs of such checkpoints are commonly normalised with ImageNet's mean and deviation;
that is up to the caller, the network takes what it gets.

Note [Nodes]
    Levels count from the deepest feature: level 0 joins the encoder's last feature with the one
    before it. Node "x_{d}_{l}" of level l lies d steps from the diagonal's far end: "x_{l}_{l}" is
    the first node of its level, made of two encoder features, and "x_0_{l}" the last one. Node
    (d, l) enlarges node (d, l - 1) twofold, and joins it with the nodes (d + 1, l) to (l, l) and
    the encoder feature of its level, in this order. The last node, "x_0_{L}", goes to full size
    and has no skip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

from revisage.training.models.resnext import ResNeXt50, decoder_convolution

__all__ = ["UNetPlusPlus"]


class _Node(nn.Module):
    """Enlarge twofold (nearest), join with the skips, two convolutions."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv1 = decoder_convolution(inside, outside)
        self.conv2 = decoder_convolution(outside, outside)

    def forward(self, deeper: torch.Tensor, skips: Sequence[torch.Tensor]) -> torch.Tensor:
        larger = functional.interpolate(deeper, scale_factor=2.0, mode="nearest")
        joined = torch.cat([larger, *skips], dim=1) if skips else larger
        out: torch.Tensor = self.conv2(self.conv1(joined))
        return out


class _Decoder(nn.Module):
    """All nodes of Note [Nodes], under the keys `blocks.x_{d}_{l}`."""

    def __init__(self, encoder_channels: Sequence[int], decoder_channels: Sequence[int]) -> None:
        super().__init__()
        deepest_first = list(encoder_channels)[::-1]
        skip = deepest_first[1:]
        # Nodes with d = 0 follow `decoder_channels`, the others keep the width of their skip.
        previous = [deepest_first[0], *decoder_channels[:-1]]
        self.last = len(skip)
        blocks: dict[str, nn.Module] = {}
        for level in range(self.last):
            for d in range(level + 1):
                inside = previous[level] if d == 0 else ([deepest_first[0], *skip][level])
                outside = decoder_channels[level] if d == 0 else skip[level]
                blocks[f"x_{d}_{level}"] = _Node(inside + (level + 1 - d) * skip[level], outside)
        blocks[f"x_0_{self.last}"] = _Node(previous[-1], decoder_channels[-1])
        self.blocks = nn.ModuleDict(blocks)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        deepest_first = features[::-1]
        nodes: dict[tuple[int, int], torch.Tensor] = {}
        for level in range(self.last):
            for d in range(level, -1, -1):
                deeper = nodes[d, level - 1] if d < level else deepest_first[level]
                skips = [nodes[i, level] for i in range(d + 1, level + 1)]
                skips.append(deepest_first[level + 1])
                nodes[d, level] = self.blocks[f"x_{d}_{level}"](deeper, skips)
        out: torch.Tensor = self.blocks[f"x_0_{self.last}"](nodes[0, self.last - 1], [])
        return out


class UNetPlusPlus(nn.Module):
    """[N, in_channels, H, W] -> logits [N, classes, H, W]; H and W multiples of 2 ** depth (32).

    Args:
        in_channels: channels of the input.
        classes: channels of the output.
        decoder_channels: channels of the nodes x_0_0, x_0_1, ..., deepest first; their number is
            the depth of the encoder that is used, 2 to 5.
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
        self.multiple = 2**depth
        self.encoder = ResNeXt50(in_channels, depth, width=encoder_width)
        self.decoder = _Decoder(self.encoder.channels[:depth], decoder_channels)
        self.segmentation_head = nn.Sequential(
            nn.Conv2d(decoder_channels[-1], classes, 3, padding=1)
        )

    @classmethod
    def for_state(cls, state: Mapping[str, torch.Tensor]) -> UNetPlusPlus:
        """An untrained network of the sizes that a state dict was made with.

        Raises:
            ValueError: the state dict is not of a UNet++ with this encoder.
        """
        try:
            channels: list[int] = []
            while (key := f"decoder.blocks.x_0_{len(channels)}.conv2.0.weight") in state:
                channels.append(int(state[key].shape[0]))
            in_channels = int(state["encoder.conv1.weight"].shape[1])
            classes = int(state["segmentation_head.0.weight"].shape[0])
            return cls(in_channels, classes, channels)
        except KeyError as error:
            raise ValueError(f"no UNet++ with a ResNeXt-50 encoder: {error} is missing") from error

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise ValueError(
                f"height and width must be multiples of {self.multiple}, got {height} x {width}"
            )
        out: torch.Tensor = self.segmentation_head(self.decoder(self.encoder(image)))
        return out
