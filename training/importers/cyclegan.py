"""Checkpoints of junyanz/pytorch-CycleGAN-and-pix2pix (BSD-2-Clause), plain state dicts.

What the tensors tell:

| argument | ResNet generator | U-Net generator | PatchGAN | pixel discriminator |
|---|---|---|---|---|
| channels in | `model.1.weight` | `model.model.0.weight` | `model.0.weight` | `net.0.weight` |
| channels out | last convolution | `model.model.3.weight` | 1 | 1 |
| depth | number of `conv_block` | nesting of `model.3` | index of the last one | - |
| dropout | second convolution at 6 or 4, not 5 or 3 | no trace | - | - |
| padding | first convolution of a block at 1, not 0 | zero | zero | - |

| norm | weights in the norms | biases of the convolutions in front |
|---|---|---|
| batch | yes | no |
| instance | no | yes |
| none | no | no |

Reflection and replication leave the same keys; every published generator reflects. Releases before
June 2018 tracked running statistics in instance norms and never used them: they are dropped.
"""

from __future__ import annotations

import re

import torch

from revisage.errors import CheckpointError
from revisage.training.importers.architecture import Architecture, Arguments, Shapes

__all__ = ["CYCLEGAN_PATCH", "CYCLEGAN_PIXEL", "CYCLEGAN_RESNET", "CYCLEGAN_UNET"]

STATISTICS = (r"(.*\.)?\d+\.(running_mean|running_var|num_batches_tracked)",)
SOURCE = "pytorch-CycleGAN-and-pix2pix"
PREFIXES = ("", "netG.", "netD.", "netG_A.", "netG_B.")


def _norm(shapes: Shapes, conv: str, norm: str) -> str:
    """Kind of norm behind a convolution, see the second table."""
    if f"{norm}.weight" in shapes:
        return "batch"
    return "instance" if f"{conv}.bias" in shapes else "none"


def _resnet_arguments(shapes: Shapes) -> Arguments:
    found = [
        (int(match[1]), int(match[2]))
        for key, shape in shapes.items()
        if (match := re.fullmatch(r"model\.(\d{1,4})\.conv_block\.(\d)\.weight", key))
        and len(shape) == 4
    ]
    blocks = sorted({block for block, _ in found})
    if blocks != list(range(10, 10 + len(blocks))):
        raise CheckpointError(f"its residual blocks are {blocks[:12]}; published ones begin at 10")
    padded, dropout = True, False
    if blocks:
        places = tuple(sorted({place for _, place in found}))
        known = {(1, 5): (True, False), (1, 6): (True, True), (0, 3): (False, False)}
        known[(0, 4)] = (False, True)
        if places not in known:
            raise CheckpointError(f"convolutions of its residual blocks stand at {places}")
        padded, dropout = known[places]
    head = f"model.{17 + len(blocks)}.weight"
    return {
        "input_nc": shapes["model.1.weight"][1],
        "output_nc": shapes[head][0],
        "ngf": shapes["model.1.weight"][0],
        "n_blocks": len(blocks),
        "norm": _norm(shapes, "model.1", "model.2"),
        "padding": "reflect" if padded else "zero",
        "dropout": dropout,
    }


def _unet_arguments(shapes: Shapes) -> Arguments:
    depth, level = 1, "model.model.1"
    while f"{level}.model.1.weight" in shapes:
        depth, level = depth + 1, f"{level}.model.3"
        if depth > 16:
            raise CheckpointError("its U-Net is nested more than 16 levels deep")
    return {
        "input_nc": shapes["model.model.0.weight"][1],
        "output_nc": shapes["model.model.3.weight"][1],
        "num_downs": depth,
        "ngf": shapes["model.model.0.weight"][0],
        "norm": _norm(shapes, "model.model.1.model.1", "model.model.1.model.2"),
    }


def _patch_arguments(shapes: Shapes) -> Arguments:
    last = max(
        int(match[1])
        for key, shape in shapes.items()
        if (match := re.fullmatch(r"model\.(\d{1,3})\.weight", key)) and len(shape) == 4
    )
    first = shapes["model.0.weight"]
    return {
        "input_nc": first[1],
        "ndf": first[0],
        "n_layers": (last - 2) // 3,
        "norm": _norm(shapes, "model.2", "model.3"),
    }


def _pixel_arguments(shapes: Shapes) -> Arguments:
    first = shapes["net.0.weight"]
    return {"input_nc": first[1], "ndf": first[0], "norm": _norm(shapes, "net.2", "net.3")}


def _build_resnet(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.cyclegan import ResnetGenerator

    return ResnetGenerator(**arguments)


def _build_unet(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.cyclegan import UnetGenerator

    return UnetGenerator(**arguments)


def _build_patch(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.cyclegan import NLayerDiscriminator

    return NLayerDiscriminator(**arguments)


def _build_pixel(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.cyclegan import PixelDiscriminator

    return PixelDiscriminator(**arguments)


CYCLEGAN_RESNET = Architecture(
    name="cyclegan_resnet",
    source=SOURCE,
    marks=("model.1.weight", "model.4.weight", "model.7.weight"),
    prefixes=PREFIXES,
    arguments=_resnet_arguments,
    build=_build_resnet,
    surplus=STATISTICS,
)

CYCLEGAN_UNET = Architecture(
    name="cyclegan_unet",
    source=SOURCE,
    marks=("model.model.0.weight", "model.model.1.model.1.weight", "model.model.3.weight"),
    prefixes=PREFIXES,
    arguments=_unet_arguments,
    build=_build_unet,
    surplus=STATISTICS,
)

CYCLEGAN_PATCH = Architecture(
    name="cyclegan_patch",
    source=SOURCE,
    marks=("model.0.weight", "model.2.weight", "model.5.weight"),
    prefixes=PREFIXES,
    arguments=_patch_arguments,
    build=_build_patch,
    surplus=STATISTICS,
)

CYCLEGAN_PIXEL = Architecture(
    name="cyclegan_pixel",
    source=SOURCE,
    marks=("net.0.weight", "net.2.weight", "net.5.weight"),
    prefixes=PREFIXES,
    arguments=_pixel_arguments,
    build=_build_pixel,
    surplus=STATISTICS,
)
