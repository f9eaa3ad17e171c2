"""Landmarks of aligned faces, found by the network that ships."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from revisage.alignment import face_crop_matrix, invert_affine, transform_points
from revisage.training.data.faces import crop
from revisage.training.data.picture_tensors import pictures_tensor
from revisage.training.evaluation.weights import filled, needed
from revisage.training.models.face_landmarks import FaceLandmarks

__all__ = ["LandmarkFinder"]

PASSES = 2  # the crop follows what the first pass found


class LandmarkFinder:
    """68 landmarks of a face whose place is known."""

    def __init__(self, weights: Path | None = None) -> None:
        path = weights or needed("face_landmarks", "finds the landmarks of results")
        self.network = filled(FaceLandmarks(), path, "the landmark network")

    def __call__(
        self, image: npt.NDArray[np.uint8], start: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """[68, 2] in pixels of a picture [H, W, 3], looked for around the points `start`."""
        points = start
        for _ in range(PASSES):
            matrix = face_crop_matrix(points, FaceLandmarks.size)
            seen = crop(image, matrix, FaceLandmarks.size)
            with torch.inference_mode():
                found = self.network(pictures_tensor([seen]))[0]
            points = transform_points(invert_affine(matrix), found[0].numpy().astype(np.float64))
        return points
