"""The residual contract, promises 1 to 4, over sizes, depths, strengths and threads.

Held for the whole way through a session (with stand-in networks) and for edits of any content.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import revisage as rv
from revisage.edit import Edit, apply_edits
from revisage.pixels import full_range
from tests.sdk.stand_ins import face_at, session_for

Array = np.ndarray[Any, np.dtype[Any]]

DTYPES = st.sampled_from(["uint8", "uint16", "float16", "float32"])
CHANNELS = st.sampled_from([0, 1, 2, 3, 4])  # 0: [H, W]
SIDES = st.one_of(st.sampled_from([1, 2, 3, 31, 32, 33]), st.integers(1, 70))
QUICK = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.data_too_large])


def bits(pixels: Array) -> Array:
    """Samples as whole numbers, so that NaN payloads and signed zeros count."""
    return pixels.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[pixels.dtype.itemsize])


def photo_of(seed: int, height: int, width: int, channels: int, dtype: str) -> Array:
    """Any photo: integers over their range; floats beyond 0..1, with NaN, infinities and -0."""
    rng = np.random.default_rng(seed)
    shape = (height, width) if channels == 0 else (height, width, channels)
    if dtype.startswith("uint"):
        return rng.integers(0, int(full_range(dtype)) + 1, shape).astype(dtype)
    photo = rng.normal(0.5, 1.0, shape).astype(dtype)
    strange = rng.random(shape)
    photo[strange < 0.06] = np.nan
    photo[(strange > 0.06) & (strange < 0.08)] = np.inf
    photo[(strange > 0.08) & (strange < 0.10)] = -0.0
    whole = bits(photo)
    whole[strange < 0.02] |= 5  # NaNs with a payload
    return photo


def edit_of(seed: int, strength: float = 1.0) -> Edit:
    """An edit of noise, somewhere near the photo, turned and scaled at will."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 24))
    mask = np.where(rng.random((size, size)) < 0.5, rng.random((size, size)), 0.0)
    angle, scale = rng.uniform(-3, 3), np.exp(rng.uniform(-3, 2))
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]])
    centre = rng.uniform(-5, 60, 2)
    matrix = np.concatenate([linear, ((size - 1) / 2 - linear @ centre)[:, None]], axis=1)
    return Edit("wrinkles", None, rng.uniform(-1, 1, (size, size, 3)), mask, matrix, strength)


def colour_planes(photo: Array) -> Array:
    """[H, W, C] of the colour channels alone."""
    height, width = photo.shape[:2]
    planes = photo.reshape(height, width, -1)
    return planes[:, :, : 3 if planes.shape[2] >= 3 else 1]


@QUICK
@given(st.integers(0, 999), SIDES, SIDES, CHANNELS, DTYPES)
def test_1_outside_the_mask_every_bit_stays(
    seed: int, height: int, width: int, channels: int, dtype: str
) -> None:
    photo, edit = photo_of(seed, height, width, channels, dtype), edit_of(seed)
    out = edit.apply(photo)
    assert out.dtype == photo.dtype
    assert out.shape == photo.shape
    outside = edit.mask_on(height, width) == 0
    np.testing.assert_array_equal(bits(out)[outside], bits(photo)[outside])
    alpha = {2: 1, 4: 3}.get(channels)
    if alpha is not None:
        np.testing.assert_array_equal(bits(out)[..., alpha], bits(photo)[..., alpha])


@QUICK
@given(st.integers(0, 999), SIDES, SIDES, CHANNELS, DTYPES)
def test_2_strength_0_changes_no_bit(
    seed: int, height: int, width: int, channels: int, dtype: str
) -> None:
    photo = photo_of(seed, height, width, channels, dtype)
    out = edit_of(seed, strength=0.0).apply(photo)
    np.testing.assert_array_equal(bits(out), bits(photo))


