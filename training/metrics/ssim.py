"""Structural similarity: SSIM and its multi-scale form, both differentiable.

SSIM: Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity".
MS-SSIM: Wang et al. 2003, "Multiscale Structural Similarity for Image Quality Assessment".

As the authors' code does: a Gaussian window of 11 pixels and deviation 1.5 (biased moments), only
where the window lies inside the picture, K1 = 0.01 and K2 = 0.03. Colour pictures: each channel by
itself, then the mean of the channels. (TorchMetrics also averages over windows that reach across a
mirrored border, which moves the third digit.)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from revisage.training.metrics.pictures import check_pair

__all__ = ["MS_SSIM_WEIGHTS", "least_side", "ms_ssim", "ssim"]

WINDOW, DEVIATION = 11, 1.5
K1, K2 = 0.01, 0.03
# Exponents of the five scales, fine to coarse (2003 paper, section 3.2).
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def least_side(scales: int) -> int:
    """The smallest side of a picture that has this many scales: the window fits the coarsest."""
    return WINDOW if scales == 1 else (WINDOW - 1) * 2 ** (scales - 1) + 1


def _blur(image: Tensor, window: Tensor) -> Tensor:
    """Valid separable filtering of every channel by itself."""
    channels = image.shape[1]
    kernel = window.expand(channels, 1, -1)
    image = functional.conv2d(image, kernel[..., None], groups=channels)
    return functional.conv2d(image, kernel[:, :, None], groups=channels)


def _moments(one: Tensor, two: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast-structure factor, [N, C] each, means over the picture."""
    steps = torch.arange(WINDOW, dtype=one.dtype, device=one.device) - WINDOW // 2
    window = torch.exp(-steps.square() / (2 * DEVIATION**2))
    window = window / window.sum()
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    mean1, mean2 = _blur(one, window), _blur(two, window)
    variance1 = _blur(one.square(), window) - mean1.square()
    variance2 = _blur(two.square(), window) - mean2.square()
    covariance = _blur(one * two, window) - mean1 * mean2
    structure = (2 * covariance + c2) / (variance1 + variance2 + c2)
    luminance = (2 * mean1 * mean2 + c1) / (mean1.square() + mean2.square() + c1)
    return (luminance * structure).flatten(2).mean(-1), structure.flatten(2).mean(-1)


def _check(one: Tensor, two: Tensor, scales: int) -> None:
    check_pair(one, two)
    if min(one.shape[-2:]) < least_side(scales):
        raise ValueError(
            f"{scales} scale(s) of SSIM need at least {least_side(scales)} pixels of height and "
            f"width, got {one.shape[-2]} x {one.shape[-1]}"
        )


def ssim(one: Tensor, two: Tensor, data_range: float = 1.0) -> Tensor:
    """SSIM of each pair of pictures (2004 paper, equation 13 averaged over the picture).

    Args:
        one, two: [N, C, H, W], at least 11 pixels high and wide.
        data_range: largest minus smallest possible value.

    Returns:
        [N], at most 1, which equal pictures have.

    Raises:
        ValueError: shapes differ or are too small.
    """
    _check(one, two, 1)
    return _moments(one, two, data_range)[0].mean(1)


def ms_ssim(one: Tensor, two: Tensor, data_range: float = 1.0) -> Tensor:
    """Multi-scale SSIM of each pair of pictures (2003 paper, equation 7).

    Negative terms count as 0, so that the powers exist. Between scales pictures are averaged over
    2 x 2 pixels; an odd side gets a row of zeros before it.

    Args:
        one, two: [N, C, H, W], more than 160 pixels high and wide.
        data_range: largest minus smallest possible value.

    Returns:
        [N] in 0..1.

    Raises:
        ValueError: shapes differ or are too small.
    """
    scales = len(MS_SSIM_WEIGHTS)
    _check(one, two, scales)
    product = torch.ones(one.shape[:2], dtype=one.dtype, device=one.device)
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        similarity, structure = _moments(one, two, data_range)
        term = similarity if scale == scales - 1 else structure
        product = product * torch.relu(term) ** weight
        if scale < scales - 1:
            padding = [side % 2 for side in one.shape[-2:]]
            one = functional.avg_pool2d(one, 2, padding=padding)
            two = functional.avg_pool2d(two, 2, padding=padding)
    return product.mean(1)
