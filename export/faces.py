"""Bundles of the two face networks."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from revisage.alignment import face_crop_matrix
from revisage.bundle import Bundle
from revisage.export.bundle_from_onnx import (
    ExportOptions,
    ManifestFields,
    export_bundle,
    stated_tolerances,
)
from revisage.export.pictures import IMAGE, REFERENCES, pictures
from revisage.export.probes import FACES
from revisage.export.reference_set import reference_faces
from revisage.export.weights import file_digest, load_weights, recipe_origin
from revisage.manifest import TensorSpec, Tolerance
from revisage.training.models.face_finder import FaceFinder
from revisage.training.models.face_landmarks import FaceLandmarks

__all__ = ["face_finder", "face_landmarks"]

# Landmarks are read to a tenth of a pixel of the crop and scores to a hundredth. At int8 a landmark
# may be off by nearly a pixel of the crop, which is less than what two people mark apart.
TOLERANCES = stated_tolerances(
    Tolerance(max_abs=5e-3, mean_abs=5e-4),
    Tolerance(max_abs=5e-2, mean_abs=5e-3),
    fp16=Tolerance(max_abs=1e-1, mean_abs=2e-2),
    bf16=Tolerance(max_abs=2e-1, mean_abs=5e-2),
    int8=Tolerance(max_abs=9e-1, mean_abs=3e-1),
)
# A finder's crop is this many times as wide as the face (revisage.alignment.face_crop_matrix).
SIDE_PER_WIDTH = 1.47


def _small_face(landmarks: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """A whole portrait with its crop as small as the finder expects it, in a picture of `size`."""
    crop = face_crop_matrix(landmarks, round(FaceFinder.reference_side))
    return crop + np.array([[0, 0, 1], [0, 0, 1]]) * (size - FaceFinder.reference_side) / 2


def face_finder(weights: Path, folder: Path, **options: Unpack[ExportOptions]) -> Bundle:
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
    return export_bundle(network, fields, references, folder, framing=_small_face, **options)


def face_landmarks(weights: Path, folder: Path, **options: Unpack[ExportOptions]) -> Bundle:
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
    references = [{"image": face[None]} for face in reference_faces(REFERENCES, size)]
    return export_bundle(
        network,
        fields,
        references,
        folder,
        framing=face_crop_matrix,
        probe_kinds=FACES,
        **options,
    )
