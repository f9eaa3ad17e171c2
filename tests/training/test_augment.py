"""Adaptive discriminator augmentation: what it does to pictures, how p adapts, its gradients."""

from __future__ import annotations

import pytest
import torch

from revisage.training.data.augment import SYMLET_6, AdaptiveAugment, sample_bilinear


def test_the_wavelet_is_orthogonal() -> None:
    taps = torch.tensor(SYMLET_6, dtype=torch.float64)
    for shift in range(0, 12, 2):
        overlap = float((taps[shift:] * taps[: 12 - shift]).sum())
        assert overlap == pytest.approx(1.0 if shift == 0 else 0.0, abs=1e-8)


def test_p_zero_changes_nothing() -> None:
    images = torch.rand(3, 3, 8, 8)
    assert AdaptiveAugment(start=0.0)(images) is images


def test_the_identity_survives_the_filters() -> None:
    augment = AdaptiveAugment(start=1.0)
    images = torch.rand(2, 3, 12, 20)
    found = augment._moved(images, torch.eye(3).expand(2, 3, 3))
    torch.testing.assert_close(found, images, atol=1e-5, rtol=1e-5)


def test_shifts_by_whole_pixels_are_exact_and_mirrored_at_the_border() -> None:
    augment = AdaptiveAugment(start=1.0)
    images = torch.rand(1, 3, 16, 16)
    matrix = torch.eye(3)[None].clone()
    matrix[:, 0, 2] = 2  # what stands two pixels further right
    found = augment._moved(images, matrix)
    torch.testing.assert_close(found[..., :14], images[..., 2:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[..., 14], images[..., 14], atol=1e-5, rtol=1e-5)


def test_a_half_turn_of_a_smooth_picture() -> None:
    augment = AdaptiveAugment(start=1.0)
    ramp = torch.linspace(-1, 1, 48)
    images = torch.sin(2 * ramp[:, None] + 3 * ramp).expand(1, 3, 48, 48)
    matrix = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))[None]
    found = augment._moved(images, matrix)
    inner = (..., slice(8, -8), slice(8, -8))
    torch.testing.assert_close(found[inner], images.flip(2, 3)[inner], atol=1e-3, rtol=0)


@pytest.mark.parametrize("group", AdaptiveAugment.GROUPS)
def test_every_group_changes_about_p_of_the_pictures(group: str) -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 3, 16, 16).expand(200, 3, 16, 16)
    for p, low, high in ((0.05, 0.02, 0.45), (1.0, 0.85, 1.0)):
        out = AdaptiveAugment(start=p, groups=(group,))(images)
        changed = ((out - images).abs().amax(dim=(1, 2, 3)) > 1e-3).float().mean()
        assert low <= float(changed) <= high


def test_colours_keep_the_place_of_grey_under_hue_and_saturation() -> None:
    torch.manual_seed(0)
    augment = AdaptiveAugment(start=1.0, groups=("colour",))
    grey = torch.full((64, 3, 4, 4), 0.3)
    out = augment(grey)
    spread = out.amax(dim=1) - out.amin(dim=1)
    torch.testing.assert_close(spread, torch.zeros_like(spread), atol=1e-5, rtol=0)


def test_gradients_once_and_twice() -> None:
    augment = AdaptiveAugment(start=1.0).double()

    def run(images: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        out: torch.Tensor = augment(images)
        return out

    images = torch.rand(1, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, images, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: run(x).square(), images, fast_mode=True)


def test_bilinear_samples_agree_with_torch() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 5, 7)
    x, y = torch.rand(2, 4, 6) * 10 - 2, torch.rand(2, 4, 6) * 8 - 2
    grid = torch.stack([(2 * x + 1) / 7 - 1, (2 * y + 1) / 5 - 1], dim=-1)
    wanted = torch.nn.functional.grid_sample(images, grid, align_corners=False)
    torch.testing.assert_close(sample_bilinear(images, x, y), wanted, atol=1e-5, rtol=1e-5)


def test_p_follows_the_signs_of_the_scores() -> None:
    augment = AdaptiveAugment(target=0.6, pictures=100, every=2)
    augment.observe(torch.ones(5))
    assert float(augment.p) == 0  # not yet
    augment.observe(torch.ones(5))
    assert float(augment.p) == pytest.approx(0.1)  # ten of a hundred pictures
    for _ in range(2):
        augment.observe(torch.tensor([1.0, 1, 1, -1, -1]))  # mean sign 0.2, below 0.6
    assert float(augment.p) == pytest.approx(0.0, abs=1e-6)
    for _ in range(60):
        augment.observe(torch.full((5,), 2.0))
    assert float(augment.p) == 1.0
    assert set(augment.state_dict()) == {"p", "signs"}


def test_p_counts_the_pictures_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    augment = AdaptiveAugment(pictures=100, every=1)
    augment.observe(torch.ones(5))
    assert float(augment.p) == pytest.approx(0.15)


def test_wrong_settings_are_errors() -> None:
    with pytest.raises(ValueError, match="unknown: noise"):
        AdaptiveAugment(groups=("noise",))
    with pytest.raises(ValueError, match=r"\[N, 3, H, W\]"):
        AdaptiveAugment(start=0.5)(torch.zeros(1, 1, 4, 4))
