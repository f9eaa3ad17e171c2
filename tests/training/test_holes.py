"""Free-form holes: seeded, dense and thin."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from revisage.training.data.holes import stroke_holes


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
