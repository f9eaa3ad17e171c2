"""NIQE, image quality without a reference (Mittal et al. 2013, "Making a Completely Blind Image
Quality Analyzer").

Natural pictures have regular statistics: normalised luminance follows a generalised Gaussian.
NIQE fits 36 such parameters in every block of 96 pixels and measures how far their Gaussian lies
from that of pristine pictures; small is good. The pristine parameters are a file: the published one
(`niqe_pris_params.npz` of BasicSR), or one of `fit_pristine` on a folder of good portraits, whose
values compare only with each other.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import convolve
from scipy.special import gamma

from revisage.errors import RecipeError

__all__ = [
    "Pristine",
    "fit_pristine",
    "gaussian_window",
    "half_size",
    "luma",
    "niqe",
    "niqe_features",
    "read_pristine",
    "save_pristine",
]

BLOCK = 96  # pixels
FEATURES = 36  # per block: 18 at full and 18 at half size
SHARP = 0.75  # fit_pristine keeps blocks at least this sharp, of the sharpest (section 2.2)
# Neighbours whose products are modelled: right, below, and the two diagonals (rows, columns).
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))

FloatArray = npt.NDArray[np.float64]
Plane = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, eq=False)
class Pristine:
    """The Gaussian of pristine pictures: mean [36] and covariance [36, 36]."""

    mean: FloatArray
    covariance: FloatArray
    record: str  # where it came from


def gaussian_window() -> FloatArray:
    """[7, 7] Gaussian of deviation 7/6 whose sum is 1."""
    steps = np.arange(-3, 4)
    window = np.exp(-(steps[:, None] ** 2 + steps[None] ** 2) / (2 * (7 / 6) ** 2))
    return np.asarray(window / window.sum(), dtype=np.float64)


def luma(image: npt.NDArray[np.uint8], *, gray: bool = False) -> Plane:
    """Rounded luma of [H, W, 3] uint8 RGB: BT.601 in 16..235, or plain gray in 0..255.

    Raises:
        ValueError: another shape or dtype.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"NIQE takes [H, W, 3] uint8 RGB, got {image.shape} {image.dtype}")
    # In float32 as the published parameters were used: the rounding below may depend on it.
    unit = image.astype(np.float32) / 255
    if gray:
        plane = cv2.cvtColor(unit, cv2.COLOR_RGB2GRAY) * 255
    else:
        plane = unit @ np.array([65.481, 128.553, 24.966], dtype=np.float32) + 16
    return np.asarray(np.round(plane), dtype=np.float32)


