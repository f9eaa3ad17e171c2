"""Reconstruction losses inside a hole."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["known_missing_l1", "masked_l1", "masked_log_mse"]


def masked_l1(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference over the masked pixels of the batch.

    Args:
        predicted, target: [N, C, H, W].
        mask: [N, 1, H, W], 1 where it counts.
    """
    counted = mask.sum() * predicted.shape[1]
    return ((predicted - target).abs() * mask).sum() / counted.clamp(min=1)


def masked_log_mse(predicted: Tensor, target: Tensor, mask: Tensor, floor: float = 2e-6) -> Tensor:
    """Mean over pictures of ln(mean squared error in the hole): minus PSNR, up to 10 / ln 10.

    Grainy pictures have a hundred times the squared error of smooth ones; the logarithm lets each
    weigh the same. `floor` keeps perfect fills (and holes of no pixel) finite.
    """
    counted = (mask.sum((1, 2, 3)) * predicted.shape[1]).clamp(min=1)
    squared = ((predicted - target).square() * mask).sum((1, 2, 3)) / counted
    return torch.log(squared + floor).mean()


def known_missing_l1(
    predicted: Tensor, target: Tensor, mask: Tensor, *, known: float = 10.0, missing: float = 0.0
) -> Tensor:
    """LaMa's reconstruction loss: mean of |difference| with one weight outside and one in the hole.

    The published models weigh only the known pixels, which the network has to copy; what is in the
    hole is left to the perceptual and adversarial losses.

    Args:
        predicted, target: [N, C, H, W].
        mask: [N, 1, H, W], 1 = hole.
    """
    weight = mask * missing + (1 - mask) * known
    return ((predicted - target).abs() * weight).mean()
