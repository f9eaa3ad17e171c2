"""Shapes of worn face masks: a surface in front of a mean head, posed by 68 landmarks.

Head coordinates: the origin is the middle of the eyes, the unit the eye distance; x to the right of
the picture, y down, z towards the viewer. `HEAD` holds the 68 points of a mean head, estimated from
annotated portraits (depth by regression of the points on the known yaw), symmetrised.

A mask is a grid of points `[V, U, 3]`: rows from the upper edge (v = 0) to the lower one (v = 1),
columns from one cheek (s = -1) over the ridge of the nose to the other (s = 1).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

__all__ = ["HEAD", "Camera", "MaskShape", "fit_camera", "mask_shape", "place"]

FloatArray = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]

HEAD: Points = np.array(
    [
        (-1.10, 0.12, -0.95),
        (-1.09, 0.40, -1.00),
        (-1.06, 0.68, -0.97),
        (-1.00, 0.95, -0.86),
        (-0.90, 1.21, -0.67),
        (-0.74, 1.43, -0.40),
        (-0.52, 1.60, -0.15),
        (-0.28, 1.72, 0.07),
        (0.00, 1.76, 0.21),
        (0.28, 1.72, 0.07),
        (0.52, 1.60, -0.15),
        (0.74, 1.43, -0.40),
        (0.90, 1.21, -0.67),
        (1.00, 0.95, -0.86),
        (1.06, 0.68, -0.97),
        (1.09, 0.40, -1.00),
        (1.10, 0.12, -0.95),
        (-0.89, -0.22, -0.22),
        (-0.80, -0.32, -0.06),
        (-0.65, -0.37, 0.09),
        (-0.45, -0.36, 0.22),
        (-0.23, -0.34, 0.30),
        (0.23, -0.34, 0.30),
        (0.45, -0.36, 0.22),
        (0.65, -0.37, 0.09),
        (0.80, -0.32, -0.06),
        (0.89, -0.22, -0.22),
        (0.00, -0.08, 0.31),
        (0.00, 0.11, 0.45),
        (0.00, 0.29, 0.60),
        (0.00, 0.47, 0.72),
        (-0.29, 0.65, 0.31),
        (-0.13, 0.68, 0.44),
        (0.00, 0.68, 0.48),
        (0.13, 0.68, 0.44),
        (0.29, 0.65, 0.31),
        (-0.70, 0.00, -0.10),
        (-0.60, -0.06, -0.02),
        (-0.44, -0.07, 0.02),
        (-0.27, 0.02, 0.06),
        (-0.42, 0.05, 0.04),
        (-0.57, 0.05, 0.00),
        (0.27, 0.02, 0.06),
        (0.44, -0.07, 0.02),
        (0.60, -0.06, -0.02),
        (0.70, 0.00, -0.10),
        (0.57, 0.05, 0.00),
        (0.42, 0.05, 0.04),
        (-0.46, 1.00, 0.04),
        (-0.35, 0.94, 0.19),
        (-0.14, 0.88, 0.36),
        (0.00, 0.90, 0.39),
        (0.14, 0.88, 0.36),
        (0.35, 0.94, 0.19),
        (0.46, 1.00, 0.04),
        (0.35, 1.11, 0.15),
        (0.19, 1.18, 0.25),
        (0.00, 1.21, 0.31),
        (-0.19, 1.18, 0.25),
        (-0.35, 1.11, 0.15),
        (-0.42, 1.00, 0.05),
        (-0.21, 0.98, 0.22),
        (0.00, 0.99, 0.32),
        (0.21, 0.98, 0.22),
        (0.42, 1.00, 0.05),
        (0.21, 1.05, 0.21),
        (0.00, 1.07, 0.31),
        (-0.21, 1.05, 0.21),
    ]
)  # [68, 3]

ROWS, COLUMNS = 17, 27
_S = np.linspace(-1.0, 1.0, COLUMNS)
_V = np.linspace(0.0, 1.0, ROWS)

# Least squares for x, y = linear [2, 3] @ point + offset, over all landmarks.
_FIT = np.linalg.pinv(np.concatenate([HEAD, np.ones((68, 1))], axis=1))  # [4, 68]

# Landmarks that move the mask when they differ from the mean head: jaw, nose and mouth.
_MOVERS = np.r_[0:17, 27:36, 48:60]


@dataclasses.dataclass(frozen=True, eq=False)
class Camera:
    """An affine camera: head coordinates -> picture pixels, and depth in the same unit."""

    matrix: Points  # [3, 3]: x and y in pixels, depth towards the viewer
    offset: Points  # [2]
    residual: Points  # [68, 2] pixels: what the mean head leaves unexplained
    unit: float  # pixels per eye distance

    def project(self, points: Points) -> Points:
        """[..., 3] head coordinates -> [..., 3] pixels x, y and depth."""
        out = points @ self.matrix.T
        out[..., :2] += self.offset
        return out


def fit_camera(landmarks: npt.ArrayLike) -> Camera:
    """The affine camera that sees the mean head where the landmarks are.

    Args:
        landmarks: [68, 2] in pixels, iBUG 300-W order.

    Raises:
        ValueError: not 68 points, not finite, or all on one line.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape != (68, 2) or not np.isfinite(points).all():
        raise ValueError(f"landmarks must be [68, 2] finite numbers, got {list(points.shape)}")
    solution = (_FIT @ points).T  # [2, 4]
    linear, offset = solution[:, :3], solution[:, 3]
    across = np.cross(linear[0], linear[1])
    area = float(np.hypot(np.hypot(across[0], across[1]), across[2]))
    if area < 1e-9:
        raise ValueError("landmarks lie on one line: no head can be fitted to them")
    unit = float(np.sqrt(area))
    depth = across / unit
    residual = points - (HEAD @ linear.T + offset)
    return Camera(np.concatenate([linear, depth[None]]), offset, residual, unit)


