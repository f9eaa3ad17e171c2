"""Painted holes: what they cover is painted anew, and nothing else moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import revisage as rv
from revisage.cli import main
from revisage.edit import apply_edits
from revisage.errors import OptionError, ShapeError
from revisage.layers import read_layers, write_layers
from revisage.operations import inpaint
from tests.sdk.stand_ins import StandInEngine, StandInParts, face_at, session_for
from tests.sdk.test_contract import bits, photo_of

Array = np.ndarray[Any, np.dtype[Any]]


def skin(height: int, width: int, seed: int = 0, grain: float = 4.0) -> Array:
    """A slope of colour with grain, uint8."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(120, 180, width)[None, :, None] * [1.0, 0.8, 0.7]
    return np.clip(slope + rng.normal(0, grain, (height, width, 3)), 0, 255).astype(np.uint8)


def scratch(height: int, width: int) -> Array:
    hole = np.zeros((height, width), dtype=np.uint8)
    hole[height // 2 - 3 : height // 2 + 3, width // 4 : 3 * width // 4] = 255
    return hole


@pytest.mark.parametrize("side", [120.0, 300.0, 1500.0])
def test_what_the_hole_hides_is_gone_at_every_size_of_face(side: float) -> None:
    clean = skin(320, 320)
    hole = scratch(320, 320)
    photo = clean.copy()
    lines = np.where(np.arange(320)[:, None] % 2, 255, 0) * np.ones((1, 320))  # bright and dark
    photo[hole > 0] = lines[hole > 0][:, None]
    with session_for(face_at(160, 160, side)) as session:
        result = session.inpaint(photo, hole)
    filled = result.image[hole > 0].astype(float)
    # The stand-in fills with the mean of its square; the lines must not shine through.
    rows = result.image[hole.any(axis=1)][:, hole.any(axis=0)].astype(float).mean(axis=(1, 2))
    assert np.ptp(rows) < 6
    assert abs(filled.mean() - photo[hole == 0].mean()) < 12
    np.testing.assert_array_equal(result.image[hole == 0], photo[hole == 0])


def test_the_fill_has_the_grain_of_the_photo() -> None:
    photo = skin(320, 320, grain=6.0)
    hole = scratch(320, 320)
    with session_for(face_at(160, 160, 512)) as session:
        image = session.inpaint(photo, hole).image
    along = np.diff(image.astype(float), axis=1)
    inside, outside = along[hole[:, 1:] > 0].std(), along[hole[:, 1:] == 0].std()
    assert inside == pytest.approx(outside, rel=0.25)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 999),
    st.integers(2, 80),
    st.integers(2, 80),
    st.sampled_from([0, 1, 2, 3, 4]),
    st.sampled_from(["uint8", "uint16", "float16", "float32"]),
    st.sampled_from([0.0, 0.4, 1.0]),
)
def test_outside_the_hole_every_bit_stays(
    seed: int, height: int, width: int, channels: int, dtype: str, strength: float
) -> None:
    rng = np.random.default_rng(seed)
    photo = photo_of(seed, height, width, channels, dtype)
    hole = rng.random((height, width)) < rng.choice([0.02, 0.3])
    hole[0, 0], hole[-1, -1] = True, False
    with session_for(face_at(width / 2, height / 2, 60.0)) as session:
        result = session.inpaint(photo, hole, strength=strength)
    assert result.image.dtype == photo.dtype
    assert result.image.shape == photo.shape
    kept = np.broadcast_to(~hole if channels == 0 else ~hole[:, :, None], photo.shape)
    np.testing.assert_array_equal(bits(result.image)[kept], bits(photo)[kept])
    if strength == 0:
        np.testing.assert_array_equal(bits(result.image), bits(photo))
    # Every pixel of the hole is in exactly one edit.
    cover = sum(edit.mask_on(height, width) for edit in result.edits)
    np.testing.assert_array_equal(cover, hole.astype(np.float32))


