"""Holes: seeded, within their coverage, and of the shapes that they promise."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from revisage.training.data.holes import (
    centre_hole,
    free_form_hole,
    polygon_chain_hole,
    rectangle_hole,
    stroke_holes,
)

Mask = npt.NDArray[np.uint8]


def test_same_seed_same_holes() -> None:
    first = stroke_holes(96, np.random.default_rng(7))
    again = stroke_holes(96, np.random.default_rng(7))
    other = stroke_holes(96, np.random.default_rng(8))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert first.dtype == np.uint8
    assert set(np.unique(first)) == {0, 1}


def test_coverage_is_reached_and_hardly_exceeded() -> None:
    shares = [
        stroke_holes(128, np.random.default_rng(seed), coverage=(0.1, 0.2), blobs=0).mean()
        for seed in range(40)
    ]
    assert min(shares) >= 0.1
    assert np.mean(shares) < 0.3


@pytest.mark.parametrize("width", [3.0, 8.0])
def test_strokes_are_as_thin_as_asked(width: float) -> None:
    for seed in range(10):
        mask = stroke_holes(
            256, np.random.default_rng(seed), coverage=(0.005, 0.006), width=(width, width), blobs=0
        )
        half = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
        assert 0 < np.median(half[mask > 0]) <= width / 2 + 1


@pytest.mark.parametrize("draw", [rectangle_hole, polygon_chain_hole, free_form_hole])
@pytest.mark.parametrize("size", [32, 128])
def test_every_hole_is_seeded_and_within_its_coverage(draw: Callable[..., Mask], size: int) -> None:
    shares = []
    for seed in range(30):
        hole = draw(size, np.random.default_rng(seed), coverage=(0.1, 0.3))
        np.testing.assert_array_equal(
            hole, draw(size, np.random.default_rng(seed), coverage=(0.1, 0.3))
        )
        assert hole.shape == (size, size)
        assert hole.dtype == np.uint8
        assert set(np.unique(hole)) == {0, 1}
        shares.append(hole.mean())
    assert min(shares) >= 0.08
    assert max(shares) <= 0.38
    assert max(shares) - min(shares) > 0.08
    low = draw(size, np.random.default_rng(3), coverage=(0.05, 0.1))
    high = draw(size, np.random.default_rng(3), coverage=(0.4, 0.5))
    assert high.mean() > low.mean() + 0.2


@pytest.mark.parametrize("draw", [rectangle_hole, polygon_chain_hole, free_form_hole])
def test_bad_coverage_is_refused(draw: Callable[..., Mask]) -> None:
    for coverage in ((0.3, 0.2), (0.0, 0.5), (0.5, 1.0)):
        with pytest.raises(ValueError, match="coverage"):
            draw(64, np.random.default_rng(0), coverage=coverage)


def test_centre_hole_is_the_middle_square() -> None:
    hole = centre_hole(128)
    assert hole.mean() == 0.25
    assert hole[32:96, 32:96].all()
    assert centre_hole(64, 20).sum() == 400
    with pytest.raises(ValueError, match="side"):
        centre_hole(64, 64)


def test_a_rectangle_is_filled_and_keeps_its_margin() -> None:
    for seed in range(20):
        hole = rectangle_hole(64, np.random.default_rng(seed), coverage=(0.1, 0.4), margin=6)
        rows, columns = np.nonzero(hole)
        assert hole.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert min(rows.min(), columns.min()) >= 6
        assert max(rows.max(), columns.max()) < 58
    with pytest.raises(ValueError, match="margin"):
        rectangle_hole(64, np.random.default_rng(0), coverage=(0.1, 0.4), margin=20)


def test_polygon_chains_hang_together_and_are_thick() -> None:
    for seed in range(20):
        hole = polygon_chain_hole(
            128, np.random.default_rng(seed), coverage=(0.02, 0.04), chains=(1, 1)
        )
        assert cv2.connectedComponents(hole)[0] - 1 <= 3
    half = cv2.distanceTransform(polygon_chain_hole(256, np.random.default_rng(1)), cv2.DIST_L2, 5)
    assert half.max() > 8


def test_brush_strokes_are_as_wide_as_the_brush() -> None:
    for seed in range(10):
        hole = free_form_hole(
            256,
            np.random.default_rng(seed),
            coverage=(0.01, 0.9),
            strokes=(1, 1),
            width=(0.06, 0.06),
        )
        half = cv2.distanceTransform(hole, cv2.DIST_L2, 5).max()
        assert 0.45 * 0.06 * 256 < half < 2.5 * 0.06 * 256
