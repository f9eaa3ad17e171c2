"""Losses of unpaired translation: there and back again, leave alone what is already there.

Sources: Zhu et al. 2017 (CycleGAN), equation 2 and section 5.2; Pumarola et al. 2018, "GANimation:
Anatomically-aware Facial Animation from a Single Image" (ECCV), the attention loss, for soft masks.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

__all__ = ["cycle_loss", "identity_loss", "mask_smoothness_loss", "mask_sparsity_loss"]


def cycle_loss(restored: Tensor, original: Tensor) -> Tensor:
    """Mean absolute difference of a picture and what came back through both generators."""
    return functional.l1_loss(restored, original)


def identity_loss(kept: Tensor, original: Tensor) -> Tensor:
    """Mean absolute difference made by a generator on a picture of the domain that it makes."""
    return functional.l1_loss(kept, original)


def mask_sparsity_loss(mask: Tensor) -> Tensor:
    """Mean square of a soft mask [N, 1, H, W]: what need not be replaced is kept.

    GANimation takes the norm of the whole mask; the mean is independent of its size.
    """
    return mask.square().mean()


def mask_smoothness_loss(mask: Tensor) -> Tensor:
    """Mean squared step of a soft mask [N, 1, H, W] to the pixel below and to the right."""
    if mask.shape[-2] < 2 or mask.shape[-1] < 2:
        raise ValueError(f"a mask needs at least 2 x 2 pixels, got {tuple(mask.shape[-2:])}")
    down = (mask[..., 1:, :] - mask[..., :-1, :]).square().mean()
    right = (mask[..., 1:] - mask[..., :-1]).square().mean()
    return down + right