def test_a_soft_hole_mixes() -> None:
    photo = skin(128, 128)
    hole = np.zeros((128, 128), dtype=np.float32)
    hole[60:68, 40:90] = 0.5
    with session_for(face_at(64, 64, 128)) as session:
        half = session.inpaint(photo, hole).image.astype(float)
        whole = session.inpaint(photo, np.ceil(hole)).image.astype(float)
    expected = (photo + whole) / 2
    np.testing.assert_allclose(half, expected, atol=1.01)


def test_threads_and_layers_give_the_same_bytes(tmp_path: Path) -> None:
    photo, hole = skin(300, 260), scratch(300, 260)
    hole[20:24, 20:24] = 255
    images = []
    for threads in (1, 2):
        with session_for(face_at(130, 150, 200), threads=threads) as session:
            result = session.inpaint(photo, hole)
        images.append(result.image)
    np.testing.assert_array_equal(*images)
    assert len({edit.name for edit in result.edits}) == len(result.edits) == 2
    write_layers(result.edits, tmp_path / "layers")
    again = apply_edits(photo, read_layers(tmp_path / "layers"))
    np.testing.assert_array_equal(again, result.image)


def test_without_a_face_it_fills_all_the_same() -> None:
    photo, hole = skin(200, 400), scratch(200, 400)
    with session_for() as session:
        result = session.inpaint(photo, hole)
    assert result.faces == ()
    assert all(edit.face is None for edit in result.edits)
    assert (result.image != photo).any()


def test_a_hole_beside_the_face_and_one_on_it() -> None:
    photo, hole = skin(300, 600), np.zeros((300, 600), dtype=np.bool_)
    hole[140:150, 140:160] = True
    hole[140:150, 540:560] = True
    face = face_at(150, 150, 200)
    with session_for(face) as session:
        result = session.inpaint(photo, hole)
    assert [edit.face is face for edit in result.edits] == [True, False]


def test_a_huge_hole_becomes_several_edits_and_keeps_its_outline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inpaint, "_LARGEST", 50)
    photo, hole = skin(240, 240), np.zeros((240, 240), dtype=np.bool_)
    hole[60:181, 100:140] = True
    with session_for(face_at(120, 120, 300)) as session:
        result = session.inpaint(photo, hole)
    assert [edit.size for edit in result.edits] == [41, 41, 40]  # rows; two squares of 41, then 39
    cover = sum(edit.mask_on(240, 240) for edit in result.edits)
    np.testing.assert_array_equal(cover, hole.astype(np.float32))
    np.testing.assert_array_equal(result.image[~hole], photo[~hole])
    assert (result.image[hole] != photo[hole]).any(axis=1).mean() > 0.9


@pytest.mark.parametrize("faces", ["smallest", ""])
def test_faces_are_checked_whether_there_are_any_or_not(faces: Any) -> None:
    for found in ([], [face_at(64, 64, 100)]):
        with session_for(*found) as session, pytest.raises(OptionError, match="faces="):
            session.inpaint(skin(128, 128), scratch(128, 128), faces)


def test_the_receipt_names_who_found_no_face() -> None:
    made = StandInParts([])
    made.faces.engine = lambda name: StandInEngine("inpainting", 64)  # type: ignore[attr-defined]
    with rv.Session(parts=made.parts()) as session:
        receipt = session.inpaint(skin(128, 128), scratch(128, 128)).receipt
    assert set(receipt.models) == {"face_finder", "face_landmarks", "inpainting"}


def test_the_network_loads_once_and_the_receipt_names_it() -> None:
    made = StandInParts([face_at(64, 64, 100)])
    photo, hole = skin(128, 128), scratch(128, 128)
    with rv.Session(parts=made.parts()) as session:
        session.inpaint(photo, hole)
        receipt = session.inpaint(photo, hole).receipt
    assert made.loads == ["inpainting"]
    assert set(receipt.models) == {"inpainting"}


