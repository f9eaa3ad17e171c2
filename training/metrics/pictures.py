"""What the picture metrics check before they compare."""

from __future__ import annotations

from torch import Tensor

__all__ = ["check_mask", "check_pair"]


def check_pair(one: Tensor, two: Tensor) -> None:
    """Both are floating-point pictures [N, C, H, W] of one shape.

    Raises:
        ValueError: they are not.
    """
    if one.shape != two.shape or one.ndim != 4 or one.numel() == 0:
        raise ValueError(
            f"pictures must both be [N, C, H, W], got {list(one.shape)} and {list(two.shape)}"
        )
    if not (one.is_floating_point() and two.is_floating_point()):
        raise ValueError(f"pictures must be floating point, got {one.dtype} and {two.dtype}")


def check_mask(mask: Tensor, image: Tensor) -> None:
    """The mask is [N, 1, H, W] of the pictures' size.

    Raises:
        ValueError: it is not.
    """
    if tuple(mask.shape) != (image.shape[0], 1, *image.shape[2:]):
        raise ValueError(
            f"the mask must be {[image.shape[0], 1, *image.shape[2:]]}, got {list(mask.shape)}"
        )
