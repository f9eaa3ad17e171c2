"""Exporters of the blemish networks: StyleRetoucher, compact and in paper size, and its prior."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from torch import Tensor, nn

from revisage.bundle import Bundle
from revisage.errors import CheckpointError
from revisage.export.bundle_from_onnx import ExportOptions, ManifestFields, export_bundle
from revisage.export.compare import Arrays
from revisage.export.pictures import PAPER_REFERENCES, REFERENCES, TOLERANCES
from revisage.export.reference_set import reference_pictures
from revisage.export.weights import file_digest, imported_arguments, load_weights, recipe_origin
from revisage.manifest import RecipeOrigin, TensorSpec
from revisage.training.models.style_retoucher import StyleRetoucher
from revisage.training.models.stylegan2 import StyleGAN2

__all__ = ["style_retoucher", "style_retoucher_paper", "stylegan2"]

STRENGTHS = (1.0, 0.0, 0.4, 1.0)  # of the reference pictures, in turns


class _Retouched(nn.Module):
    """A strength per picture, for the levels that have one; colours within [0, 1]."""

    def __init__(self, retoucher: StyleRetoucher) -> None:
        super().__init__()
        self.retoucher = retoucher

    def forward(self, image: Tensor, strength: Tensor) -> Tensor:
        whole = torch.ones_like(strength)
        per_level = torch.stack([whole, *[strength] * (self.retoucher.levels - 2), whole])
        retouched: Tensor = self.retoucher(image, per_level[:, :, None, None, None])
        return retouched.clamp(0.0, 1.0)


class _Picture(nn.Module):
    """W+ to a picture in [0, 1], with the stored noise."""

    def __init__(self, generator: StyleGAN2) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, latent: Tensor) -> Tensor:
        picture, _ = self.generator.synthesise(latent, self.generator.stored_noise())
        return ((picture + 1) / 2).clamp(0.0, 1.0)


def _picture_spec(name: str, side: int) -> TensorSpec:
    return TensorSpec(name, "float32", ("N", 3, side, side), "NCHW", "RGB", (0.0, 1.0))


def _references(side: int, count: int) -> list[Arrays]:
    return [
        {
            "image": picture[None],
            "strength": np.array([STRENGTHS[index % len(STRENGTHS)]], np.float32),
        }
        for index, picture in enumerate(reference_pictures(count, side))
    ]


def _export_retoucher(
    network: StyleRetoucher,
    weights: Path,
    folder: Path,
    *,
    name: str,
    size: str,
    references: int,
    options: ExportOptions,
) -> Bundle:
    side = network.size
    fields = ManifestFields(
        name=name,
        operation="blemishes",
        version="1",
        size=size,
        description=f"StyleRetoucher: clears blemishes of an aligned face of {side} px.",
        inputs=(
            _picture_spec("image", side),
            TensorSpec("strength", "float32", ("N",), range=(0.0, 1.0)),
        ),
        outputs=(_picture_spec("retouched", side),),
        working_size=side,
        multiple_of=1,
        padding="none",
        tolerances=TOLERANCES,
        licence="Apache-2.0",
        recipe=recipe_origin(name),
        weights_digest=file_digest(weights),
    )
    load_weights(network, weights)
    return export_bundle(
        _Retouched(network), fields, _references(side, references), folder, **options
    )


def style_retoucher(weights: Path, folder: Path, **options: Unpack[ExportOptions]) -> Bundle:
    """Export the compact StyleRetoucher."""
    return _export_retoucher(
        StyleRetoucher.compact(),
        weights,
        folder,
        name="style_retoucher",
        size="compact",
        references=REFERENCES,
        options=options,
    )


def style_retoucher_paper(weights: Path, folder: Path, **options: Unpack[ExportOptions]) -> Bundle:
    """Export a StyleRetoucher of any size and width; `revisage import` finds out which."""
    arguments = dict(imported_arguments(weights, "style_retoucher"))
    blend = arguments.pop("blend")
    if blend not in ("channel", "both"):
        raise CheckpointError(
            f"{weights}: was trained with the blend {blend!r}, which has no channel masks and "
            "therefore no strength; only the blends 'both' and 'channel' are exported"
        )
    return _export_retoucher(
        StyleRetoucher(StyleGAN2(**arguments), blend),
        weights,
        folder,
        name="style_retoucher_paper",
        size="paper",
        references=PAPER_REFERENCES,
        options=options,
    )


def stylegan2(weights: Path, folder: Path, **options: Unpack[ExportOptions]) -> Bundle:
    """Export a StyleGAN2 generator that `revisage import` took from a published checkpoint."""
    network = StyleGAN2(**imported_arguments(weights, "stylegan2"))
    load_weights(network, weights)
    fields = ManifestFields(
        name="stylegan2",
        operation="blemishes",
        version="1",
        size="paper",
        description="StyleGAN2 generator of a published checkpoint: W+ latents to pictures.",
        inputs=(TensorSpec("latent", "float32", ("N", network.n_latent, network.style_dim)),),
        outputs=(_picture_spec("picture", network.size),),
        working_size=network.size,
        multiple_of=1,
        padding="none",
        tolerances=TOLERANCES,
        licence="LicenseRef-of-the-checkpoint",
        recipe=RecipeOrigin("stylegan2"),
        weights_digest=file_digest(weights),
    )
    return export_bundle(_Picture(network), fields, _latents(network), folder, **options)


def _latents(network: StyleGAN2) -> list[Arrays]:
    """W+ of seeded z, one alone for all layers and one of its own for each."""
    random = np.random.RandomState(11)  # frozen by numpy for ever
    shape = (PAPER_REFERENCES, network.n_latent, network.style_dim)
    z = torch.from_numpy(random.standard_normal(shape).astype(np.float32))
    with torch.inference_mode():
        w = network.get_latent(z.flatten(0, 1)).reshape(shape).numpy()
    return [{"latent": np.repeat(w[:1, :1], network.n_latent, axis=1)}, {"latent": w[1:]}]