def test_pil_in_pil_out() -> None:
    photo, hole = skin(90, 100), scratch(90, 100)
    with session_for(face_at(50, 45, 80)) as session:
        array = session.inpaint(photo, hole).image
        image = session.inpaint(Image.fromarray(photo), Image.fromarray(hole)).image
        indexed = Image.fromarray(hole).convert("RGB").quantize(2)
        with_palette = session.inpaint(photo, indexed).image
    assert isinstance(image, Image.Image)
    np.testing.assert_array_equal(np.asarray(image), array)
    assert np.asarray(indexed).max() == 1
    np.testing.assert_array_equal(with_palette, array)


@pytest.mark.parametrize(
    ("hole", "error", "words"),
    [
        (np.zeros((50, 60), np.uint8), OptionError, "empty"),
        (np.ones((60, 50), np.uint8), ShapeError, r"\[50, 60\]"),
        (np.ones((50, 60, 3), np.uint8), ShapeError, r"\[50, 60\]"),
        (np.ones((50, 60), np.int32), ShapeError, "int32"),
        (np.full((50, 60), np.nan, np.float32), OptionError, "within 0..1"),
        (np.full((50, 60), 255.0), OptionError, "within 0..1"),
        (np.ones((50, 60), np.bool_), OptionError, "smaller"),
        ([[0, 1], [1]], ShapeError, "must be an array"),
    ],
)
def test_a_hole_that_cannot_be_filled_is_refused(
    hole: Array, error: type[Exception], words: str
) -> None:
    with (
        session_for(face_at(30, 25, 40)) as session,
        pytest.raises(error, match=words),
    ):
        session.inpaint(skin(50, 60), hole)


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_strength_is_within_0_and_1(strength: float) -> None:
    with session_for() as session, pytest.raises(OptionError, match="strength"):
        session.inpaint(skin(50, 60), scratch(50, 60), strength=strength)


def test_the_shipped_network_takes_a_scratch_off(tmp_path: Path) -> None:
    clean = skin(256, 256, grain=2.0)
    hole = scratch(256, 256)
    photo = clean.copy()
    photo[hole > 0] = 255
    files = [tmp_path / name for name in ("in.png", "hole.png", "out.png")]
    Image.fromarray(photo).save(files[0])
    Image.fromarray(hole).save(files[1])
    command = ["inpaint", str(files[0]), "--hole", str(files[1]), "-o", str(files[2]), "--quiet"]
    assert main(command) == 0
    out = np.asarray(Image.open(files[2]))
    np.testing.assert_array_equal(out[hole == 0], photo[hole == 0])
    assert np.abs(out.astype(float) - clean)[hole > 0].mean() < 6


def test_a_mask_that_was_saved_as_jpeg_keeps_its_black(tmp_path: Path) -> None:
    photo, hole = skin(96, 96), scratch(96, 96)
    Image.fromarray(photo).save(tmp_path / "in.png")
    Image.fromarray(hole).save(tmp_path / "hole.jpg", quality=50)
    command = ["inpaint", str(tmp_path / "in.png"), "--hole", str(tmp_path / "hole.jpg")]
    assert main([*command, "-o", str(tmp_path / "out.png"), "--quiet"]) == 0
    out = np.asarray(Image.open(tmp_path / "out.png"))
    far = np.ones((96, 96), dtype=np.bool_)
    far[35:61] = False
    np.testing.assert_array_equal(out[far], photo[far])


def test_a_mask_of_another_size_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(skin(40, 50)).save(tmp_path / "in.png")
    Image.fromarray(scratch(50, 40)).save(tmp_path / "hole.png")
    command = ["inpaint", str(tmp_path / "in.png"), "--hole", str(tmp_path / "hole.png")]
    assert main([*command, "-o", str(tmp_path / "out.png")]) == 2
    assert "[40, 50]" in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()
