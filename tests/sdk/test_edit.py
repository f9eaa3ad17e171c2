"""Edits: 16-bit values, placement, small faces, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revisage.edit import (
    Edit,
    apply_edits,
    delta_codes,
    delta_from_codes,
    mask_codes,
    mask_from_codes,
)
from revisage.errors import OptionError, ShapeError

IDENTITY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def edit_of(delta: Any, mask: Any, matrix: Any = IDENTITY, strength: float = 1.0) -> Edit:
    return Edit("wrinkles", None, np.asarray(delta), np.asarray(mask), matrix, strength)


def test_codes_are_exact_both_ways() -> None:
    every = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(mask_codes(mask_from_codes(every)), every)
    np.testing.assert_array_equal(delta_codes(delta_from_codes(every[1:])), every[1:])
    assert delta_from_codes(32768) == 0.0
    assert delta_from_codes(65535) == 1.0
    assert delta_from_codes(1) == delta_from_codes(0) == -1.0
    assert mask_from_codes(65535) == 1.0


@given(st.floats(-1, 1, width=32), st.floats(0, 1, width=32))
def test_rounding_is_within_half_a_code_and_done_once(delta: float, mask: float) -> None:
    edit = edit_of(np.full((2, 2, 3), delta), np.full((2, 2), mask))
    assert abs(edit.delta - delta).max() <= 0.5 / 32767 + 1e-7
    assert abs(edit.mask - mask).max() <= 0.5 / 65535 + 1e-7
    again = edit_of(edit.delta, edit.mask)
    np.testing.assert_array_equal(again.delta, edit.delta)
    np.testing.assert_array_equal(again.mask, edit.mask)


def test_an_edit_cannot_be_changed_by_its_maker() -> None:
    delta, mask, matrix = np.zeros((4, 4, 3)), np.ones((4, 4)), IDENTITY.copy()
    edit = edit_of(delta, mask, matrix)
    matrix[0, 0] = 7.0
    assert edit.matrix[0, 0] == 1.0
    for array in (edit.delta, edit.mask, edit.matrix):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"delta": np.zeros((4, 5, 3))}, ShapeError),
        ({"delta": np.zeros((4, 4, 1))}, ShapeError),
        ({"mask": np.zeros((3, 4))}, ShapeError),
        ({"matrix": np.eye(3)}, ShapeError),
        ({"delta": np.full((4, 4, 3), np.nan)}, OptionError),
        ({"mask": np.full((4, 4), np.inf)}, OptionError),
        ({"matrix": np.zeros((2, 3))}, OptionError),
        ({"strength": 1.5}, OptionError),
        ({"strength": float("nan")}, OptionError),
    ],
)
def test_impossible_edits_are_refused(change: dict[str, Any], error: type[Exception]) -> None:
    good: dict[str, Any] = {"delta": np.zeros((4, 4, 3)), "mask": np.zeros((4, 4))}
    with pytest.raises(error):
        edit_of(**(good | change))


def test_whole_pixel_placement_has_an_obvious_answer() -> None:
    delta = np.full((3, 3, 3), 0.5)
    mask = np.ones((3, 3))
    shift = np.array([[1.0, 0.0, -2.0], [0.0, 1.0, -4.0]])  # square (0, 0) is photo (2, 4)
    photo = np.full((9, 8, 3), 10, dtype=np.uint8)
    out = apply_edits(photo, [edit_of(delta, mask, shift)])
    expected = photo.copy()
    expected[4:7, 2:5] = 10 + 128  # 0.5 * 255 = 127.5, plus 10, to even: 138
    np.testing.assert_array_equal(out, expected)
    covered = edit_of(delta, mask, shift).mask_on(9, 8)
    np.testing.assert_array_equal(covered, (expected[:, :, 0] != 10).astype(np.float32))


def test_gray_gets_the_luma_of_the_delta() -> None:
    delta = np.zeros((2, 2, 3))
    delta[:, :, 1] = 0.5
    photo = np.zeros((2, 2), dtype=np.float32)
    out = apply_edits(photo, [edit_of(delta, np.ones((2, 2)))])
    np.testing.assert_allclose(out, 0.587 * 0.5, atol=2e-5)


@pytest.mark.parametrize("block", [2, 3, 5])
def test_small_faces_get_the_average_of_the_square_not_every_nth_pixel(
    block: int, rng: np.random.Generator
) -> None:
    size = 4 * block
    delta = rng.uniform(-1, 1, (size, size, 3))
    mask = rng.uniform(0, 1, (size, size))
    # Photo pixel p covers square pixels block * p .. block * p + block - 1.
    matrix = np.array([[block, 0.0, (block - 1) / 2], [0.0, block, (block - 1) / 2]])
    edit = edit_of(delta, mask, matrix)
    out = apply_edits(np.zeros((4, 4, 3), dtype=np.float32), [edit])
    product = edit.delta * edit.mask[:, :, None]
    expected = product.reshape(4, block, 4, block, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_averaging_keeps_what_lies_outside_the_mask_out() -> None:
    delta = np.ones((8, 8, 3))
    mask = np.zeros((8, 8))
    delta[:, 4:], mask[:, :4] = -1.0, 1.0
    averaged, weights, _ = edit_of(delta, mask, np.array([[2.0, 0, 0.5], [0, 2.0, 0.5]])).placed()
    np.testing.assert_array_equal(averaged[weights > 0], 1.0)
    np.testing.assert_array_equal(averaged[weights == 0], 0.0)


@settings(max_examples=40, deadline=None)
@given(
    density=st.floats(0.05, 20.0),
    angle=st.floats(-3.0, 3.0),
    x=st.floats(-30, 30),
    y=st.floats(-30, 30),
)
def test_mask_on_says_exactly_where_an_edit_may_change(
    density: float, angle: float, x: float, y: float
) -> None:
    size = 16
    rng = np.random.default_rng(3)
    mask = np.where(rng.random((size, size)) < 0.5, rng.random((size, size)), 0.0)
    cos, sin = density * np.cos(angle), density * np.sin(angle)
    matrix = np.array([[cos, -sin, x], [sin, cos, y]])
    edit = edit_of(np.full((size, size, 3), 1.0), mask, matrix)
    photo = np.zeros((23, 17, 3), dtype=np.float32)
    changed = (edit.apply(photo) != 0).any(axis=2)
    np.testing.assert_array_equal(changed, edit.mask_on(23, 17) > 0)


def test_applying_needs_and_changes_nothing_else(tmp_path: Path) -> None:
    photo = np.zeros((4, 4, 3), dtype=np.uint8)
    photo.flags.writeable = False
    out = edit_of(np.ones((4, 4, 3)), np.ones((4, 4))).apply(photo)
    assert out.min() == 255
    assert photo.max() == 0
    assert "wrinkles" in repr(edit_of(np.ones((4, 4, 3)), np.ones((4, 4))))
