"""Training pairs of guided restoration: a degraded face, its sharp original, and a guide."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from revisage.alignment import MIRROR_ORDER
from revisage.errors import RecipeError
from revisage.training.data.aligned_faces import AlignedFace, aligned_faces
from revisage.training.data.degrade import AUTHORS, PAPER, degrade
from revisage.training.data.guides import Guide, guide_of
from revisage.training.data.picture_tensors import pictures_tensor
from revisage.training.losses.landmark import landmark_targets

__all__ = ["DEGRADATIONS", "GuidedPairs"]

DEGRADATIONS = {"paper": PAPER, "authors": AUTHORS}


def _mirrored(
    picture: npt.NDArray[np.uint8], points: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    last = picture.shape[1] - 1
    return picture[:, ::-1], (points * [-1, 1] + [last, 0])[MIRROR_ORDER]


@dataclasses.dataclass(frozen=True)
class GuidedPairs:
    """Aligned faces with guides (`guide_of`), degraded on the fly.

    folders: of annotated portraits. size: side in pixels. degradation: "paper" or "authors".
    flip: share of pairs that are mirrored, face and guide alike. strangers: the guide is a random
    photo of another person (variant R of GFRNet's ablation).
    """

    folders: tuple[str, ...]
    size: int = 256
    min_native_face_px: float = 0.0
    degradation: str = "paper"
    flip: float = 0.5
    strangers: bool = False

    def __post_init__(self) -> None:
        if self.degradation not in DEGRADATIONS:
            raise RecipeError(
                f"[data] degradation is one of {', '.join(DEGRADATIONS)}, not {self.degradation!r}"
            )

    def faces(self, split: str) -> list[AlignedFace]:
        """The faces of a split."""
        cv2.setNumThreads(1)  # one thread makes batches beside the ones that train
        least = self.min_native_face_px
        return aligned_faces(self.folders, split, self.size, min_native_face_px=least)

    def guide(self, faces: Sequence[AlignedFace], index: int, rng: np.random.Generator) -> Guide:
        """A guide for one face, of the same person or of a stranger."""
        if not self.strangers:
            return guide_of(faces, index, rng)
        own = faces[index].identity
        others = [face for face in faces if face.identity != own]
        if not others:  # a validation split of one person
            others = [face for face in self.faces("train") if face.identity != own]
        if not others:
            raise RecipeError("guides of other people need portraits of two or more identities")
        other = others[int(rng.integers(len(others)))]
        return Guide(other.image, other.landmarks)

    def sample(self, rng: np.random.Generator, count: int) -> dict[str, Tensor]:
        """One training batch; see `batch`. A function of `rng` alone."""
        faces = self.faces("train")
        return self.batch(faces, rng.integers(len(faces), size=count).tolist(), rng, flip=self.flip)

    def held_out(self, count: int, scale: float | None = None) -> list[dict[str, Tensor]]:
        """The first faces of the validation split, one by one, the same every time.

        Args:
            count: at most so many. scale: the face is reduced by exactly this; None draws it.
        """
        faces = self.faces("val")
        chosen = range(min(count, len(faces)))
        return [
            self.batch(faces, [index], np.random.default_rng([2018, index]), scale=scale)
            for index in chosen
        ]

    def batch(
        self,
        faces: Sequence[AlignedFace],
        indices: Sequence[int],
        rng: np.random.Generator,
        *,
        scale: float | None = None,
        flip: float = 0.0,
    ) -> dict[str, Tensor]:
        """Pairs of the given faces.

        Returns:
            sharp, degraded, guide: [N, 3, S, S] in [0, 1].
            landmarks, guide_landmarks: [N, 68, 2] in pixels.
            bound [N, 1, S, S], target [N, 2, S, S]: of `landmark_targets`.
            flow [N, S, S, 2] in pixels, as of `Guide`, and known [N] bool: whether it is (it is 0
            for real photos, whose flow nobody knows).
        """
        sharp, degraded, guides, points, guide_points, flows, known = [], [], [], [], [], [], []
        settings = DEGRADATIONS[self.degradation]
        for index in indices:
            image, landmarks = faces[index].image, faces[index].landmarks
            # A generator of its own: the same face is degraded alike whatever guides it.
            damage = np.random.default_rng(rng.integers(2**63))
            guide = self.guide(faces, index, rng)
            guide_image, guide_landmarks = guide.image, guide.landmarks
            flow = guide.flow
            if flip > 0 and rng.random() < flip:
                image, landmarks = _mirrored(image, landmarks)
                guide_image, guide_landmarks = _mirrored(guide_image, guide_landmarks)
                flow = None if flow is None else flow[:, ::-1] * np.array([-1, 1], np.float32)
            image = np.ascontiguousarray(image)
            sharp.append(image)
            degraded.append(degrade(image, damage, settings, scale=scale))
            guides.append(guide_image)
            points.append(landmarks)
            guide_points.append(guide_landmarks)
            known.append(flow is not None)
            flows.append(np.zeros((self.size, self.size, 2), np.float32) if flow is None else flow)
        landmarks_there = torch.from_numpy(np.stack(points).astype(np.float32))
        landmarks_guide = torch.from_numpy(np.stack(guide_points).astype(np.float32))
        bound, target = landmark_targets(landmarks_there, landmarks_guide, self.size, self.size)
        return {
            "sharp": pictures_tensor(sharp),
            "degraded": pictures_tensor(degraded),
            "guide": pictures_tensor(guides),
            "landmarks": landmarks_there,
            "guide_landmarks": landmarks_guide,
            "bound": bound,
            "target": target,
            "flow": torch.from_numpy(np.stack(flows)),
            "known": torch.tensor(known),
        }