@cache
def _halving(length: int) -> FloatArray:
    """[length / 2, length] matrix of the antialiased bicubic half size, borders mirrored.

    The cubic kernel (a = -0.5) is stretched by 2, so it spans eight pixels around the middle of
    every pair.
    """
    distance = np.abs(np.arange(-3, 5) - 0.5) / 2
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    kernel = np.where(distance <= 1, near, far) / 2
    matrix = np.zeros((length // 2, length))
    for row in range(length // 2):
        for offset, weight in zip(range(-3, 5), kernel, strict=True):
            column = 2 * row + offset
            column = -column - 1 if column < 0 else column
            column = 2 * length - column - 1 if column >= length else column
            matrix[row, column] += weight / kernel.sum()
    return matrix


def half_size(plane: Plane) -> Plane:
    """[H, W] -> [H/2, W/2] by antialiased bicubic sampling; even sides."""
    height, width = plane.shape
    return np.asarray(_halving(height) @ plane @ _halving(width).T, dtype=np.float32)


@cache
def _shapes() -> tuple[FloatArray, FloatArray]:
    """Shape parameters 0.2 .. 10 in steps of 0.001, and the moment ratio that each has."""
    shape = np.arange(0.2, 10.001, 0.001)
    inverse = 1 / shape
    return shape, gamma(2 * inverse) ** 2 / (gamma(inverse) * gamma(3 * inverse))


def _asymmetric_gaussian(values: npt.NDArray[np.floating]) -> tuple[float, float, float]:
    """Shape, left and right scale of an asymmetric generalised Gaussian, by moments (equation 7).

    NaN where the values have only one sign.
    """
    left, right = values[values < 0], values[values > 0]
    if left.size == 0 or right.size == 0:
        return (float("nan"),) * 3
    left_deviation = np.sqrt(np.mean(left**2))
    right_deviation = np.sqrt(np.mean(right**2))
    ratio = left_deviation / right_deviation
    moment = np.mean(np.abs(values)) ** 2 / np.mean(values**2)
    wanted = moment * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    grid, moments = _shapes()
    shape = float(grid[np.argmin((moments - wanted) ** 2)])
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, float(left_deviation * scale), float(right_deviation * scale)


def _block_features(block: npt.NDArray[np.floating]) -> list[float]:
    """18 features of one block of normalised luminance."""
    shape, left, right = _asymmetric_gaussian(block.ravel())
    features = [shape, (left + right) / 2]
    for shift in _SHIFTS:
        product = block * np.roll(block, shift, axis=(0, 1))
        shape, left, right = _asymmetric_gaussian(product.ravel())
        mean = (right - left) * float(gamma(2 / shape) / gamma(1 / shape))  # equation 8
        features += [shape, mean, left, right]
    return features


def _blocks(plane: Plane) -> tuple[FloatArray, FloatArray]:
    """Features [blocks, 36] and sharpness [blocks], blocks column by column."""
    rows, columns = plane.shape[0] // BLOCK, plane.shape[1] // BLOCK
    if rows * columns < 1:
        raise ValueError(f"NIQE needs {BLOCK} x {BLOCK} pixels at least, got {plane.shape}")
    plane = np.asarray(plane[: rows * BLOCK, : columns * BLOCK], dtype=np.float32)
    window = gaussian_window()
    features: list[FloatArray] = []
    sharpness: list[float] = []
    for scale in (1, 2):
        side = BLOCK // scale
        mean = convolve(plane, window, mode="nearest")
        variance = convolve(np.square(plane), window, mode="nearest") - np.square(mean)
        deviation = np.sqrt(np.abs(variance))
        normalised = (plane - mean) / (deviation + 1)  # equation 1
        corners = [(r * side, c * side) for c in range(columns) for r in range(rows)]
        found = [
            _block_features(normalised[top : top + side, left : left + side])
            for top, left in corners
        ]
        features.append(np.array(found))
        if scale == 1:
            sharpness = [
                float(deviation[top : top + side, left : left + side].mean())
                for top, left in corners
            ]
            plane = half_size(plane)
    return np.concatenate(features, axis=1), np.array(sharpness)


def niqe_features(plane: Plane) -> FloatArray:
    """Features [blocks, 36] of luma [H, W] in 0..255, blocks of 96 pixels column by column.

    Flat blocks have NaN, because nothing can be fitted to them.

    Raises:
        ValueError: no whole block.
    """
    return _blocks(plane)[0]


def niqe(
    image: npt.NDArray[np.uint8], pristine: Pristine, *, border: int = 0, gray: bool = False
) -> float:
    """Distance of a picture from pristine ones (equation 10); smaller is better.

    Args:
        image: [H, W, 3] uint8 RGB with at least two whole blocks of 96 x 96 pixels.
        border: pixels cut off at every side first.
        gray: gray values in 0..255 in place of luma in 16..235.

    Raises:
        ValueError: too few blocks that are not flat, or another shape.
    """
    plane = luma(image, gray=gray)
    if border:
        plane = plane[border:-border, border:-border]
    features = niqe_features(plane)
    whole = features[~np.isnan(features).any(axis=1)]
    if len(whole) < 2:
        raise ValueError(
            f"NIQE needs two blocks of {BLOCK} x {BLOCK} pixels that are not flat, got {len(whole)}"
        )
    difference = pristine.mean - np.nanmean(features, axis=0)
    inverse = np.linalg.pinv((pristine.covariance + np.cov(whole, rowvar=False)) / 2)
    return float(np.sqrt(difference @ inverse @ difference))


def fit_pristine(images: Iterable[npt.NDArray[np.uint8]], record: str) -> Pristine:
    """Pristine parameters of good pictures, from their sharp blocks (section 2.2).

    Args:
        images: [H, W, 3] uint8 RGB; a block counts when its mean local deviation is at least 0.75
            of the picture's sharpest.
        record: what the pictures were.

    Raises:
        ValueError: fewer blocks than the 36 features need for a covariance of full rank.
    """
    kept: list[FloatArray] = []
    for image in images:
        features, sharpness = _blocks(luma(image))
        sharp = features[sharpness >= SHARP * sharpness.max()]
        kept.append(sharp[~np.isnan(sharp).any(axis=1)])
    rows = np.concatenate(kept) if kept else np.zeros((0, FEATURES))
    if len(rows) <= FEATURES:
        raise ValueError(
            f"{len(rows)} sharp blocks are too few for a model of {FEATURES} features: "
            "give more or larger pictures"
        )
    return Pristine(
        rows.mean(axis=0), np.cov(rows, rowvar=False), f"{record}, {len(rows)} sharp blocks"
    )


def save_pristine(pristine: Pristine, path: str | Path) -> None:
    """Write parameters as .npz under the published file's names."""
    np.savez(
        path,
        mu_pris_param=pristine.mean[None],
        cov_pris_param=pristine.covariance,
        record=np.array(pristine.record),
    )


def read_pristine(path: str | Path) -> Pristine:
    """Parameters of a .npz file: the published `niqe_pris_params.npz`, or of `save_pristine`.

    Raises:
        RecipeError: the file is missing, or does not hold a mean and a covariance of 36 features.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            mean = np.asarray(file["mu_pris_param"], dtype=np.float64).reshape(-1)
            covariance = np.asarray(file["cov_pris_param"], dtype=np.float64)
            record = str(file["record"]) if "record" in file.files else "published"
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise RecipeError(
            f"{path}: not NIQE's pristine parameters ({error}); use niqe_pris_params.npz of "
            "BasicSR, or fit some to good portraits with fit_pristine"
        ) from error
    if mean.shape != (FEATURES,) or covariance.shape != (FEATURES, FEATURES):
        raise RecipeError(
            f"{path}: its mean is {mean.shape} and its covariance {covariance.shape}, "
            f"but NIQE has {FEATURES} features"
        )
    return Pristine(mean, covariance, f"{path} ({record})")
