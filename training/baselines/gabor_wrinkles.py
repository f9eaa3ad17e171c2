"""Wrinkles by Gabor features and a Markov random field: the baseline of Batool and Chellappa.

Batool and Chellappa 2014, "Detection and Inpainting of Facial Wrinkles Using Texture Orientation
Fields and Markov Random Field Modeling" (IEEE Transactions on Image Processing 23(9)).

| step | from the paper | chosen here |
|---|---|---|
| features | Gabor responses and a texture orientation field | 12 orientations, 2 wavelengths |
| two classes | bimodal Gaussian mixture of the Gabor features | full covariances |
| neighbourhood | Markov random field of labels and orientations | 8 neighbours, Note [Coupling] |
| estimation | expectation maximisation | mean field in the E step |
| removal | exemplar-based texture synthesis in the gaps | `texture_synthesis`, gaps grown |

The figures on the right, the skin area and the least length are not the paper's.

Note [Coupling]
    Two neighbouring pixels are likely of one class, all the more so where the line between them
    follows the texture at both: the weight is a constant plus cos^2 of either angle, multiplied.
    So a wrinkle closes its gaps along its own direction, and does not grow sideways.
"""

from __future__ import annotations

import dataclasses
import functools

import cv2
import numba
import numpy as np
import numpy.typing as npt

from revisage.training.baselines.texture_synthesis import synthesise_texture
from revisage.training.data.ridges import log_luminance, skin_mask

__all__ = ["Settings", "detect_wrinkles", "gabor_features", "orientation_field", "remove_wrinkles"]

Picture = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

EYE_DISTANCE = 120.0  # between the eye centres of the face that the pixel figures below are for
# Row and column steps to the eight neighbours.
_STEPS = np.array([(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)])


@dataclasses.dataclass(frozen=True)
class Settings:
    """Figures of the detector, in pixels of a face with `EYE_DISTANCE` between its eyes."""

    wavelengths: tuple[float, ...] = (4.5, 8.0)  # of the Gabor filters: twice the line's width
    orientations: int = 12
    coupling: float = 1.4  # of neighbouring labels; 0 is the mixture alone
    rounds: int = 12  # of expectation maximisation
    first_share: float = 0.08  # of the skin, the strongest, that is the first guess at wrinkles
    least_contrast: float = 0.012  # response below which nothing is a wrinkle
    least_length: float = 9.0  # shorter finds are dropped
    grow: float = 2.0  # how far the gap to fill reaches beyond what was found


@functools.cache
def _bank(wavelength: float, orientations: int) -> tuple[FloatArray, ...]:
    """Even Gabor kernels without mean that answer dark lines; kernel i lies along pi i / n."""
    sigma, stretch = 0.4 * wavelength, 2.5
    radius = int(np.ceil(2.5 * stretch * sigma))
    x, y = np.meshgrid(*[np.arange(-radius, radius + 1, dtype=np.float64)] * 2)
    kernels = []
    for index in range(orientations):
        angle = np.pi * index / orientations
        along = np.cos(angle) * x + np.sin(angle) * y
        across = -np.sin(angle) * x + np.cos(angle) * y
        bell = np.exp(-0.5 * (across**2 + (along / stretch) ** 2) / sigma**2)
        wave = np.cos(2 * np.pi * across / wavelength)
        wave -= (bell * wave).sum() / bell.sum()
        kernel = -bell * wave
        # A dark line of contrast c gives a response of about c.
        kernels.append((kernel * 2 / np.abs(kernel).sum()).astype(np.float32))
    return tuple(kernels)


def gabor_features(
    luminance: FloatArray, wavelengths: tuple[float, ...], orientations: int
) -> tuple[FloatArray, FloatArray]:
    """Responses of the bank to dark lines.

    Args:
        luminance: [H, W] log luminance.
        wavelengths: in pixels.

    Returns:
        Strongest response by wavelength [len(wavelengths), H, W], 0 or more; and the responses by
        orientation, summed over the wavelengths, [orientations, H, W].
    """
    by_wavelength, by_orientation = [], np.zeros((orientations, *luminance.shape), np.float32)
    for wavelength in wavelengths:
        best = np.zeros(luminance.shape, np.float32)
        for index, kernel in enumerate(_bank(round(wavelength, 2), orientations)):
            found = cv2.filter2D(luminance, cv2.CV_32F, kernel, borderType=cv2.BORDER_REFLECT_101)
            found = np.maximum(found, 0)
            by_orientation[index] += found
            best = np.maximum(best, found)
        by_wavelength.append(best)
    return np.stack(by_wavelength), by_orientation


