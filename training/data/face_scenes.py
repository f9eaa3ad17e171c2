"""Scenes for the finder: many small faces, turned, cut, covered, among things that are no faces."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from revisage.alignment import MIRROR_ORDER, face_crop_matrix, invert_affine, transform_points
from revisage.training.data.face_augment import camera, cover, light
from revisage.training.data.faces import FacePool, PooledFace, crop, placement

__all__ = ["Scene", "crop_square", "scene", "scene_batches"]

FloatArray = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]
GRAY = 128  # what surrounds a photo


def crop_square(landmarks: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Centre x, y, side and angle (radians) of the upright crop of a face, [4].

    The angle is that of the face's own horizontal axis against the picture's.
    """
    back = invert_affine(face_crop_matrix(landmarks, 100))
    centre = transform_points(back, np.array([49.5, 49.5]))
    side = 100 * float(np.hypot(back[0, 0], back[1, 0]))
    return np.array([*centre, side, np.arctan2(back[1, 0], back[0, 0])])


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """A square picture and the crop squares of its faces."""

    image: Picture  # [S, S, 3]
    squares: FloatArray  # [F, 4]: x, y, side, angle
    sure: npt.NDArray[np.bool_]  # [F]; False: cut off too far, neither face nor no face


def _put(
    face: PooledFace, size: int, side: float, at: npt.NDArray[np.float64], rng: np.random.Generator
) -> tuple[Picture, npt.NDArray[np.bool_], FloatArray]:
    """Put a face's crop, `side` pixels wide, with its centre at `at`; turned and flipped by chance.

    Returns:
        [size, size, 3] picture, [size, size] where the photo reaches, [68, 2] landmarks.
    """
    x, y, own_side, own_angle = crop_square(face.landmarks)
    angle = np.radians(rng.uniform(-42, 42)) if rng.random() < 0.75 else rng.normal(0, 0.06)
    flip = bool(rng.random() < 0.5)
    matrix = placement([x, y], own_side * size / side, own_angle + angle, size, flip=flip)
    matrix[:, 2] += at - (size - 1) / 2
    picture = crop(face.picture, matrix, size)
    own_points = face.landmarks[MIRROR_ORDER] if flip else face.landmarks
    points: FloatArray = transform_points(matrix, own_points).astype(np.float32)
    height, width = face.picture.shape[:2]
    corners = np.array([[-0.5, -0.5], [width - 0.5, -0.5], [width - 0.5, height - 0.5]])
    corners = np.concatenate([corners, [[-0.5, height - 0.5]]])
    there = np.zeros((size, size), dtype=np.uint8)
    outline = np.rint(transform_points(matrix, corners)).astype(np.int32)
    cv2.fillConvexPoly(there, outline, 1)
    if rng.random() < 0.25:
        picture = cover(picture, points, rng)
    return picture, there.astype(bool), points


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _visible(square: npt.NDArray[np.float64], box: tuple[int, int, int, int]) -> float:
    """Share of the middle of a crop (0.68 of its side: the face) inside x0, y0, x1, y1."""
    half = 0.36 * square[2]
    wide = min(square[0] + half, box[2]) - max(square[0] - half, box[0])
    high = min(square[1] + half, box[3]) - max(square[1] - half, box[1])
    return max(0.0, float(wide)) * max(0.0, float(high)) / float(4 * half * half)


