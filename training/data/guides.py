"""Guides: another photo of the same person for guided restoration.

Where a data set holds several photos of an identity, the guide is one of them, as in Li et al. 2018
("Learning Warped Guidance for Blind Face Restoration", GFRNet). Else it is made from the target
itself: the head is turned, mouth, lips and brows are moved by a thin-plate spline on the 68
landmarks (Bookstein 1989, "Principal warps: thin-plate splines and the decomposition of
deformations"), and light and colour change. Then the flow that the warping network has to find is
known exactly.

Note [Flow of a synthetic guide]
    What the target shows at p, the guide shows at f(p) = p + flow(p). f is a thin-plate spline
    through the landmarks of both; at the border of the picture it stays put. Its displacement is
    scaled down as a whole until its derivative is nowhere larger than `_STEEPEST` < 1 (operator
    norm). So f never folds, and its inverse, with which the guide is painted, is the limit of
    q <- p - d(q), d = f - identity (Banach's fixed point).
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from revisage.alignment import invert_affine, square_matrix, transform_points

if TYPE_CHECKING:
    from revisage.training.data.aligned_faces import AlignedFace

__all__ = [
    "Guide",
    "ThinPlateSpline",
    "guide_of",
    "identity_index",
    "paired_faces",
    "relight",
    "synthetic_guide",
]

Picture = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]

_STEEPEST = 0.7
_NODES = 32  # side of the grid on which splines are evaluated: 8 px at 256
_FINE = 4 * _NODES  # side of the grid on which flows are inverted
_ITERATIONS = 12  # 0.7 ** 12: 1 % of the first error where the flow is steepest, far less elsewhere


@dataclasses.dataclass(frozen=True, eq=False)
class Guide:
    """A guide in the same aligned square as its target.

    image: [S, S, 3] uint8 RGB. landmarks: [68, 2] float64 in its pixels.
    flow: [S, S, 2] float32, x and y offsets in pixels, as `revisage.kernels.flow_warp` reads it:
        the guide sampled at p + flow(p) shows what the target shows at p, up to light and colour.
        None for a real photo, whose flow nobody knows.
    visible: [S, S] uint8, 1 where p + flow(p) lies in the guide; None for a real photo.
    """

    image: Picture
    landmarks: Points
    flow: FloatArray | None = None
    visible: Picture | None = None


class ThinPlateSpline:
    """The map of the plane through given points that bends least (Bookstein 1989).

    f(p) = a + B p + sum_i w_i U(|p - source_i|), U(r) = r^2 log r^2, f(source_i) = target_i.

    Args:
        source: [N, 2] distinct points, not all on one line. target: [N, 2].
        smoothing: 0 passes through the points; above, bending is penalised against the distances
            from them (added to the diagonal of the system, in units of the points' squared spread).

    Raises:
        ValueError: shapes differ, fewer than 3 points, or points that coincide or lie on one line.
    """

    def __init__(
        self, source: npt.ArrayLike, target: npt.ArrayLike, *, smoothing: float = 0.0
    ) -> None:
        at = np.asarray(source, dtype=np.float64)
        to = np.asarray(target, dtype=np.float64)
        if at.ndim != 2 or at.shape[1:] != (2,) or at.shape != to.shape or len(at) < 3:
            raise ValueError(
                f"source and target must both be [N, 2] with N >= 3, got {list(at.shape)} and "
                f"{list(to.shape)}"
            )
        # Centred and scaled to about unit size, so that the system is well conditioned.
        self._centre = at.mean(axis=0)
        self._spread = max(float(at.std()), 1e-12)
        self._nodes = (at - self._centre) / self._spread
        count = len(at)
        system = np.zeros((count + 3, count + 3))
        system[:count, :count] = self._kernel(self._nodes)
        system[np.arange(count), np.arange(count)] += smoothing
        system[:count, count] = system[count, :count] = 1
        system[:count, count + 1 :] = self._nodes
        system[count + 1 :, :count] = self._nodes.T
        values = np.concatenate([to, np.zeros((3, 2))])
        try:
            self._weights = np.linalg.solve(system, values)
        except np.linalg.LinAlgError as error:
            raise ValueError("source points coincide or lie on one line") from error

    def _kernel(self, points: Points) -> Points:
        """[M, 2] -> [M, N] values of U(r) = r^2 log r^2, 0 at r = 0."""
        cross = points @ self._nodes.T
        square = (
            (points * points).sum(axis=1)[:, None]
            + (self._nodes * self._nodes).sum(axis=1)[None]
            - 2 * cross
        )
        square = np.maximum(square, 1e-20)
        return np.asarray(square * np.log(square), dtype=np.float64)

    def __call__(self, points: npt.ArrayLike) -> Points:
        """Map [..., 2] points."""
        at = np.asarray(points, dtype=np.float64)
        flat = (at.reshape(-1, 2) - self._centre) / self._spread
        count = len(self._nodes)
        mapped = self._kernel(flat) @ self._weights[:count]
        mapped += self._weights[count] + flat @ self._weights[count + 1 :]
        return mapped.reshape(at.shape)


# Depth towards the camera of each landmark in front of the plane of the jaw line's ends, in eye
# distances, of an average head: turns it by perspective-free rotation. By anatomy, not measured.
_DEPTH = np.concatenate(
    [
        [0.0, 0.02, 0.06, 0.12, 0.22, 0.38, 0.55, 0.68, 0.72],  # jaw, left half and chin
        [0.68, 0.55, 0.38, 0.22, 0.12, 0.06, 0.02, 0.0],  # jaw, right half
        [0.50, 0.63, 0.72, 0.78, 0.80, 0.80, 0.78, 0.72, 0.63, 0.50],  # brows
        [0.82, 0.94, 1.06, 1.18],  # nose ridge
        [0.86, 0.95, 1.00, 0.95, 0.86],  # nostrils
        [0.52, 0.62, 0.66, 0.62, 0.64, 0.62],  # left eye
        [0.62, 0.66, 0.62, 0.52, 0.62, 0.64],  # right eye
        [0.74, 0.84, 0.91, 0.92, 0.91, 0.84, 0.74, 0.82, 0.88, 0.89, 0.88, 0.82],  # outer lips
        [0.76, 0.86, 0.88, 0.86, 0.76, 0.85, 0.87, 0.85],  # inner lips
    ]
)


@dataclasses.dataclass(frozen=True)
class _Move:
    """How guide and target differ; angles in radians, the others in eye distances."""

    yaw: float
    pitch: float
    roll: float
    mouth: float  # lower lip and chin down; negative closes the mouth
    smile: float  # corners of the mouth out and up
    brows: float  # up
    lids: float  # share by which the eyes open

    @staticmethod
    def drawn(rng: np.random.Generator) -> _Move:
        values = rng.normal(0, 1, 7).clip(-2, 2)
        return _Move(
            yaw=0.16 * values[0],
            pitch=0.10 * values[1],
            roll=0.03 * values[2],
            mouth=0.10 * values[3],
            smile=0.07 * values[4],
            brows=0.06 * values[5],
            lids=0.15 * values[6],
        )


def _moved(landmarks: Points, move: _Move) -> Points:
    """The landmarks of the same face in another pose and expression, not yet aligned."""
    points = landmarks.copy()
    left, right = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
    eyes, unit = (left + right) / 2, float(np.hypot(*(right - left)))
    across = (right - left) / unit
    down = np.array([-across[1], across[0]])
    face = np.stack([(points - eyes) @ across, (points - eyes) @ down], axis=1) / unit  # [68, 2]

    # Mouth: what hangs on the jaw moves; an open mouth closes by at most its own opening.
    gap = float(max(0.0, (face[65:68, 1] - face[61:64, 1]).mean()))
    # A closed mouth is opened a little only: nobody knows the teeth behind the lips.
    drop = float(np.clip(move.mouth, -0.8 * gap, 0.8 * gap + 0.015))
    hangs = np.zeros(68)
    hangs[4:13] = [0.25, 0.55, 0.8, 0.95, 1.0, 0.95, 0.8, 0.55, 0.25]
    hangs[55:60] = [0.7, 0.95, 1.0, 0.95, 0.7]
    hangs[65:68] = 1.0
    hangs[[48, 54, 60, 64]] = 0.3
    face[:, 1] += drop * hangs
    middle = 0.5 * (face[48, 0] + face[54, 0])
    pulled = np.zeros(68)
    pulled[[48, 54]] = 1.0
    pulled[[60, 64]] = 0.9
    pulled[[49, 53, 59, 55]] = 0.45
    pulled[[50, 52, 58, 56, 61, 63, 65, 67]] = 0.15
    pulled[[3, 13, 4, 12]] = 0.15
    face[:, 0] += 0.8 * move.smile * pulled * np.sign(face[:, 0] - middle)
    face[:, 1] -= 0.6 * move.smile * pulled
    face[17:27, 1] -= move.brows * np.array([0.6, 0.9, 1.0, 1.0, 0.9, 0.9, 1.0, 1.0, 0.9, 0.6])
    for first in (36, 42):
        eye = face[first : first + 6]
        eye[:, 1] += move.lids * (eye[:, 1] - eye[:, 1].mean())

    # Pose: the head turns about an axis behind the face.
    depth = _DEPTH - 0.2
    cos, sin = np.cos(move.yaw), np.sin(move.yaw)
    x, z = face[:, 0] * cos + depth * sin, depth * cos - face[:, 0] * sin
    cos, sin = np.cos(move.pitch), np.sin(move.pitch)
    turned = np.stack([x, face[:, 1] * cos + z * sin], axis=1)
    cos, sin = np.cos(move.roll), np.sin(move.roll)
    turned = turned @ np.array([[cos, sin], [-sin, cos]])
    return np.asarray(
        eyes + unit * (turned[:, :1] * across + turned[:, 1:] * down), dtype=np.float64
    )


def _head_outline(landmarks: Points) -> Points:
    """[9, 2] points on the outline of the skull above the ears, mirrored jaw above the brows."""
    eyes = (landmarks[36:42].mean(axis=0) + landmarks[42:48].mean(axis=0)) / 2
    chin = landmarks[8]
    centre = eyes + 0.05 * (chin - eyes)
    half = 0.5 * (landmarks[16] - landmarks[0])
    up = centre - chin
    angle = np.linspace(0.12, 0.88, 9) * np.pi
    middle = 0.5 * (landmarks[0] + landmarks[16])
    arc = np.cos(angle)[:, None] * half * 1.08 + np.sin(angle)[:, None] * up * 1.05
    return np.asarray(middle + arc, dtype=np.float64)


def _border(size: int, count: int = 6) -> Points:
    """Anchors along the border of the square, [4 count, 2]."""
    t = np.arange(count) / count * (size - 1)
    zero, far = np.zeros(count), np.full(count, size - 1.0)
    sides = [
        np.stack([t, zero], 1),
        np.stack([far, t], 1),
        np.stack([size - 1 - t, far], 1),
        np.stack([zero, size - 1 - t], 1),
    ]
    return np.concatenate(sides)


def _distinct(points: Points, nearest: float) -> npt.NDArray[np.intp]:
    """Indices of points that are at least `nearest` from all kept before them."""
    square = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    close = np.tril(square < nearest * nearest, -1)  # [i, j]: j comes before i and is near
    kept = np.ones(len(points), bool)
    for index in np.nonzero(close.any(axis=1))[0]:
        kept[index] = not (close[index] & kept).any()
    return np.nonzero(kept)[0]


def _spline_flow(spline: ThinPlateSpline, size: int) -> tuple[FloatArray, FloatArray]:
    """The flow of a spline on the square, scaled down where Note [Flow of a ...] asks for it.

    The spline is evaluated on `_NODES` by `_NODES` nodes and read between them bicubically.

    Returns:
        [S, S, 2], and the same reduced to [_FINE, _FINE, 2], both in pixels of the square.
    """
    where = (np.arange(_NODES) + 0.5) * (size / _NODES) - 0.5
    grid = np.stack(np.meshgrid(where, where), axis=-1)  # [n, n, 2]: x, y
    coarse = (spline(grid) - grid).astype(np.float32)
    # Slopes between the nodes count too.
    fine = np.asarray(cv2.resize(coarse, (_FINE, _FINE), interpolation=cv2.INTER_CUBIC))
    step = np.float32(size / _FINE)
    dx = (fine[:-1, 1:] - fine[:-1, :-1]) / step
    dy = (fine[1:, :-1] - fine[:-1, :-1]) / step
    # Largest singular value of the matrices with columns dx and dy.
    total = (dx * dx + dy * dy).sum(axis=2)
    determinant = dx[..., 0] * dy[..., 1] - dx[..., 1] * dy[..., 0]
    root = np.sqrt(np.maximum(total * total - 4 * determinant * determinant, 0))
    steepest = float(np.sqrt((total + root).max() / 2))
    share = np.float32(min(1.0, _STEEPEST / max(steepest, 1e-9)))
    flow = cv2.resize(share * coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(flow, dtype=np.float32), np.asarray(share * fine, dtype=np.float32)


def _read(flow: FloatArray, points: Points) -> Points:
    """The flow at points [N, 2], bilinearly."""
    where = points.astype(np.float32)[None]  # [1, N, 2]
    found = cv2.remap(flow, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return np.asarray(found[0], dtype=np.float64)


def _inverse(fine: FloatArray, size: int) -> FloatArray:
    """Offsets e [S, S, 2] with e(q) + flow(q + e(q)) = 0: where the guide's pixels come from.

    Args:
        fine: [_FINE, _FINE, 2], the flow on its smaller grid, read bilinearly.
    """
    field = fine * np.float32(_FINE / size)
    y, x = np.mgrid[:_FINE, :_FINE].astype(np.float32)
    offset = -field
    for _ in range(_ITERATIONS):
        at_x, at_y = x + offset[..., 0], y + offset[..., 1]
        there = cv2.remap(field, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        offset = -np.asarray(there, dtype=np.float32)
    offset = offset * np.float32(size / _FINE)
    return np.asarray(cv2.resize(offset, (size, size), interpolation=cv2.INTER_CUBIC))


def relight(image: Picture, rng: np.random.Generator, *, strength: float = 1.0) -> Picture:
    """Another light and camera: gamma, colour temperature and tint, and a smooth field of gain.

    Args:
        image: [H, W, 3] uint8 RGB.
        strength: 0 changes nothing, 1 is two photos of different days.

    Returns:
        [H, W, 3] uint8.
    """
    height, width = image.shape[:2]
    gamma = float(np.exp(strength * 0.15 * rng.normal()))
    warmth, tint, exposure = strength * rng.normal(0, 1, 3) * (0.06, 0.02, 0.07)
    gains = np.exp(exposure + np.array([warmth, tint, -warmth]))
    level = np.linspace(0, 1, 256, dtype=np.float64)[:, None] ** gamma
    table = (255 * level * gains).astype(np.float32)  # [256, 3]
    # Light from one side, and its unevenness.
    angle, slope = rng.uniform(0, 2 * np.pi), abs(rng.normal(0, 0.3))
    knots = 0.10 * rng.standard_normal((5, 5))
    ramp = np.linspace(-0.5, 0.5, 5)
    knots += slope * (np.cos(angle) * ramp[None] + np.sin(angle) * ramp[:, None])
    small = np.exp(strength * knots).astype(np.float32)
    gain = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    lit: FloatArray = np.array(cv2.LUT(image, table[:, None, :]), dtype=np.float32)
    lit *= np.asarray(gain, dtype=np.float32)[..., None]
    np.clip(np.rint(lit, out=lit), 0, 255, out=lit)
    return lit.astype(np.uint8)


def synthetic_guide(
    image: Picture, landmarks: npt.ArrayLike, rng: np.random.Generator, *, relit: float = 1.0
) -> Guide:
    """A guide made from the target: other pose, expression and light (Note [Flow of a ...]).

    Args:
        image: [S, S, 3] uint8 RGB aligned square, the target.
        landmarks: [68, 2] in its pixels, iBUG 300-W order.
        relit: strength of the change of light (`relight`); 0 for none.

    Returns:
        A Guide with flow and visibility. The guide is aligned as any photo would be: where the
        landmarks of the target are in their canonical place, so are those of the guide.

    Raises:
        ValueError: the picture is not a square [S, S, 3] uint8, or the landmarks are not [68, 2].
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] != image.shape[1]:
        raise ValueError(f"image must be [S, S, 3] uint8, got {image.dtype} {list(image.shape)}")
    if points.shape != (68, 2):
        raise ValueError(f"landmarks must be [68, 2], got {list(points.shape)}")
    size = image.shape[0]
    moved = _moved(points, _Move.drawn(rng))
    # Align the guide as the target is: undo what turning did to place and size.
    before = square_matrix(points, size)
    after = square_matrix(moved, size)
    moved = transform_points(invert_affine(before), transform_points(after, moved))
    outline = _head_outline(points)
    # The skull follows the jaw's ends and the brows, less the higher.
    drift = (moved[[0, 16, 19, 24]] - points[[0, 16, 19, 24]]).mean(axis=0)
    source = np.concatenate([_border(size), points, outline])
    target = np.concatenate([_border(size), moved, outline + 0.6 * drift])
    inside = ((source >= 0) & (source <= size - 1)).all(axis=1)
    source, target = source[inside], target[inside]
    kept = _distinct(source, 0.012 * size)
    spline = ThinPlateSpline(source[kept], target[kept], smoothing=1e-4)
    flow, fine = _spline_flow(spline, size)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    back = _inverse(fine, size)
    painted = cv2.remap(
        image,
        x + back[..., 0],
        y + back[..., 1],
        cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    shown = np.asarray(painted, dtype=np.uint8)
    if relit > 0:
        shown = relight(shown, rng, strength=relit)
    ahead_x, ahead_y = x + flow[..., 0], y + flow[..., 1]
    low, high = -0.5, size - 0.5  # pixels reach half a pixel beyond their centres
    visible = (ahead_x >= low) & (ahead_x <= high) & (ahead_y >= low) & (ahead_y <= high)
    return Guide(
        image=shown,
        landmarks=points + _read(flow, points),
        flow=flow,
        visible=visible.astype(np.uint8),
    )


def identity_index(faces: Sequence[AlignedFace]) -> dict[str, list[int]]:
    """Indices of the faces of each identity; faces without a name ("") are nobody's."""
    index: dict[str, list[int]] = defaultdict(list)
    for number, face in enumerate(faces):
        if face.identity:
            index[face.identity].append(number)
    return dict(index)


def paired_faces(faces: Sequence[AlignedFace]) -> list[int]:
    """Indices, in order, of the faces that have another photo of the same identity."""
    return sorted(
        number for group in identity_index(faces).values() if len(group) > 1 for number in group
    )


def guide_of(faces: Sequence[AlignedFace], index: int, rng: np.random.Generator) -> Guide:
    """A guide for `faces[index]`: another photo of the identity where there is one, else made.

    Returns:
        The guide; its flow is None for a real photo.
    """
    face = faces[index]
    others = [
        other
        for number, other in enumerate(faces)
        if number != index and face.identity and other.identity == face.identity
    ]
    if others:
        chosen = others[int(rng.integers(len(others)))]
        return Guide(chosen.image.copy(), chosen.landmarks.copy())
    return synthetic_guide(face.image, face.landmarks, rng)