def orientation_field(by_orientation: FloatArray, reach: float) -> tuple[FloatArray, FloatArray]:
    """Direction of the texture around each pixel, and how sure it is.

    The angles are doubled (a line has no front end), weighted with their responses and averaged
    over a Gaussian neighbourhood.

    Args:
        by_orientation: [K, H, W] of `gabor_features`.
        reach: standard deviation of the neighbourhood in pixels.

    Returns:
        Angle [H, W] in (-pi / 2, pi / 2], from the x axis towards y; and coherence [H, W] in 0..1.
    """
    angles = 2 * np.pi * np.arange(len(by_orientation), dtype=np.float32) / len(by_orientation)
    parts = [
        cv2.GaussianBlur(np.tensordot(weights, by_orientation, axes=1), (0, 0), reach)
        for weights in (np.cos(angles), np.sin(angles), np.ones_like(angles))
    ]
    angle = 0.5 * np.arctan2(parts[1], parts[0])
    coherence = np.hypot(parts[0], parts[1]) / np.maximum(parts[2], 1e-6)
    return angle.astype(np.float32), np.clip(coherence, 0, 1).astype(np.float32)


def _couplings(angle: FloatArray, coherence: FloatArray) -> FloatArray:
    """Note [Coupling]: weight of each pixel's eight neighbours, [8, H, W]."""
    steps = np.arctan2(_STEPS[:, 0], _STEPS[:, 1])
    weights = np.empty((8, *angle.shape), np.float32)
    for index, (down, right) in enumerate(_STEPS):
        own = 0.25 + coherence * np.cos(steps[index] - angle) ** 2
        weights[index] = own * np.roll(own, (-down, -right), axis=(0, 1))
    return weights


@numba.njit(cache=True, nogil=True)
def _mean_field(
    evidence: FloatArray, weights: FloatArray, skin: Mask, chance: FloatArray, coupling: float
) -> None:
    """One sweep: chance of a wrinkle [H, W] from evidence (log odds) and the neighbours' chances.

    In place, row by row, so that news travels across the picture within a sweep. The border of
    `skin` is 0.
    """
    height, width = chance.shape
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            if skin[y, x] == 0:
                continue
            lean = np.float32(0.0)
            for i in range(8):
                down, right = _STEPS[i, 0], _STEPS[i, 1]
                if skin[y + down, x + right]:
                    lean += weights[i, y, x] * (2 * chance[y + down, x + right] - 1)
            odds = evidence[y, x] + coupling * lean
            chance[y, x] = 1 / (1 + np.exp(-odds))


