"""Checkpoints of Zheng222/DMFN: the generator, its discriminator, and one fusion block alone.

| argument | from |
|---|---|
| in_nc, nf | `encoder.0.conv.weight` [nf, in_nc, 5, 5] |
| out_nc | `decoder.3.conv.weight` [out_nc, nf, 3, 3] |
| n_res | number of `blocks.I.c1` |
| discriminator: in_nc, nf | `local_fea1.conv.weight` [nf, in_nc, 5, 5] |
| discriminator: size | `global_classifier.weight` [., 8 * nf * (size / 64) ** 2] |
| discriminator: hidden | the same, first extent |
| block: nc | `c2.weight` [nc, nc, 3, 3] |
"""

from __future__ import annotations

import math
import re

import torch

from revisage.errors import CheckpointError
from revisage.training.importers.architecture import Architecture, Arguments, Shapes

__all__ = ["DMFB_BLOCK", "DMFN", "DMFN_DISCRIMINATOR"]

SOURCE = "Zheng222/DMFN"


def _generator_arguments(shapes: Shapes) -> Arguments:
    first = shapes["encoder.0.conv.weight"]
    return {
        "in_nc": first[1],
        "out_nc": shapes["decoder.3.conv.weight"][0],
        "nf": first[0],
        "n_res": len(
            {m[1] for k in shapes if (m := re.fullmatch(r"blocks\.(\d+)\.c1\.weight", k))}
        ),
    }


def _discriminator_arguments(shapes: Shapes) -> Arguments:
    first = shapes["local_fea1.conv.weight"]
    values = shapes["global_classifier.weight"][1]
    side = math.isqrt(values // (8 * first[0]))
    if 8 * first[0] * side**2 != values:
        raise CheckpointError(f"global_classifier takes {values} values, which is no square map")
    return {
        "in_nc": first[1],
        "nf": first[0],
        "size": 64 * side,
        "hidden": shapes["global_classifier.weight"][0],
    }


def _block_arguments(shapes: Shapes) -> Arguments:
    return {"nc": shapes["c2.weight"][0]}


def _build_generator(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.dmfn import DMFNGenerator

    return DMFNGenerator(**arguments)


def _build_discriminator(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.dmfn import DMFNDiscriminator

    return DMFNDiscriminator(**arguments)


def _build_block(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.dmfn import DMFB

    return DMFB(**arguments)


DMFN = Architecture(
    name="dmfn",
    source=SOURCE,
    marks=("encoder.0.conv.weight", "decoder.1.deconv.weight", "decoder.3.conv.weight"),
    prefixes=("", "netG.", "generator."),
    arguments=_generator_arguments,
    build=_build_generator,
)

DMFN_DISCRIMINATOR = Architecture(
    name="dmfn_discriminator",
    source=SOURCE,
    marks=("local_fea1.conv.weight", "global_model.0.conv.weight", "global_classifier.weight"),
    prefixes=("", "netD.", "discriminator."),
    arguments=_discriminator_arguments,
    build=_build_discriminator,
)

DMFB_BLOCK = Architecture(
    name="dmfb",
    source=SOURCE,
    marks=("c1.weight", "d1.weight", "d2.weight", "d3.weight", "d4.weight", "c2.weight"),
    prefixes=("",),
    arguments=_block_arguments,
    build=_build_block,
)
