"""Total variation of a sampling grid: neighbours should be sent to neighbours.

Source: Li et al. 2018, "Learning Warped Guidance for Blind Face Restoration" (ECCV), the
regulariser of its objective; normalisers as in the authors' code (csxmli2016/GFRNet_WarpNet).
"""

from __future__ import annotations

from torch import Tensor

from revisage.training.models.gfrnet_warpnet import identity_grid

__all__ = ["total_variation"]


def total_variation(grid: Tensor, *, minus_identity: bool = False) -> Tensor:
    """Sum over both directions of the mean squared difference of neighbours.

    Each mean is over the channels and places of the differences, and over the batch. The authors'
    first version takes the grid itself, whose slope costs 2 / (W - 1)^2 + 2 / (H - 1)^2 at the
    identity; the later one takes the grid less the identity grid, and sums over the batch instead
    of taking the mean: multiply by N for that.

    Args:
        grid: [N, 2, H, W], H and W at least 2.
    """
    if grid.shape[-2] < 2 or grid.shape[-1] < 2:
        raise ValueError(f"a grid of {grid.shape[-2]} x {grid.shape[-1]} has no neighbours")
    if minus_identity:
        grid = grid - identity_grid(grid.shape[-2], grid.shape[-1], grid)
    down = (grid[:, :, 1:] - grid[:, :, :-1]).square().mean()
    across = (grid[:, :, :, 1:] - grid[:, :, :, :-1]).square().mean()
    return down + across
