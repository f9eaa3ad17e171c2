"""Groups of people for whom figures are reported apart: by skin tone and by age."""

from __future__ import annotations

import cv2
import numpy as np

from revisage.training.data.aligned_faces import AlignedFace
from revisage.training.data.ridges import skin_mask

__all__ = ["age_group", "skin_tone", "tone_angle"]

# Upper ends in degrees of Chardon et al. 1991, light and very light together.
_TONES = ((-30.0, "dark"), (10.0, "brown"), (28.0, "tan"), (41.0, "intermediate"))
LEAST_SKIN = 200  # pixels; fewer say nothing


def tone_angle(face: AlignedFace) -> float | None:
    """Individual typology angle in degrees: the larger, the lighter the skin looks.

    Chardon, Cretois and Hourseau 1991: arctan((L* - 50) / b*), of the median colour of the skin
    that shows. A photo's light counts as skin tone here. None where there is no colour (black and
    white) or hardly any skin.
    """
    image = face.image
    skin = skin_mask(image, face.landmarks) > 0
    if face.extra.get("gray") or int(skin.sum()) < LEAST_SKIN:
        return None
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    lightness, _, yellow = np.median(lab[skin], axis=0)
    return float(np.degrees(np.arctan2(lightness - 50, max(float(yellow), 1e-3))))


def skin_tone(face: AlignedFace) -> str:
    """The group of `tone_angle`, "dark" to "light", or "unknown"."""
    angle = tone_angle(face)
    if angle is None:
        return "unknown"
    return next((name for end, name in _TONES if angle <= end), "light")


def age_group(face: AlignedFace) -> str:
    """By the age that the data set states: "under 30", "30 to 44", "45 and over", or "unknown"."""
    age = face.extra.get("age")
    if age is None:
        return "unknown"
    return "under 30" if age < 30 else "30 to 44" if age < 45 else "45 and over"