@dataclasses.dataclass(frozen=True, eq=False)
class MaskShape:
    """Where a mask lies on the mean head.

    grid: [V, U, 3] head coordinates.
    width, height: length of the fabric across and down the middle, in eye distances.
    anchors: [4, 3] where the bands leave it: upper and lower for side -1, then for side 1.
    ends: [4, 3] where the bands go: to the ears, or round the head.
    """

    grid: Points
    width: float
    height: float
    anchors: Points
    ends: Points


def _curve(v: Points, knots: list[tuple[float, ...]]) -> list[Points]:
    """Smooth interpolation (monotone between knots) of the columns after the first."""
    table = np.array(knots)
    t = np.interp(v, table[:, 0], np.arange(len(table), dtype=np.float64))
    low = np.minimum(t.astype(int), len(table) - 2)
    part = t - low
    slopes = np.gradient(table[:, 1:], axis=0)
    p0, p1, m0, m1 = table[low, 1:], table[low + 1, 1:], slopes[low], slopes[low + 1]
    f = part[:, None]
    values = (
        (2 * f**3 - 3 * f**2 + 1) * p0 + (f**3 - 2 * f**2 + f) * m0
        + (-2 * f**3 + 3 * f**2) * p1 + (f**3 - f**2) * m1
    )  # fmt: skip
    return list(values.T)


@dataclasses.dataclass(frozen=True)
class _Form:
    """Profiles of one kind of mask, each a list of knots over v.

    middle: v, y, z of the ridge. sides: v, x, y, z of the side edge.
    cheek: v, virtual depth of the cheeks at x = 0. ridge: v, half width of the tent on the ridge.
    bow: how much of the fall from the middle to the side of the edges comes late (exponent).
    """

    middle: list[tuple[float, ...]]
    sides: list[tuple[float, ...]]
    cheek: list[tuple[float, ...]]
    ridge: list[tuple[float, ...]]
    bow: tuple[float, float]
    angle: float  # degrees of the cylinder that the fabric wraps on each side


