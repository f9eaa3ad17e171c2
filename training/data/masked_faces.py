"""Masked pictures of MaskedFace-Net for the faces of FFHQ that were aligned.

The data set (Cabani et al. 2020) lays pictures of masks over FFHQ, so the landmarks of FFHQ align
both, and what the mask covers is where the two differ.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from revisage.errors import RecipeError
from revisage.training.data.aligned_faces import AlignedFace, align_face
from revisage.training.data.folders import read_ffhq, read_masked_faces
from revisage.training.data.worn_masks import WornMask

__all__ = ["MaskedFaces"]

DIFFERENT = 24  # of 255: above what JPEG does to a picture


class MaskedFaces:
    """MaskedFace-Net beside its FFHQ; pictures are decoded when they are asked for.

    Args:
        folder: of MaskedFace-Net, see `folders.read_masked_faces`.
        ffhq: of FFHQ, see `folders.read_ffhq`. Pictures that only one of both has are left out.
        split: "train" or "val".

    Raises:
        RecipeError: a folder has another layout, or both have no picture in common.
    """

    def __init__(self, folder: str | Path, ffhq: str | Path, split: str) -> None:
        landmarks = {r.id: r.landmarks for r in read_ffhq(ffhq, split, partial=True)}
        self.records: dict[str, list[tuple[Path, np.ndarray, str]]] = {}
        for record in read_masked_faces(folder, ffhq, split, partial=True):
            points = landmarks.get(record.identity)
            if points is not None:
                entry = (record.path, points, record.kind)
                self.records.setdefault(record.identity, []).append(entry)
        if not self.records:
            raise RecipeError(f"{folder}: no masked picture of a face of {ffhq} in split {split!r}")

    def __contains__(self, face: AlignedFace) -> bool:
        return face.id in self.records

    def wear(self, face: AlignedFace, rng: np.random.Generator) -> WornMask:
        """One of the masked pictures of a face, in its square.

        Raises:
            KeyError: the face has none.
            RecipeError: the picture cannot be decoded.
        """
        pictures = self.records[face.id]
        path, points, kind = pictures[int(rng.integers(len(pictures)))]
        photo = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if photo is None:
            raise RecipeError(f"{path}: not a readable picture")
        rgb = np.asarray(cv2.cvtColor(photo, cv2.COLOR_BGR2RGB), dtype=np.uint8)
        bare = face.image
        image, _ = align_face(rgb, points, len(bare))
        difference = cv2.absdiff(image, bare).max(axis=2)
        covered = np.asarray(difference > DIFFERENT, dtype=np.uint8)
        # Single pixels are noise of the compression, and so are single holes in the mask.
        covered = np.asarray(cv2.medianBlur(covered, 5))
        return WornMask(image=image, mask=covered.astype(np.float32), kind=kind)
