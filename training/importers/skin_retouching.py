"""Checkpoints of modelscope's skin retouching (Apache-2.0): three U-Nets in two files.

`pytorch_model.pt` holds `{"generator": ...}`, the U-Net of the blend layer; `joint_20210926.pth`
holds `{"inpainting_net": ..., "detection_net": ...}` (name the one that is wanted).

| argument | detection | inpainting | blend layer |
|---|---|---|---|
| channels in | `ec_images_1.conv.weight` | the same, image and mask | `inc.conv.conv.0.weight` |
| channels out | `dc_images_1.weight` | `dc_images_1.conv.weight` | `outc.conv.weight` |
| width | `ec_images_1.conv.weight` | the same | `inc.conv.conv.0.weight` |

All three are called with pictures in [-1, 1]; the inpainting network with (image * mask, mask).
"""

from __future__ import annotations

import torch

from revisage.training.importers.architecture import Architecture, Arguments, Shapes

__all__ = ["SKIN_BLEND", "SKIN_DETECTION", "SKIN_INPAINTING"]

SOURCE = "modelscope/modelscope, skin_retouching"
PREFIXES = ("", "module.", "detection_net.", "inpainting_net.", "generator.")


def _detection_arguments(shapes: Shapes) -> Arguments:
    width, inputs = shapes["ec_images_1.conv.weight"][:2]
    return {"n_channels": inputs, "n_classes": shapes["dc_images_1.weight"][0], "width": width}


def _inpainting_arguments(shapes: Shapes) -> Arguments:
    width, inputs = shapes["ec_images_1.conv.weight"][:2]
    outputs = shapes["dc_images_1.conv.weight"][0]
    return {"in_channels": inputs, "out_channels": outputs, "width": width}


def _blend_arguments(shapes: Shapes) -> Arguments:
    width, inputs = shapes["inc.conv.conv.0.weight"][:2]
    return {"n_channels": inputs, "n_classes": shapes["outc.conv.weight"][0], "width": width}


def _build_detection(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.skin_retouching import DetectionUNet

    return DetectionUNet(**arguments)


def _build_inpainting(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.skin_retouching import InpaintingUNet

    return InpaintingUNet(**arguments)


def _build_blend(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.skin_retouching import BlendUNet

    return BlendUNet(**arguments)


SKIN_DETECTION = Architecture(
    name="skin_detection",
    source=SOURCE,
    marks=("ec_images_1.conv.weight", "ec_images_6.conv.weight", "dc_images_1.weight"),
    prefixes=PREFIXES,
    arguments=_detection_arguments,
    build=_build_detection,
)

SKIN_INPAINTING = Architecture(
    name="skin_inpainting",
    source=SOURCE,
    marks=("ec_images_1.gate.weight", "ec_images_6.gate.weight", "dc_images_1.conv.weight"),
    prefixes=PREFIXES,
    arguments=_inpainting_arguments,
    build=_build_inpainting,
)

SKIN_BLEND = Architecture(
    name="skin_blend",
    source=SOURCE,
    marks=("inc.conv.conv.0.weight", "down4.mpconv.1.conv.0.weight", "outc.conv.weight"),
    prefixes=PREFIXES,
    arguments=_blend_arguments,
    build=_build_blend,
)
