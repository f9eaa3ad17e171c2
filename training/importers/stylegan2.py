"""Checkpoints of StyleGAN2: rosinality/stylegan2-pytorch (MIT) and NVlabs/stylegan2-ada-pytorch.

A training file of the first holds `{"g", "d", "g_ema", ...}`, converted official weights hold
`{"g_ema", "latent_avg"}`; the averaged generator is taken where there is one. `latent_avg` is no
part of the network and is left out: `StyleGAN2.mean_latent` makes one. The published files of the
second are pickles of module objects, which would have to be executed to be read; save
`G_ema.state_dict()` with that code base first.

| argument of `StyleGAN2` | from |
|---|---|
| style_dim | `style.1.weight` [style_dim, style_dim] |
| n_mlp | number of `style.I.weight` |
| size, channels | `input.input` [1, C, 4, 4] and `convs.I.conv.weight` [1, C, ...], I odd |

| argument of `StyleGAN2Discriminator` | from |
|---|---|
| size, channels | `convs.0.0.weight` [C, 3, 1, 1] and `convs.I.conv2.1.weight` [C, ...] |

| argument of `NvStyleGAN2` | from |
|---|---|
| c_dim, embed_features | `mapping.embed.weight` [embed, c_dim], where it is |
| z_dim | columns of `mapping.fc0.weight`, less the embedding |
| w_dim, num_layers, layer_features | `mapping.w_avg` and `mapping.fcI.weight` |
| size, channels, img_channels | `synthesis.bR.conv1.weight`, `synthesis.b4.torgb.weight` |

What no tensor tells: the minibatch-deviation group (4), and the clamp of the second, which its
training script sets to 256 and which no sound network reaches in float32. `NvStyleGAN2.use_clamp`
sets another.
"""

from __future__ import annotations

import re

import torch

from revisage.errors import CheckpointError
from revisage.training.importers.architecture import Architecture, Arguments, Shapes

__all__ = ["NV_STYLEGAN2", "STYLEGAN2", "STYLEGAN2_DISCRIMINATOR"]

MOST_LEVELS = 11  # 4096 px
PUBLISHED_CLAMP = 256.0


def _count(shapes: Shapes, pattern: str, first: int = 0) -> int:
    """How many keys match with the numbers first, first + 1, ...: all of them, without a gap."""
    found = sorted({int(m[1]) for key in shapes if (m := re.fullmatch(pattern, key))})
    if found != list(range(first, first + len(found))):
        raise CheckpointError(f"the layers {pattern} are numbered {found}")
    return len(found)


def _size(levels: int) -> int:
    if not 2 <= levels <= MOST_LEVELS:
        raise CheckpointError(f"it has {levels} levels of resolution; known are 2 to {MOST_LEVELS}")
    return int(4 * 2 ** (levels - 1))


def _generator_arguments(shapes: Shapes) -> Arguments:
    levels = 1 + _count(shapes, r"to_rgbs\.(\d{1,2})\.bias")
    size = _size(levels)
    widths = [shapes["input.input"][1]]
    widths += [shapes[f"convs.{2 * level - 1}.conv.weight"][1] for level in range(1, levels)]
    return {
        "size": size,
        "style_dim": shapes["style.1.weight"][0],
        "n_mlp": _count(shapes, r"style\.(\d{1,2})\.weight", 1),
        "channels": widths,
    }


def _build_generator(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.stylegan2 import StyleGAN2

    return StyleGAN2(**arguments)


def _discriminator_arguments(shapes: Shapes) -> Arguments:
    blocks = _count(shapes, r"convs\.(\d{1,2})\.conv2\.1\.weight", 1)
    widths = [shapes[f"convs.{block}.conv2.1.weight"][0] for block in range(blocks, 0, -1)]
    return {
        "size": _size(blocks + 1),
        "channels": [*widths, shapes["convs.0.0.weight"][0]],
    }


def _build_discriminator(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.stylegan2 import StyleGAN2Discriminator

    return StyleGAN2Discriminator(**arguments)


def _nv_arguments(shapes: Shapes) -> Arguments:
    sides = sorted(
        int(m[1])
        for key in shapes
        if (m := re.fullmatch(r"synthesis\.b(\d{1,4})\.conv1\.bias", key))
    )
    size = _size(len(sides))
    if sides != [4 * 2**level for level in range(len(sides))]:
        raise CheckpointError(f"its levels are {sides} px; known are 4, 8, 16 and so on")
    layers = _count(shapes, r"mapping\.fc(\d{1,2})\.weight")
    embedded, labels = shapes.get("mapping.embed.weight", (0, 0))
    wide, inputs = shapes["mapping.fc0.weight"]
    return {
        "z_dim": inputs - embedded,
        "c_dim": labels,
        "w_dim": shapes["mapping.w_avg"][0],
        "img_resolution": size,
        "img_channels": shapes["synthesis.b4.torgb.weight"][0],
        "channels": [shapes[f"synthesis.b{side}.conv1.weight"][0] for side in sides],
        "num_layers": layers,
        "embed_features": embedded or None,
        "layer_features": wide if layers > 1 else None,
        "conv_clamp": PUBLISHED_CLAMP,
    }


def _build_nv(arguments: Arguments) -> torch.nn.Module:
    from revisage.training.models.stylegan2_ada import NvStyleGAN2

    return NvStyleGAN2(**arguments)


STYLEGAN2 = Architecture(
    name="stylegan2",
    source="rosinality/stylegan2-pytorch",
    marks=("input.input", "conv1.conv.modulation.weight", "to_rgb1.bias"),
    prefixes=("", "decoder."),  # plain; inside a pSp-like model
    arguments=_generator_arguments,
    build=_build_generator,
    absent=(r".*\.kernel",),  # converters drop the constant kernels
)

STYLEGAN2_DISCRIMINATOR = Architecture(
    name="stylegan2_discriminator",
    source="rosinality/stylegan2-pytorch",
    marks=("convs.0.0.weight", "convs.1.conv2.1.weight", "final_linear.1.weight"),
    prefixes=("",),
    arguments=_discriminator_arguments,
    build=_build_discriminator,
    absent=(r".*\.kernel",),
)

NV_STYLEGAN2 = Architecture(
    name="stylegan2_ada",
    source="NVlabs/stylegan2-ada-pytorch",
    marks=("synthesis.b4.const", "synthesis.b4.torgb.weight", "mapping.fc0.weight"),
    prefixes=("",),
    arguments=_nv_arguments,
    build=_build_nv,
    absent=(r".*\.resample_filter",),
)
