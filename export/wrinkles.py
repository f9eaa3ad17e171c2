"""Exporters of the wrinkle networks: compact ones that ship, and paper-size ones of a user."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Unpack

import torch
from torch import nn

from revisage.bundle import Bundle
from revisage.errors import CheckpointError
from revisage.export.bundle_from_onnx import ExportOptions, ManifestFields, export_bundle
from revisage.export.pictures import (
    IMAGE,
    MASK,
    PAPER_REFERENCE_SIZE,
    PAPER_REFERENCES,
    PROBABILITY_TOLERANCES,
    TOLERANCES,
    mask_tensor,
    picture_tensor,
    pictures,
    pictures_with_masks,
)
from revisage.export.weights import file_digest, imported_arguments, load_weights, recipe_origin
from revisage.manifest import RecipeOrigin
from revisage.training.models.unetpp import UNetPlusPlus
from revisage.training.models.wrinkle_filler import CompactFiller
from revisage.training.models.wrinkle_segmenter import CompactSegmenter

__all__ = ["unetpp", "wrinkle_filler", "wrinkle_segmenter"]

PROBABILITY, FILLED = mask_tensor("probability"), picture_tensor("filled")

WORKING_SIZE = 512

# What segmentation_models.pytorch prepares pictures with for its ImageNet encoders.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


class _Probability(nn.Module):
    """The trained segmenter gives logits, its bundle gives probabilities."""

    def __init__(self, segmenter: nn.Module) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.segmenter(image))


class _Filled(nn.Module):
    """The trained filler may leave [0, 1] by a little, its bundle does not."""

    def __init__(self, filler: nn.Module) -> None:
        super().__init__()
        self.filler = filler

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        filled: torch.Tensor = self.filler(image, mask)
        return filled.clamp(0.0, 1.0)


class _NormalisedProbability(nn.Module):
    """ImageNet normalisation before the segmenter, a sigmoid behind it."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, segmenter: nn.Module) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).reshape(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(IMAGENET_DEVIATION).reshape(1, 3, 1, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.segmenter((image - self.mean) / self.deviation))


def wrinkle_segmenter(weights: Path, folder: Path, **options: Unpack[ExportOptions]) -> Bundle:
    """Export the compact wrinkle segmenter."""
    network = _Probability(load_weights(CompactSegmenter(), weights))
    fields = ManifestFields(
        name="wrinkle_segmenter",
        operation="wrinkles",
        version="1",
        size="compact",
        description="Finds wrinkles and fine lines in an aligned face (compact UNet++).",
        inputs=(IMAGE,),
        outputs=(PROBABILITY,),
        working_size=WORKING_SIZE,
        multiple_of=CompactSegmenter.multiple,
        padding="reflect",
        tolerances=PROBABILITY_TOLERANCES,
        licence="Apache-2.0",
        recipe=recipe_origin("wrinkle_segmenter"),
        weights_digest=file_digest(weights),
        settings={"threshold": 0.5},
    )
    return export_bundle(network, fields, pictures(WORKING_SIZE), folder, **options)


def wrinkle_filler(weights: Path, folder: Path, **options: Unpack[ExportOptions]) -> Bundle:
    """Export the compact filler, its Fourier units as matrix products."""
    network = _Filled(load_weights(CompactFiller(), weights))
    fields = ManifestFields(
        name="wrinkle_filler",
        operation="wrinkles",
        version="1",
        size="compact",
        description="Fills wrinkle-shaped holes in skin (fast Fourier convolutions).",
        inputs=(IMAGE, MASK),
        outputs=(FILLED,),
        working_size=WORKING_SIZE,
        multiple_of=CompactFiller.multiple_of,
        padding="reflect",
        tolerances=TOLERANCES,
        licence="Apache-2.0",
        recipe=recipe_origin("wrinkle_filler"),
        weights_digest=file_digest(weights),
    )
    return export_bundle(network, fields, pictures_with_masks(WORKING_SIZE), folder, **options)


def unetpp(weights: Path, folder: Path, **options: Unpack[ExportOptions]) -> Bundle:
    """Export a UNet++ that `revisage import` took from a published checkpoint.

    The bundle takes pictures in [0, 1] and normalises them as segmentation_models.pytorch does for
    encoders that were trained on ImageNet.
    """
    arguments = imported_arguments(weights, "unetpp")
    network = UNetPlusPlus(**arguments)
    if arguments["in_channels"] != 3:
        raise CheckpointError(
            f"{weights}: takes {arguments['in_channels']} channels; only RGB pictures are exported"
        )
    probability = dataclasses.replace(PROBABILITY, shape=("N", arguments["classes"], "H", "W"))
    fields = ManifestFields(
        name="unetpp",
        operation="wrinkles",
        version="1",
        size="paper",
        description="UNet++ with a ResNeXt-50 encoder, of a published checkpoint.",
        inputs=(IMAGE,),
        outputs=(probability,),
        working_size=WORKING_SIZE,
        multiple_of=network.multiple,
        padding="reflect",
        tolerances=PROBABILITY_TOLERANCES,
        licence="LicenseRef-of-the-checkpoint",
        recipe=RecipeOrigin("unetpp"),
        weights_digest=file_digest(weights),
        settings={"threshold": 0.5},
    )
    exported = _NormalisedProbability(load_weights(network, weights))
    references = pictures(PAPER_REFERENCE_SIZE, PAPER_REFERENCES)
    return export_bundle(exported, fields, references, folder, **options)
