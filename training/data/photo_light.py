"""What a drawn object must match in a portrait: light on the face, white point, blur and noise."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import numpy.typing as npt

from revisage.training.data.mask_shapes import Camera

__all__ = ["FROM_LINEAR", "LUMA", "TO_LINEAR", "PhotoLight", "estimate_light", "to_linear"]

FloatArray = npt.NDArray[np.float32]

LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)

# sRGB value -> light, and light in 4096 steps -> sRGB value (gamma 2.2).
TO_LINEAR = ((np.arange(256) / 255) ** 2.2).astype(np.float32)
FROM_LINEAR = (255 * (np.arange(4096) / 4095) ** (1 / 2.2)).astype(np.float32)


def to_linear(image: npt.NDArray[np.uint8]) -> FloatArray:
    """Light of sRGB values, 0 to 1."""
    return TO_LINEAR[image]


@dataclasses.dataclass(frozen=True, eq=False)
class PhotoLight:
    """Light in linear units of the picture.

    white: [3] what a white surface that faces the viewer shows.
    skin: [3] what the skin shows.
    tilt: [2] relative change of the light per unit of the normal's x and y.
    blur: standard deviation of the photo's blur in pixels, about 0.5 when sharp.
    noise: standard deviation of the grain in 8-bit steps.
    gray: a black-and-white photo.
    """

    white: FloatArray
    skin: FloatArray
    tilt: npt.NDArray[np.float64]
    blur: float
    noise: float
    gray: bool


def _skin_places() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Places of bare skin in head coordinates, and their normals [N, 3]."""
    spots = [(x, y) for y in (-0.72, -0.55) for x in (-0.5, -0.25, 0.0, 0.25, 0.5)]
    spots += [(s * x, y) for s in (-1, 1) for x in (0.42, 0.6, 0.78) for y in (0.28, 0.45, 0.62)]
    spots += [(s * 0.72, 0.95) for s in (-1, 1)] + [(s * 0.2, 0.35) for s in (-1, 1)]
    xy = np.array(spots)
    z = -0.98 + 1.28 * np.sqrt(1 - (xy[:, 0] / 1.12) ** 2) - 0.15 * np.abs(xy[:, 1] - 0.2)
    slope = 1.28 * xy[:, 0] / 1.12**2 / np.sqrt(1 - (xy[:, 0] / 1.12) ** 2)
    normals = np.stack([slope, 0.35 * (xy[:, 1] - 0.35), np.ones(len(xy))], axis=1)
    return np.column_stack([xy, z]), normals / np.linalg.norm(normals, axis=1, keepdims=True)


_PLACES, _NORMALS = _skin_places()


def _eye_white(image: npt.NDArray[np.uint8], landmarks: npt.NDArray[np.float64]) -> FloatArray:
    """[3] linear light of the brightest part of both eyes."""
    height, width = image.shape[:2]
    pixels = []
    for first in (36, 42):
        eye = landmarks[first : first + 6]
        low = np.clip(np.floor(eye.min(axis=0)).astype(int), 0, [width - 2, height - 2])
        high = np.clip(np.ceil(eye.max(axis=0)).astype(int) + 1, low + 1, [width, height])
        pixels.append(to_linear(image[low[1] : high[1], low[0] : high[0]]).reshape(-1, 3))
    both = np.concatenate(pixels)
    luma = both @ LUMA
    bright = np.sort(luma)[int(0.75 * len(luma)) : max(int(0.93 * len(luma)), 1)]
    chosen = both[(luma >= bright[0]) & (luma <= bright[-1])] if len(bright) else both
    return np.asarray(chosen.mean(axis=0), np.float32)