@QUICK
@given(st.integers(0, 999), SIDES, SIDES, CHANNELS, DTYPES, st.floats(0, 1), st.floats(0, 1))
def test_2_a_larger_strength_never_moves_a_sample_less(
    seed: int, height: int, width: int, channels: int, dtype: str, one: float, two: float
) -> None:
    photo, edit = photo_of(seed, height, width, channels, dtype), edit_of(seed)
    weak, strong = (
        colour_planes(edit.with_strength(s).apply(photo)).astype(np.float64)
        for s in sorted((one, two))
    )
    before = colour_planes(photo).astype(np.float64)
    real = np.isfinite(before)
    moved_weak, moved_strong = weak[real] - before[real], strong[real] - before[real]
    assert (np.abs(moved_weak) <= np.abs(moved_strong)).all()
    assert (moved_weak * moved_strong >= 0).all()  # nor to the other side


@QUICK
@given(st.integers(0, 999), SIDES, SIDES, CHANNELS, DTYPES)
def test_4_threads_change_no_byte(
    seed: int, height: int, width: int, channels: int, dtype: str
) -> None:
    photo = photo_of(seed, height, width, channels, dtype)
    edits = [edit_of(seed), edit_of(seed + 1, 0.5)]
    one, two = (apply_edits(photo, edits, threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(bits(one), bits(two))


# --- through a session ---------------------------------------------------------------------------

SHAPES = [(1, 90), (90, 1), (3, 3), (97, 131)]
FACES = (face_at(50, 45, 120, 0.2), face_at(110, 30, 40, -0.4))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4])
def test_a_session_keeps_the_contract(dtype: str, shape: tuple[int, int], channels: int) -> None:
    photo = photo_of(sum(shape), *shape, channels, dtype)
    untouched = photo.copy()
    session = session_for(*FACES)
    result = session.retouch(photo, rv.Retouch(wrinkles=1.0))
    np.testing.assert_array_equal(bits(photo), bits(untouched))  # the input is not written to
    assert result.image.shape == photo.shape
    assert result.image.dtype == photo.dtype
    outside = np.logical_and.reduce([e.mask_on(*shape) == 0 for e in result.edits])
    np.testing.assert_array_equal(bits(result.image)[outside], bits(photo)[outside])
    if channels in (2, 4):
        np.testing.assert_array_equal(bits(result.image)[..., -1], bits(photo)[..., -1])
    nothing = session.retouch(photo, rv.Retouch(wrinkles=0.0))
    np.testing.assert_array_equal(bits(nothing.image), bits(photo))
    assert nothing.edits == ()


def test_the_stand_ins_do_change_something() -> None:
    """Without this, everything above could hold because nothing happens."""
    photo = photo_of(5, 97, 131, 3, "uint8")
    result = session_for(*FACES).retouch(photo, rv.Retouch(wrinkles=1.0))
    changed = (result.image != photo).any(axis=2)
    inside = np.logical_or.reduce([e.mask_on(97, 131) > 0 for e in result.edits])
    assert changed.sum() > 0.5 * inside.sum() > 100
    assert not changed[~inside].any()


def test_3_detail_finer_than_the_square_survives() -> None:
    """A face of 1600 px against a square of 512: what the square cannot hold must stay."""
    size = 1600
    y, x = np.mgrid[0:size, 0:size]
    checkers = ((x + y) % 2 * 60).astype(np.uint8)  # gone at 512 px, where it is an even gray
    photo = np.repeat((100 + checkers)[:, :, None], 3, axis=2)
    result = session_for(face_at(800, 800, 1600)).retouch(photo, rv.Retouch(wrinkles=1.0))
    inside = result.edits[0].mask_on(size, size) > 0
    assert inside.sum() > 10_000
    moved = result.image.astype(int) - photo
    # The delta is smooth: neighbours move alike, so their difference of 60 is still there.
    across = np.abs(np.diff(moved[:, :, 0], axis=1))
    assert across.max() <= 1


def test_4_the_same_bytes_whatever_shares_the_call_and_however_often() -> None:
    photo = photo_of(8, 97, 131, 3, "uint16")
    alone = [session_for(face).retouch(photo, rv.Retouch(wrinkles=0.7)) for face in FACES]
    for threads in (1, 2):
        session = session_for(*FACES, threads=threads)
        for _ in range(2):
            both = session.retouch(photo, rv.Retouch(wrinkles=0.7))
            for edit, single in zip(both.edits, alone, strict=True):
                assert edit.delta.tobytes() == single.edits[0].delta.tobytes()
                assert edit.mask.tobytes() == single.edits[0].mask.tobytes()
