"""The stored reference set of the parity gate: pictures that the project makes, from seeds.

An error that only shows on pictures (and not on noise) is the one that a user sees, so the set
holds what portraits hold: smooth shaded skin, dark thin folds, hair-like texture, hard edges, flat
black and white. No photo is needed, and every machine makes the same set.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["REFERENCE", "reference_masks", "reference_pictures"]

REFERENCE = "seeded pictures of revisage.export.reference_set, version 1"

Planes = NDArray[np.float32]


def _shaded_skin(random: np.random.RandomState, size: int) -> NDArray[np.float64]:
    """[size, size, 3]: a lit ellipse of skin before a plain background."""
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    height, width = random.uniform(0.35, 0.5), random.uniform(0.28, 0.42)
    inside = 1 / (1 + np.exp(40 * (np.hypot(y / height, x / width) - 1)))
    tone = np.array([0.82, 0.62, 0.5]) * random.uniform(0.35, 1.1)
    light = 0.8 + random.uniform(-0.5, 0.5) * x + random.uniform(-0.5, 0.5) * y
    back = random.uniform(0, 1, 3)
    skin = tone * light[..., None]
    return np.asarray(inside[..., None] * skin + (1 - inside[..., None]) * back)


def _folds(random: np.random.RandomState, size: int, count: int) -> NDArray[np.float64]:
    """[size, size] in [0, 1]: thin curved lines."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float64) / size
    lines = np.zeros((size, size))
    for _ in range(count):
        angle, bend = random.uniform(-0.6, 0.6), random.uniform(-2, 2)
        cx, cy, length = (
            random.uniform(0.2, 0.8),
            random.uniform(0.2, 0.8),
            random.uniform(0.1, 0.3),
        )
        along = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        across = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle) - bend * along**2
        width = random.uniform(0.6, 2.5) / size
        line = np.exp(-((across / width) ** 2)) * (np.abs(along) < length)
        lines = np.maximum(lines, line)
    return lines


def reference_pictures(count: int, size: int, *, seed: int = 0) -> Planes:
    """[count, 3, size, size] float32 RGB in [0, 1]."""
    pictures = []
    for index in range(count):
        random = np.random.RandomState(1000 * seed + index)  # frozen by numpy for ever
        picture = _shaded_skin(random, size)
        picture *= 1 - random.uniform(0.1, 0.5) * _folds(random, size, 8)[..., None]
        picture += random.normal(0, random.uniform(0, 0.05), picture.shape)
        if index % 4 == 3:  # hard edges and clipped ends
            block = size // 4
            picture[:block, :block] = 0
            picture[-block:, :block] = 1
            picture[:block, -block::2] = 1
        pictures.append(np.clip(picture, 0, 1).transpose(2, 0, 1))
    return np.stack(pictures).astype(np.float32)


def reference_masks(count: int, size: int, *, seed: int = 0) -> Planes:
    """[count, 1, size, size] float32 of exact 0 and 1: strokes, a block, everything, nothing."""
    masks = []
    for index in range(count):
        random = np.random.RandomState(1000 * seed + 500 + index)
        mask = (_folds(random, size, 10) > 0.3).astype(np.float32)
        if index % 8 == 5:
            mask[size // 4 : size // 2, size // 3 : size // 2] = 1
        elif index % 8 == 6:
            mask[:] = 0
        elif index % 8 == 7:
            mask[:] = 1
        masks.append(mask[None])
    return np.stack(masks)
