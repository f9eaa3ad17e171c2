"""Frechet distance of two sets of features (Heusel et al. 2017, "GANs Trained by a Two Time-Scale
Update Rule", equation 6).

With the features of the published Inception network it is the FID. Those weights do not come with
Revisage; with the stand-in features the same distance has another scale and another name,
`fid_stand_in`, so that nobody compares it with a paper's FID.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import linalg
from torch import Tensor

from revisage.errors import RecipeError
from revisage.training.losses.perceptual import file_record, load_published, perceptual_network
from revisage.training.models.inception import FidInception

__all__ = ["FrechetFeatures", "features_of", "frechet_distance", "frechet_features"]

FloatArray = npt.NDArray[np.float64]
JITTER = 1e-6  # added to both diagonals where the square root of the product does not exist


def _gaussian(features: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < 2:
        raise ValueError(
            f"features must be [samples, dimensions] of at least 2 samples, got {list(rows.shape)}"
        )
    if not np.isfinite(rows).all():
        raise ValueError("features hold values that are not finite")
    return rows.mean(axis=0), np.atleast_2d(np.cov(rows, rowvar=False))


def frechet_distance(one: npt.ArrayLike, two: npt.ArrayLike) -> float:
    """|m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)) of the Gaussians fitted to two sets.

    Args:
        one, two: [samples, dimensions], rows are samples; the numbers of samples may differ. With
            fewer samples than dimensions the distance is large and unsteady.

    Returns:
        The distance; equal sets have 0 up to rounding, which may fall below it.

    Raises:
        ValueError: other shapes, fewer than two samples, values that are not finite, or covariances
            whose product has no real square root.
    """
    mean1, covariance1 = _gaussian(one)
    mean2, covariance2 = _gaussian(two)
    if mean1.shape != mean2.shape:
        raise ValueError(f"features have {mean1.size} and {mean2.size} dimensions")
    with warnings.catch_warnings():
        # Of singular products; whether the root can be used is looked at below.
        warnings.simplefilter("ignore", linalg.LinAlgWarning)
        root = linalg.sqrtm(covariance1 @ covariance2)
        if not np.isfinite(root).all():
            jitter = JITTER * np.eye(len(mean1))
            root = linalg.sqrtm((covariance1 + jitter) @ (covariance2 + jitter))
    if np.iscomplexobj(root):
        largest = float(np.abs(np.diagonal(root).imag).max())
        if largest > 1e-3:
            raise ValueError(f"the covariances' product has no real root (imaginary {largest:g})")
        root = root.real
    difference = mean1 - mean2
    trace = np.trace(covariance1) + np.trace(covariance2) - 2 * np.trace(root)
    return float(difference @ difference + trace)


@dataclasses.dataclass(frozen=True)
class FrechetFeatures:
    """What turns pictures into the features that are compared.

    `name` is what the distance is reported as: "fid" only for the Inception network.
    """

    name: str
    record: str  # network, file, SHA-256
    extract: Callable[[Tensor], Tensor]  # RGB [N, 3, H, W] in [0, 1] -> [N, D]


def frechet_features(inception: str = "") -> FrechetFeatures:
    """The features of the FID, or of its stand-in.

    Args:
        inception: file of the FID's Inception weights (`pt_inception-2015-12-05-6726825d.pth` of
            mseitzer/pytorch-fid); "" takes the channel means of our stand-in network instead.

    Raises:
        RecipeError: the file is not there.
        CheckpointError: it holds another network.
    """
    if not inception:
        network = perceptual_network("stand_in")

        def means(image: Tensor) -> Tensor:
            features = network(image, ("skin8", "skin16", "face8", "face16"))
            return torch.cat([f.mean(dim=(2, 3)) for f in features.values()], dim=1)

        return FrechetFeatures("fid_stand_in", network.record, means)
    path = Path(inception)
    if not path.is_file():
        raise RecipeError(
            f"{path} is not a file: the FID needs pt_inception-2015-12-05-6726825d.pth of "
            "mseitzer/pytorch-fid; name none for the stand-in"
        )
    published = FidInception()
    load_published(published, path, "the FID's Inception", ignored=(r"fc\..*",))
    published.eval().requires_grad_(False)
    return FrechetFeatures("fid", f"inception of {file_record(path)}", published)


@torch.inference_mode()
def features_of(features: FrechetFeatures, batches: Iterable[Tensor]) -> FloatArray:
    """Features [samples, D] of batches of pictures [N, 3, H, W] in [0, 1].

    Raises:
        ValueError: there is no batch.
    """
    rows = [features.extract(batch).double().cpu().numpy() for batch in batches]
    if not rows:
        raise ValueError("no picture to take features of")
    return np.concatenate(rows)
