"""Checkpoints of segmentation_models.pytorch (MIT): U-Net with a ResNeXt-50 32x4d encoder.

| argument | from |
|---|---|
| input channels | `encoder.conv1.weight` [64, input, 7, 7] |
| classes | `segmentation_head.0.weight` [classes, ...] |
| decoder channels | `decoder.blocks.I.conv2.0.weight` [channels, ...], I = 0, 1, ... |

Another encoder, an attention or a centre block shows as keys and shapes that do not fit.
"""

from __future__ import annotations

import torch

from revisage.errors import CheckpointError
from revisage.training.importers.architecture import Architecture, Arguments, Shapes

__all__ = ["UNET"]


def _arguments(shapes: Shapes) -> Arguments:
    channels: list[int] = []
    while (shape := shapes.get(f"decoder.blocks.{len(channels)}.conv2.0.weight")) is not None:
        channels.append(shape[0])
    if not 1 <= len(channels) <= 5:
        raise CheckpointError(f"its decoder has {len(channels)} blocks; known are 1 to 5")
    return {
        "in_channels": shapes["encoder.conv1.weight"][1],
        "classes": shapes["segmentation_head.0.weight"][0],
        "decoder_channels": channels,
    }


def _build(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.unet import UNet

    return UNet(**arguments)


UNET = Architecture(
    name="unet",
    source="segmentation_models.pytorch",
    marks=("encoder.conv1.weight", "decoder.blocks.0.conv1.0.weight"),
    prefixes=("", "model.", "net.", "model.model."),  # plain; inside a training wrapper
    arguments=_arguments,
    build=_build,
    surplus=(r"encoder\.fc\..*",),
)
