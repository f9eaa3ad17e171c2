"""Checkpoints of csxmli2016/GFRNet_WarpNet: both versions of GFRNet's WarpNet.

| argument | from |
|---|---|
| paper version: ngf | `warpNet.0.0.weight` [ngf, 6, 4, 4] |
| paper version: levels | number of strided convolutions `warpNet.0.I.weight` |
| later version: ngf | `conv0.0.weight` [ngf, 6, 3, 3] |
| later version: norm | batch where `conv0.1.running_mean` is there, else instance |

Both are called with (degraded, guide) and return absolute sampling grids, x first (Note [Sampling
grids] in `models/gfrnet_warpnet.py`). The restoration network that the authors published in Lua
(`.t7`) is not read here; its grid has y first: swap the two channels to use it with ours.
"""

from __future__ import annotations

import re

import torch

from revisage.errors import CheckpointError
from revisage.training.importers.architecture import Architecture, Arguments, Shapes

__all__ = ["GFRNET_PYRAMID_WARPNET", "GFRNET_WARPNET"]

PREFIXES = ("", "netFlow.", "model.")  # plain; a member of a larger network


def _arguments(shapes: Shapes) -> Arguments:
    strided = [
        key
        for key, shape in shapes.items()
        if re.fullmatch(r"warpNet\.0\.\d{1,3}\.weight", key) and len(shape) == 4
    ]
    ngf, inputs = shapes["warpNet.0.0.weight"][:2]
    if inputs != 6:
        raise CheckpointError(f"its input has {inputs} channels; known are 6 (degraded, guide)")
    if not 2 <= len(strided) <= 12:
        raise CheckpointError(f"it has {len(strided)} levels; known are 2 to 12 (published: 8)")
    return {"ngf": ngf, "levels": len(strided)}


def _build(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.gfrnet_warpnet import WarpNet

    return WarpNet(**arguments)


def _pyramid_arguments(shapes: Shapes) -> Arguments:
    norm = "batch" if "conv0.1.running_mean" in shapes else "instance"
    return {"ngf": shapes["conv0.0.weight"][0], "norm": norm}


def _build_pyramid(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.gfrnet_warpnet import PyramidWarpNet

    return PyramidWarpNet(**arguments)


GFRNET_WARPNET = Architecture(
    name="gfrnet_warpnet",
    source="csxmli2016/GFRNet_WarpNet, first version",
    marks=("warpNet.0.0.weight", "warpNet.1.1.weight"),
    prefixes=PREFIXES,
    arguments=_arguments,
    build=_build,
)

GFRNET_PYRAMID_WARPNET = Architecture(
    name="gfrnet_pyramid_warpnet",
    source="csxmli2016/GFRNet_WarpNet, later version",
    marks=("conv0.0.weight", "inter_conv5.0.weight", "predict_flow0.0.weight"),
    prefixes=PREFIXES,
    arguments=_pyramid_arguments,
    build=_build_pyramid,
)
