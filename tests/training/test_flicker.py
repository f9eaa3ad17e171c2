"""The flicker measure: the input's own noise and movement do not count, the edit's do."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from revisage.training.metrics.flicker import flicker, pan_flow, warp_previous, warping_error


def texture(height: int = 40, width: int = 60) -> torch.Tensor:
    """[1, 3, height, width] of soft noise."""
    noise = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    return functional.avg_pool2d(noise, 5, 1, 2)


def pan(count: int = 4, right: int = 3, down: int = 2) -> torch.Tensor:
    """Frames of a still whose content moves by (right, down) a frame."""
    still = texture(80, 120)
    frames = [
        still[..., 20 - down * t : 60 - down * t, 30 - right * t : 90 - right * t]
        for t in range(count)
    ]
    return torch.cat(frames)


def test_a_static_still_has_no_error() -> None:
    frames = texture().repeat(3, 1, 1, 1)
    torch.testing.assert_close(warping_error(frames), torch.zeros(2))


def test_a_panned_still_has_no_error_along_its_flow() -> None:
    frames = pan()
    flow = pan_flow(frames, 3, 2)
    torch.testing.assert_close(warping_error(frames, flow), torch.zeros(3), atol=1e-6, rtol=0)
    assert bool((warping_error(frames) > 0.01).all())
    assert bool((warping_error(frames, -flow) > 0.01).all())


def test_the_flow_is_that_of_flow_warp() -> None:
    from revisage.kernels import flow_warp

    frames = pan(2)
    rough = torch.rand(1, 2, 40, 60, generator=torch.Generator().manual_seed(1)) * 6 - 3
    moved, inside = warp_previous(frames, rough)
    wanted = flow_warp(
        frames[0].permute(1, 2, 0).contiguous().numpy(),
        rough[0].permute(1, 2, 0).contiguous().numpy(),
        padding="border",
    )
    torch.testing.assert_close(
        moved[0].permute(1, 2, 0), torch.from_numpy(wanted), atol=1e-4, rtol=0
    )
    assert 0.8 < float(inside.float().mean()) < 1


def test_an_edit_that_moves_along_does_not_flicker() -> None:
    frames = pan()
    flow = pan_flow(frames, 3, 2)
    torch.testing.assert_close(
        flicker(0.8 * frames, frames, flow), torch.zeros(3), atol=1e-6, rtol=0
    )


def test_an_edit_that_comes_and_goes_flickers_by_its_size() -> None:
    frames = texture().repeat(4, 1, 1, 1)
    result = frames.clone()
    result[::2] += 0.1
    torch.testing.assert_close(flicker(result, frames), torch.full((3,), 0.1))


def test_the_noise_of_the_input_is_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    frames = texture().repeat(4, 1, 1, 1) + 0.05 * torch.randn(4, 3, 40, 60, generator=generator)
    torch.testing.assert_close(flicker(frames + 0.1, frames), torch.zeros(3), atol=1e-6, rtol=0)
    calmed = frames.mean(dim=0, keepdim=True).repeat(4, 1, 1, 1)
    assert bool((flicker(calmed, frames) < -0.04).all())


def test_only_the_mask_counts() -> None:
    frames = texture().repeat(2, 1, 1, 1)
    result = frames.clone()
    result[1, :, :, :30] += 0.2
    mask = torch.zeros(1, 1, 40, 60)
    mask[..., 30:] = 1
    torch.testing.assert_close(flicker(result, frames, mask=mask), torch.zeros(1))
    torch.testing.assert_close(flicker(result, frames, mask=1 - mask), torch.full((1,), 0.2))


def test_what_does_not_fit_is_refused() -> None:
    frames = pan()
    with pytest.raises(ValueError, match="2 or more"):
        warping_error(frames[:1])
    with pytest.raises(ValueError, match="flow must be"):
        warping_error(frames, pan_flow(frames[:2], 0, 0))
    with pytest.raises(ValueError, match="mask must be"):
        warping_error(frames, mask=torch.ones(1, 1, 40, 60))
    with pytest.raises(ValueError, match="out of the frame"):
        warping_error(frames, pan_flow(frames, 100, 0))
    with pytest.raises(ValueError, match="differ in shape"):
        flicker(frames[:2], frames)
