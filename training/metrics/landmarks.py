"""Landmark error as a share of the outer-eye distance (Sagonas et al. 2013, "300 Faces")."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["landmark_error"]


def landmark_error(
    found: npt.ArrayLike, true: npt.ArrayLike, counted: npt.ArrayLike | None = None
) -> npt.NDArray[np.float64]:
    """Mean distance of the 68 points over the distance of the true points 36 and 45.

    Args:
        found, true: [..., 68, 2] points in the same pixels.
        counted: [68] bool, the points whose distance counts; None for all.

    Returns:
        [...] errors; 0.035 is 3.5 %.

    Raises:
        ValueError: the shapes differ or do not end in [68, 2], or no point counts.
    """
    one, two = np.asarray(found, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if one.shape != two.shape or two.shape[-2:] != (68, 2):
        raise ValueError(f"points must both be [..., 68, 2], got {one.shape} and {two.shape}")
    eyes = np.linalg.norm(two[..., 45, :] - two[..., 36, :], axis=-1)
    which = np.ones(68, bool) if counted is None else np.asarray(counted, dtype=bool)
    if which.shape != (68,) or not which.any():
        raise ValueError(f"counted must be [68] with a point that counts, got {which.shape}")
    distance = np.linalg.norm(one - two, axis=-1)[..., which]
    error: npt.NDArray[np.float64] = distance.mean(axis=-1) / eyes
    return error
