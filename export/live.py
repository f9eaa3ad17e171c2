"""Exporter of the live network."""

from __future__ import annotations

from pathlib import Path

from revisage.bundle import Bundle
from revisage.export.bundle_from_onnx import ManifestFields, export_bundle
from revisage.export.reference_set import reference_pictures
from revisage.export.wrinkles import IMAGE, TOLERANCES, file_digest, load_weights, recipe_origin
from revisage.manifest import TensorSpec
from revisage.training.models.live import LiveRetoucher

__all__ = ["live"]

WORKING_SIZE, REFERENCES = 256, 8


def live(weights: Path, folder: Path, *, force: bool = False) -> Bundle:
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
            TensorSpec("mask", "float32", ("N", 1, "H", "W"), "NCHW", "mask", (0.0, 1.0)),
        ),
        working_size=WORKING_SIZE,
        multiple_of=network.multiple_of,
        padding="reflect",
        tolerances=TOLERANCES,
        licence="Apache-2.0",
        recipe=recipe_origin("live"),
        weights_digest=file_digest(weights),
    )
    references = [
        {"image": picture[None]} for picture in reference_pictures(REFERENCES, WORKING_SIZE)
    ]
    return export_bundle(network, fields, references, folder, force=force)
