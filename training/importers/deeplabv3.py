"""Checkpoints of segmentation_models.pytorch (MIT): DeepLabV3 with a ResNeXt-50 32x4d encoder.

| argument | from |
|---|---|
| input channels | `encoder.conv1.weight` [64, input, 7, 7] |
| classes | `segmentation_head.0.weight` [classes, ...] |
| decoder channels | `decoder.conv.weight` [channels, ...] |
| depth | encoder channels that are pooled: `decoder.aspp.convs.0.0.weight` [_, channels, ...] |

Output stride and dilations leave no trace in the tensors: they are the defaults of the code base,
8 and (12, 24, 36).
"""

from __future__ import annotations

import torch

from revisage.errors import CheckpointError
from revisage.training.importers.architecture import Architecture, Arguments, Shapes

__all__ = ["DEEPLABV3"]

DEPTHS = {512: 3, 1024: 4, 2048: 5}  # by the channels of the encoder's last feature


def _arguments(shapes: Shapes) -> Arguments:
    inside = shapes["decoder.aspp.convs.0.0.weight"][1]
    if inside not in DEPTHS:
        raise CheckpointError(
            f"its encoder's last feature has {inside} channels; "
            f"known are {', '.join(map(str, DEPTHS))}"
        )
    return {
        "in_channels": shapes["encoder.conv1.weight"][1],
        "classes": shapes["segmentation_head.0.weight"][0],
        "decoder_channels": shapes["decoder.conv.weight"][0],
        "depth": DEPTHS[inside],
    }


def _build(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.deeplabv3 import DeepLabV3

    return DeepLabV3(**arguments)


DEEPLABV3 = Architecture(
    name="deeplabv3",
    source="segmentation_models.pytorch",
    marks=("encoder.conv1.weight", "decoder.aspp.convs.0.0.weight", "decoder.conv.weight"),
    prefixes=("", "model.", "net.", "model.model."),  # plain; inside a training wrapper
    arguments=_arguments,
    build=_build,
    surplus=(r"encoder\.fc\..*",),
)
