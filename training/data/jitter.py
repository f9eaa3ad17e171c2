"""The same face as another crop and another light would show it: more faces out of few."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["jittered"]

Picture = npt.NDArray[np.uint8]


def jittered(
    image: Picture, rng: np.random.Generator, *, moved: float = 1.0, lit: float = 1.0
) -> tuple[Picture, npt.NDArray[np.float64]]:
    """The face as another crop and another light would show it; the border is mirrored.

    Args:
        image: [S, S, 3] uint8 RGB.
        moved: how far it is turned, scaled and shifted; 1 is more than alignment errs by.
        lit: how much exposure, contrast and colour differ.

    Returns:
        The picture [S, S, 3], and where its pixels went, as a [2, 3] matrix of points (x, y).
    """
    size = image.shape[0]
    middle = (size - 1) / 2
    scale = float(np.exp(rng.normal(0, 0.08 * moved)))
    matrix = cv2.getRotationMatrix2D((middle, middle), rng.normal(0, 5 * moved), scale)
    matrix[:, 2] = matrix[:, 2] + rng.normal(0, 0.03 * moved * size, 2)
    out = cv2.warpAffine(
        image, matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    )
    if rng.random() < 0.25:  # a face that was smaller in its photo
        small = max(8, round(size * rng.uniform(0.4, 1)))
        out = cv2.resize(out, (small, small), interpolation=cv2.INTER_AREA)
        out = cv2.resize(out, (size, size), interpolation=cv2.INTER_CUBIC)
    gain = np.exp(rng.normal(0, 0.15 * lit) + rng.normal(0, 0.04 * lit, 3))
    tones = (np.arange(256) / 255)[:, None] ** np.exp(rng.normal(0, 0.15 * lit)) * gain
    table = np.round(255 * tones.clip(0, 1)).astype(np.uint8)[:, None]
    return np.asarray(cv2.LUT(out, table), dtype=np.uint8), np.asarray(matrix, dtype=np.float64)
