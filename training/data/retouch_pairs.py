"""Photos and their professional retouches (FFHQR), cut out alike."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from revisage.errors import RecipeError
from revisage.training.data.aligned_faces import align_face
from revisage.training.data.folders import read_ffhq, read_ffhqr

__all__ = ["RetouchPairs"]

Image = npt.NDArray[np.uint8]


class RetouchPairs:
    """The pairs of a split, decoded when asked for.

    With the metadata of FFHQ (`ffhq-dataset-v2.json`, which has the landmarks) faces lie in the
    canonical aligned square; without it the whole FFHQ picture is taken, which has FFHQ's own
    alignment. `alignment` says which.

    Args:
        ffhq, retouched: folders of `revisage.training.data.folders.read_ffhqr`.
        split: "train", "val" or "test".
        size: side of the square in pixels.

    Raises:
        RecipeError: not that layout, or no pair in the split.
    """

    def __init__(self, ffhq: str | Path, retouched: str | Path, split: str, size: int) -> None:
        self.records = read_ffhqr(ffhq, retouched, split, partial=True)
        self.size = size
        self.landmarks: dict[str, npt.NDArray[np.float64]] = {}
        if (Path(ffhq) / "ffhq-dataset-v2.json").exists():
            self.landmarks = {
                record.id: record.landmarks
                for record in read_ffhq(ffhq, partial=True)
                if record.landmarks is not None
            }
            without = [record.id for record in self.records if record.id not in self.landmarks]
            if without:
                raise RecipeError(
                    f"{ffhq}: its metadata has no landmarks of {len(without)} pictures, the first "
                    f"is {without[0]}; complete it, or take it away to use FFHQ's own alignment"
                )
        self.alignment = "canonical square" if self.landmarks else "FFHQ's own"

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Image, Image]:
        """The photo and its retouch, [size, size, 3] uint8 RGB.

        Raises:
            MediaError: a file cannot be decoded.
            RecipeError: photo and retouch have different sizes.
        """
        record = self.records[index]
        photo, retouch = record.image(), record.image("retouched")
        if photo.shape != retouch.shape:
            raise RecipeError(
                f"{record.path} is {photo.shape}, its retouch {retouch.shape}: they must be alike"
            )
        return self._cut(record.id, photo), self._cut(record.id, retouch)

    def _cut(self, name: str, picture: Image) -> Image:
        if self.landmarks:
            return align_face(picture, self.landmarks[name], self.size)[0]
        side = (self.size, self.size)
        shrinks = picture.shape[0] >= self.size
        way = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(picture, side, interpolation=way), dtype=np.uint8)