_FORMS = {
    "surgical": _Form(
        middle=[
            (0, 0.16, 0.54), (0.2, 0.48, 0.80), (0.5, 0.98, 0.76), (0.8, 1.52, 0.50),
            (1, 1.86, 0.18),
        ],
        sides=[(0, 0.99, 0.46, -0.66), (0.5, 0.95, 0.80, -0.60), (1, 0.85, 1.20, -0.56)],
        cheek=[(0, 0.32), (0.3, 0.32), (0.6, 0.40), (1, 0.16)],
        ridge=[(0, 0.20), (0.15, 0.26), (0.35, 0.40), (0.6, 0.55), (1, 0.6)],
        bow=(0.9, 2.0),
        angle=64,
    ),
    "cloth": _Form(
        middle=[
            (0, 0.20, 0.58), (0.22, 0.52, 0.82), (0.5, 0.98, 0.80), (0.8, 1.50, 0.55),
            (1, 1.82, 0.20),
        ],
        sides=[(0, 0.95, 0.50, -0.60), (0.5, 0.90, 0.82, -0.52), (1, 0.82, 1.16, -0.48)],
        cheek=[(0, 0.32), (0.3, 0.34), (0.6, 0.42), (1, 0.16)],
        ridge=[(0, 0.20), (0.15, 0.30), (0.35, 0.50), (0.6, 0.62), (1, 0.6)],
        bow=(1.05, 1.8),
        angle=62,
    ),
    "cup": _Form(
        middle=[
            (0, 0.14, 0.54), (0.15, 0.34, 0.82), (0.45, 0.88, 1.06), (0.75, 1.42, 0.84),
            (1, 1.80, 0.24),
        ],
        sides=[
            (0, 0.46, 0.34, 0.18), (0.12, 0.64, 0.46, 0.04), (0.4, 0.78, 0.86, -0.14),
            (0.7, 0.72, 1.26, -0.10), (0.9, 0.50, 1.58, 0.00), (1, 0.20, 1.78, 0.14),
        ],
        cheek=[(0, 0.40), (0.3, 0.70), (0.6, 0.80), (1, 0.22)],
        ridge=[(0, 0.16), (0.2, 0.3), (0.5, 0.5), (1, 0.5)],
        bow=(1.6, 1.8),
        angle=78,
    ),
    "folded": _Form(
        middle=[
            (0, 0.12, 0.52), (0.2, 0.46, 0.88), (0.45, 0.92, 1.00), (0.75, 1.46, 0.70),
            (1, 1.84, 0.22),
        ],
        sides=[(0, 0.93, 0.50, -0.50), (0.5, 0.92, 0.80, -0.50), (1, 0.78, 1.22, -0.40)],
        cheek=[(0, 0.30), (0.3, 0.36), (0.6, 0.40), (1, 0.16)],
        ridge=[(0, 0.22), (0.2, 0.42), (0.5, 0.66), (1, 0.6)],
        bow=(1.0, 1.7),
        angle=58,
    ),
}  # fmt: skip

_EARS = np.array([(1.13, 0.02, -1.08), (1.11, 0.66, -1.10)])  # upper and lower root of the ear
_ROUND = np.array([(1.16, -0.42, -1.25), (1.06, 0.98, -1.10)])  # bands over and under the ear


