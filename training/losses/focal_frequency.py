"""Focal frequency loss (Jiang et al. 2021, "Focal Frequency Loss for Image Reconstruction")."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["focal_frequency_loss"]


def focal_frequency_loss(predicted: Tensor, target: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Squared difference of the spectra, the worst frequencies weighted most (equations 8 to 10).

    The weight of a frequency is |difference| ** alpha over its largest value in that channel of
    that picture; it carries no gradient.

    Args:
        predicted, target: [N, C, H, W].
        alpha: 0 weighs all frequencies alike.

    Returns:
        Scalar: mean over pictures, channels and frequencies.
    """
    difference = torch.fft.fft2((predicted - target).float(), norm="ortho")
    squared = difference.real.square() + difference.imag.square()
    with torch.no_grad():
        weight = squared.sqrt() ** alpha
        largest = weight.amax(dim=(-2, -1), keepdim=True)
        # Equal pictures have no frequency to weigh.
        weight = torch.where(largest > 0, weight / largest.clamp(min=1e-30), weight)
    return torch.mean(weight * squared)
