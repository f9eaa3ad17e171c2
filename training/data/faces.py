"""Synthesis of the training data of the face networks from annotated portraits.

Portraits are decoded once and kept reduced in memory; every sample is one similarity warp of such a
picture, followed by light, covering and camera effects. Coordinates follow Note [Pixel centres] in
`revisage.alignment`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from revisage.alignment import (
    MIRROR_ORDER,
    face_crop_matrix,
    invert_affine,
    transform_points,
)
from revisage.errors import RecipeError
from revisage.training.data.face_augment import camera, cover, light, texture
from revisage.training.data.portraits import Portrait, read_portraits

__all__ = [
    "FLIP",
    "FacePool",
    "LandmarkSample",
    "PooledFace",
    "aligned_jitter",
    "crop",
    "landmark_batches",
    "landmark_sample",
    "placement",
    "read_negatives",
    "shown_again",
]

FloatArray = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]

FLIP = MIRROR_ORDER


@dataclasses.dataclass(frozen=True, eq=False)
class PooledFace:
    """A reduced portrait in memory."""

    picture: Picture  # [H, W, 3] RGB
    landmarks: FloatArray  # [68, 2] in its pixels
    box: FloatArray  # [4] x, y, w, h in its pixels
    yaw: float
    pitch: float


def _pooled(portrait: Portrait, face_px: float) -> PooledFace:
    picture = portrait.image(min(1.0, face_px / portrait.face_px))
    scale = np.array([picture.shape[1] / portrait.width, picture.shape[0] / portrait.height])
    landmarks = (portrait.landmarks + 0.5) * scale - 0.5
    box = portrait.box.copy()
    box[:2] = (box[:2] + 0.5) * scale - 0.5
    box[2:] *= scale
    return PooledFace(
        picture, landmarks.astype(np.float32), box, yaw=portrait.yaw, pitch=portrait.pitch
    )


class FacePool:
    """Portraits of one split, reduced so that faces are `face_px` wide, and pictures of no face."""

    def __init__(
        self,
        folders: Sequence[str | Path],
        split: str | None,
        *,
        face_px: float = 160.0,
        negatives: Sequence[Picture] = (),
    ) -> None:
        self.faces = [
            _pooled(portrait, face_px)
            for folder in folders
            for portrait in read_portraits(folder, split)
        ]
        if not self.faces:
            raise RecipeError(f"no portraits of split {split!r} in {', '.join(map(str, folders))}")
        self.negatives = list(negatives)

    def background(self, size: int, rng: np.random.Generator) -> Picture:
        """A [size, size, 3] picture without a face: part of a negative, or a texture."""
        if not self.negatives or rng.random() < 0.25:
            return texture((size, size), rng)
        source = self.negatives[int(rng.integers(0, len(self.negatives)))]
        height, width = source.shape[:2]
        # From a small detail to the whole picture, evenly in log scale.
        longest = np.log(max(height, width) * 1.1)
        side = float(np.exp(rng.uniform(np.log(min(48.0, height, width)), longest)))
        angle = rng.uniform(-0.5, 0.5) if rng.random() < 0.5 else 0.0
        centre = rng.uniform(0, 1, 2) * [width - 1, height - 1]
        matrix = placement(centre, side, angle, size, flip=bool(rng.random() < 0.5))
        return crop(source, matrix, size)


def read_negatives(folder: str | Path, longest: int = 1024) -> list[Picture]:
    """All pictures below `folder` (JPEG, PNG), [H, W, 3] RGB, reduced to `longest` pixels.

    They must show no people. An empty name gives an empty list; backgrounds are then procedural.
    """
    if not str(folder):
        return []
    found = sorted(
        p for p in Path(folder).rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"}
    )
    if not found:
        raise RecipeError(f"{folder}: no pictures there to learn from as pictures without people")
    pictures = []
    for path in found:
        data = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if data is None:
            continue
        scale = longest / max(data.shape[:2])
        if scale < 1:
            data = cv2.resize(data, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        pictures.append(np.asarray(cv2.cvtColor(data, cv2.COLOR_BGR2RGB), dtype=np.uint8))
    return pictures


def placement(
    centre: npt.ArrayLike, side: float, angle: float, size: int, *, flip: bool = False
) -> npt.NDArray[np.float64]:
    """[2, 3] map from a picture to a crop: `side` pixels around `centre`, turned by `angle` rad."""
    scale = size / side
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cos, sin], [-sin, cos]])
    if flip:
        linear[0] = -linear[0]
    middle = np.full(2, (size - 1) / 2)
    offset = middle - linear @ np.asarray(centre, dtype=np.float64)
    return np.concatenate([linear, offset[:, None]], axis=1)


def crop(picture: Picture, matrix: npt.NDArray[np.float64], size: int) -> Picture:
    """Sample a picture into a [size, size, 3] crop; reduce it first where that avoids aliasing."""
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    while scale < 0.6:
        # Halve by 2 x 2 means: pixel p of the half is at 2 p + 0.5 of the whole.
        height, width = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2
        if min(height, width) < 8:
            break
        picture = cv2.resize(  # type: ignore[assignment]
            picture[:height, :width], (width // 2, height // 2), interpolation=cv2.INTER_AREA
        )
        matrix = np.concatenate(
            [matrix[:, :2] * 2, (matrix[:, 2] + 0.5 * matrix[:, :2].sum(axis=1))[:, None]], axis=1
        )
        scale *= 2
    out = cv2.warpAffine(
        picture, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(out, dtype=np.uint8)


@dataclasses.dataclass(frozen=True, eq=False)
class LandmarkSample:
    """One training crop of the landmark network."""

    image: Picture  # [S, S, 3]
    landmarks: FloatArray  # [68, 2] in crop pixels
    pose: FloatArray  # [2] yaw, pitch in degrees
    is_face: float  # 1 face, 0 none
    points_count: float  # weight of the landmark loss


def aligned_jitter(
    landmarks: FloatArray, size: int, rng: np.random.Generator, *, rough: bool, flip: bool
) -> npt.NDArray[np.float64]:
    """Photo -> crop map of a jittered face crop.

    Rough crops are like those from the finder (turned up to 45 degrees, scale 0.68 to 1.45, centre
    off by up to a sixth), the others like those from landmarks of a first pass or the last frame.
    """
    exact = face_crop_matrix(landmarks, size)
    if rough:
        angle = np.radians(rng.uniform(-48, 48))
        scale = np.exp(rng.uniform(-0.38, 0.37))
        shift = rng.uniform(-0.16, 0.16, 2) * size
    else:
        angle = np.radians(np.clip(rng.normal(0, 5), -14, 14))
        scale = np.exp(np.clip(rng.normal(0, 0.06), -0.18, 0.18))
        shift = np.clip(rng.normal(0, 0.03, 2), -0.09, 0.09) * size
    middle = np.full(2, (size - 1) / 2)
    turn = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    if flip:
        turn = turn @ np.diag([-1.0, 1.0])
    linear = turn @ exact[:, :2]
    offset = turn @ (exact[:, 2] - middle) + middle + shift
    return np.concatenate([linear, offset[:, None]], axis=1)


def _cut_border(face: PooledFace, rng: np.random.Generator) -> tuple[Picture, FloatArray]:
    """The picture cut so that up to a quarter of the face is missing, and the shifted landmarks."""
    x, y, width, height = face.box
    left, top = 0, 0
    right, bottom = face.picture.shape[1], face.picture.shape[0]
    side, share = int(rng.integers(0, 4)), rng.uniform(-0.15, 0.25)
    if side == 0:
        left = round(x + share * width)
    elif side == 1:
        right = round(x + (1 - share) * width)
    elif side == 2:
        top = round(y + share * height)
    else:
        bottom = round(y + (1 - share) * height)
    left, top = max(0, left), max(0, top)
    right, bottom = min(face.picture.shape[1], right), min(face.picture.shape[0], bottom)
    cut = face.picture[top:bottom, left:right]
    return cut, face.landmarks - np.array([left, top], dtype=np.float32)


def _broken_face(face: PooledFace, size: int, rng: np.random.Generator) -> Picture:
    """A face crop that is no face any more: quarters shuffled, upside-down halves, or one part."""
    matrix = aligned_jitter(face.landmarks, size, rng, rough=False, flip=False)
    kind = rng.random()
    if kind < 0.4:
        image = crop(face.picture, matrix, size)
        half = size // 2
        quarters = [image[a : a + half, b : b + half].copy() for a in (0, half) for b in (0, half)]
        order = rng.permutation(4)
        while (order == np.arange(4)).sum() > 1:
            order = rng.permutation(4)
        for place, index in enumerate(order):
            a, b = divmod(place, 2)
            part = quarters[int(index)]
            image[a * half : (a + 1) * half, b * half : (b + 1) * half] = (
                part[:, ::-1] if rng.random() < 0.3 else part
            )
        return image
    # One part of a face, or the face small in its surroundings.
    centre = transform_points(invert_affine(matrix), np.full(2, (size - 1) / 2))
    side = size / float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if kind < 0.8:
        centre = centre + rng.uniform(-0.5, 0.5, 2) * side
        side *= rng.uniform(0.12, 0.36)
    else:
        direction = rng.uniform(0, 2 * np.pi)
        away = rng.uniform(0.62, 1.2) * side
        centre = centre + away * np.array([np.cos(direction), np.sin(direction)])
        side *= rng.uniform(0.6, 1.2)
    return crop(face.picture, placement(centre, side, rng.uniform(-0.8, 0.8), size), size)


def shown_again(image: Picture, rng: np.random.Generator) -> Picture:
    """A [S, S, 3] crop that fooled the network, a little moved and in other light."""
    size = image.shape[0]
    middle = np.full(2, (size - 1) / 2) + rng.normal(0, 0.05 * size, 2)
    side = size * float(np.exp(rng.normal(0, 0.1)))
    flip = bool(rng.random() < 0.5)
    image = crop(image, placement(middle, side, rng.normal(0, 0.2), size, flip=flip), size)
    return light(image, rng) if rng.random() < 0.5 else image


def _no_face(pool: FacePool, size: int, rng: np.random.Generator) -> Picture:
    """A crop without a face."""
    if rng.random() < 0.35:
        face = pool.faces[int(rng.integers(0, len(pool.faces)))]
        image = _broken_face(face, size, rng)
    else:
        image = pool.background(size, rng)
    return camera(light(image, rng), rng)


def landmark_sample(
    pool: FacePool,
    size: int,
    rng: np.random.Generator,
    *,
    negative_share: float = 0.25,
) -> LandmarkSample:
    """A face crop with landmarks, or a crop without a face.

    Args:
        negative_share: share of the samples without a face.
    """
    if rng.random() < negative_share:
        image = _no_face(pool, size, rng)
        nowhere = np.full((68, 2), (size - 1) / 2, dtype=np.float32)
        return LandmarkSample(image, nowhere, np.zeros(2, np.float32), 0.0, 0.0)
    face = pool.faces[int(rng.integers(0, len(pool.faces)))]
    flip = bool(rng.random() < 0.5)
    rough = bool(rng.random() < 0.5)
    picture, landmarks = face.picture, face.landmarks
    if rng.random() < 0.15:
        picture, landmarks = _cut_border(face, rng)
    matrix = aligned_jitter(landmarks, size, rng, rough=rough, flip=flip)
    image = crop(picture, matrix, size)
    points = transform_points(matrix, landmarks).astype(np.float32)
    yaw, pitch = face.yaw, face.pitch
    if flip:
        points, yaw = points[MIRROR_ORDER], -yaw
    image = light(image, rng)
    if rng.random() < 0.3:
        image = cover(image, points, rng)
    image = camera(image, rng)
    return LandmarkSample(image, points, np.array([yaw, pitch], dtype=np.float32), 1.0, 1.0)


def landmark_batches(
    pool: FacePool,
    size: int,
    batch: int,
    rng: np.random.Generator,
    *,
    negative_share: float = 0.25,
) -> Iterator[dict[str, npt.NDArray[np.generic]]]:
    """Endless batches of arrays: image [N, S, S, 3] u8, landmarks, pose, is_face, points_count."""
    while True:
        samples = [
            landmark_sample(pool, size, rng, negative_share=negative_share) for _ in range(batch)
        ]
        yield {
            field.name: np.stack([getattr(sample, field.name) for sample in samples]).astype(
                np.uint8 if field.name == "image" else np.float32
            )
            for field in dataclasses.fields(LandmarkSample)
        }
