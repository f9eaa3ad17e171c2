"""The seam measure: a paste is seen, a continued picture is not, whatever it shows."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from revisage.training.metrics.seams import seam_contrast


def scene(seed: int = 0, size: int = 96) -> torch.Tensor:
    """[1, 3, size, size] of soft shading with grain."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=generator)
    shading = functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    grain = 0.03 * torch.randn(1, 3, size, size, generator=generator)
    return (0.15 + 0.7 * shading + grain).clamp(0, 1)


def disc(size: int = 96, radius: float = 24.0) -> torch.Tensor:
    step = torch.arange(size) - (size - 1) / 2
    return ((step[:, None] ** 2 + step[None] ** 2) < radius**2).float()[None, None]


def test_an_untouched_picture_has_about_one() -> None:
    for seed in range(4):
        assert 0.9 < float(seam_contrast(scene(seed), disc())) < 1.1


def test_a_step_is_seen_and_grows() -> None:
    image, mask = scene(), disc()
    contrast = [float(seam_contrast(image + step * mask, mask)) for step in (0, 0.05, 0.1, 0.2)]
    assert contrast == sorted(contrast)
    assert contrast[-1] > 3 * contrast[0]


def test_another_face_inside_costs_nothing_if_it_joins() -> None:
    one, two, mask = scene(0), scene(1), disc()
    pasted = mask * two + (1 - mask) * one
    kernel = 25
    soft = functional.avg_pool2d(
        functional.pad(mask, (kernel // 2,) * 4), kernel, 1
    )  # a wide feather
    feathered = soft * two + (1 - soft) * one
    assert float(seam_contrast(pasted, mask)) > 2
    assert float(seam_contrast(feathered, mask)) < 1.2


def test_blurred_filling_is_no_seam_by_itself() -> None:
    image, mask = scene(), disc()
    smooth = functional.avg_pool2d(functional.pad(image, (2,) * 4, mode="reflect"), 5, 1)
    filled = mask * smooth + (1 - mask) * image
    assert float(seam_contrast(filled, mask)) < 1.6


def test_one_value_per_picture() -> None:
    images = torch.cat([scene(0), scene(0) + 0.2 * disc()])
    masks = torch.cat([disc(), disc()])
    both = seam_contrast(images, masks)
    assert both.shape == (2,)
    torch.testing.assert_close(both[1:], seam_contrast(images[1:], masks[1:]))


def test_flat_pictures_are_finite() -> None:
    flat = torch.full((1, 3, 64, 64), 0.5)
    torch.testing.assert_close(seam_contrast(flat, disc(64)), torch.ones(1))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_mask_without_a_border_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="no border"):
        seam_contrast(scene(), torch.full((1, 1, 96, 96), value))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="mask must be"):
        seam_contrast(scene(), disc(95))
    with pytest.raises(ValueError, match=r"\[N, C, H, W\]"):
        seam_contrast(scene()[0], disc())
