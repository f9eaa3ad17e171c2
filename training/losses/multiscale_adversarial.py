"""The adversarial losses of pix2pixHD, on the lists that `MultiscaleDiscriminator` returns.

Source: Wang et al. 2018, "High-Resolution Image Synthesis and Semantic Manipulation with
Conditional GANs", section 3.2: least squares at every scale, and feature matching (equation 4).
The normalisation of feature matching is the published code's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from revisage.training.losses.gan import AdversarialLoss

__all__ = ["multiscale_critic_loss", "multiscale_feature_matching", "multiscale_generator_loss"]

Features = Sequence[Sequence[Tensor]]  # by scale, then by layer; the last layer is the score


def multiscale_critic_loss(kind: AdversarialLoss, real: Features, fake: Features) -> Tensor:
    """Sum over the scales of what the critic minimises."""
    losses = [kind.critic(one[-1], two[-1]) for one, two in zip(real, fake, strict=True)]
    return torch.stack(losses).sum()


def multiscale_generator_loss(kind: AdversarialLoss, fake: Features) -> Tensor:
    """Sum over the scales of what the generator minimises."""
    return torch.stack([kind.generator(features[-1]) for features in fake]).sum()


def multiscale_feature_matching(fake: Features, real: Features) -> Tensor:
    """4 / L times the sum over L layers of the L1 distance of features, mean over the scales.

    All layers but the score count. The factor 4 makes the terms of the usual critic (four layers)
    count fully. No gradient reaches `real`.

    Raises:
        ValueError: scales or layers do not fit.
    """
    if len(fake) != len(real) or not fake:
        raise ValueError(f"both need features of the same scales, got {len(fake)}, {len(real)}")
    terms = []
    for one, two in zip(fake, real, strict=True):
        if len(one) != len(two) or len(one) < 2:
            raise ValueError(f"both need features of the same layers, got {len(one)}, {len(two)}")
        distances = [
            functional.l1_loss(a, b.detach()) for a, b in zip(one[:-1], two[:-1], strict=True)
        ]
        terms.append(4 / len(distances) * torch.stack(distances).sum())
    return torch.stack(terms).mean()
