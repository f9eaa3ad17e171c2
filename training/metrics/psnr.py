"""Peak signal-to-noise ratio inside a region."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["mean_squared_error", "psnr"]


def mean_squared_error(
    found: npt.ArrayLike, true: npt.ArrayLike, region: npt.ArrayLike | None = None
) -> float:
    """Mean squared difference over the pixels of a region, all channels alike.

    Args:
        found, true: [H, W, C] in the same units.
        region: [H, W], counted where not 0; None for all pixels.

    Raises:
        ValueError: shapes differ, or the region is empty.
    """
    one, two = np.asarray(found, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if one.shape != two.shape:
        raise ValueError(f"pictures must have one shape, got {one.shape} and {two.shape}")
    squared = np.square(one - two)
    if region is not None:
        inside = np.asarray(region) != 0
        if inside.shape != one.shape[:2]:
            raise ValueError(f"region is {inside.shape}, pictures are {one.shape[:2]}")
        squared = squared[inside]
    if squared.size == 0:
        raise ValueError("the region is empty")
    return float(squared.mean())


def psnr(
    found: npt.ArrayLike,
    true: npt.ArrayLike,
    region: npt.ArrayLike | None = None,
    *,
    peak: float = 255.0,
) -> float:
    """10 log10(peak^2 / mean squared error) in decibels; infinite where nothing differs."""
    error = mean_squared_error(found, true, region)
    return float("inf") if error == 0 else 10 * float(np.log10(peak**2 / error))