def _log_density(
    samples: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Fit one Gaussian to weighted samples [N, D]; its log density at each, and its mean."""
    total = max(float(weights.sum()), 1e-9)
    mean = weights @ samples / total
    centred = samples - mean
    covariance = (centred * weights[:, None]).T @ centred / total
    covariance += 1e-4 * np.eye(samples.shape[1])  # a class of few pixels must not collapse
    root = np.linalg.cholesky(covariance)
    whitened = np.linalg.solve(root, centred.T)
    density = -0.5 * np.square(whitened).sum(axis=0) - np.log(np.diag(root)).sum()
    return density, mean


def _skin_of(image: Picture, landmarks: npt.NDArray[np.float64] | None) -> Mask:
    if landmarks is not None:
        side = max(image.shape[:2])
        margin = ((0, side - image.shape[0]), (0, side - image.shape[1]), (0, 0))
        square = np.pad(image, margin, mode="edge")
        return skin_mask(square, landmarks)[: image.shape[0], : image.shape[1]]
    # Without landmarks: skin is where chroma says so (Chai and Ngan 1999), less strong edges.
    codes = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)
    skin = np.asarray(cv2.inRange(codes, (40, 133, 77), (255, 173, 127)) > 0).astype(np.uint8)
    return np.asarray(cv2.erode(skin, np.ones((5, 5), np.uint8)), dtype=np.uint8)


def _unit(image: Picture, landmarks: npt.NDArray[np.float64] | None) -> float:
    """Size of the face over that of `Settings`; without landmarks the picture is all face."""
    if landmarks is None:
        return float(min(image.shape[:2])) / 512
    eyes = landmarks[42:48].mean(axis=0) - landmarks[36:42].mean(axis=0)
    return max(0.2, float(np.hypot(*eyes)) / EYE_DISTANCE)


def _checked(
    image: npt.NDArray[np.generic], landmarks: npt.ArrayLike | None
) -> tuple[Picture, npt.NDArray[np.float64] | None]:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"the picture must be [H, W, 3] uint8, got {image.shape} {image.dtype}")
    if min(image.shape[:2]) < 32:
        raise ValueError(f"the picture must be at least 32 px wide and high, got {image.shape}")
    points = None if landmarks is None else np.asarray(landmarks, dtype=np.float64)
    if points is not None and points.shape != (68, 2):
        raise ValueError(f"landmarks must be [68, 2], got {points.shape}")
    return np.ascontiguousarray(image, dtype=np.uint8), points


def detect_wrinkles(
    image: npt.NDArray[np.uint8],
    landmarks: npt.ArrayLike | None = None,
    *,
    skin: npt.NDArray[np.uint8] | None = None,
    settings: Settings | None = None,
) -> Mask:
    """Dark lines on the skin of a face.

    Args:
        image: [H, W, 3] uint8 RGB.
        landmarks: [68, 2] in pixels, iBUG 300-W order; None takes the whole picture for a face.
        skin: [H, W], nonzero where wrinkles may lie; None finds it.
        settings: None for the defaults.

    Returns:
        [H, W] uint8, 1 = wrinkle.

    Raises:
        ValueError: wrong shapes or types.
    """
    image, points = _checked(image, landmarks)
    chosen = settings or Settings()
    unit = _unit(image, points)
    area = _skin_of(image, points) if skin is None else (np.asarray(skin) > 0).astype(np.uint8)
    area[[0, -1]] = area[:, [0, -1]] = 0  # the random field has no neighbours beyond the edge
    found = np.zeros(image.shape[:2], np.uint8)
    inside = area > 0
    if inside.sum() < 256:
        return found
    luminance = log_luminance(image)
    wavelengths = tuple(max(3.0, w * unit) for w in chosen.wavelengths)
    strongest, by_orientation = gabor_features(luminance, wavelengths, chosen.orientations)
    angle, coherence = orientation_field(by_orientation, 1.5 * unit)
    weights = _couplings(angle, coherence)

    # Roots make the responses, which have long tails, nearer to Gaussian.
    samples = np.sqrt(strongest[:, inside].T.astype(np.float64))
    total = samples.sum(axis=1)
    chance = np.zeros(found.shape, np.float32)
    chance[inside] = total > np.quantile(total, 1 - chosen.first_share)
    evidence = np.zeros_like(chance)
    for _ in range(chosen.rounds):
        mine = chance[inside].astype(np.float64)
        share = float(np.clip(mine.mean(), 1e-3, 0.5))
        wrinkle, mean = _log_density(samples, mine)
        plain, plain_mean = _log_density(samples, 1 - mine)
        odds = wrinkle - plain + np.log(share / (1 - share))
        # The wide Gaussian of wrinkles also covers responses weaker than plain skin's.
        odds = np.where((samples - plain_mean) @ (mean - plain_mean) > 0, odds, -20.0)
        evidence[inside] = np.clip(odds, -20, 20)
        _mean_field(evidence, weights, area, chance, chosen.coupling)
    found[(chance > 0.5) & (strongest.max(axis=0) >= chosen.least_contrast)] = 1
    return _long_enough(found, chosen.least_length * unit)


def _long_enough(mask: Mask, length: float) -> Mask:
    """Drop connected parts whose box has a shorter diagonal."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    extent = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    keep = extent >= length
    keep[0] = False  # what is not in the mask
    return np.asarray(keep[labels], dtype=np.uint8)


def remove_wrinkles(
    image: npt.NDArray[np.uint8],
    landmarks: npt.ArrayLike | None = None,
    *,
    settings: Settings | None = None,
    seed: int = 0,
) -> tuple[Picture, Mask]:
    """The whole baseline: find wrinkles, then fill them with skin texture of the same face.

    Args:
        image: [H, W, 3] uint8 RGB.
        landmarks: [68, 2] in pixels, iBUG 300-W order; None takes the whole picture for a face.
        seed: of the choice among equally good patches.

    Returns:
        The picture without the wrinkles, equal to `image` where the mask is 0; and the mask,
        [H, W] uint8, 1 = replaced.
    """
    image, points = _checked(image, landmarks)
    chosen = settings or Settings()
    unit = _unit(image, points)
    skin = _skin_of(image, points)
    mask = detect_wrinkles(image, points, skin=skin, settings=chosen)
    radius = round(chosen.grow * unit)
    if radius > 0:
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        mask = np.asarray(cv2.dilate(mask, disc), dtype=np.uint8)
    if not mask.any():
        return image.copy(), mask
    patch = max(5, 2 * round(4 * unit) + 1)
    return synthesise_texture(image, mask, source=skin, patch=patch, seed=seed), mask
