"""Checkpoints of NVIDIA/pix2pixHD: plain state dicts of both generators and the discriminator.

| argument | from |
|---|---|
| channels in, ngf | `model.1.weight`; of the local enhancer `modelN_1.1.weight`, N the last |
| halvings | convolutions before the first `conv_block`, less the stem |
| residual blocks | number of `conv_block` |
| local enhancers | number of `modelN_1` |
| scales, layers of the discriminator | largest numbers in `scaleI_layerJ` |
| norm | batch where the stem's norm has weights, else instance |

A global generator with two halvings has the keys of CycleGAN's and is read as that, which it is;
the published ones have four. Only discriminators that were trained with feature matching (the
default) are read.
"""

from __future__ import annotations

import re

import torch

from revisage.errors import CheckpointError
from revisage.training.importers.architecture import Architecture, Arguments, Shapes

__all__ = ["PIX2PIXHD_DISCRIMINATOR", "PIX2PIXHD_GLOBAL", "PIX2PIXHD_LOCAL"]

SOURCE = "NVIDIA/pix2pixHD"
PREFIXES = ("", "module.", "netG.", "netD.")


def _numbers(shapes: Shapes, pattern: str) -> list[int]:
    """Sorted distinct numbers that a pattern's group finds in the keys."""
    return sorted({int(m[1]) for key in shapes if (m := re.fullmatch(pattern, key))})


def _norm(shapes: Shapes, norm: str) -> str:
    return "batch" if f"{norm}.weight" in shapes else "instance"


def _body(shapes: Shapes) -> tuple[int, int]:
    """Halvings and residual blocks of `model`."""
    blocks = _numbers(shapes, r"model\.(\d{1,4})\.conv_block\.1\.weight")
    if not blocks or (blocks[0] - 4) % 3:
        raise CheckpointError(f"its residual blocks are {blocks[:12]}; published ones begin at 16")
    return (blocks[0] - 4) // 3, len(blocks)


def _global_arguments(shapes: Shapes) -> Arguments:
    halvings, blocks = _body(shapes)
    ngf, inputs = shapes["model.1.weight"][:2]
    head = 5 + 6 * halvings + blocks
    return {
        "input_nc": inputs,
        "output_nc": shapes[f"model.{head}.weight"][0],
        "ngf": ngf,
        "n_downsampling": halvings,
        "n_blocks": blocks,
        "norm": _norm(shapes, "model.2"),
    }


def _local_arguments(shapes: Shapes) -> Arguments:
    halvings, blocks = _body(shapes)
    levels = len(_numbers(shapes, r"model(\d{1,2})_1\.1\.weight"))
    ngf, inputs = shapes[f"model{levels}_1.1.weight"][:2]
    local = len(_numbers(shapes, rf"model{levels}_2\.(\d{{1,4}})\.conv_block\.1\.weight"))
    return {
        "input_nc": inputs,
        "output_nc": shapes[f"model{levels}_2.{local + 4}.weight"][0],
        "ngf": ngf,
        "n_downsample_global": halvings,
        "n_blocks_global": blocks,
        "n_local_enhancers": levels,
        "n_blocks_local": local,
        "norm": _norm(shapes, "model.2"),
    }


def _discriminator_arguments(shapes: Shapes) -> Arguments:
    ndf, inputs = shapes["scale0_layer0.0.weight"][:2]
    return {
        "input_nc": inputs,
        "ndf": ndf,
        "n_layers": _numbers(shapes, r"scale0_layer(\d{1,2})\.0\.weight")[-1] - 1,
        "num_D": len(_numbers(shapes, r"scale(\d{1,2})_layer0\.0\.weight")),
        "norm": _norm(shapes, "scale0_layer1.1"),
    }


def _build_global(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.pix2pixhd import GlobalGenerator

    return GlobalGenerator(**arguments)


def _build_local(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.pix2pixhd import LocalEnhancer

    return LocalEnhancer(**arguments)


def _build_discriminator(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.pix2pixhd import MultiscaleDiscriminator

    return MultiscaleDiscriminator(**arguments)


# One for each depth, as nothing but the place of the first residual block tells them apart.
PIX2PIXHD_GLOBAL = tuple(
    Architecture(
        name="pix2pixhd_global" if halvings == 4 else f"pix2pixhd_global_{halvings}",
        source=SOURCE,
        marks=(
            "model.1.weight",
            f"model.{1 + 3 * halvings}.weight",
            f"model.{4 + 3 * halvings}.conv_block.1.weight",
        ),
        prefixes=PREFIXES,
        arguments=_global_arguments,
        build=_build_global,
    )
    for halvings in (4, 3, 5)
)

PIX2PIXHD_LOCAL = Architecture(
    name="pix2pixhd_local",
    source=SOURCE,
    marks=("model.1.weight", "model1_1.1.weight", "model1_2.0.conv_block.1.weight"),
    prefixes=PREFIXES,
    arguments=_local_arguments,
    build=_build_local,
)

PIX2PIXHD_DISCRIMINATOR = Architecture(
    name="pix2pixhd_discriminator",
    source=SOURCE,
    marks=("scale0_layer0.0.weight", "scale0_layer1.0.weight"),
    prefixes=PREFIXES,
    arguments=_discriminator_arguments,
    build=_build_discriminator,
)
