"""How much of dark lines a picture shows: the ridge energy."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from revisage.training.data.ridges import log_luminance

__all__ = ["ridge_energy", "valley_strength"]

_SCALES = (1.0, 1.5, 2.2, 3.3)  # pixels of a 512 px aligned square

FloatArray = npt.NDArray[np.float32]


def valley_strength(image: npt.NDArray[np.generic]) -> FloatArray:
    """Strength of the dark line through every pixel.

    max over scales s of s ** 2 * max(0, l), where l is the larger eigenvalue of the Hessian of the
    log luminance smoothed by a Gaussian of deviation s: the scale-normalised ridge measure
    (Lindeberg 1998, "Edge detection and ridge detection with automatic scale selection", section 6;
    Frangi et al. 1998, "Multiscale vessel enhancement filtering"). It sees neither flat skin nor
    linear shading, and because of the logarithm it does not depend on exposure.

    Args:
        image: [H, W, 3] RGB, uint8 or uint16, or float in [0, 1].

    Returns:
        [H, W] float32, 0 or more; a Gaussian valley of relative depth a and deviation s gives about
        a / 2.8 at its bottom.
    """
    light = log_luminance(image)
    best = np.zeros_like(light)
    for scale in _SCALES:
        smooth = cv2.GaussianBlur(light, (0, 0), scale, borderType=cv2.BORDER_REFLECT_101)
        dx = 0.5 * (np.roll(smooth, -1, 1) - np.roll(smooth, 1, 1))
        xx = np.roll(smooth, -1, 1) - 2 * smooth + np.roll(smooth, 1, 1)
        yy = np.roll(smooth, -1, 0) - 2 * smooth + np.roll(smooth, 1, 0)
        xy = 0.5 * (np.roll(dx, -1, 0) - np.roll(dx, 1, 0))
        largest = 0.5 * (xx + yy) + np.sqrt(0.25 * (xx - yy) ** 2 + xy**2)
        # The differences above wrap around at the border: nothing is said there.
        largest[[0, -1]] = 0
        largest[:, [0, -1]] = 0
        np.maximum(best, np.float32(scale**2) * largest, out=best)
    return best


def ridge_energy(image: npt.NDArray[np.generic], region: npt.NDArray[np.generic]) -> float:
    """Mean `valley_strength` over a region [H, W], anything but 0 is in.

    Compare it before and after a retouch, in one region. Clean skin is not 0: pores and grain have
    ridges too.

    Raises:
        ValueError: the region is empty, or of another size.
    """
    if region.shape != image.shape[:2]:
        raise ValueError(f"region {region.shape} does not fit the picture {image.shape[:2]}")
    inside = region != 0
    if not inside.any():
        raise ValueError("the region is empty")
    return float(valley_strength(image)[inside].mean())
