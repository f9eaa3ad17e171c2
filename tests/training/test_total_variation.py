"""Total variation of grids: the authors' numbers, known values, gradients."""

from __future__ import annotations

import pytest
import torch

from revisage.training.losses.total_variation import total_variation
from revisage.training.models.gfrnet_warpnet import identity_grid
from tests.training.parity import close, fixtures


def test_the_authors_values() -> None:
    for _, _, arrays in fixtures("gfr_warpnet1_*.json"):
        grid = torch.from_numpy(arrays["out_grid"])
        close(total_variation(grid)[None], arrays["out_loss_tv_grid"], 1e-6)
        later = total_variation(grid, minus_identity=True) * grid.shape[0]
        close(later[None], arrays["out_loss_tv_minus_identity"], 1e-6)


def test_identity() -> None:
    grid = identity_grid(9, 5)
    assert total_variation(grid, minus_identity=True).item() == 0
    assert total_variation(grid).item() == pytest.approx(2 / 4**2 + 2 / 8**2)


def test_one_step() -> None:
    grid = torch.zeros(1, 2, 4, 4)
    grid[0, 0, :, 2:] = 0.5  # one of three columns of differences, in one of two channels
    assert total_variation(grid).item() == pytest.approx(0.25 / 6)


def test_a_single_row_is_refused() -> None:
    with pytest.raises(ValueError, match="no neighbours"):
        total_variation(torch.zeros(1, 2, 1, 8))


@pytest.mark.parametrize("minus_identity", [False, True])
def test_gradients(minus_identity: bool) -> None:
    torch.manual_seed(0)
    grid = torch.rand(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda g: total_variation(g, minus_identity=minus_identity), (grid,)
    )
