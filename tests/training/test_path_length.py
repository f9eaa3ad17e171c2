"""Path length regularisation against finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from revisage.training.losses.path_length import PathLength, path_lengths


def picture(latents: torch.Tensor) -> torch.Tensor:
    """A smooth function of latents [N, 2, 3] to pictures [N, 1, 2, 2]."""
    weight = torch.arange(24, dtype=latents.dtype).reshape(6, 4).sin()
    return torch.tanh(latents.flatten(1) @ weight).reshape(-1, 1, 2, 2)


def test_lengths_are_norms_of_the_transposed_jacobian() -> None:
    latents = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    found = path_lengths(picture(latents), latents, noise)
    step = 1e-6
    for sample in range(2):
        columns = []
        for index in range(6):
            shift = torch.zeros(2, 6, dtype=torch.float64)
            shift[sample, index] = step
            moved = latents.detach() + shift.reshape(2, 2, 3)
            back = latents.detach() - shift.reshape(2, 2, 3)
            change = (picture(moved) - picture(back))[sample] / (2 * step)
            columns.append(float((change * noise[sample]).sum()) / math.sqrt(4))
        squares = torch.tensor(columns, dtype=torch.float64).reshape(2, 3).square()
        assert float(found[sample].detach()) == pytest.approx(
            float(squares.sum(1).mean().sqrt()), rel=1e-5
        )


def test_penalty_has_the_right_gradient() -> None:
    torch.manual_seed(0)
    noise = torch.randn(2, 1, 2, 2, dtype=torch.float64)

    def penalty(scale: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        lengths = path_lengths(picture(scale * latents), latents, noise)
        return PathLength(decay=0.0)(lengths)

    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    latents = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(penalty, (scale, latents))


def test_a_linear_map_has_its_known_length() -> None:
    latents = torch.zeros(4, 1, 2, requires_grad=True)
    images = (3 * latents).reshape(4, 2, 1, 1)
    noise = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1).expand(4, 2, 1, 1)
    torch.testing.assert_close(path_lengths(images, latents, noise), torch.full((4,), 3.0))


def test_mean_moves_before_the_penalty() -> None:
    path = PathLength(decay=0.25)
    assert float(path(torch.full((2,), 4.0))) == pytest.approx(9.0)  # the mean went to 1
    assert float(path.mean) == pytest.approx(1.0)
    for _ in range(200):
        last = path(torch.full((2,), 4.0))
    assert float(last) == pytest.approx(0.0, abs=1e-6)
    assert "mean" in path.state_dict()
