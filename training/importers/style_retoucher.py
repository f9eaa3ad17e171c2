"""StyleRetoucher as `revisage train` leaves it. The authors published neither code nor weights.

| argument | from |
|---|---|
| blend | which of `selection.0.spatial`, `selection.0.channel` and `selection.0.join` is there |
| those of `StyleGAN2` | the keys below `prior.`, see `importers/stylegan2.py` |
"""

from __future__ import annotations

import torch

from revisage.training.importers.architecture import Architecture, Arguments, Shapes
from revisage.training.importers.stylegan2 import STYLEGAN2

__all__ = ["STYLE_RETOUCHER"]

PRIOR = "prior."
BLENDS = {
    (): "none",
    ("join",): "concat",
    ("spatial",): "spatial",
    ("channel",): "channel",
    ("spatial", "channel"): "both",
}


def _arguments(shapes: Shapes) -> Arguments:
    prior = {k.removeprefix(PRIOR): shape for k, shape in shapes.items() if k.startswith(PRIOR)}
    parts = tuple(
        part
        for part in ("spatial", "channel", "join")
        if any(key.startswith(f"selection.0.{part}.") for key in shapes)
    )
    # A mixture that no blend has fails with the names of its surplus keys.
    return {"blend": BLENDS.get(parts, "both"), **STYLEGAN2.arguments(prior)}


def _build(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.style_retoucher import StyleRetoucher
    from revisage.training.models.stylegan2 import StyleGAN2

    prior = {name: value for name, value in arguments.items() if name != "blend"}
    return StyleRetoucher(StyleGAN2(**prior), arguments["blend"])


STYLE_RETOUCHER = Architecture(
    name="style_retoucher",
    source="revisage",
    marks=("encoder.stem.0.weight", "latent_head.mean", f"{PRIOR}input.input"),
    prefixes=("",),
    arguments=_arguments,
    build=_build,
    absent=(r".*\.kernel",),
)
