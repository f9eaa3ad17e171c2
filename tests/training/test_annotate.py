"""Annotations made from the output of `revisage faces --json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from revisage.errors import OutputError, RecipeError
from revisage.training.data.aligned_faces import aligned_faces
from revisage.training.data.annotate import annotation_lines, main, write_annotations
from revisage.training.data.portraits import read_portraits
from tests.training.drawn_face import drawn_landmarks


def _photo(path: Path, *widths: float, size: int = 96) -> dict[str, Any]:
    """A picture, and what `revisage faces --json` would say of it: faces of these widths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((size, size, 3), 90, np.uint8))
    landmarks = drawn_landmarks(size).round(2).tolist()
    faces = [
        {
            "box": [10.0, 8.0, width, 1.2 * width],
            "landmarks": landmarks,
            "score": 0.99,
            "yaw": -3.5,
            "pitch": 1.0,
            "roll": 0.0,
        }
        for width in widths
    ]
    return {"photo": str(path), "width": size, "height": size, "faces": faces}


def test_photos_become_aligned_faces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = [_photo(Path("own") / f"{name}.png", 70.0) for name in "abcdefghij"]
    photos.append(_photo(Path("own/two.png"), 70.0, 80.0, 20.0))
    photos.append(_photo(Path("own/none.png")))
    Path("faces.json").write_text(json.dumps(photos), encoding="utf-8")
    assert main(["faces.json", "own"]) == 0
    assert "10 faces to train on, 2 to validate, 12 identities" in capsys.readouterr().out
    portraits = read_portraits("own")
    assert len({portrait.id for portrait in portraits}) == 12
    assert portraits[0].yaw == -3.5
    assert portraits[0].face_px == 70
    train, val = (aligned_faces(["own"], split, 32) for split in ("train", "val"))
    assert {len(train), len(val)} == {10, 2}
    assert not {face.identity for face in train} & {face.identity for face in val}
    assert train[0].native_face_px == 70
    assert aligned_faces(["own"], None, 32, min_native_face_px=75)[0].id == "two.png#1"


def test_identities_of_folders_stay_in_one_split(tmp_path: Path) -> None:
    photos = [
        _photo(tmp_path / person / f"{number}.png", 30.0, 70.0)
        for person in ("ann", "ben", "cleo")
        for number in range(2)
    ]
    lines = annotation_lines(photos, tmp_path, identity="folder", held_out=0.0, smallest=10)
    assert [line["identity"] for line in lines] == ["ann", "ann", "ben", "ben", "cleo", "cleo"]
    assert {line["face_px"] for line in lines} == {70.0}
    assert len({(line["identity"], line["split"]) for line in lines}) == 3
    assert sum(line["split"] == "val" for line in lines) == 2
    again = annotation_lines(photos[::-1], tmp_path, identity="folder", held_out=0.0)
    assert {(x["id"], x["split"]) for x in again} == {(x["id"], x["split"]) for x in lines}


def test_what_is_wrong_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "own"
    one, two = _photo(folder / "a.png", 70.0), _photo(folder / "b.png", 70.0)
    wrong: list[tuple[Any, str]] = [
        ({}, "not a list of photos"),
        ([{"file": "a"}], "not an entry"),
        ([{**one, "width": None}], "not an entry"),
        ([{**one, "photo": str(folder / "gone.png")}], "no such photo"),
        ([one, {**two, "photo": "elsewhere.png"}], "is not in"),
        ([{**one, "faces": [{**one["faces"][0], "landmarks": [[1, 2]]}]}], "not a face"),
        ([{**one, "faces": [{**one["faces"][0], "box": [0, 0, 0, 5]}]}], "no pixels"),
        ([one], "training needs two or more"),
        ([_photo(folder / "c.png", 9.0)], "no face of 64 px"),
    ]
    for photos, message in wrong:
        with pytest.raises(RecipeError, match=message):
            annotation_lines(photos, folder)
    with pytest.raises(RecipeError, match="lies in no sub-folder"):
        annotation_lines([one, two], folder, identity="folder")
    with pytest.raises(RecipeError, match=r"in \[0, 1\), not 1"):
        annotation_lines([one, two], folder, held_out=1.0)
    listing = tmp_path / "faces.json"
    listing.write_text("", encoding="utf-8")
    assert main([str(listing), str(folder)]) == 2
    assert "did it end with an error?" in capsys.readouterr().err
    assert not (folder / "annotations.jsonl").exists()
    lines = annotation_lines([one, two], folder)
    place = write_annotations(lines, folder)
    with pytest.raises(OutputError, match="--force"):
        write_annotations(lines[:1], folder)
    assert len(place.read_text(encoding="utf-8").splitlines()) == 2
    write_annotations(lines[:1], folder, force=True)
    assert len(place.read_text(encoding="utf-8").splitlines()) == 1
    with pytest.raises(OutputError, match="cannot be written"):
        write_annotations(lines, tmp_path / "nowhere")
    assert sorted(p.name for p in folder.iterdir()) == [
        "a.png",
        "annotations.jsonl",
        "b.png",
        "c.png",
    ]
