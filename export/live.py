"""Exporter of the live network."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from revisage.bundle import Bundle
from revisage.export.bundle_from_onnx import ExportOptions, ManifestFields, export_bundle
from revisage.export.pictures import IMAGE, TOLERANCES, mask_tensor, pictures
from revisage.export.weights import file_digest, load_weights, recipe_origin
from revisage.manifest import TensorSpec
from revisage.training.models.live import LiveRetoucher

__all__ = ["live"]

WORKING_SIZE = 256


def live(weights: Path, folder: Path, **options: Unpack[ExportOptions]) -> Bundle:
    """Export the live network: picture -> change, and the mask of where it applies."""
    network = LiveRetoucher.compact()
    load_weights(network, weights)
    fields = ManifestFields(
        name="live",
        operation="retouch",
        version="1",
        size="live",
        description="Wrinkles and blemishes in one pass: result = image + mask * delta.",
        inputs=(IMAGE,),
        outputs=(
            TensorSpec("delta", "float32", ("N", 3, "H", "W"), "NCHW", "", (-1.0, 1.0)),
            mask_tensor("mask"),
        ),
        working_size=WORKING_SIZE,
        multiple_of=network.multiple_of,
        padding="reflect",
        tolerances=TOLERANCES,
        licence="Apache-2.0",
        recipe=recipe_origin("live"),
        weights_digest=file_digest(weights),
    )
    return export_bundle(network, fields, pictures(WORKING_SIZE), folder, **options)
