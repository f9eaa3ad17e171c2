"""Mean absolute and mean squared error of pictures, and the PSNR of batches."""

from __future__ import annotations

import torch
from torch import Tensor

from revisage.training.metrics.pictures import check_mask, check_pair

__all__ = ["batch_psnr", "l1", "l2"]


def _mean(difference: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return difference.flatten(1).mean(dim=1)
    check_mask(mask, difference)
    inside = (mask != 0).to(difference)
    counted = inside.sum(dim=(1, 2, 3)) * difference.shape[1]
    if bool((counted == 0).any()):
        raise ValueError("the mask of a picture is empty: nothing is left to compare")
    return (difference * inside).sum(dim=(1, 2, 3)) / counted


def l1(found: Tensor, true: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute error of each picture, all channels alike.

    Args:
        found, true: [N, C, H, W] in the same units.
        mask: [N, 1, H, W], pixels that are not 0 count; None counts all.

    Returns:
        [N].

    Raises:
        ValueError: shapes do not fit, or a mask is empty.
    """
    check_pair(found, true)
    return _mean((found - true).abs(), mask)


def l2(found: Tensor, true: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of each picture; arguments as of `l1`."""
    check_pair(found, true)
    return _mean((found - true).square(), mask)


def batch_psnr(
    found: Tensor, true: Tensor, mask: Tensor | None = None, *, data_range: float = 1.0
) -> Tensor:
    """10 log10(data_range^2 / mean squared error) of each picture in decibels, [N].

    Infinite where nothing differs. Arguments as of `l1`.
    """
    return 10 * torch.log10(data_range**2 / l2(found, true, mask))
