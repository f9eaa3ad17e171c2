"""Training crops of the wrinkle segmenter from faces whose wrinkles people have drawn.

The folder layout of FFHQ-Wrinkle (`training/data/folders.py`). Its faces are aligned as FFHQ's, a
little smaller in the picture than in our aligned square; the crops are zoomed over that range.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from revisage.errors import MediaError, RecipeError
from revisage.training.data.folders import FaceRecord, read_ffhq_wrinkles

__all__ = ["LabelledWrinkles", "labelled_crop"]

Picture = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.uint8]


def _reduced(image: Picture, mask: Mask, size: int) -> tuple[Picture, Mask]:
    """Both at size x size; a pixel is wrinkle where a quarter of its area is."""
    small = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    share = cv2.resize((mask > 127).astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.uint8), (share >= 0.25).astype(np.uint8)


def labelled_crop(
    image: Picture, mask: Mask, size: int, rng: np.random.Generator
) -> tuple[Picture, Mask]:
    """A window of a labelled face: turned by up to 10 degrees, zoomed, mirrored half of the time.

    Args:
        image: [S, S, 3] uint8; mask: [S, S], 1 = wrinkle.
        size: side of the window in pixels.

    Returns:
        [size, size, 3] and [size, size] uint8.
    """
    side = image.shape[0]
    angle, scale = np.radians(rng.uniform(-10, 10)), float(np.exp(rng.uniform(-0.22, 0.35)))
    reach = max(0.0, 0.5 * side - 0.35 * size / scale)
    centre = 0.5 * (side - 1) + rng.uniform(-reach, reach, 2)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cos, sin], [-sin, cos]])
    if rng.random() < 0.5:
        linear[0] = -linear[0]
    matrix = np.concatenate([linear, ((size - 1) / 2 - linear @ centre)[:, None]], axis=1)
    window = cv2.warpAffine(
        image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    target = cv2.warpAffine(mask, matrix, (size, size), flags=cv2.INTER_NEAREST)
    return np.asarray(window, dtype=np.uint8), np.asarray(target, dtype=np.uint8)


class LabelledWrinkles:
    """The faces of one split, read from disk whenever one is needed.

    Args:
        folders: in the layout of FFHQ-Wrinkle.
        split: "train" or "val". The held-out faces are the data set's "test" split, or every tenth
            face where it does not say which those are.
        size: side in pixels to which the faces are reduced.

    Raises:
        RecipeError: a folder has another layout, or no face.
    """

    def __init__(self, folders: Sequence[str | Path], split: str, size: int = 512) -> None:
        self.size = size
        self.records: list[FaceRecord] = []
        for folder in folders:
            records = read_ffhq_wrinkles(folder)
            if all(record.split == "train" for record in records):
                held_out = {record.id for record in records[::10]}
            else:
                held_out = {record.id for record in records if record.split != "train"}
            self.records += [r for r in records if (r.id in held_out) == (split == "val")]
        if not self.records:
            raise RecipeError(
                f"no labelled face of split {split!r} in {', '.join(map(str, folders))}"
            )

    def face(self, index: int) -> tuple[Picture, Mask]:
        """Picture [size, size, 3] uint8 and its wrinkles [size, size], 1 = wrinkle."""
        record = self.records[index]
        image, mask = record.image(), record.image("wrinkles")
        if image.shape[0] != image.shape[1] or image.shape[:2] != mask.shape:
            raise MediaError(
                f"{record.path}: picture {image.shape} and mask {mask.shape} should be squares of "
                "one size"
            )
        return _reduced(image, mask, self.size)

    def crop(self, rng: np.random.Generator, size: int) -> tuple[Picture, Mask]:
        """`labelled_crop` of a random face."""
        image, mask = self.face(int(rng.integers(len(self.records))))
        return labelled_crop(image, mask, size, rng)