def mask_shape(form: str, wear: str, rng: np.random.Generator) -> MaskShape:
    """A mask of a form, a little larger, lower or more askew each time.

    Args:
        form: "surgical", "cloth", "cup" or "folded".
        wear: "" (as it should be), "nose_out" or "chin_out".
    """
    f = _FORMS[form]
    middle_y, middle_z = _curve(_V, f.middle)
    side_x, side_y, side_z = _curve(_V, f.sides)
    (cheek,), (ridge,) = _curve(_V, f.cheek), _curve(_V, f.ridge)

    high = 0.0
    if wear == "nose_out":
        high = 0.72 - middle_y[0]
        keep = (1 - _V) ** 1.2
        middle_y = middle_y + high * keep
        middle_z = np.minimum(middle_z, 0.60) - 0.06 * keep
        side_y = side_y + 0.12 * keep
    elif wear == "chin_out":
        rise = _V**1.5
        middle_y = middle_y - (middle_y[-1] - 1.44) * rise
        middle_z = middle_z + (0.40 - middle_z[-1]) * rise
        side_y = side_y - 0.08 * rise
    size = float(np.exp(rng.normal(0, 0.035)))
    drop = float(np.clip(rng.normal(0, 0.035), -0.08, 0.08)) if not wear else 0.0
    middle_y = middle_y + drop * (1 - _V)
    side_y = side_y + 0.5 * drop + rng.normal(0, 0.03)
    side_x = side_x * size

    angle = np.radians(f.angle) * _S
    edge = np.cos(np.radians(f.angle))
    x = side_x[:, None] * np.sin(angle) / np.sin(np.radians(f.angle))
    fall = (np.cos(angle) - edge) / (1 - edge)  # 1 in the middle, 0 at the sides
    base = side_z[:, None] + (cheek - side_z)[:, None] * fall
    tent = np.exp(-((np.abs(x) / ridge[:, None]) ** 1.7)) * (middle_z - cheek)[:, None]
    # The tent ends at the side edge, whatever its width.
    z = base + tent * np.minimum(1.0, 3 * fall)
    bow = f.bow[0] + (f.bow[1] - f.bow[0]) * _V
    if wear == "nose_out":
        bow = bow + 0.5 * (1 - _V)
    share = np.abs(_S)[None] ** bow[:, None]
    y = middle_y[:, None] + (side_y - middle_y)[:, None] * share
    askew = rng.normal(0, 0.012)
    y = y + askew * x
    # Edges are not cut straight: a slow wave that lifts them a little here and there.
    loose = 0.3 if form == "cup" else 1.0
    for row, strength in ((0, 0.012 * loose), (-1, 0.018 * loose)):
        phase, period = rng.uniform(0, 2 * np.pi), rng.uniform(1.2, 2.6)
        wave = strength * np.sin(period * np.pi * _S + phase)
        y = y + wave * ((1 - _V) if row == 0 else _V)[:, None] ** 4
    grid = np.stack([x, y, z], axis=-1)

    around = form == "cup"
    rows = (0.28, 0.72) if around else (0.05, 0.95)
    anchors, ends = [], []
    for side, column in ((-1.0, 0), (1.0, COLUMNS - 1)):
        for number, v in enumerate(rows):
            anchors.append(grid[round(v * (ROWS - 1)), column])
            ends.append((_ROUND if around else _EARS)[number] * [side, 1, 1])
    step = np.linalg.norm(np.diff(grid, axis=1), axis=2).sum(axis=1)
    down = np.linalg.norm(np.diff(grid[:, COLUMNS // 2], axis=0), axis=1).sum()
    return MaskShape(grid, float(step.mean()), float(down), np.array(anchors), np.array(ends))


def place(shape: MaskShape, camera: Camera) -> tuple[Points, Points]:
    """Project a mask, moved as this face differs from the mean head.

    Returns:
        The grid and the anchors of the bands in pixels x, y and depth: [V, U, 3] and [4, 3].
    """
    points = np.concatenate([shape.grid.reshape(-1, 3), shape.anchors])
    near = HEAD[_MOVERS]
    distance = (points**2).sum(axis=1)[:, None] + (near**2).sum(axis=1) - 2 * points @ near.T
    weight = np.exp(distance / (-2 * 0.28**2)) + 1e-6
    placed = camera.project(points)
    placed[:, :2] += (weight @ camera.residual[_MOVERS]) / weight.sum(axis=1, keepdims=True)
    return placed[:-4].reshape(shape.grid.shape), placed[-4:]
