"""Texture synthesis continues a texture into a hole."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from revisage.training.baselines.texture_synthesis import smooth_fill, synthesise_texture


def weave(size: int = 96) -> npt.NDArray[np.uint8]:
    """A regular texture under uneven light, with a little noise."""
    y, x = np.mgrid[:size, :size]
    threads = 25 * np.sign(np.sin(2 * np.pi * x / 6)) + 25 * np.sin(2 * np.pi * y / 9)
    light = 0.4 * x + 0.2 * y
    noise = np.random.default_rng(5).normal(0, 2, (size, size))
    values = (90 + threads + light + noise)[..., None] * np.array([1.0, 0.9, 0.8])
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def crooked_hole(size: int = 96) -> npt.NDArray[np.uint8]:
    y, x = np.mgrid[:size, :size]
    hole = np.abs(y - 48 - 8 * np.sin(x / 12)) < 6
    hole[:, :12] = hole[:, -12:] = False
    return hole.astype(np.uint8)


def error(found: npt.NDArray[np.uint8], true: npt.NDArray[np.uint8], hole: npt.ArrayLike) -> float:
    where = np.asarray(hole) > 0
    return float(np.square(found[where].astype(float) - true[where]).mean())


def test_beats_the_mean_colour_and_the_smooth_fill() -> None:
    image, hole = weave(), crooked_hole()
    broken = image.copy()
    broken[hole > 0] = 255  # what the hole holds must not matter
    filled = synthesise_texture(broken, hole, patch=11)
    mean = image.copy()
    mean[hole > 0] = image[hole == 0].mean(axis=0)
    smooth = np.rint(smooth_fill(image, hole, 6.0)).astype(np.uint8)
    assert error(filled, image, hole) < 0.35 * error(mean, image, hole)
    assert error(filled, image, hole) < 0.5 * error(smooth, image, hole)
    np.testing.assert_array_equal(filled[hole == 0], image[hole == 0])
    np.testing.assert_array_equal(filled, synthesise_texture(image, hole, patch=11))


def test_grain_keeps_its_strength() -> None:
    rng = np.random.default_rng(2)
    grain = rng.normal(0, 8, (80, 80, 1))
    image = np.clip(np.rint(140 + grain + np.zeros(3)), 0, 255).astype(np.uint8)
    hole = np.zeros((80, 80), np.uint8)
    hole[30:50, 20:60] = 1
    filled = synthesise_texture(image, hole, patch=7, seed=1)
    inside = filled[30:50, 20:60, 0].astype(float)
    assert 0.75 < inside.std() / image[..., 0].std() < 1.25
    other = synthesise_texture(image, hole, patch=7, seed=2)
    assert np.any(other != filled)


def test_patches_come_only_from_the_source() -> None:
    image = np.full((64, 64, 3), 100, np.uint8)
    image[:, 40:] = 200
    image[::2, 40:] = 30  # a texture that must not be taken
    hole = np.zeros((64, 64), np.uint8)
    hole[20:40, 10:20] = 1
    source = np.zeros((64, 64), np.uint8)
    source[:, :36] = 1
    filled = synthesise_texture(image, hole, source=source, patch=5, shading=0)
    assert np.all(filled[hole > 0] == 100)


def test_far_source_is_reached() -> None:
    image = weave(128)
    hole, source = np.zeros((128, 128), np.uint8), np.zeros((128, 128), np.uint8)
    hole[4:10, 4:60] = 1
    source[96:, 96:] = 1
    filled = synthesise_texture(image, hole, source=source, patch=9, window=8)
    assert filled[hole > 0].std() > 10


def test_shading_crosses_the_gap() -> None:
    ramp = np.repeat(np.linspace(50, 200, 96)[None], 96, axis=0)
    image = np.rint(ramp[..., None] + np.zeros(3)).astype(np.uint8)
    hole = crooked_hole()
    filled = synthesise_texture(image, hole)
    assert np.abs(filled.astype(int) - image).max() <= 6


def test_what_cannot_be_filled_is_refused() -> None:
    image, hole = weave(), np.ones((96, 96), np.uint8)
    with pytest.raises(ValueError, match="smaller patches or a larger source"):
        synthesise_texture(image, hole)
    with pytest.raises(ValueError, match="nothing to fill it from"):
        smooth_fill(image.astype(np.float32), hole, 4.0)
    with pytest.raises(ValueError, match="uint8"):
        synthesise_texture(image.astype(np.float32), crooked_hole())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="3 to 96 px"):
        synthesise_texture(image, crooked_hole(), patch=2)
    np.testing.assert_array_equal(synthesise_texture(image, np.zeros_like(hole)), image)
