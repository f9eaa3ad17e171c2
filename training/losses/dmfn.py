"""DMFN's losses on feature maps.

Source: Hui et al. 2020, "Image Fine-grained Inpainting" (arXiv 2002.02609), and its program
(Zheng222/DMFN).

The paper's total is L1 + 25 * (feature matching, the first two layers self-guided) + 1 * centre
alignment + 5 * discriminator feature matching + 0.003 * relativistic adversarial loss. Feature maps
are those of VGG-19 behind relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1; the centres are compared
on relu4_1.

The published program normalises VGG's input with (x + 1 - m) / (2 s) for x in [-1, 1] and the
ImageNet mean m and deviation s. That is the usual normalisation of a picture that is m / 2 too
bright; we feed the network what it was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "GUIDED_LAYERS",
    "centre_alignment_loss",
    "centres",
    "error_guidance",
    "feature_matching_loss",
    "self_guided_regression_loss",
]

GUIDED_LAYERS = 2  # relu1_1 and relu2_1


def _layer_weight(features: Tensor) -> float:
    """1000 / channels^2, so that shallow layers count most."""
    return 1e3 / features.shape[1] ** 2


def _same_layers(fake: Sequence[Tensor], real: Sequence[Tensor]) -> None:
    if len(fake) != len(real) or not fake:
        raise ValueError(f"features of {len(fake)} and {len(real)} layers: both need the same ones")


def feature_matching_loss(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Sum over layers [N, C, H, W] of 1000 / C^2 times the mean absolute difference."""
    _same_layers(fake, real)
    terms = [
        _layer_weight(one) * functional.l1_loss(one, two.detach())
        for one, two in zip(fake, real, strict=True)
    ]
    return torch.stack(terms).sum()


def error_guidance(output: Tensor, target: Tensor) -> Tensor:
    """1 + squared error / its maximum, per picture: [N, C, H, W] -> [N, 1, H, W] in [1, 2].

    It is a weight, not a path for gradients. Where the picture is perfect, it is 1.
    """
    error = (output.detach() - target.detach()).square().mean(dim=1, keepdim=True)
    largest = error.amax(dim=(2, 3), keepdim=True)
    return 1 + error / largest.clamp_min(torch.finfo(error.dtype).tiny)


def self_guided_regression_loss(
    fake: Sequence[Tensor], real: Sequence[Tensor], guidance: Tensor
) -> Tensor:
    """`feature_matching_loss` in which features count more where the picture is still wrong.

    Args:
        fake, real: maps of the same layers; published: relu1_1 and relu2_1.
        guidance: [N, 1, H, W] of `error_guidance`; averaged over the pixels that each value of a
            smaller map covers.
    """
    _same_layers(fake, real)
    terms = []
    for one, two in zip(fake, real, strict=True):
        weight = functional.adaptive_avg_pool2d(guidance, (one.shape[-2], one.shape[-1]))
        terms.append(_layer_weight(one) * ((one - two.detach()).abs() * weight).mean())
    return torch.stack(terms).sum()


def centres(features: Tensor) -> Tensor:
    """Soft centroid (x, y) of each channel: [N, C, H, W] -> [N, C, 2].

    Values below 0, which no map behind a ReLU has, count as 0. Coordinates run from -1 at the
    first pixel in steps of 2 / size.
    """
    height, width = features.shape[-2:]
    density = (
        torch.relu(features) + 1e-7
    )  # a channel that is zero everywhere has its centre in the middle
    density = density / density.sum(dim=(2, 3), keepdim=True)
    x = torch.arange(width, device=features.device).to(features.dtype) * (2 / width) - 1
    y = torch.arange(height, device=features.device).to(features.dtype) * (2 / height) - 1
    return torch.stack([(density.sum(2) * x).sum(-1), (density.sum(3) * y).sum(-1)], dim=-1)


def centre_alignment_loss(fake: Tensor, real: Tensor) -> Tensor:
    """Mean squared distance of the channels' centres, x and y alike.

    The published program builds both coordinate maps along the width, so that it compares x twice;
    this is the paper's loss.
    """
    return functional.mse_loss(centres(fake), centres(real.detach()))
