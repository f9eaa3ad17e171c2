"""State dicts of richzhang/PerceptualSimilarity (BSD-2-Clause): LPIPS with its trunk and heads.

The trunk is told from its first convolution: 11 x 11 in AlexNet, 3 x 3 in VGG-16. The published
head files hold no trunk and are no network; `revisage.training.metrics.lpips` takes both files.
"""

from __future__ import annotations

import torch

from revisage.errors import CheckpointError
from revisage.training.importers.architecture import Architecture, Arguments, Shapes

__all__ = ["LPIPS"]


def _arguments(shapes: Shapes) -> Arguments:
    kernel = shapes["net.slice1.0.weight"][-1]
    trunk = {11: "alex", 3: "vgg"}.get(kernel)
    if trunk is None or any(key.startswith("net.slice6") for key in shapes):
        raise CheckpointError("its trunk is neither AlexNet nor VGG-16")
    return {"net": trunk}


def _build(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.metrics.lpips import Lpips

    return Lpips(**arguments)


LPIPS = Architecture(
    name="lpips",
    source="richzhang/PerceptualSimilarity",
    marks=("net.slice1.0.weight", "lin0.model.1.weight"),
    prefixes=("", "lpips.", "loss_fn.", "perceptual_loss."),
    arguments=_arguments,
    build=_build,
    # `lins` are other names of the same heads; early releases did not store them.
    absent=(r"lins\.\d\.model\.1\.weight", r"scaling_layer\.(shift|scale)"),
)
