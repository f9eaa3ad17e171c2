"""Layers: what an artist gets, and that applying them again gives the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

import revisage as rv
from revisage.edit import apply_edits
from revisage.errors import MediaError, OutputError
from revisage.layers import layer_paths, read_layers, write_layers
from tests.sdk.stand_ins import SIZE, face_at, session_for


@pytest.fixture
def retouched(rng: np.random.Generator) -> tuple[Any, rv.Result]:
    photo = rng.integers(0, 65536, (300, 400, 3), dtype=np.uint16)
    session = session_for(face_at(120, 150, 230, 0.3), face_at(300, 120, 90, -0.2))
    return photo, session.retouch(photo, rv.Retouch(wrinkles=0.7))


def test_applying_layers_again_gives_the_same_bytes(
    tmp_path: Path, retouched: tuple[Any, rv.Result]
) -> None:
    photo, result = retouched
    assert (result.image != photo).any()
    for edit in result.edits:
        edit.write_layers(tmp_path)
    again = read_layers(tmp_path)
    assert [e.face_index for e in again] == [0, 1]
    for ours, theirs in zip(result.edits, again, strict=True):
        np.testing.assert_array_equal(ours.delta, theirs.delta)
        np.testing.assert_array_equal(ours.mask, theirs.mask)
        np.testing.assert_array_equal(ours.matrix, theirs.matrix)
        assert ours.strength == theirs.strength
        assert ours.face is not None
        assert theirs.face is not None
        np.testing.assert_array_equal(ours.face.landmarks, theirs.face.landmarks)
        assert ours.face.box == theirs.face.box
    assert apply_edits(photo, again).tobytes() == result.image.tobytes()


def test_an_artist_sees_16_bit_tiff_and_previews(
    tmp_path: Path, retouched: tuple[Any, rv.Result]
) -> None:
    edit = retouched[1].edits[0]
    written = write_layers([edit], tmp_path / "layers")
    assert sorted(written) == sorted(layer_paths(edit, tmp_path / "layers"))
    assert sorted(p.name for p in (tmp_path / "layers").iterdir()) == sorted(
        f"wrinkles_face1{ending}"
        for ending in (".json", "_delta.png", "_delta.tif", "_mask.png", "_mask.tif")
    )
    delta = tifffile.imread(tmp_path / "layers" / "wrinkles_face1_delta.tif")
    assert delta.shape == (SIZE, SIZE, 3)
    assert delta.dtype == np.uint16
    assert (delta[edit.mask == 0] == 32768).all()
    mask = tifffile.imread(tmp_path / "layers" / "wrinkles_face1_mask.tif")
    np.testing.assert_array_equal(mask == 0, edit.mask == 0)
    with Image.open(tmp_path / "layers" / "wrinkles_face1_mask.png") as preview:
        assert preview.size == (SIZE, SIZE)


def test_a_changed_layer_changes_the_result(
    tmp_path: Path, retouched: tuple[Any, rv.Result]
) -> None:
    photo, result = retouched
    write_layers(result.edits, tmp_path)
    path = tmp_path / "wrinkles_face1_mask.tif"
    tifffile.imwrite(path, np.zeros((SIZE, SIZE), np.uint16), photometric="minisblack")
    one, other = (edit.apply(photo) for edit in read_layers(tmp_path))
    np.testing.assert_array_equal(one, photo)
    assert (other != photo).any()


def test_existing_layers_need_force(tmp_path: Path, retouched: tuple[Any, rv.Result]) -> None:
    edit = retouched[1].edits[0]
    edit.write_layers(tmp_path)
    before = sorted((p.name, p.read_bytes()) for p in tmp_path.iterdir())
    with pytest.raises(OutputError, match="exists already"):
        edit.write_layers(tmp_path)
    edit.write_layers(tmp_path, force=True)
    assert sorted((p.name, p.read_bytes()) for p in tmp_path.iterdir()) == before


def damage(folder: Path, how: str) -> None:
    sidecar, delta = folder / "wrinkles_face1.json", folder / "wrinkles_face1_delta.tif"
    entry = json.loads(sidecar.read_text())
    if how == "not json":
        sidecar.write_text("{")
    elif how == "schema":
        sidecar.write_text(json.dumps(entry | {"revisage_layers": 99}))
    elif how == "no matrix":
        del entry["matrix"]
        sidecar.write_text(json.dumps(entry))
    elif how == "not finite":
        sidecar.write_text(json.dumps(entry | {"matrix": [[1, 0, float("nan")], [0, 1, 0]]}))
    elif how == "strength":
        sidecar.write_text(json.dumps(entry | {"strength": 7}))
    elif how == "huge":
        sidecar.write_text(json.dumps(entry | {"size": 10**9}))
    elif how == "missing mask":
        (folder / "wrinkles_face1_mask.tif").unlink()
    elif how == "truncated":
        delta.write_bytes(delta.read_bytes()[:2000])
    elif how == "depth":
        tifffile.imwrite(delta, np.zeros((SIZE, SIZE, 3), np.uint8), photometric="rgb")
    else:
        delta.write_bytes(b"junk")


@pytest.mark.parametrize(
    "how",
    [
        "not json",
        "schema",
        "no matrix",
        "not finite",
        "strength",
        "huge",
        "missing mask",
        "truncated",
        "depth",
        "junk",
    ],
)
def test_damaged_layers_are_one_media_error(
    tmp_path: Path, retouched: tuple[Any, rv.Result], how: str
) -> None:
    write_layers(retouched[1].edits[:1], tmp_path)
    damage(tmp_path, how)
    with pytest.raises(MediaError) as caught:
        read_layers(tmp_path)
    assert "wrinkles_face1" in str(caught.value)


def test_a_folder_without_layers_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "receipt.json").write_text("{}")
    with pytest.raises(MediaError, match="no Revisage layers"):
        rv.Edit.read_layers(tmp_path)
