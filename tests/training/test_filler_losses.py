"""Losses and measures of the filler, with inputs whose answers are obvious."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from revisage.training.losses.focal_frequency import focal_frequency_loss
from revisage.training.losses.masked import known_missing_l1, masked_l1, masked_log_mse
from revisage.training.losses.wrinkle_critic import WrinkleCritic
from revisage.training.metrics.psnr import mean_squared_error, psnr
from tests.support import shared_folder


def test_focal_frequency_fixtures() -> None:
    folder = shared_folder("fixtures", "parity")
    spec = importlib.util.spec_from_file_location("parity_fill", folder / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    fixtures = sorted(folder.glob("ffl_*.json"))
    assert fixtures
    for fixture in fixtures:
        meta, arrays = fill.load_fixture(str(fixture))
        for case in meta["cases"]:
            known = {"alpha"}
            if set(case["kwargs"]) - known:
                continue
            index = case["id"]
            predicted = torch.from_numpy(arrays[f"a{index}"]).requires_grad_()
            value = focal_frequency_loss(
                predicted, torch.from_numpy(arrays[f"b{index}"]), **case["kwargs"]
            )
            value.backward()  # type: ignore[no-untyped-call]
            assert value.item() == pytest.approx(float(arrays[f"value{index}"]), rel=1e-4)
            assert predicted.grad is not None
            np.testing.assert_allclose(
                predicted.grad.numpy(), arrays[f"grad_a{index}"], atol=1e-7, rtol=1e-3
            )


def test_focal_frequency_of_equal_pictures_is_zero_and_has_a_gradient() -> None:
    picture = torch.rand(1, 3, 8, 8, requires_grad=True)
    loss = focal_frequency_loss(picture, picture.detach().clone())
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert picture.grad is not None
    assert bool(torch.isfinite(picture.grad).all())


def test_focal_frequency_of_one_wave() -> None:
    """A single wave has weight 1 at its own two frequencies: the loss is the mean square."""
    x = torch.arange(16) / 16
    wave = 0.3 * torch.cos(2 * torch.pi * 3 * x).expand(1, 1, 16, 16)
    loss = focal_frequency_loss(wave, torch.zeros_like(wave))
    assert loss.item() == pytest.approx(wave.square().mean().item(), rel=1e-4)


def test_masked_losses_see_the_hole_only() -> None:
    target = torch.zeros(2, 3, 8, 8)
    mask = torch.zeros(2, 1, 8, 8)
    mask[:, :, :2] = 1
    predicted = torch.where(mask > 0, 0.1, 5.0).expand_as(target)
    assert masked_l1(predicted, target, mask).item() == pytest.approx(0.1)
    assert masked_log_mse(predicted, target, mask).item() == pytest.approx(np.log(0.01 + 2e-6))
    nothing = torch.zeros_like(mask)
    assert masked_l1(predicted, target, nothing).item() == 0
    assert np.isfinite(masked_log_mse(predicted, target, nothing).item())


def test_log_mse_weighs_pictures_alike() -> None:
    target, mask = torch.zeros(2, 3, 4, 4), torch.ones(2, 1, 4, 4)
    predicted = torch.stack([torch.full((3, 4, 4), 0.1), torch.full((3, 4, 4), 0.01)])
    predicted.requires_grad_()
    masked_log_mse(predicted, target, mask, floor=0.0).backward()  # type: ignore[no-untyped-call]
    assert predicted.grad is not None
    relative = (predicted.grad * predicted.detach()).flatten(1).sum(1)
    assert relative[0].item() == pytest.approx(relative[1].item(), rel=1e-4)


def test_known_missing_l1_weighs_each_side() -> None:
    target, mask = torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)
    mask[:, :, :1] = 1
    loss = known_missing_l1(torch.ones_like(target), target, mask, known=2.0, missing=10.0)
    assert loss.item() == pytest.approx(0.75 * 2 + 0.25 * 10)


class _DarkMeansWrinkle(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(20.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.gain * (0.5 - image.mean(dim=1, keepdim=True))


def test_wrinkle_critic_pulls_the_hole_towards_no_wrinkle() -> None:
    segmenter = _DarkMeansWrinkle()
    critic = WrinkleCritic(segmenter)
    assert segmenter in list(critic.modules())  # moves to a device with it
    mask = torch.zeros(1, 1, 8, 8)
    mask[:, :, 2:4] = 1
    picture = torch.full((1, 3, 8, 8), 0.4, requires_grad=True)
    loss = critic(picture, mask)
    loss.backward()
    assert loss.item() == pytest.approx(np.log1p(np.exp(2.0)), rel=1e-5)
    assert picture.grad is not None
    assert bool((picture.grad[:, :, 2:4] < 0).all())  # a step down the loss brightens the hole
    assert bool((picture.grad[:, :, 4:] == 0).all())
    assert segmenter.gain.grad is None
    assert not segmenter.training


def test_psnr_counts_the_region_only() -> None:
    true = np.zeros((4, 4, 3), np.uint8)
    found = true.copy()
    found[0] = 5
    found[1:] = 200
    region = np.zeros((4, 4), np.uint8)
    region[0] = 1
    assert mean_squared_error(found, true, region) == 25
    assert psnr(found, true, region) == pytest.approx(10 * np.log10(255**2 / 25))
    assert psnr(true, true) == float("inf")
    with pytest.raises(ValueError, match="region is empty"):
        psnr(found, true, np.zeros((4, 4)))
    with pytest.raises(ValueError, match="one shape"):
        psnr(found, true[:2])
