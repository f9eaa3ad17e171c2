"""How visible the border of an edit is, without knowing what should be inside it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from revisage.training.metrics.pictures import check_mask

__all__ = ["seam_contrast"]

FLOOR = 0.5 / 255  # half a step of 8 bits: nobody sees less


def _pairs(values: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Every pixel with its right and with its lower neighbour."""
    return (
        (values[..., :, :-1], values[..., :, 1:]),
        (values[..., :-1, :], values[..., 1:, :]),
    )


def seam_contrast(image: Tensor, mask: Tensor, *, band: int = 8) -> Tensor:
    """Jump across the mask's border over the jumps beside it.

    The mean absolute difference of neighbouring pixels of which one is in the mask and one is not,
    over the mean of neighbours on one side, within `band` pixels of the border. Needs no original
    and does not care whose face it is: an edit that continues what is around it has about 1, a
    pasted one more.

    Args:
        image: [N, C, H, W] in [0, 1].
        mask: [N, 1, H, W], in where above 0.5.
        band: pixels to both sides of the border.

    Returns:
        [N].

    Raises:
        ValueError: shapes do not fit, or a mask has no border in the picture.
    """
    if image.ndim != 4 or not image.is_floating_point():
        raise ValueError(f"pictures must be [N, C, H, W] in [0, 1], got {list(image.shape)}")
    check_mask(mask, image)
    inside = (mask > 0.5).to(image)
    width = 2 * band + 1
    grown = functional.max_pool2d(inside, width, 1, band)
    shrunk = -functional.max_pool2d(-inside, width, 1, band)
    near = (grown - shrunk) > 0.5  # within `band` pixels of the border, on either side
    across = torch.zeros(len(image), 2, dtype=image.dtype, device=image.device)  # sum, count
    beside = torch.zeros_like(across)
    jumps = [(a - b).abs().mean(dim=1, keepdim=True) for a, b in _pairs(image)]
    sides, close = _pairs(inside), _pairs(near)
    for jump, (one, two), (near_one, near_two) in zip(jumps, sides, close, strict=True):
        crosses = (one != two).to(jump)
        same = ((one == two) & near_one & near_two).to(jump)
        for total, chosen in ((across, crosses), (beside, same)):
            total[:, 0] += (jump * chosen).sum(dim=(1, 2, 3))
            total[:, 1] += chosen.sum(dim=(1, 2, 3))
    if bool((across[:, 1] == 0).any() | (beside[:, 1] == 0).any()):
        raise ValueError("a mask has no border inside the picture: it is empty, full or too thin")
    return (across[:, 0] / across[:, 1] + FLOOR) / (beside[:, 0] / beside[:, 1] + FLOOR)
