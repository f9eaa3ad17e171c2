"""The canonical aligned square: where a face sits when a network sees it.

A leaf module (numpy only), because training and the runtime must place faces identically.

Note [Pixel centres]
    Integer coordinates are pixel centres: pixel (0, 0) covers [-0.5, 0.5]. A matrix [2, 3] maps
    (x, y, 1), x to the right and y down, from photo pixels to square pixels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = [
    "MIRROR_ORDER",
    "face_crop_matrix",
    "invert_affine",
    "rescale_square",
    "square_matrix",
    "transform_points",
]

FloatArray = npt.NDArray[np.float64]

# Index of each iBUG point in the mirrored face: point i of a mirrored picture is
# point MIRROR_ORDER[i] of the picture.
MIRROR_ORDER = np.concatenate(
    [
        np.arange(16, -1, -1),  # jaw
        np.arange(26, 16, -1),  # brows
        np.arange(27, 31),  # nose ridge
        np.arange(35, 30, -1),  # nostrils
        [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40],  # eyes
        [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55],  # outer lips
        [64, 63, 62, 61, 60, 67, 66, 65],  # inner lips
    ]
)


def square_matrix(landmarks: npt.ArrayLike, size: int) -> FloatArray:
    """Similarity that maps a photo to the aligned square of a face.

    The square is the one of the FFHQ data set (Karras et al. 2019, "A Style-Based Generator
    Architecture", appendix A): its axis is the mean of the eye line and the perpendicular of the
    eye-to-mouth line, its half side the larger of 2.0 eye distances and 1.8 eye-to-mouth
    distances, and its centre lies a tenth of the way from the eyes to the mouth.

    Args:
        landmarks: [68, 2] points (x, y) in photo pixels, iBUG 300-W order.
        size: side of the square in pixels.

    Returns:
        [2, 3] float64, photo pixels -> square pixels (Note [Pixel centres]).

    Raises:
        ValueError: the landmarks are not [68, 2], not finite, or all in one place.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape != (68, 2):
        raise ValueError(f"landmarks must be [68, 2], got {list(points.shape)}")
    left_eye, right_eye = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
    eyes = (left_eye + right_eye) / 2
    across = right_eye - left_eye
    down = (points[48] + points[54]) / 2 - eyes
    axis = across + np.array([down[1], -down[0]])
    length = float(np.hypot(*axis))
    if not np.isfinite(length) or length < 1e-6:
        raise ValueError("landmarks are not finite, or all in one place")
    unit_x = axis / length
    unit_y = np.array([-unit_x[1], unit_x[0]])
    half = max(2.0 * float(np.hypot(*across)), 1.8 * float(np.hypot(*down)))
    centre = eyes + 0.1 * down
    scale = size / (2 * half)
    linear = scale * np.stack([unit_x, unit_y])
    offset = (size - 1) / 2 - linear @ centre
    return np.concatenate([linear, offset[:, None]], axis=1)


def face_crop_matrix(landmarks: npt.ArrayLike, size: int) -> FloatArray:
    """Similarity that maps a photo to the tight upright crop in which landmarks are found.

    The crop is the part of `square_matrix` around the face: 0.8 of its side, centred 0.09 of its
    side below its centre. A frontal face fills about 68 % of its width and 82 % of its height.

    Args:
        landmarks: [68, 2] points (x, y) in photo pixels, iBUG 300-W order.
        size: side of the crop in pixels.

    Returns:
        [2, 3] float64, photo pixels -> crop pixels.
    """
    square = square_matrix(landmarks, 1000)
    # In the 1000 px square the crop spans 800 px around (499.5, 589.5).
    inside = np.array([[1.0, 0.0, -100.0], [0.0, 1.0, -190.0]])
    linear = square[:, :2]
    shifted = np.concatenate([linear, (square[:, 2] + inside[:, 2])[:, None]], axis=1)
    return rescale_square(shifted, 800, size)


def rescale_square(matrix: npt.ArrayLike, size: int, new_size: int) -> FloatArray:
    """The same placement for a square of another size (Note [Pixel centres]).

    Args:
        matrix: [2, 3] photo -> square of side `size`.
    """
    factor = new_size / size
    out = np.asarray(matrix, dtype=np.float64) * factor
    out[:, 2] += (factor - 1) / 2
    return out


def invert_affine(matrix: npt.ArrayLike) -> FloatArray:
    """Inverse of a [2, 3] affine map, as [2, 3] float64."""
    m = np.asarray(matrix, dtype=np.float64)
    linear = np.linalg.inv(m[:, :2])
    return np.concatenate([linear, (-linear @ m[:, 2])[:, None]], axis=1)


def transform_points(matrix: npt.ArrayLike, points: npt.ArrayLike) -> FloatArray:
    """Apply a [2, 3] affine map to [..., 2] points."""
    m = np.asarray(matrix, dtype=np.float64)
    return np.asarray(points, dtype=np.float64) @ m[:, :2].T + m[:, 2]
