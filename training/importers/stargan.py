"""Checkpoints of yunjey/stargan (MIT): `N-G.ckpt` and `N-D.ckpt`, plain state dicts.

| argument | generator | discriminator |
|---|---|---|
| conv_dim | `main.0.weight` [conv_dim, 3 + c_dim, 7, 7] | `main.0.weight` [conv_dim, 3, 4, 4] |
| c_dim | the same, less three | `conv2.weight` [c_dim, ...] |
| repeat_num | number of `main.I.main` | number of `main.I` |
| image_size | any | side of `conv2.weight` times 2 ** repeat_num |
| stored | whether `main.1.running_mean` is there | - |

In eval mode the imported generator uses the stored running statistics, as any torch module does;
`use_picture_statistics(True)` gives the published samples (see `models.stargan`).
"""

from __future__ import annotations

import re

import torch

from revisage.errors import CheckpointError
from revisage.training.importers.architecture import Architecture, Arguments, Shapes

__all__ = ["STARGAN", "STARGAN_DISCRIMINATOR"]

SOURCE = "yunjey/stargan"


def _indices(shapes: Shapes, pattern: str) -> list[int]:
    return sorted({int(match[1]) for key in shapes if (match := re.fullmatch(pattern, key))})


def _generator_arguments(shapes: Shapes) -> Arguments:
    first = shapes["main.0.weight"]
    if first[1] < 4:
        raise CheckpointError(f"main.0.weight has {first[1]} inputs: no room for a label")
    return {
        "conv_dim": first[0],
        "c_dim": first[1] - 3,
        "repeat_num": len(_indices(shapes, r"main\.(\d{1,4})\.main\.0\.weight")),
        "stored": "main.1.running_mean" in shapes,
    }


def _discriminator_arguments(shapes: Shapes) -> Arguments:
    levels = _indices(shapes, r"main\.(\d{1,2})\.weight")
    if levels != list(range(0, 2 * len(levels), 2)) or len(levels) > 12:
        raise CheckpointError(f"its convolutions stand at main.{levels}")
    first, head = shapes["main.0.weight"], shapes["conv2.weight"]
    return {
        "image_size": head[2] * 2 ** len(levels),
        "conv_dim": first[0],
        "c_dim": head[0],
        "repeat_num": len(levels),
    }


def _build_generator(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.stargan import StarGANGenerator

    return StarGANGenerator(**arguments)


def _build_discriminator(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.stargan import StarGANDiscriminator

    return StarGANDiscriminator(**arguments)


STARGAN = Architecture(
    name="stargan",
    source=SOURCE,
    marks=("main.0.weight", "main.1.weight", "main.3.weight", "main.6.weight"),
    prefixes=("", "G.", "generator."),
    arguments=_generator_arguments,
    build=_build_generator,
)

STARGAN_DISCRIMINATOR = Architecture(
    name="stargan_discriminator",
    source=SOURCE,
    marks=("main.0.weight", "main.0.bias", "conv1.weight", "conv2.weight"),
    prefixes=("", "D.", "discriminator."),
    arguments=_discriminator_arguments,
    build=_build_discriminator,
)
