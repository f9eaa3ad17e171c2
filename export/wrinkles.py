"""Exporters of the wrinkle networks: compact ones that ship, and paper-size ones of a user.

Tensors of every bundle here: pictures NCHW RGB float32 in [0, 1], masks 1 = hole or wrinkle.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

import revisage.training.models as models
from revisage.bundle import Bundle
from revisage.errors import CheckpointError
from revisage.export.bundle_from_onnx import ManifestFields, export_bundle
from revisage.export.compare import Arrays
from revisage.export.reference_set import reference_masks, reference_pictures
from revisage.manifest import RecipeOrigin, TensorSpec, Tolerance
from revisage.training.models.lama import LamaGenerator, composite
from revisage.training.models.unetpp import UNetPlusPlus
from revisage.training.models.wrinkle_filler import CompactFiller
from revisage.training.models.wrinkle_segmenter import CompactSegmenter

__all__ = ["lama", "unetpp", "wrinkle_filler", "wrinkle_segmenter"]

IMAGE = TensorSpec("image", "float32", ("N", 3, "H", "W"), "NCHW", "RGB", (0.0, 1.0))
MASK = TensorSpec("mask", "float32", ("N", 1, "H", "W"), "NCHW", "mask", (0.0, 1.0))
PROBABILITY = TensorSpec("probability", "float32", ("N", 1, "H", "W"), "NCHW", "mask", (0.0, 1.0))
FILLED = TensorSpec("filled", "float32", ("N", 3, "H", "W"), "NCHW", "RGB", (0.0, 1.0))

WORKING_SIZE = 512
REFERENCES = 8
# A paper-size network takes seconds for a picture; what differs shows at any size.
PAPER_REFERENCES, PAPER_REFERENCE_SIZE = 2, 256

# What segmentation_models.pytorch prepares pictures with for its ImageNet encoders.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)

# Half a step of an 8-bit picture is 2e-3: these leave room for other instruction sets, and for the
# other summation orders of a GPU, and none for a wrong graph.
TOLERANCES = {
    "onnxruntime-cpu": {"fp32": Tolerance(max_abs=2e-4, mean_abs=1e-5)},
    "onnxruntime-cuda": {"fp32": Tolerance(max_abs=1e-3, mean_abs=5e-5)},
}


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


class _LamaFilled(nn.Module):
    """The published generator takes picture and mask as one tensor, its bundle as two."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        predicted, _ = composite(self.generator, image, mask)
        return predicted


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


def load_weights(network: nn.Module, weights: Path) -> nn.Module:
    """Fill a network with a safetensors file of exactly its keys and shapes; eval mode.

    Raises:
        CheckpointError: the file is damaged, or made for another network.
    """
    try:
        network.load_state_dict(load_file(weights))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{weights}: not a readable safetensors file ({error})") from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:400]
        raise CheckpointError(f"{weights}: not the weights of this network: {reason}") from error
    return network.eval()


def imported_arguments(weights: Path, architecture: str) -> Mapping[str, Any]:
    """Constructor arguments that `revisage import` wrote into a safetensors file.

    Raises:
        CheckpointError: the file is damaged, or was not imported as this architecture.
    """
    try:
        with safe_open(weights, framework="pt") as file:
            metadata = dict(file.metadata() or {})
        arguments = json.loads(metadata.get("arguments", "null"))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{weights}: not a readable safetensors file ({error})") from error
    if metadata.get("architecture") != architecture or not isinstance(arguments, dict):
        raise CheckpointError(
            f"{weights}: was not imported as {architecture}: "
            "make it with `revisage import CHECKPOINT -o OUT.safetensors`"
        )
    return arguments


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def recipe_origin(name: str) -> RecipeOrigin:
    """The shipped recipe of a trained network."""
    recipe = Path(models.__file__).parents[1] / "recipes" / f"{name}.toml"
    return RecipeOrigin(name, file_digest(recipe) if recipe.is_file() else "")


def _pictures(size: int, count: int = REFERENCES) -> list[Arrays]:
    return [{"image": picture[None]} for picture in reference_pictures(count, size)]


def _pictures_with_holes(size: int, count: int = REFERENCES) -> list[Arrays]:
    pairs = zip(reference_pictures(count, size), reference_masks(count, size), strict=True)
    return [{"image": picture[None], "mask": mask[None]} for picture, mask in pairs]


def wrinkle_segmenter(weights: Path, folder: Path, *, force: bool = False) -> Bundle:
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
        tolerances=TOLERANCES,
        licence="Apache-2.0",
        recipe=recipe_origin("wrinkle_segmenter"),
        weights_digest=file_digest(weights),
        settings={"threshold": 0.5},
    )
    return export_bundle(network, fields, _pictures(WORKING_SIZE), folder, force=force)


def wrinkle_filler(weights: Path, folder: Path, *, force: bool = False) -> Bundle:
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
    return export_bundle(network, fields, _pictures_with_holes(WORKING_SIZE), folder, force=force)


def lama(weights: Path, folder: Path, *, force: bool = False) -> Bundle:
    """Export a LaMa generator that `revisage import` took from a published checkpoint."""
    network = LamaGenerator(**imported_arguments(weights, "lama"))
    filled = _LamaFilled(load_weights(network, weights))
    fields = ManifestFields(
        name="lama",
        operation="inpaint",
        version="1",
        size="paper",
        description="LaMa generator of a published checkpoint.",
        inputs=(IMAGE, MASK),
        outputs=(FILLED,),
        working_size=WORKING_SIZE,
        multiple_of=network.multiple_of,
        padding="reflect",
        tolerances=TOLERANCES,
        licence="LicenseRef-of-the-checkpoint",
        recipe=RecipeOrigin("lama"),
        weights_digest=file_digest(weights),
    )
    references = _pictures_with_holes(PAPER_REFERENCE_SIZE, PAPER_REFERENCES)
    return export_bundle(filled, fields, references, folder, force=force)


def unetpp(weights: Path, folder: Path, *, force: bool = False) -> Bundle:
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
        tolerances=TOLERANCES,
        licence="LicenseRef-of-the-checkpoint",
        recipe=RecipeOrigin("unetpp"),
        weights_digest=file_digest(weights),
        settings={"threshold": 0.5},
    )
    exported = _NormalisedProbability(load_weights(network, weights))
    references = _pictures(PAPER_REFERENCE_SIZE, PAPER_REFERENCES)
    return export_bundle(exported, fields, references, folder, force=force)
