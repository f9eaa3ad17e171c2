"""LaMa's adversarial losses (Suvorov et al. 2022, section 2.3).

The critic scores patches. Of a filled picture only the patches that touch the hole are fake; the
others are real pixels and are taught to the critic as real ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "critic_loss",
    "feature_matching_loss",
    "filler_adversarial_loss",
    "gradient_penalty",
]


def gradient_penalty(scores: Tensor, real: Tensor) -> Tensor:
    """R1: mean over the batch of the squared norm of d(sum of scores) / d(real picture).

    Mescheder et al. 2018, "Which Training Methods for GANs do actually Converge?", equation 9
    without its factor gamma / 2. `real` must require gradients.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), real, create_graph=True)
    return gradient.flatten(1).square().sum(dim=1).mean()


def critic_loss(
    real_scores: Tensor,
    fake_scores: Tensor,
    mask: Tensor,
    penalty: Tensor | float = 0.0,
    *,
    penalty_weight: float = 0.001,
) -> Tensor:
    """What the critic minimises: non-saturating cross entropy, patch by patch, and R1.

    Args:
        real_scores, fake_scores: [N, 1, h, w] score maps of originals and of filled pictures.
        mask: [N, 1, H, W], 1 = hole; brought to h x w by nearest sampling.
        penalty: of `gradient_penalty`.
    """
    hole = functional.interpolate(mask, size=fake_scores.shape[-2:], mode="nearest")
    real = functional.softplus(-real_scores)
    fake = hole * functional.softplus(fake_scores)
    fake = fake + (1 - hole) * functional.softplus(-fake_scores)
    return real.mean() + fake.mean() + penalty_weight * penalty


def filler_adversarial_loss(fake_scores: Tensor) -> Tensor:
    """What the filler minimises: softplus(-score), mean over all patches."""
    return functional.softplus(-fake_scores).mean()


def feature_matching_loss(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Mean over the critic's layers of the mean squared difference of their features."""
    if len(fake) != len(real) or not fake:
        raise ValueError("both pictures need the features of the same layers")
    terms = [functional.mse_loss(one, two) for one, two in zip(fake, real, strict=True)]
    return torch.stack(terms).mean()
