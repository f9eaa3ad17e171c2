"""What is known about one face in one photo."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from revisage.alignment import square_matrix

__all__ = ["Face", "box_of_landmarks", "overlap", "roll_of_landmarks", "same_face"]

# The forehead reaches this share of the distance chin to nose root above the line between the two
# upper ends of the jaw. Fitted to the boxes of the training portraits (mesh, forehead to chin).
FOREHEAD = 0.492
_ARC = np.linspace(0.0, np.pi, 9)


@dataclasses.dataclass(frozen=True, eq=False)
class Face:
    """A face in a photo; coordinates are photo pixels, integers are pixel centres."""

    box: tuple[float, float, float, float]  # x, y, width, height: tight, forehead to chin
    landmarks: npt.NDArray[np.float32]  # [68, 2] x, y in iBUG 300-W order
    score: float  # 0 to 1: how sure the network is that this is a face
    yaw: float  # degrees; 0 looks at the camera, positive towards the picture's right
    pitch: float  # degrees; positive looks down
    roll: float  # degrees; positive is turned clockwise in the picture


def box_of_landmarks(landmarks: npt.ArrayLike) -> tuple[float, float, float, float]:
    """Tight upright box (x, y, width, height) of a face, forehead included.

    The forehead is half an ellipse over the two upper ends of the jaw line, so that the box is
    right for a face that is turned in the picture, too.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    middle, half = (points[0] + points[16]) / 2, (points[16] - points[0]) / 2
    up = FOREHEAD * (points[27] - points[8])
    arc = middle + np.cos(_ARC)[:, None] * half + np.sin(_ARC)[:, None] * up
    outline = np.concatenate([points, arc])
    low, high = outline.min(axis=0), outline.max(axis=0)
    return (float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1]))


def roll_of_landmarks(landmarks: npt.ArrayLike) -> float:
    """Turn of the face in the picture in degrees, clockwise positive, -180 to 180."""
    matrix = square_matrix(landmarks, 100)
    return float(np.degrees(np.arctan2(matrix[0, 1], matrix[0, 0])))


def overlap(
    one: tuple[float, float, float, float], two: tuple[float, float, float, float]
) -> float:
    """Intersection over union of two boxes (x, y, width, height), 0 to 1."""
    shared = _shared_area(one, two)
    union = one[2] * one[3] + two[2] * two[3] - shared
    return shared / union if union > 0 else 0.0


def same_face(
    one: tuple[float, float, float, float], two: tuple[float, float, float, float]
) -> bool:
    """Whether two boxes cannot be two faces: they overlap, or one lies inside the other."""
    inside = _shared_area(one, two) / max(1e-9, min(one[2] * one[3], two[2] * two[3]))
    return overlap(one, two) > 0.4 or inside > 0.75


def _shared_area(
    one: tuple[float, float, float, float], two: tuple[float, float, float, float]
) -> float:
    wide = min(one[0] + one[2], two[0] + two[2]) - max(one[0], two[0])
    high = min(one[1] + one[3], two[1] + two[3]) - max(one[1], two[1])
    return max(0.0, wide) * max(0.0, high)
