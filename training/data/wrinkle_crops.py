"""Training crops of the wrinkle segmenter: real portraits, drawn wrinkles, and both labels."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from revisage.alignment import square_matrix, transform_points
from revisage.errors import RecipeError
from revisage.training.data.face_augment import camera, light
from revisage.training.data.faces import FLIP, crop
from revisage.training.data.portraits import Portrait, read_portraits
from revisage.training.data.ridges import IGNORE, skin_mask, teacher_labels
from revisage.training.data.wrinkles import draw_wrinkles

__all__ = ["AlignedFace", "WrinklePool", "aligned_face", "drawing_area", "wrinkle_crop"]

Picture = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.uint8]

SIZE = 512  # side of the aligned square


@dataclasses.dataclass(frozen=True, eq=False)
class AlignedFace:
    """A portrait in its aligned square of side `SIZE`.

    image [S, S, 3]; landmarks [68, 2] in square pixels; skin [S, S] 1 = where wrinkles may be
    drawn; labels [S, S] of the ridge-filter teacher: 0, 1 or `IGNORE`.
    """

    image: Picture
    landmarks: npt.NDArray[np.float64]
    skin: Mask
    labels: Mask


def drawing_area(skin: Mask, landmarks: npt.NDArray[np.float64], reach: int = 12) -> Mask:
    """Skin and `reach` pixels around it, without eyes, brows and lips.

    Crow's feet begin nearer to the eye, and end nearer to the hair, than the teacher dares to look.
    """
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    area = np.asarray(cv2.dilate(skin, disc), dtype=np.uint8)
    for first, last in ((17, 22), (22, 27), (36, 42), (42, 48), (48, 60)):
        hull = cv2.convexHull(np.rint(landmarks[first:last]).astype(np.int32))
        cv2.fillConvexPoly(area, hull, 0)
        cv2.polylines(area, [hull], True, 0, 5)
    return area


def aligned_face(portrait: Portrait, cache: Path | None = None) -> AlignedFace:
    """Align a portrait and let the teacher label it.

    Args:
        cache: folder that keeps the result (0.3 to 0.8 MB each); empty it after changing the
            teacher.
    """
    kept = cache / f"{portrait.id}.npz" if cache is not None else None
    if kept is not None and kept.exists():
        with np.load(kept, allow_pickle=False) as arrays:
            return AlignedFace(**{f.name: arrays[f.name] for f in dataclasses.fields(AlignedFace)})
    matrix = square_matrix(portrait.landmarks, SIZE)
    image = crop(portrait.image(), matrix, SIZE)
    points = transform_points(matrix, portrait.landmarks)
    skin = skin_mask(image, points)
    labels = teacher_labels(image, points, skin=skin)
    if portrait.face_mask:  # the mask's creases are no wrinkles, and landmarks there are guesses
        skin, labels = np.zeros_like(skin), np.zeros_like(labels)
    face = AlignedFace(image, points, drawing_area(skin, points), labels)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.savez_compressed(
                file, image=image, landmarks=points, skin=face.skin, labels=face.labels
            )
        os.replace(partial, kept)
    return face


class WrinklePool:
    """The aligned faces of one split, in memory (about 1.3 MB each)."""

    def __init__(
        self,
        folders: Sequence[str | Path],
        split: str,
        *,
        smallest_face: float = 220.0,
        cache: Path | None = None,
    ) -> None:
        self.faces = [
            aligned_face(portrait, cache)
            for folder in folders
            for portrait in read_portraits(folder, split)
            if float(portrait.extra.get("native_face_px", portrait.face_px)) >= smallest_face
            or "wrinkled" in portrait.extra
        ]
        if not self.faces:
            raise RecipeError(f"no portraits of split {split!r} in {', '.join(map(str, folders))}")

    def crops(self, rng: np.random.Generator, size: int) -> Iterator[tuple[Picture, Mask, Mask]]:
        """Endless `wrinkle_crop`s of random faces."""
        while True:
            yield wrinkle_crop(self.faces[int(rng.integers(len(self.faces)))], size, rng)


def wrinkle_crop(
    face: AlignedFace, size: int, rng: np.random.Generator
) -> tuple[Picture, Mask, Mask]:
    """A window of an aligned face with drawn wrinkles.

    Turned by up to 10 degrees and scaled by 0.8 to 1.25, because landmarks at run time are not
    exact and faces differ; mirrored half of the time.

    Returns:
        image [size, size, 3] uint8 RGB; target [size, size] 1 = drawn or real wrinkle; known
        [size, size] 0 where the teacher could not tell.
    """
    angle = np.radians(rng.uniform(-10, 10))
    scale = float(np.exp(rng.uniform(-0.22, 0.22)))
    centre = np.array([rng.uniform(110, 402), rng.uniform(100, 430)])
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cos, sin], [-sin, cos]])
    mirrored = bool(rng.random() < 0.5)
    if mirrored:
        linear[0] = -linear[0]
    matrix = np.concatenate([linear, ((size - 1) / 2 - linear @ centre)[:, None]], axis=1)
    window = (size, size)
    image = np.asarray(
        cv2.warpAffine(
            face.image, matrix, window, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        ),
        dtype=np.uint8,
    )
    skin, labels = (
        np.asarray(cv2.warpAffine(m, matrix, window, flags=cv2.INTER_NEAREST), dtype=np.uint8)
        for m in (face.skin, face.labels)
    )
    points = transform_points(matrix, face.landmarks)
    if mirrored:
        points = points[FLIP]
    if rng.random() < 0.5:  # strong changes hide fine lines: leave half of the crops alone
        image = light(image, rng)
    drawn = np.zeros(window, np.uint8)
    if rng.random() < 0.9:  # some faces keep only what they have
        amount = float(rng.choice([0.6, 1.0, 1.6]))
        image, drawn = draw_wrinkles(image, points, rng, amount=amount, skin=skin)
    if rng.random() < 0.4:
        image = camera(image, rng, detail=0.5)
    target = ((drawn > 0) | (labels == 1)).astype(np.uint8)
    known = ((labels != IGNORE) | (target > 0)).astype(np.uint8)
    return image, target, known
