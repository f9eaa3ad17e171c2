"""Exporters of the networks that take a worn mask off a face."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import torch
from torch import nn

from revisage.bundle import Bundle
from revisage.export.bundle_from_onnx import ExportOptions, ManifestFields, export_bundle
from revisage.export.compare import Arrays
from revisage.export.pictures import (
    IMAGE,
    PAPER_REFERENCE_SIZE,
    PAPER_REFERENCES,
    REFERENCES,
    TOLERANCES,
    mask_tensor,
    picture_tensor,
)
from revisage.export.reference_set import reference_pictures, with_worn_masks
from revisage.export.weights import file_digest, load_weights, recipe_origin
from revisage.training.models.masked_cyclegan import UnmaskGenerator

__all__ = ["unmask", "unmask_paper"]

WORKING_SIZE = 256


class _Unmasked(nn.Module):
    """The generator works in [-1, 1], its bundle in [0, 1]."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.generator(2 * image - 1)
        return (found.image + 1) / 2, found.mask


def unmask(weights: Path, folder: Path, **options: Unpack[ExportOptions]) -> Bundle:
    """Export the compact generator that takes masks off (folded body, mask head)."""
    network = UnmaskGenerator.compact()
    return _export("unmask", "compact", network, weights, folder, options)


def unmask_paper(weights: Path, folder: Path, **options: Unpack[ExportOptions]) -> Bundle:
    """Export the masked CycleGAN at paper size, of recipe `unmask_paper`."""
    network = UnmaskGenerator.paper()
    return _export("unmask_paper", "paper", network, weights, folder, options)


def _export(
    name: str,
    size: str,
    network: UnmaskGenerator,
    weights: Path,
    folder: Path,
    options: ExportOptions,
) -> Bundle:
    load_weights(network, weights)
    fields = ManifestFields(
        name=name,
        operation="unmask",
        version="1",
        size=size,
        description="Takes a worn mask off a face, and says where it drew.",
        inputs=(IMAGE,),
        outputs=(picture_tensor("unmasked"), mask_tensor("drawn")),
        working_size=WORKING_SIZE,
        multiple_of=network.multiple_of,
        padding="reflect",
        tolerances=TOLERANCES,
        licence="Apache-2.0",
        recipe=recipe_origin(name),
        weights_digest=file_digest(weights),
    )
    paper = size == "paper"
    count, side = (PAPER_REFERENCES, PAPER_REFERENCE_SIZE) if paper else (REFERENCES, WORKING_SIZE)
    worn = with_worn_masks(reference_pictures(count, side))
    references: list[Arrays] = [{"image": picture[None]} for picture in worn]
    return export_bundle(_Unmasked(network), fields, references, folder, **options)
