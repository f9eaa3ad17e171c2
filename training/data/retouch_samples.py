"""Samples of retouching, the same for every network that learns it: blemished and clean faces.

Blemishes are drawn on clean aligned faces, or pairs come from a folder of photos and their
professional retouches (FFHQR); either way the residual is scaled by a random lambda.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from revisage.errors import RecipeError
from revisage.training.data.aligned_faces import AlignedFace, aligned_faces
from revisage.training.data.blemishes import add_blemishes
from revisage.training.data.face_skin import blemish_skin
from revisage.training.data.lambda_augmentation import LambdaRange, lambda_augment
from revisage.training.data.recent import Recent
from revisage.training.data.retouch_pairs import RetouchPairs

__all__ = ["RetouchData", "RetouchSamples", "picture_tensor"]

FloatImage = npt.NDArray[np.float32]

RETOUCHED = 2.5 / 255  # where photo and retouch differ by more, the retoucher was at work
HELD_OUT_SEED = 2718
SKIN_BYTES = 1024**3  # of skin maps in memory: 4 MB each at 1024 px, too much for all of FFHQ


@dataclasses.dataclass(frozen=True)
class RetouchData:
    """The table [data] of a recipe that learns to retouch."""

    portraits: tuple[str, ...]  # folders of annotated portraits, taken as clean
    # FFHQR instead of drawn blemishes; both folders as `read_ffhqr` wants them:
    ffhq: str = ""
    retouched: str = ""
    size: int = 1024  # side of the aligned square
    min_native_face_px: float = 0.0
    amount: float = 1.0  # of drawn blemishes
    lambda_low: float = 0.1
    lambda_high: float = 1.5
    lambda_clean: float = 0.05  # share of inputs without any blemish
    held_out: int = 64  # faces of the validation split that are judged


class RetouchSamples:
    """Pairs of faces, as functions of a generator.

    Raises:
        RecipeError: one of the two FFHQR folders is named without the other, or an impossible range
            of lambda; on the first sample also when a folder holds no faces.
    """

    def __init__(self, data: RetouchData) -> None:
        if bool(data.ffhq) != bool(data.retouched):
            raise RecipeError("[data] ffhq and retouched belong together: name both, or none")
        try:
            self.lambdas = LambdaRange(data.lambda_low, data.lambda_high, data.lambda_clean)
        except ValueError as error:
            raise RecipeError(f"[data]: {error}") from error
        self.data = data
        self._skin = Recent(SKIN_BYTES)  # by split and index
        self._pairs: dict[str, RetouchPairs] = {}

    @property
    def notes(self) -> dict[str, str]:
        """What a run records of its pairs."""
        return {"alignment": self._retouches("train").alignment} if self.data.retouched else {}

    def faces(self, split: str) -> list[AlignedFace]:
        """The clean faces that blemishes are drawn on."""
        data = self.data
        return aligned_faces(
            data.portraits, split, data.size, min_native_face_px=data.min_native_face_px
        )

    def _retouches(self, split: str) -> RetouchPairs:
        if split not in self._pairs:
            data = self.data
            self._pairs[split] = RetouchPairs(data.ffhq, data.retouched, split, data.size)
        return self._pairs[split]

    def count(self, split: str) -> int:
        """Faces of a split."""
        return len(self._retouches(split) if self.data.retouched else self.faces(split))

    def pair(
        self, split: str, index: int, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.uint8], FloatImage, FloatImage]:
        """One face.

        Returns:
            Clean [S, S, 3] uint8; blemished less clean [S, S, 3] in 0..1 units; and [S, S] in 0..1,
            where it is blemished.
        """
        if self.data.retouched:
            photo, clean = self._retouches(split)[index]
            change = (photo.astype(np.float32) - clean.astype(np.float32)) / np.float32(255)
            where: FloatImage = (np.abs(change).max(axis=2) > RETOUCHED).astype(np.float32)
            return clean, np.asarray(change, dtype=np.float32), where
        face = self.faces(split)[index]
        image = face.image
        skin = self._skin.get((split, index), lambda: blemish_skin(image, face.landmarks))
        drawn = add_blemishes(image, face.landmarks, rng, amount=self.data.amount, skin=skin)
        return image, drawn.residual, drawn.mask

    def draw(self, rng: np.random.Generator, crop: int = 0) -> tuple[FloatImage, FloatImage]:
        """A training pair: input and target [S, S, 3] in [0, 1], mirrored in half of all cases.

        Args:
            crop: side of a random crop; 0 takes the whole square.
        """
        index = int(rng.integers(self.count("train")))
        clean, residual, _ = self.pair("train", index, rng)
        image, target, _ = lambda_augment(clean, residual, rng, range_=self.lambdas)
        if crop:
            top, left = (int(v) for v in rng.integers(0, self.data.size - crop + 1, 2))
            cut = (slice(top, top + crop), slice(left, left + crop))
            image, target = image[cut], target[cut]
        if rng.random() < 0.5:
            image, target = image[:, ::-1], target[:, ::-1]
        return image, target

    def batch(self, rng: np.random.Generator, size: int, crop: int = 0) -> dict[str, Tensor]:
        """`image` and `target` [N, 3, S, S] in [0, 1]; see `draw`."""
        images, targets = zip(*(self.draw(rng, crop) for _ in range(size)), strict=True)
        return {"image": picture_tensor(images), "target": picture_tensor(targets)}

    def held_out(self, count: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """`image`, `target` [1, 3, S, S] and blemish mask [1, 1, S, S], the same every time."""
        rng = np.random.default_rng(HELD_OUT_SEED)
        for index in range(min(count, self.count("val"))):
            clean, residual, mask = self.pair("val", index, rng)
            target = clean.astype(np.float32) / 255
            yield (
                picture_tensor([target + residual]),
                picture_tensor([target]),
                picture_tensor([mask[..., None]]),
            )


def picture_tensor(pictures: Any) -> Tensor:
    """[H, W, C] float32 each -> [N, C, H, W]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
