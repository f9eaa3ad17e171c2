"""Texture is taken from where the photo looks alike, and from nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from revisage.operations.texture import transfer_texture

Array = np.ndarray[Any, np.dtype[Any]]
SIDE = 96


def two_tones() -> tuple[Array, Array, Array]:
    """A dark and a bright half with grain of their own (levels, and rows), and a hole in both."""
    smooth = np.full((SIDE, SIDE, 3), 0.2, dtype=np.float32)
    smooth[:, SIDE // 2 :] = 0.8
    grain = np.where(np.arange(SIDE)[:, None] % 2, 0.01, -0.01) * np.ones((1, SIDE))
    grain[:, SIDE // 2 :] = np.where(np.arange(SIDE)[:, None] % 2, 0.07, -0.07)
    picture = smooth + grain[:, :, None].astype(np.float32)
    hole = np.zeros((SIDE, SIDE), dtype=np.bool_)
    hole[40:56, 20:76] = True
    return picture, smooth, hole


@pytest.mark.parametrize("cell", [1, 2, 3])
def test_detail_comes_from_places_that_look_alike(cell: int) -> None:
    picture, smooth, hole = two_tones()
    picture = picture.copy()
    picture[hole] = 9.0  # what the hole holds must not be looked at
    detail = transfer_texture(picture, smooth, hole, ~hole, spacing=4, cell=cell)
    assert not detail[~hole].any()
    dark, bright = np.abs(detail[40:56, 20:42]), np.abs(detail[40:56, 54:76])
    np.testing.assert_allclose(dark, 0.01, atol=1e-6)
    np.testing.assert_allclose(bright, 0.07, atol=1e-6)


def test_grain_keeps_its_strength() -> None:
    rng = np.random.default_rng(0)
    smooth = np.full((SIDE, SIDE, 3), 0.5, dtype=np.float32)
    picture = smooth + rng.normal(0, 0.03, smooth.shape).astype(np.float32)
    hole = np.zeros((SIDE, SIDE), dtype=np.bool_)
    hole[30:66, 30:66] = True
    detail = transfer_texture(picture, smooth, hole, ~hole, spacing=3, cell=2)
    assert detail[hole].std() == pytest.approx(0.03, rel=0.1)
    # Neighbours are as unlike as in the photo: nothing was averaged.
    steps = np.diff(detail[30:66, 30:66], axis=1).std()
    assert steps == pytest.approx(0.03 * np.sqrt(2), rel=0.1)


def test_only_the_source_lends() -> None:
    picture, smooth, hole = two_tones()
    source = np.zeros_like(hole)
    source[:, SIDE // 2 :] = True
    detail = transfer_texture(picture, smooth, hole, source, spacing=4, cell=2)
    np.testing.assert_allclose(np.abs(detail[hole]), 0.07, atol=1e-6)


def test_without_a_source_there_is_no_detail() -> None:
    picture, smooth, hole = two_tones()
    for source in (np.zeros_like(hole), hole):
        detail = transfer_texture(picture, smooth, hole, source, spacing=4, cell=2)
        assert not detail.any()
    small = np.ones((8, 8), dtype=np.bool_)
    detail = transfer_texture(picture[:8, :8], smooth[:8, :8], small, ~small, spacing=4, cell=2)
    assert not detail.any()


def test_the_same_input_gives_the_same_bytes() -> None:
    picture, smooth, hole = two_tones()
    first, second = (
        transfer_texture(picture, smooth, hole, ~hole, spacing=4, cell=2) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
