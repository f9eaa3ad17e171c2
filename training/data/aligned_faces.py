"""Faces in the canonical aligned square, with their landmarks.

What the synthesis of wrinkles, blemishes, worn masks, degradations and guides starts from.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from revisage.alignment import square_matrix, transform_points
from revisage.errors import MediaError, RecipeError
from revisage.training.data.folders import FaceRecord, read_faces
from revisage.training.data.recent import Recent

__all__ = ["AlignedFace", "align_face", "aligned_faces"]

Image = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]


# Bytes of aligned pictures that stay in memory: all of a few thousand faces up to 512 px, but not
# the 220 GB of FFHQ at 1024 px, which are decoded again each time they are drawn. Not more, because
# each training process keeps so many, beside its network.
KEPT_BYTES = 2 * 1024**3

_pictures = Recent(KEPT_BYTES)


class AlignedFace:
    """One face in the square of `revisage.alignment.square_matrix`.

    id, identity: as of `folders.FaceRecord`.
    image: [S, S, 3] uint8 RGB. Of `aligned_faces` it is read-only, decoded when first asked for,
        and again if `KEPT_BYTES` were not enough to keep it; always the same bytes.
    landmarks: [68, 2] x and y in square pixels, iBUG 300-W order.
    native_face_px: width of the face in the original photo.
    extra: what else the data set says, such as the whole annotation line.
    """

    __slots__ = ("_image", "extra", "id", "identity", "landmarks", "native_face_px")

    def __init__(
        self,
        id: str,
        identity: str,
        image: Image | Callable[[], Image],
        landmarks: Points,
        native_face_px: float,
        extra: dict[str, Any],
    ) -> None:
        """`image` is the picture, or what makes it, the same each time it is called."""
        self.id, self.identity = id, identity
        self._image = image
        self.landmarks, self.native_face_px, self.extra = landmarks, native_face_px, extra

    @property
    def image(self) -> Image:
        """[S, S, 3] uint8 RGB.

        Raises:
            MediaError: the picture cannot be decoded.
        """
        return _pictures.get(self, self._image) if callable(self._image) else self._image


def align_face(photo: Image, landmarks: npt.ArrayLike, size: int) -> tuple[Image, Points]:
    """Cut the aligned square of a face out of a photo.

    Args:
        photo: [H, W, 3] uint8.
        landmarks: [68, 2] in photo pixels, iBUG 300-W order.
        size: side of the square in pixels.

    Returns:
        The square, [size, size, 3] uint8, mirrored where the photo ends, and the landmarks in it.
    """
    matrix = square_matrix(landmarks, size)
    shrink = 1 / float(np.hypot(matrix[0, 0], matrix[1, 0]))
    # Sampled at twice the size or finer, then averaged: bilinear steps of at most two photo pixels.
    fine = max(2, int(np.ceil(shrink / 2)))
    large = cv2.warpAffine(
        photo,
        square_matrix(landmarks, fine * size),
        (fine * size, fine * size),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    square = cv2.resize(large, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(square, dtype=np.uint8), transform_points(matrix, landmarks)


def _native_face_px(record: FaceRecord) -> float:
    """Width of the face in the original photo; of the landmarks where the data set is silent."""
    known = record.extra.get("native_face_px") or record.extra.get("face_px")
    if known is None and record.landmarks is not None:
        known = np.ptp(record.landmarks[:, 0])
    return float(known or 0.0)


def _square(record: FaceRecord, points: Points, size: int) -> Image:
    try:
        photo = record.image()
    except MediaError as error:
        raise MediaError(
            f"{error}; download it again, or take {record.id} out of the data set"
        ) from error
    return align_face(photo, points, size)[0]


@functools.lru_cache(maxsize=16)
def _aligned(
    folders: tuple[str, ...], split: str | None, size: int, min_native_face_px: float, limit: int
) -> tuple[AlignedFace, ...]:
    chosen = []
    for folder in folders:
        for record in read_faces(folder, split):
            if record.landmarks is None or len(record.landmarks) != 68:
                count = 0 if record.landmarks is None else len(record.landmarks)
                raise RecipeError(
                    f"{folder}: {record.id} has {count} landmarks, and aligning needs 68; annotate "
                    "the pictures with python -m revisage.training.data.annotate"
                )
            if _native_face_px(record) >= min_native_face_px:
                chosen.append((record, record.landmarks))
    if limit > 0:
        chosen = chosen[:limit]
    if not chosen:
        what = f"split {split!r}" if split else "any split"
        width = f" with a face of at least {min_native_face_px:g} px" if min_native_face_px else ""
        lower = ", or lower data.min_native_face_px" if min_native_face_px else ""
        raise RecipeError(
            f"no portrait of {what}{width} in {', '.join(folders) or 'no folder'}: name folders "
            f"that have some with data.portraits{lower}"
        )
    faces = []
    for record, points in chosen:
        landmarks = transform_points(square_matrix(points, size), points)
        landmarks.setflags(write=False)
        faces.append(
            AlignedFace(
                id=record.id,
                identity=record.identity,
                image=functools.partial(_square, record, points, size),
                landmarks=landmarks,
                native_face_px=_native_face_px(record),
                extra=dict(record.extra),
            )
        )
    return tuple(faces)


def aligned_faces(
    folders: Sequence[str | Path],
    split: str | None,
    size: int,
    *,
    min_native_face_px: float = 0.0,
    limit: int = 0,
) -> list[AlignedFace]:
    """All faces of annotated portrait folders, aligned; decoded when they are looked at.

    Args:
        folders: folders that `folders.read_faces` understands, in this order; they must have 68
            landmarks for each face.
        split: "train", "val" or "test"; None for all.
        size: side of the square in pixels.
        min_native_face_px: leave out faces that were narrower in the original photo (the box of
            the stored picture counts where the annotation does not say).
        limit: keep only the first faces; 0 keeps all.

    Raises:
        RecipeError: no face left, an unknown layout, or a data set without 68 landmarks.
        MediaError: from `AlignedFace.image`, a picture that cannot be decoded.
    """
    names = tuple(str(folder) for folder in folders)
    return list(_aligned(names, split, int(size), float(min_native_face_px), int(limit)))
