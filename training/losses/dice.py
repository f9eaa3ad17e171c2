"""Dice loss for thin structures (Milletari et al. 2016, "V-Net", equation 1, on probabilities)."""

from __future__ import annotations

import torch

__all__ = ["dice_loss"]


def dice_loss(
    logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """1 - 2 sum(p t) / (sum(p) + sum(t)), over the whole batch.

    Sums run over the batch and not per picture, because crops without any wrinkle have no Dice
    score of their own.

    Args:
        logits: [N, 1, H, W], any range.
        target: [N, 1, H, W] in [0, 1].
        weight: [N, 1, H, W] 0 or more; 0 leaves a pixel out.

    Returns:
        Scalar in [0, 1], float32 or float64.
    """
    precise = torch.promote_types(logits.dtype, torch.float32)  # half precision sums badly
    probability = torch.sigmoid(logits.to(precise))
    target = target.to(precise)
    if weight is not None:
        probability, target = probability * weight, target * weight
    overlap = (probability * target).sum()
    # One pixel of slack keeps the gradient finite where neither has any.
    return 1 - (2 * overlap + 1) / (probability.sum() + target.sum() + 1)
