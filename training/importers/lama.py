"""Checkpoints of advimman/lama (Apache-2.0): the FFC generator and its patch critic.

A training checkpoint holds `{"state_dict": {"generator.*", "discriminator.*", ...}}` beside
callbacks and configuration objects. The sizes are told from the tensors:

| argument | from |
|---|---|
| input channels | `model.1.ffc.convl2l.weight` [local, input, 7, 7] |
| ngf, stem ratio | local and global channels of block 1 |
| downsamplings | blocks `model.I.ffc` behind the stem |
| ratio, largest width | local and global channels of the last downsampling |
| residual blocks | number of `model.I.conv1` |
| output channels | the last convolution [output, ngf, 7, 7] |

The output activation has no weights; every published checkpoint uses a sigmoid.
"""

from __future__ import annotations

import re

import torch

from revisage.errors import CheckpointError
from revisage.training.importers.architecture import Architecture, Arguments, Shapes

__all__ = ["LAMA", "LAMA_DISCRIMINATOR"]

USUAL_LARGEST_WIDTH = 1024


def _indices(shapes: Shapes, pattern: str) -> list[int]:
    """Sorted distinct numbers that a pattern's group finds in the keys."""
    return sorted({int(m[1]) for key in shapes if (m := re.fullmatch(pattern, key))})


def _split(shapes: Shapes, block: str) -> tuple[int, int]:
    """Local and global output channels of one FFC block."""
    local = shapes.get(f"{block}.ffc.convl2l.weight", (0,))[0]
    wide = shapes.get(f"{block}.ffc.convl2g.weight", (0,))[0]
    return local, wide


def _ratio(local: int, wide: int) -> float:
    """The share that the network turns back into `wide` by `int(channels * share)`."""
    total = local + wide
    share = wide / total
    return share if int(total * share) == wide else (wide + 0.5) / total


def _generator_arguments(shapes: Shapes) -> Arguments:
    blocks = _indices(shapes, r"model\.(\d{1,4})\.ffc\.convl2l\.weight")
    reductions = len(blocks) - 1
    if blocks != list(range(1, reductions + 2)) or not 1 <= reductions <= 8:
        raise CheckpointError(f"its strided blocks are {blocks}; known are 1 (stem) to 9")
    stem = _split(shapes, "model.1")
    last = _split(shapes, f"model.{blocks[-1]}")
    ngf, width = sum(stem), sum(last)
    full = ngf * 2**reductions
    head = max(_indices(shapes, r"model\.(\d{1,4})\.weight"))
    return {
        "input_nc": shapes["model.1.ffc.convl2l.weight"][1],
        "output_nc": shapes[f"model.{head}.weight"][0],
        "ngf": ngf,
        "n_downsampling": reductions,
        "n_blocks": len(_indices(shapes, r"model\.(\d{1,4})\.conv1\.ffc\.convl2l\.weight")),
        "ratio": _ratio(*last),
        "stem_ratio": _ratio(*stem),
        "down_ratio": _ratio(*_split(shapes, "model.2")) if reductions > 1 else 0.0,
        "max_features": max(USUAL_LARGEST_WIDTH, width) if width == full else width,
        "enable_lfu": any(".convg2g.lfu." in key for key in shapes),
    }


def _build_generator(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.lama import LamaGenerator

    return LamaGenerator(**arguments)


def _discriminator_arguments(shapes: Shapes) -> Arguments:
    first = shapes["model0.0.weight"]
    return {
        "input_nc": first[1],
        "ndf": first[0],
        "n_layers": len(_indices(shapes, r"model(\d{1,2})\.1\.weight")),
    }


def _build_discriminator(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.lama import LamaDiscriminator

    return LamaDiscriminator(**arguments)


LAMA = Architecture(
    name="lama",
    source="advimman/lama",
    marks=("model.1.ffc.convl2l.weight", "model.2.ffc.convl2l.weight"),
    prefixes=("generator.", ""),
    arguments=_generator_arguments,
    build=_build_generator,
)

LAMA_DISCRIMINATOR = Architecture(
    name="lama_discriminator",
    source="advimman/lama",
    marks=("model0.0.weight", "model1.1.running_mean"),
    prefixes=("discriminator.", ""),
    arguments=_discriminator_arguments,
    build=_build_discriminator,
)
