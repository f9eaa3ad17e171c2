"""Degraded faces: blur, reduction, noise, JPEG and enlargement, in this order.

The model of Li et al. 2018, "Learning Warped Guidance for Blind Face Restoration" (GFRNet),
section 3.4:

    degraded = JPEG_q((sharp * Gaussian_b) reduced by s + n_sigma) enlarged by s

Every step reads and writes uint8, as pictures stored between the steps would; noise is clipped to
0..255. Reduction and enlargement are bicubic (Keys, a = -0.5), and reduction widens the kernel by
the scale, as MATLAB's and Pillow's resize do, so that what the small picture cannot show is removed
instead of aliased.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["AUTHORS", "PAPER", "Degradation", "degrade"]

Picture = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Degradation:
    """Ranges of the steps; the defaults are the paper's (`PAPER`).

    Each step has a range (first, last), the step of the grid in it from which the value is drawn
    evenly (0: from all values between), and the share of pictures that it is applied to.
    """

    blur: tuple[float, float] = (1.0, 3.0)  # standard deviation, pixels of the full size
    blur_step: float = 0.1
    blur_share: float = 21 / 22  # the paper's set is 0 and 1 to 3: one draw in 22 is not blurred
    scale: tuple[float, float] = (1.0, 8.0)  # side of the full size / side of the small size
    scale_step: float = 0.1
    scale_share: float = 1.0
    noise: tuple[float, float] = (1.0, 7.0)  # standard deviation, of 255, at the small size
    noise_step: float = 1.0
    noise_share: float = 1.0
    jpeg: tuple[float, float] = (10.0, 40.0)  # quality, at the small size
    jpeg_step: float = 1.0
    jpeg_share: float = 0.75

    def __post_init__(self) -> None:
        lowest = {"blur": 0.0, "scale": 1.0, "noise": 0.0, "jpeg": 1.0}
        for name, low in lowest.items():
            first, last = getattr(self, name)
            step, share = getattr(self, f"{name}_step"), getattr(self, f"{name}_share")
            if not low <= first <= last:
                raise ValueError(
                    f"{name} must be (first, last), {low:g} or more and first <= last, "
                    f"got {(first, last)}"
                )
            if step < 0 or not 0 <= share <= 1:
                raise ValueError(
                    f"{name}_step must be 0 or more and {name}_share in 0..1, got {step}, {share}"
                )
        if self.jpeg[1] > 100:
            raise ValueError(f"jpeg is a quality of at most 100, got {self.jpeg}")


PAPER = Degradation()
"""The paper's ranges. How often JPEG is left out follows a public re-implementation."""

AUTHORS = Degradation(
    blur=(2.0, 2.5),
    blur_share=6 / 22,
    scale_share=71 / 81,
    noise=(5.0, 15.0),
    noise_share=11 / 35,
    jpeg=(50.0, 69.0),
    jpeg_share=20 / 31,
)
"""The ranges of the authors' PyTorch code, which draws from wider ranges and skips a step where the
value is beyond a limit: blur radius 20..41 tenths up to 25, scale 10..90 tenths up to 80, noise
5..39 up to 15, JPEG quality 50..80 below 70. The shares are those of the draws within the limits.
"""


def _drawn(
    rng: np.random.Generator, limits: tuple[float, float], step: float, share: float
) -> float | None:
    """A value of the range, or None where the step is left out; always takes two draws."""
    applied, position = rng.random(2)
    first, last = limits
    if step > 0:
        count = int((last - first) / step + 1e-6) + 1
        value = first + step * int(position * count)
    else:
        value = first + position * (last - first)
    return float(value) if applied < share else None


def _bicubic(image: Picture, size: tuple[int, int]) -> Picture:
    """[H, W, 3] -> [height, width, 3] of `size` (height, width)."""
    from PIL import Image

    if size == image.shape[:2]:
        return image
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.array(resized, dtype=np.uint8)


def degrade(
    image: Picture,
    rng: np.random.Generator,
    settings: Degradation = PAPER,
    *,
    scale: float | None = None,
) -> Picture:
    """Degrade a sharp picture.

    Args:
        image: [H, W, 3] uint8 RGB; the sigma of the blur is in its pixels, whatever its size
            (the paper's is 256).
        settings: ranges of the steps.
        scale: reduce by exactly this (evaluation at 4 and 8), 1 or more; the small size is
            truncated to whole pixels. None draws it.

    Returns:
        [H, W, 3] uint8, a new array.

    Raises:
        ValueError: the scale is below 1, or the picture is not [H, W, 3] uint8.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be [H, W, 3] uint8, got {image.dtype} {list(image.shape)}")
    if scale is not None and not scale >= 1:
        raise ValueError(f"scale must be 1 or more, got {scale}")
    blur = _drawn(rng, settings.blur, settings.blur_step, settings.blur_share)
    drawn = _drawn(rng, settings.scale, settings.scale_step, settings.scale_share)
    noise = _drawn(rng, settings.noise, settings.noise_step, settings.noise_share)
    quality = _drawn(rng, settings.jpeg, settings.jpeg_step, settings.jpeg_share)
    factor = scale if scale is not None else (drawn or 1.0)

    out = image.copy()
    height, width = out.shape[:2]
    if blur:
        out = np.asarray(cv2.GaussianBlur(out, (0, 0), blur), dtype=np.uint8)
    out = _bicubic(out, (max(1, int(height / factor)), max(1, int(width / factor))))
    if noise:
        grain = rng.standard_normal(out.shape, dtype=np.float32) * np.float32(noise)
        out = np.clip(np.rint(out + grain), 0, 255).astype(np.uint8)
    if quality is not None:
        out = _through_jpeg(out, round(quality))
    return _bicubic(out, (height, width))


def _through_jpeg(image: Picture, quality: int) -> Picture:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None  # for mypy: encoded one line above
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), dtype=np.uint8)
