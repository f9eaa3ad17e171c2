"""Focal frequency loss (Jiang et al. 2021, "Focal Frequency Loss for Image Reconstruction")."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["focal_frequency_loss"]


def _patches(image: Tensor, factor: int) -> Tensor:
    """[N, C, H, W] -> [N, P, C, H / factor, W / factor], P = factor ** 2, row by row."""
    n, c, height, width = image.shape
    rows = image.reshape(n, c, factor, height // factor, factor, width // factor)
    return rows.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


def focal_frequency_loss(
    predicted: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    patch_factor: int = 1,
    ave_spectrum: bool = False,
    log_matrix: bool = False,
    batch_matrix: bool = False,
) -> Tensor:
    """Squared difference of the spectra, the worst frequencies weighted most (equations 8 to 10).

    The weight of a frequency is |difference| ** alpha over its largest value in that channel of
    that patch of that picture; it carries no gradient. The options have the names of the authors'
    code.

    Args:
        predicted, target: [N, C, H, W].
        alpha: 0 weighs all frequencies alike.
        patch_factor: cut pictures into this many patches a side, each with a spectrum of its own.
        ave_spectrum: compare the mean spectra of the batch.
        log_matrix: weigh by ln(1 + weight).
        batch_matrix: one largest value for the whole batch.

    Returns:
        Scalar: mean over pictures, patches, channels and frequencies.

    Raises:
        ValueError: shapes differ, or the sides are no multiple of `patch_factor`.
    """
    if predicted.shape != target.shape or predicted.ndim != 4:
        raise ValueError(
            "pictures must both be [N, C, H, W], got "
            f"{list(predicted.shape)} and {list(target.shape)}"
        )
    height, width = predicted.shape[-2:]
    if patch_factor < 1 or height % patch_factor or width % patch_factor:
        raise ValueError(f"{height} x {width} pixels cannot be cut into {patch_factor} a side")
    difference = predicted - target  # the transform is linear: one is enough
    # No transform in half precision.
    difference = difference.to(torch.promote_types(difference.dtype, torch.float32))
    spectrum = torch.fft.fft2(_patches(difference, patch_factor), norm="ortho")
    if ave_spectrum:
        spectrum = spectrum.mean(dim=0, keepdim=True)
    squared = spectrum.real.square() + spectrum.imag.square()
    with torch.no_grad():
        weight = squared.sqrt() ** alpha
        if log_matrix:
            weight = torch.log1p(weight)
        largest = weight.amax() if batch_matrix else weight.amax(dim=(-2, -1), keepdim=True)
        # Equal pictures have no frequency to weigh.
        weight = torch.where(largest > 0, weight / largest.clamp(min=1e-30), weight)
    return torch.mean(weight * squared)
