"""Bundles of the two face networks."""

from __future__ import annotations

from pathlib import Path

from revisage.bundle import Bundle
from revisage.export.bundle_from_onnx import ManifestFields, export_bundle
from revisage.export.pictures import IMAGE, pictures
from revisage.export.weights import file_digest, load_weights, recipe_origin
from revisage.manifest import TensorSpec, Tolerance
from revisage.training.models.face_finder import FaceFinder
from revisage.training.models.face_landmarks import FaceLandmarks

__all__ = ["face_finder", "face_landmarks"]

# Landmarks are read to a tenth of a pixel and scores to a hundredth.
TOLERANCES = {
    "onnxruntime-cpu": {"fp32": Tolerance(max_abs=5e-3, mean_abs=5e-4)},
    "onnxruntime-cuda": {"fp32": Tolerance(max_abs=5e-2, mean_abs=5e-3)},
}
# A finder's crop is this many times as wide as the face (revisage.alignment.face_crop_matrix).
SIDE_PER_WIDTH = 1.47


def face_finder(weights: Path, folder: Path, *, force: bool = False) -> Bundle:
    """Export the finder: picture of any size -> proposals at one eighth of it."""
    network = load_weights(FaceFinder(), weights)
    fields = ManifestFields(
        name="face_finder",
        operation="faces",
        version="1",
        size="compact",
        description="Proposes upright squares of faces in one level of a photo's pyramid.",
        inputs=(IMAGE,),
        outputs=(
            TensorSpec("proposals", "float32", ("N", FaceFinder.channels, "H/8", "W/8"), "NCHW"),
        ),
        working_size=256,
        multiple_of=FaceFinder.stride,
        padding="zero",
        tolerances=TOLERANCES,
        licence="Apache-2.0",
        recipe=recipe_origin("face_finder"),
        weights_digest=file_digest(weights),
        settings={
            "smallest_side": FaceFinder.smallest_side,
            "reference_side": FaceFinder.reference_side,
            "side_per_width": SIDE_PER_WIDTH,
            "proposal_score": 0.3,
            "most_proposals": 64,
        },
    )
    references = pictures(256)
    return export_bundle(network, fields, references, folder, force=force)


def face_landmarks(weights: Path, folder: Path, *, force: bool = False) -> Bundle:
    """Export the landmark network: upright crops -> points, score, pose."""
    network = load_weights(FaceLandmarks(), weights)
    size = FaceLandmarks.size
    fields = ManifestFields(
        name="face_landmarks",
        operation="faces",
        version="1",
        size="compact",
        description="68 landmarks, a face score and the pose from an upright crop of a face.",
        inputs=(TensorSpec("image", "float32", ("N", 3, size, size), "NCHW", "RGB", (0.0, 1.0)),),
        outputs=(
            TensorSpec("landmarks", "float32", ("N", FaceLandmarks.points, 2)),
            TensorSpec("score", "float32", ("N",)),
            TensorSpec("pose", "float32", ("N", 2)),
        ),
        working_size=size,
        multiple_of=1,
        padding="border",
        tolerances=TOLERANCES,
        licence="Apache-2.0",
        recipe=recipe_origin("face_landmarks"),
        weights_digest=file_digest(weights),
        settings={"first_score": 0.4, "score": 0.97, "track_score": 0.5},
    )
    references = pictures(size)
    return export_bundle(network, fields, references, folder, force=force)