def _sharpness(gray: FloatArray, landmarks: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Blur (pixels) and noise (8-bit steps) of the face, from eyes and brows and from cheeks."""
    height, width = gray.shape
    points = landmarks[17:48]
    low = np.clip(points.min(axis=0).astype(int), 0, [width - 9, height - 9])
    high = np.clip(points.max(axis=0).astype(int) + 2, low + 8, [width, height])
    face = gray[low[1] : high[1], low[0] : high[0]]
    dx = (face[1:-1, 2:] - face[1:-1, :-2]) / 2
    dy = (face[2:, 1:-1] - face[:-2, 1:-1]) / 2
    bend = (
        face[1:-1, 2:] + face[1:-1, :-2] + face[2:, 1:-1] + face[:-2, 1:-1] - 4 * face[1:-1, 1:-1]
    )
    slope = np.hypot(dx, dy).ravel()
    count = len(slope)
    at = int(0.97 * count)
    steep = float(np.partition(slope, at)[at])
    bent = float(np.partition(np.abs(bend).ravel(), at)[at])
    # Across a step blurred by sigma, the largest second difference is 0.61 / sigma of the slope.
    blur = 0.61 * steep / max(bent, 1e-6)
    calm = np.abs(bend.ravel()[slope <= np.partition(slope, count // 3)[count // 3]])
    noise = float(np.median(calm)) / 0.6745 / np.sqrt(20.0)
    return float(np.clip(blur, 0.4, 3.0)), float(np.clip(noise, 0.0, 8.0))


def estimate_light(
    image: npt.NDArray[np.uint8], landmarks: npt.NDArray[np.float64], camera: Camera
) -> PhotoLight:
    """Fit the light on the skin by a Lambertian term of first order in the normal.

    Args:
        image: [S, S, 3] uint8 RGB.
        landmarks: [68, 2] in its pixels.
        camera: of the same landmarks.
    """
    size = image.shape[0]
    step = max(1, size // 48)
    small = cv2.resize(image, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
    places = camera.project(_PLACES)[:, :2] / step
    limit = np.array([small.shape[1] - 1, small.shape[0] - 1])
    inside = ((places >= 0) & (places <= limit)).all(axis=1)
    where = np.clip(np.rint(places), 0, limit).astype(int)
    samples = to_linear(small[where[:, 1], where[:, 0]]).astype(np.float64)
    luma = samples @ LUMA
    normals = _NORMALS @ camera.matrix.T / camera.unit
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    design = np.column_stack([np.ones(len(luma)), normals[:, :2]])
    seen = inside & (normals[:, 2] > 0.2)
    weight = seen * 1.0 + 1e-4
    level, tilt = float(np.median(luma[seen])) if seen.any() else float(luma.mean()), np.zeros(2)
    for _ in range(4):  # hair, glasses and highlights are outliers
        ridge = np.diag([0.0, 0.15, 0.15]) * weight.sum()
        normal = design.T @ (weight[:, None] * design) + ridge
        solution = np.linalg.solve(normal, design.T @ (weight * luma))
        level, tilt = float(solution[0]), solution[1:]
        error = np.abs(luma - design @ solution)
        scale = max(
            1.5 * float(np.median(error[seen])) if seen.any() else 1.0, 0.02 * abs(level), 1e-4
        )
        weight = seen / (1 + (error / scale) ** 2) + 1e-4
    level = max(level, 0.004)
    skin = (weight[:, None] * samples).sum(axis=0) / weight.sum()

    eye = _eye_white(image, landmarks)
    eye_luma = max(float(eye @ LUMA), 1e-3)
    # Eye whites, in the shade of the lids, show about 0.4 of a white surface, skin 7 % to 65 %.
    white = float(np.clip(np.sqrt(0.92 * eye_luma / 0.40), level / 0.65, level / 0.07))
    # Bright clothes or walls tell of more light than eyes in the shade do; half of it is believed.
    bright = float(np.percentile(small @ LUMA, 95)) / 255
    white *= float(np.sqrt(np.clip(bright**2.2 / white, 1.0, 2.0)))
    white = float(np.clip(white, 0.18, 1.05))
    tint = np.clip((eye / eye_luma) ** 0.25, 0.9, 1.12)
    tint /= float(tint @ LUMA)
    channels = small.astype(np.int16)
    gray = bool(np.abs(channels[..., 0] - channels[..., 2]).mean() < 2.5)
    plain = np.asarray(image[..., 1], np.float32)
    blur, noise = _sharpness(plain, landmarks)
    return PhotoLight(
        white=(white * tint).astype(np.float32),
        skin=skin.astype(np.float32),
        tilt=np.clip(tilt / level, -0.75, 0.75),
        blur=blur,
        noise=noise,
        gray=gray,
    )
