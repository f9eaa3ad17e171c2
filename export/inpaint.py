"""Exporters of the networks that fill holes of any shape in a face.

Every bundle takes a picture and a mask and predicts the whole picture; what lies in the hole does
not matter, and only the hole of the prediction is meant to be used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

import torch
from torch import nn

from revisage.bundle import Bundle
from revisage.export.bundle_from_onnx import ExportOptions, ManifestFields, export_bundle
from revisage.export.compare import Arrays
from revisage.export.pictures import (
    IMAGE,
    MASK,
    PAPER_REFERENCE_SIZE,
    PAPER_REFERENCES,
    REFERENCES,
    TOLERANCES,
    picture_tensor,
)
from revisage.export.reference_set import reference_holes, reference_pictures
from revisage.export.weights import file_digest, imported_arguments, load_weights, recipe_origin
from revisage.manifest import RecipeOrigin
from revisage.training.models import dmfn as dmfn_network
from revisage.training.models import lama as lama_network
from revisage.training.models.coarse_to_fine import CoarseToFine
from revisage.training.models.skip_inpainting import SkipInpainting

__all__ = [
    "dmfn",
    "inpaint_free_form",
    "inpaint_free_form_paper",
    "inpainting",
    "lama",
    "skip_inpainting",
    "skip_inpainting_paper",
]

FREE_FORM: dict[str, Any] = {"ngf": 20, "n_blocks": 6}  # of recipe inpaint_free_form
FREE_FORM_PAPER: dict[str, Any] = {"ngf": 64, "n_blocks": 18}  # LaMa's large generator
DMFN_MULTIPLE = 4  # two halvings


class _Filled(nn.Module):
    """LaMa's generator takes picture and mask as one tensor, its bundle as two."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        predicted, _ = lama_network.composite(self.generator, image, mask)
        return predicted


class _DmfnFilled(nn.Module):
    """DMFN works in [-1, 1], its bundle in [0, 1]."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        predicted, _ = dmfn_network.composite(self.generator, 2 * image - 1, mask)
        return (predicted + 1) / 2


def inpainting(weights: Path, folder: Path, **options: Unpack[ExportOptions]) -> Bundle:
    """Export the coarse-to-fine network, what recipe `inpaint_fine` leaves."""
    network = CoarseToFine()
    load_weights(network, weights)
    fields = _fields(
        "inpainting",
        "compact",
        "Fills any hole in a face, first at a quarter of the size, then at full size.",
        network.multiple_of,
        weights,
    )
    fields["recipe"] = recipe_origin("inpaint_fine")
    references = _pictures_with_holes("compact")
    return export_bundle(network, fields, references, folder, half_storage=True, **options)


def skip_inpainting(weights: Path, folder: Path, **options: Unpack[ExportOptions]) -> Bundle:
    """Export the compact encoder-decoder with skip connections."""
    network = SkipInpainting.compact()
    load_weights(network, weights)
    fields = _fields(
        "skip_inpainting",
        "compact",
        "Fills any hole in a face (encoder-decoder with skip connections).",
        network.multiple_of,
        weights,
    )
    return export_bundle(network, fields, _pictures_with_holes("compact"), folder, **options)


def skip_inpainting_paper(weights: Path, folder: Path, **options: Unpack[ExportOptions]) -> Bundle:
    """Export the encoder-decoder with skip connections at the size of its comparison."""
    network = SkipInpainting.paper()
    load_weights(network, weights)
    fields = _fields(
        "skip_inpainting_paper",
        "paper",
        "Fills a hole of 64 px in the middle of a face of 128 px, which its colour alone tells.",
        network.multiple_of,
        weights,
    )
    fields["working_size"] = 128
    return export_bundle(network, fields, _pictures_with_holes("paper"), folder, **options)


def inpaint_free_form(weights: Path, folder: Path, **options: Unpack[ExportOptions]) -> Bundle:
    """Export the small generator of fast Fourier convolutions."""
    network = lama_network.LamaGenerator(**FREE_FORM)
    load_weights(network, weights)
    fields = _fields(
        "inpaint_free_form",
        "compact",
        "Fills any hole in a face (fast Fourier convolutions).",
        network.multiple_of,
        weights,
    )
    references = _pictures_with_holes("compact")
    return export_bundle(_Filled(network), fields, references, folder, **options)


def inpaint_free_form_paper(
    weights: Path, folder: Path, **options: Unpack[ExportOptions]
) -> Bundle:
    """Export LaMa's large generator with weights of recipe `inpaint_free_form_paper`.

    Published checkpoints of the same network go through `lama`.
    """
    network = lama_network.LamaGenerator(**FREE_FORM_PAPER)
    load_weights(network, weights)
    fields = _fields(
        "inpaint_free_form_paper",
        "paper",
        "Fills any hole in a face (LaMa's large generator).",
        network.multiple_of,
        weights,
    )
    references = _pictures_with_holes("paper")
    return export_bundle(_Filled(network), fields, references, folder, **options)


def lama(weights: Path, folder: Path, **options: Unpack[ExportOptions]) -> Bundle:
    """Export a LaMa generator that `revisage import` took from a published checkpoint."""
    network = lama_network.LamaGenerator(**imported_arguments(weights, "lama"))
    load_weights(network, weights)
    fields = _fields(
        "lama", "paper", "LaMa generator of a published checkpoint.", network.multiple_of, weights
    )
    fields["working_size"] = 512
    fields["licence"] = "LicenseRef-of-the-checkpoint"
    fields["recipe"] = RecipeOrigin("lama")
    references = _pictures_with_holes("paper")
    return export_bundle(_Filled(network), fields, references, folder, **options)


def dmfn(weights: Path, folder: Path, **options: Unpack[ExportOptions]) -> Bundle:
    """Export a DMFN generator that `revisage import` took from a published checkpoint."""
    network = dmfn_network.DMFNGenerator(**imported_arguments(weights, "dmfn"))
    load_weights(network, weights)
    fields = _fields(
        "dmfn", "paper", "DMFN generator of a published checkpoint.", DMFN_MULTIPLE, weights
    )
    fields["licence"] = "LicenseRef-of-the-checkpoint"
    fields["recipe"] = RecipeOrigin("dmfn")
    references = _pictures_with_holes("paper")
    return export_bundle(_DmfnFilled(network), fields, references, folder, **options)


def _fields(
    name: str, size: str, description: str, multiple_of: int, weights: Path
) -> ManifestFields:
    return ManifestFields(
        name=name,
        operation="inpaint",
        version="1",
        size=size,
        description=description,
        inputs=(IMAGE, MASK),
        outputs=(picture_tensor("filled"),),
        working_size=256,
        multiple_of=multiple_of,
        padding="reflect",
        tolerances=TOLERANCES,
        licence="Apache-2.0",
        recipe=recipe_origin(name),
        weights_digest=file_digest(weights),
    )


def _pictures_with_holes(size: str) -> list[Arrays]:
    count, side = (PAPER_REFERENCES, PAPER_REFERENCE_SIZE) if size == "paper" else (REFERENCES, 256)
    pairs = zip(reference_pictures(count, side), reference_holes(count, side), strict=True)
    return [{"image": picture[None], "mask": hole[None]} for picture, hole in pairs]
