"""Holes to learn filling: wrinkle-shaped strokes and blobs, seeded and dense.

A training crop holds as many strokes as fit in the wanted share of its area, because only pixels
in holes teach the filler anything.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["stroke_holes"]

Mask = npt.NDArray[np.uint8]


def _walk(size: int, rng: np.random.Generator, length: float) -> npt.NDArray[np.float64]:
    """A smooth curve as points [N, 2] about 3 px apart: curvature drifts, direction follows."""
    steps = max(2, int(length / 3))
    bend = rng.normal(0, 0.02) + np.cumsum(rng.normal(0, 0.006, steps))
    angle = rng.uniform(0, 2 * np.pi) + np.cumsum(3 * bend)
    start = rng.uniform(-0.1 * size, 1.1 * size, 2)
    steps_taken = 3 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.asarray(start + np.cumsum(steps_taken, axis=0), dtype=np.float64)


def stroke_holes(
    size: int,
    rng: np.random.Generator,
    *,
    coverage: tuple[float, float] = (0.08, 0.3),
    width: tuple[float, float] = (2.0, 13.0),
    blobs: float = 0.1,
) -> Mask:
    """Draw strokes until a share of the crop is covered.

    Args:
        size: side in pixels.
        coverage: range of the share of pixels in holes.
        width: range of stroke widths in pixels, log-uniform.
        blobs: probability that a stroke is a filled ellipse instead.

    Returns:
        [size, size] uint8, 1 = hole.
    """
    mask = np.zeros((size, size), np.uint8)
    wanted = rng.uniform(*coverage) * size * size
    low, high = np.log(width[0]), np.log(width[1])
    for _ in range(64):
        if float(mask.sum()) >= wanted:
            break
        thick = float(np.exp(rng.uniform(low, high)))
        if rng.random() < blobs:
            x, y = (int(v) for v in rng.uniform(0, size, 2))
            long, short = (max(1, int(thick * v)) for v in rng.uniform(0.4, 1.6, 2))
            angle = float(rng.uniform(0, 180))
            cv2.ellipse(mask, (x, y), (long, short), angle, 0, 360, 1, -1)
            continue
        line = _walk(size, rng, rng.uniform(20, 180))
        # Wrinkles come in bundles of neighbours that run in parallel.
        for offset in range(int(rng.choice([1, 1, 1, 2, 3]))):
            shift = offset * thick * rng.uniform(2.0, 4.0) * np.array([0.6, 0.8])
            points = np.round((line + shift) * 8).astype(np.int32)
            tapered = max(1, round(thick * rng.uniform(0.7, 1.0)))
            cv2.polylines(mask, [points], False, 1, tapered, cv2.LINE_8, 3)
    return mask
