"""Drawn wrinkles: seeded, shaded as valleys, and labelled where they can be seen."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from revisage.training.data.wrinkle_shapes import Fold, wrinkle_folds
from revisage.training.data.wrinkles import CORE, draw_wrinkles, fold_shading, wrinkle_mask
from tests.training.drawn_face import drawn_landmarks, plain_skin


def _level_fold(depth: float, width: float) -> Fold:
    count = 40
    return Fold(
        points=np.stack([np.linspace(10, 90, count), np.full(count, 50.0)], 1).astype(np.float32),
        width=np.full(count, width, np.float32),
        depth=np.full(count, depth, np.float32),
        sharpness=2.0,
        shoulder=0.0,
    )


def test_one_level_fold_has_the_profile_that_it_says() -> None:
    rng = np.random.default_rng(0)
    valley, _, core = fold_shading([_level_fold(0.3, 2.0)], 100, rng)
    bottom = -np.log(0.7)
    for offset in range(5):
        expected = bottom * np.exp(-0.5 * (offset / 2.0) ** 2)
        assert valley[50 + offset, 50] == pytest.approx(expected, rel=1e-3)
        assert valley[50 - offset, 50] == pytest.approx(expected, rel=1e-3)
    # The core reaches as far as the profile exceeds CORE: 1.35 widths, 2 pixels to each side.
    assert np.sqrt(-2 * np.log(CORE)) * 2.0 == pytest.approx(2.7, abs=0.01)
    assert np.flatnonzero(core[:, 50]).tolist() == [48, 49, 50, 51, 52]
    assert valley[:40].max() == 0


def test_invisible_folds_are_no_ground_truth() -> None:
    _, _, core = fold_shading([_level_fold(0.02, 2.0)], 100, np.random.default_rng(0))
    assert not core.any()


def test_a_window_is_a_part_of_the_whole() -> None:
    folds = wrinkle_folds(drawn_landmarks(), np.random.default_rng(1), amount=2.0)
    whole = fold_shading(folds, 512, np.random.default_rng(2))
    part = fold_shading(folds, 200, np.random.default_rng(2), corner=(130, 90))
    for all_of_it, window in zip(whole, part, strict=True):
        np.testing.assert_allclose(window, all_of_it[90:290, 130:330], atol=1e-3)


def test_a_seed_gives_the_same_bytes() -> None:
    image, points = plain_skin(), drawn_landmarks()
    first = draw_wrinkles(image, points, np.random.default_rng(3))
    again = draw_wrinkles(image, points, np.random.default_rng(3))
    other = draw_wrinkles(image, points, np.random.default_rng(4))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])


def test_the_truth_is_darker_and_the_rest_is_left_alone() -> None:
    image, points = plain_skin(), drawn_landmarks()
    before = image.copy()
    out, mask = draw_wrinkles(image, points, np.random.default_rng(5), amount=1.6)
    assert np.array_equal(image, before)
    assert 0.003 < mask.mean() < 0.15
    difference = out.astype(int).sum(axis=2) - image.astype(int).sum(axis=2)
    assert difference[mask > 0].mean() < -12
    far = cv2.dilate(mask, np.ones((41, 41), np.uint8)) == 0
    # Folds too faint to be seen reach outside; nothing else does.
    assert (difference[far] == 0).mean() > 0.9


def test_wrinkles_keep_to_the_skin() -> None:
    image, points = plain_skin(), drawn_landmarks()
    skin = np.zeros((512, 512), np.uint8)
    skin[:, :256] = 1
    out, mask = draw_wrinkles(image, points, np.random.default_rng(6), amount=2.0, skin=skin)
    assert mask[:, :256].any()
    assert not mask[:, 256:].any()
    assert np.array_equal(out[:, 270:], image[:, 270:])


def test_no_wrinkles_leave_the_picture() -> None:
    image = plain_skin()
    out, mask = draw_wrinkles(image, drawn_landmarks(), np.random.default_rng(7), amount=0.0)
    assert np.array_equal(out, image)
    assert not mask.any()


def test_masks_for_holes_scale_with_the_square() -> None:
    shares = []
    for size in (256, 512):
        masks = [
            wrinkle_mask(drawn_landmarks(size), size, np.random.default_rng(seed))
            for seed in range(12)
        ]
        assert masks[0].shape == (size, size)
        assert set(np.unique(masks)) == {0, 1}
        shares.append(np.mean(masks))
    assert shares[0] == pytest.approx(shares[1], rel=0.6)
    grown = wrinkle_mask(drawn_landmarks(), 512, np.random.default_rng(0), grow=3)
    plain = wrinkle_mask(drawn_landmarks(), 512, np.random.default_rng(0))
    assert (grown >= plain).all()
    assert grown.sum() > 1.5 * plain.sum()