def scene(pool: FacePool, size: int, rng: np.random.Generator) -> Scene:
    """One scene: a mosaic of small photos, faces on a background, one photo, or no face at all."""
    squares: list[npt.NDArray[np.float64]] = []
    shares: list[float] = []

    def pick() -> PooledFace:
        return pool.faces[int(rng.integers(0, len(pool.faces)))]

    kind = rng.random()
    if kind < 0.45:  # mosaic
        image = np.full((size, size, 3), GRAY, dtype=np.uint8)
        tiles = int(rng.integers(2, 6))
        edges = np.rint(np.linspace(0, size, tiles + 1) + rng.normal(0, 3, tiles + 1)).astype(int)
        edges = np.clip(edges, 0, size)
        edges[0], edges[-1] = 0, size
        for top, bottom in itertools.pairwise(edges.tolist()):
            for left, right in itertools.pairwise(edges.tolist()):
                tile = max(bottom - top, right - left)
                if min(bottom - top, right - left) < 16:
                    continue
                if rng.random() < 0.35:
                    part = pool.background(tile, rng)
                else:
                    side = _log_uniform(rng, 18, min(80.0, 1.2 * tile))
                    at = rng.uniform(0.25, 0.75, 2) * tile
                    part, _, points = _put(pick(), tile, side, at, rng)
                    square = crop_square(points)
                    square[:2] += [left, top]
                    squares.append(square)
                    shares.append(_visible(square, (left, top, right, bottom)))
                if rng.random() < 0.7:
                    part = light(part, rng)
                image[top:bottom, left:right] = part[: bottom - top, : right - left]
    elif kind < 0.65:  # faces on a background
        image = pool.background(size, rng).copy()
        for _ in range(int(rng.integers(1, 6))):
            side = _log_uniform(rng, 18, 90)
            at = rng.uniform(0, size, 2)
            part, there, points = _put(pick(), size, side, at, rng)
            square = crop_square(points)
            if any(np.hypot(*(square[:2] - s[:2])) < 0.9 * (square[2] + s[2]) for s in squares):
                continue
            # Only part of the photo around the face: a window of its own crop.
            reach = square[2] * rng.uniform(0.5, 1.0, 4)
            x0, y0 = np.maximum(np.rint(square[:2] - reach[:2]).astype(int), 0)
            x1, y1 = np.minimum(np.rint(square[:2] + reach[2:]).astype(int), size)
            if x1 - x0 < 8 or y1 - y0 < 8:
                continue
            if rng.random() < 0.5:
                part = light(part, rng)
            window = np.zeros((size, size), dtype=bool)
            if rng.random() < 0.5:
                window[y0:y1, x0:x1] = True
            else:
                oval = np.zeros((size, size), dtype=np.uint8)
                middle = np.rint(square[:2]).astype(int).tolist()
                axes = (round(float(reach[0])), round(float(reach[1])))
                cv2.ellipse(oval, middle, axes, 0, 0, 360, 1, -1)
                window = oval.astype(bool)
            window &= there
            image[window] = part[window]
            squares.append(square)
            inside = window[
                int(max(0, square[1] - 0.3 * square[2])) : int(square[1] + 0.3 * square[2]) + 1,
                int(max(0, square[0] - 0.3 * square[2])) : int(square[0] + 0.3 * square[2]) + 1,
            ]
            share = float(inside.sum()) / float((0.6 * square[2]) ** 2) if inside.size else 0.0
            shares.append(min(1.0, share))
    elif kind < 0.85:  # one photo, its edges at times inside the scene
        side = _log_uniform(rng, 18, 0.95 * size)
        face = pick()
        at = rng.uniform(0.2, 0.8, 2) * size
        part, there, points = _put(face, size, side, at, rng)
        image = part.copy()
        if rng.random() < 0.7:
            surround = GRAY if rng.random() < 0.4 else pool.background(size, rng)
            image = np.where(there[..., None], part, surround).astype(np.uint8)
        square = crop_square(points)
        squares.append(square)
        shares.append(_visible(square, (0, 0, size, size)))
    else:
        image = pool.background(size, rng)
    image = camera(light(image, rng), rng, detail=0.3)
    found = np.asarray(squares, dtype=np.float32).reshape(-1, 4)
    return Scene(image, found, np.asarray(shares) > 0.7)


def scene_batches(
    pool: FacePool, size: int, batch: int, rng: np.random.Generator, most: int = 32
) -> Iterator[dict[str, npt.NDArray[np.generic]]]:
    """Endless batches: image [N, S, S, 3] u8, squares [N, most, 4] f32, and state [N, most] f32.

    State is 1 for a face, 0.5 for one that is cut off, 0 for an empty row.
    """
    while True:
        images = np.empty((batch, size, size, 3), dtype=np.uint8)
        squares = np.zeros((batch, most, 4), dtype=np.float32)
        state = np.zeros((batch, most), dtype=np.float32)
        for index in range(batch):
            made = scene(pool, size, rng)
            count = min(most, len(made.squares))
            images[index] = made.image
            squares[index, :count] = made.squares[:count]
            state[index, :count] = np.where(made.sure[:count], 1.0, 0.5)
        yield {"image": images, "squares": squares, "state": state}
