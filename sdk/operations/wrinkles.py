"""Wrinkles and fine lines: a segmenter finds them, a filler paints the skin below them.

Source: "Photorealistic Facial Wrinkles Removal" (Sanchez et al. 2022): UNet++ segmentation, then
inpainting with fast Fourier convolutions (Suvorov et al. 2022, LaMa), as a residual.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from revisage.alignment import square_matrix, transform_points
from revisage.edit import Edit
from revisage.errors import BundleError
from revisage.operations import Network
from revisage.operations.folds import grow_through, keep_folds, spectacle_region, wears_spectacles
from revisage.operations.region import dilate, skin_region, soften_inside
from revisage.operations.square import sample_square

if TYPE_CHECKING:
    from revisage.faces import Face
    from revisage.pixels import Pixels
    from revisage.results import Stopwatch

__all__ = ["Wrinkles"]

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

# Pixels of a 512 px square; other squares scale them.
_SHOULDER = 4.0  # a wrinkle shades the skin on both sides of its line
_FEATHER = 2  # soft edge, inside the hole
_MARGIN = 20  # around the skin: what its edge is compared with
# A line that is sure somewhere is followed to where it is only this much as likely (hysteresis, as
# in Canny 1986, "A computational approach to edge detection", section 8).
_FAINT = 0.5


class Wrinkles:
    """The operation with its two networks."""

    def __init__(self, networks: Mapping[str, Network]) -> None:
        self._segmenter = networks["wrinkle_segmenter"]
        self._filler = networks["wrinkle_filler"]
        self.size = int(self._segmenter.manifest.working_size)
        threshold = self._segmenter.manifest.settings.get("threshold")
        if not isinstance(threshold, (int, float)) or not 0.0 < threshold < 1.0:
            raise BundleError(
                f"wrinkle_segmenter: setting 'threshold' is {threshold!r}, it must be a number "
                "between 0 and 1; export the bundle again"
            )
        if self._filler.manifest.working_size != self.size:
            raise BundleError(
                f"wrinkle_filler works at {self._filler.manifest.working_size} px and "
                f"wrinkle_segmenter at {self.size}; export both at one size"
            )
        self.threshold = float(threshold)

    def edit(
        self,
        pixels: Pixels,
        face: Face,
        strength: float,
        *,
        face_index: int,
        stopwatch: Stopwatch,
        threads: int | None,
    ) -> Edit:
        """Find the wrinkles of one face and fill them; see `Operation.edit`."""
        with stopwatch.stage("align"):
            matrix = square_matrix(face.landmarks, self.size)
            square = sample_square(pixels, matrix, self.size, threads=threads)
        with stopwatch.stage("find wrinkles"):
            probability = self._segmenter.infer({"image": _planes(square)})["probability"][0, 0]
        with stopwatch.stage("mask"):
            landmarks = transform_points(matrix, face.landmarks)
            hole = wrinkle_hole(probability, self.threshold, square, landmarks)
            scale = self.size / 512
            mask = soften_inside(hole, max(1, round(_FEATHER * scale)))
        with stopwatch.stage("fill"):
            filled = self._fill(square, hole)
        delta = np.where(mask[:, :, None] > 0, filled - square, np.float32(0.0))
        return Edit("wrinkles", face, delta, mask, matrix, strength, face_index)

    def _fill(self, square: FloatArray, hole: BoolArray) -> FloatArray:
        if not hole.any():
            return square
        mask = hole.astype(np.float32)[None, None]
        # One face per call: the same face then gives the same bytes whatever else is in the photo.
        filled = self._filler.infer({"image": _planes(square), "mask": mask})["filled"]
        return np.clip(np.asarray(filled[0], dtype=np.float32).transpose(1, 2, 0), 0.0, 1.0)


def wrinkle_hole(
    probability: npt.NDArray[Any], threshold: float, square: FloatArray, landmarks: Any
) -> BoolArray:
    """What to fill: wrinkles with their shoulders, on skin only.

    Args:
        probability: [S, S] of a pixel to be wrinkle.
        square: [S, S, 3] RGB in [0, 1].
        landmarks: [68, 2] in pixels of the square.
    """
    size = probability.shape[0]
    allowed = skin_region(landmarks, size)
    if wears_spectacles(square, landmarks):
        allowed &= ~spectacle_region(landmarks, size)
    rows, columns = _box(allowed, round(_MARGIN * size / 512))
    allowed_here, likely = allowed[rows, columns], probability[rows, columns]
    found = grow_through(
        (likely > threshold) & allowed_here, (likely > _FAINT * threshold) & allowed_here
    )
    folds = keep_folds(found, square[rows, columns], allowed_here, scale=size / 512)
    hole = np.zeros_like(allowed)
    hole[rows, columns] = dilate(folds, _SHOULDER * size / 512) & allowed_here
    return hole


def _box(region: BoolArray, margin: int) -> tuple[slice, slice]:
    """Rows and columns of a region with a margin; the whole where it is empty."""
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    if not rows.size:
        return slice(None), slice(None)
    return (
        slice(max(0, int(rows[0]) - margin), int(rows[-1]) + margin + 1),
        slice(max(0, int(columns[0]) - margin), int(columns[-1]) + margin + 1),
    )


def _planes(square: FloatArray) -> FloatArray:
    """[S, S, 3] -> [1, 3, S, S]."""
    return np.ascontiguousarray(square.transpose(2, 0, 1)[None])
