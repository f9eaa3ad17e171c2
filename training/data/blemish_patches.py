"""Redness and shine: broad soft patches on a face, and the noise that makes them uneven."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from revisage.training.data.blemish_spots import log_uniform
from revisage.training.data.face_skin import Face

__all__ = ["redness", "shine", "smooth_noise"]

FloatArray = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]


def smooth_noise(side: int, cells: int, rng: np.random.Generator) -> FloatArray:
    """[side, side] smooth noise of about unit deviation with `cells` cells across."""
    grid = rng.standard_normal((cells + 3, cells + 3), dtype=np.float32)
    large = cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.asarray(large, dtype=np.float32)


def _patch(
    side: int, centre: Points, axes: Points, across: Points, down: Points, power: float
) -> FloatArray:
    """[side, side] soft ellipse, 1 in the middle."""
    grid = np.arange(side, dtype=np.float32)
    dx, dy = grid[None] - np.float32(centre[0]), grid[:, None] - np.float32(centre[1])
    u = (dx * np.float32(across[0]) + dy * np.float32(across[1])) / np.float32(axes[0])
    v = (dx * np.float32(down[0]) + dy * np.float32(down[1])) / np.float32(axes[1])
    return np.asarray(np.exp(-np.float32(0.7) * (u * u + v * v) ** np.float32(power)))


_Place = tuple[Points, tuple[float, float], float]  # centre, half axes in eye distances, chance


def _chosen(places: list[_Place], rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which places are struck, at least the one that is struck most often."""
    chances = np.array([chance for _, _, chance in places])
    struck = rng.random(len(places)) < chances
    struck[int(np.argmax(chances))] |= not struck.any()
    return np.asarray(struck, dtype=np.bool_)


def redness(face: Face, side: int, dark: float, rng: np.random.Generator) -> FloatArray:
    """[side, side] density of blood: flushed cheeks, nose wings, chin; blotchy."""
    field = np.zeros((side, side), np.float32)
    density = log_uniform(rng, 0.18, 0.65, 1)[0]
    p, unit = face.points, face.unit
    places: list[_Place] = [
        (0.52 * p[2] + 0.48 * p[31] - 0.05 * unit * face.down, (0.34, 0.27), 0.85),
        (0.52 * p[14] + 0.48 * p[35] - 0.05 * unit * face.down, (0.34, 0.27), 0.85),
        (0.3 * p[30] + 0.7 * p[33], (0.20, 0.16), 0.5),
        (0.5 * p[57] + 0.5 * p[8], (0.24, 0.16), 0.35),
        (p[27] - 0.45 * unit * face.down, (0.5, 0.2), 0.15),
    ]
    common = rng.uniform(0.5, 1.0)  # both sides are about equally red
    for (centre, axes, _), there in zip(places, _chosen(places, rng), strict=True):
        strength = common * rng.uniform(0.6, 1.0)
        place = centre + unit * rng.normal(0, 0.05, 2)
        size = unit * np.array(axes) * np.exp(rng.normal(0, 0.2, 2))
        if there:
            field += np.float32(strength) * _patch(side, place, size, face.across, face.down, 1.0)
    blotches = 0.9 + 0.45 * smooth_noise(side, 7, rng) + 0.3 * smooth_noise(side, 16, rng)
    field *= np.clip(blotches, 0.05, 2.0)
    return np.asarray(field * density * (1 - 0.4 * dark), dtype=np.float32)


def shine(face: Face, side: int, rng: np.random.Generator) -> FloatArray:
    """[side, side] gloss: the forehead, the ridge and tip of the nose, cheekbones, chin."""
    field = np.zeros((side, side), np.float32)
    bright = np.float32(log_uniform(rng, 0.08, 0.34, 1)[0])
    p, unit, down = face.points, face.unit, face.down
    between = (p[21] + p[22]) / 2
    places: list[_Place] = [
        (between - 0.35 * unit * down, (0.34, 0.15), 0.7),
        (0.6 * p[28] + 0.4 * p[29], (0.05, 0.17), 0.6),
        (p[30] - 0.03 * unit * down, (0.07, 0.06), 0.7),
        (0.66 * p[1] + 0.34 * p[30] - 0.08 * unit * down, (0.15, 0.10), 0.6),
        (0.66 * p[15] + 0.34 * p[30] - 0.08 * unit * down, (0.15, 0.10), 0.6),
        (0.5 * p[57] + 0.5 * p[8], (0.12, 0.07), 0.35),
    ]
    for (centre, axes, _), there in zip(places, _chosen(places, rng), strict=True):
        strength = rng.uniform(0.4, 1.0)
        place = centre + unit * rng.normal(0, 0.05, 2)
        size = unit * np.array(axes) * np.exp(rng.normal(0, 0.25, 2))
        if there:
            field += np.float32(strength) * _patch(side, place, size, face.across, down, 0.9)
    field *= bright * np.clip(1 + 0.4 * smooth_noise(side, 12, rng), 0.2, 1.8)
    return field
