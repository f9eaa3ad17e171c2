"""Landmark and symmetry loss: bound pixels, known values, gradients, the authors' numbers."""

from __future__ import annotations

import pytest
import torch

from revisage.training.losses.landmark import (
    face_axes,
    landmark_loss,
    landmark_targets,
    symmetry_loss,
)
from revisage.training.models.gfrnet_warpnet import identity_grid
from tests.training.parity import close, fixtures


def test_the_authors_value() -> None:
    for _, _, arrays in fixtures("gfr_warpnet1_*.json"):
        grid, mask, target = (
            torch.from_numpy(arrays[name])
            for name in ("out_grid", "in_point_mask", "in_point_target")
        )
        close(landmark_loss(grid, mask, target)[None], arrays["out_loss_point"], 1e-6)


def test_four_pixels_around_each_landmark() -> None:
    face = torch.tensor([[[2.25, 3.5], [6.0, 1.0], [-5.0, 2.0]]])
    guide = torch.tensor([[[0.0, 7.0], [10.0, 3.5], [1.0, 1.0]]])
    mask, target = landmark_targets(face, guide, 8, 11)
    bound = {(int(y), int(x)) for _, _, y, x in mask.nonzero()}
    assert bound == {(3, 2), (4, 2), (3, 3), (4, 3), (1, 6)}  # a whole place is one pixel
    torch.testing.assert_close(target[0, :, 3, 2], torch.tensor([-1.0, 1.0]))
    torch.testing.assert_close(target[0, :, 1, 6], torch.tensor([1.0, 0.0]))
    assert bool((target * (1 - mask) == 0).all())


def test_the_later_landmark_has_a_shared_pixel() -> None:
    face = torch.tensor([[[4.0, 4.0], [4.0, 4.0]]])
    guide = torch.tensor([[[0.0, 0.0], [8.0, 8.0]]])
    _, target = landmark_targets(face, guide, 9, 9)
    torch.testing.assert_close(target[0, :, 4, 4], torch.tensor([1.0, 1.0]))


def test_identity_costs_nothing_where_the_landmarks_agree() -> None:
    points = torch.rand(2, 68, 2) * 31
    mask, target = landmark_targets(points, points, 32, 32)
    exact = landmark_loss(identity_grid(32, 32).expand(2, -1, -1, -1), mask, target)
    assert exact.item() < (2 / 31) ** 2  # at most a pixel off, and only at bound pixels
    moved = landmark_loss(identity_grid(32, 32) + 0.5, mask, target)
    expected = 0.25 * mask.mean().item()
    assert moved.item() == pytest.approx(expected, rel=0.2)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[N, P, 2\]"):
        landmark_targets(torch.zeros(1, 68, 2), torch.zeros(1, 5, 2), 8, 8)


def test_face_axis_points_from_chin_to_nose() -> None:
    points = torch.zeros(1, 68, 2)
    points[0, 8] = torch.tensor([10.0, 50.0])
    points[0, 27] = torch.tensor([10.0, 20.0])
    torch.testing.assert_close(face_axes(points), torch.tensor([[0.0, -1.0]]))


def test_symmetry_of_a_turned_guide() -> None:
    """A grid that turns the picture turns the axis with it, and then costs nothing."""
    angle = torch.tensor(0.3)
    turn = torch.stack(
        [
            torch.stack([angle.cos(), -angle.sin()]),
            torch.stack([angle.sin(), angle.cos()]),
        ]
    )
    grid = torch.einsum("ij,njhw->nihw", turn, identity_grid(24, 24))
    up = torch.tensor([[0.0, -1.0]])
    turned = up @ turn.T
    assert symmetry_loss(grid, up, turned, shift=3.0).item() < 1e-10
    # Against the unturned axis the step of 3 px goes sideways by its sine.
    expected = (3 * 2 / 23 * angle.sin()).square()
    torch.testing.assert_close(symmetry_loss(grid, up, up, shift=3.0), expected)


def test_gradients() -> None:
    torch.manual_seed(0)
    grid = torch.rand(2, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    mask = (torch.rand(2, 1, 6, 7) > 0.5).double()
    target = torch.rand(2, 2, 6, 7, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda g: landmark_loss(g, mask, target), (grid,))
    axes = torch.nn.functional.normalize(torch.randn(2, 2, dtype=torch.float64), dim=1)
    other = torch.nn.functional.normalize(torch.randn(2, 2, dtype=torch.float64), dim=1)
    assert torch.autograd.gradcheck(lambda g: symmetry_loss(g, axes, other, 1.7), (grid,))
