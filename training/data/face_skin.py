"""Where the skin of an aligned face is, learnt from the colour of this very face.

All lengths are in eye distances, so the same code serves any square size.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["Face", "blemish_skin", "feature_region"]

Picture = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]

_PIXELS = 128  # side at which the skin is looked for


@dataclasses.dataclass(frozen=True, eq=False)
class Face:
    """Landmarks with the lengths and directions of the face; positions in pixels of the square."""

    points: Points
    eyes: Points
    unit: float
    across: Points
    down: Points

    @staticmethod
    def of(landmarks: npt.ArrayLike) -> Face:
        points = np.asarray(landmarks, dtype=np.float64)
        left, right = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
        unit = max(float(np.hypot(*(right - left))), 1e-6)
        across = (right - left) / unit
        down = points[57] - points[27]
        down = down / max(float(np.hypot(*down)), 1e-6)
        return Face(points, (left + right) / 2, unit, across, down)


def _fill(mask: Picture, points: Points, value: int, grow: float = 0.0) -> None:
    hull = cv2.convexHull(np.rint(points).astype(np.int32))
    cv2.fillConvexPoly(mask, hull, value)
    if grow >= 0.5:
        cv2.polylines(mask, [hull], True, value, max(1, round(2 * grow)))


def _barred(face: Face, size: int) -> Picture:
    """1 on eyes with their lids, brows, lips and nostrils: no blemish reaches there."""
    points, unit = face.points, face.unit
    barred: Picture = np.zeros((size, size), np.uint8)
    for eye in (points[36:42], points[42:48]):
        _fill(barred, eye, 1, 0.09 * unit)
    for brow in (points[17:22], points[22:27]):
        _fill(barred, brow, 1, 0.08 * unit)
    _fill(barred, points[48:60], 1, 0.03 * unit)
    _fill(barred, points[31:36] - 0.02 * unit * face.down, 1, 0.04 * unit)
    return barred


def feature_region(landmarks: npt.ArrayLike, size: int) -> Picture:
    """[S, S] uint8, 1 on the eyes with their lids, brows, lips and nostrils of a face.

    Args:
        landmarks: [68, 2] in pixels of the aligned square of side `size`, iBUG 300-W order.
    """
    return _barred(Face.of(landmarks), size)


def blemish_skin(image: Picture, landmarks: npt.ArrayLike) -> FloatArray:
    """Where blemishes may lie: the skin of the face, without its features, hair and beard.

    The colour of skin is learnt from the cheeks, the nose and the forehead of this very face.

    Args:
        image: [S, S, 3] uint8 RGB aligned square.
        landmarks: [68, 2] in its pixels, iBUG 300-W order.

    Returns:
        [S, S] float32 in 0..1: 1 on skin, falling to 0 over a few pixels at its edge, and 0 on
        eyes, brows, lips and nostrils. All 0 where no skin can be told from the rest.
    """
    size = image.shape[0]
    side = min(size, _PIXELS)
    factor = side / size
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) if side < size else image
    points = (np.asarray(landmarks, dtype=np.float64) + 0.5) * factor - 0.5
    face = Face.of(points)
    area: Picture = np.zeros((side, side), np.uint8)
    brows = points[17:27]
    middle = brows.mean(axis=0)
    rise = -0.75 * face.unit * face.down
    raised = [brows + 0.4 * rise, middle + 0.75 * (brows - middle) + rise]
    jaw = points[:17] + 0.05 * (points[30] - points[:17])
    _fill(area, np.concatenate([jaw, *raised]), 1)
    barred = _barred(face, side)
    area[barred > 0] = 0
    soft = cv2.medianBlur(np.ascontiguousarray(small), 5)
    lab = cv2.cvtColor(soft, cv2.COLOR_RGB2LAB)
    seeds: Picture = np.zeros((side, side), np.uint8)
    between = (points[21] + points[22]) / 2
    places = [points[29], between + 0.5 * rise]
    places += [0.5 * points[36] + 0.5 * points[48], 0.5 * points[45] + 0.5 * points[54]]
    places += [0.4 * points[2] + 0.6 * points[31], 0.4 * points[14] + 0.6 * points[35]]
    for place in places:
        centre = (round(float(place[0])), round(float(place[1])))
        cv2.circle(seeds, centre, max(2, round(0.12 * face.unit)), 1, -1)
    sample = lab[(seeds > 0) & (area > 0)].astype(np.float32)
    if len(sample) < 20:
        return np.zeros((size, size), np.float32)
    centre_colour = np.median(sample, axis=0)
    spread = 1.4826 * np.median(np.abs(sample - centre_colour), axis=0)
    low = centre_colour - np.array(
        [centre_colour[0] * np.clip(3.5 * spread[0] / centre_colour[0], 0.25, 0.45), 0, 0]
    )
    high = centre_colour + np.array([max(4 * spread[0], 80.0), 0, 0])
    tolerance = np.maximum(4.5 * spread[1:], 12.0)
    low[1:] -= tolerance
    high[1:] += tolerance
    likely = np.asarray(
        cv2.inRange(lab, np.clip(low, 0, 255), np.clip(high, 0, 255)), dtype=np.uint8
    )
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    likely = np.asarray(cv2.morphologyEx(likely, cv2.MORPH_OPEN, disc), dtype=np.uint8)
    likely = np.asarray(cv2.morphologyEx(likely, cv2.MORPH_CLOSE, disc), dtype=np.uint8)
    skin = np.asarray(cv2.erode(((likely > 0) & (area > 0)).astype(np.uint8), disc))
    sigma = max(0.6, 0.02 * face.unit)
    weight = cv2.GaussianBlur(skin.astype(np.float32), (0, 0), sigma)
    # The blurred half outside of the skin is taken away: the edge lies inside.
    weight = np.clip(2 * np.asarray(weight) - 1, 0, 1).astype(np.float32)
    if side < size:
        weight = cv2.resize(weight, (size, size), interpolation=cv2.INTER_LINEAR)
    full = _barred(Face.of(landmarks), size)
    weight[full > 0] = 0
    return np.asarray(weight, dtype=np.float32)
