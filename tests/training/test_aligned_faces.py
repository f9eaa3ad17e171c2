"""Aligned faces: the right pixels at the right landmarks, filters, and clear errors."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from revisage.alignment import square_matrix, transform_points
from revisage.errors import MediaError, RecipeError
from revisage.training.data import aligned_faces as module
from revisage.training.data.aligned_faces import AlignedFace, align_face, aligned_faces
from revisage.training.data.folders import read_faces
from revisage.training.data.recent import Recent
from tests.training.drawn_face import drawn_landmarks


def _folder(folder: Path) -> Path:
    """Three pictures of one colour each, with a white dot on the left outer eye corner."""
    folder.mkdir()
    lines = []
    for index, split in enumerate(("train", "train", "val")):
        points = 0.6 * drawn_landmarks(512) + [70, 40 + 5 * index]
        image = np.full((420, 460, 3), 40 * (index + 1), np.uint8)
        cv2.circle(image, tuple(np.round(points[36]).astype(int).tolist()), 6, (255, 255, 255), -1)
        cv2.imwrite(str(folder / f"f{index}.png"), image)
        entry = {
            "id": f"f{index}", "file": f"f{index}.png", "identity": f"i{index // 2}",
            "split": split, "width": 460, "height": 420, "box": [140, 100, 170, 200],
            "landmarks": points.tolist(),
        }  # fmt: skip
        if index == 1:
            entry["native_face_px"] = 400
        lines.append(json.dumps(entry))
    (folder / "annotations.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_the_square_shows_the_face_at_its_landmarks(tmp_path: Path) -> None:
    faces = aligned_faces([_folder(tmp_path / "faces")], "train", 128)
    assert [face.id for face in faces] == ["f0", "f1"]
    for face in faces:
        assert face.image.shape == (128, 128, 3)
        assert face.landmarks.shape == (68, 2)
        x, y = np.round(face.landmarks[36]).astype(int)
        assert face.image[y, x].min() > 250
        assert abs(int(face.image[64, 110, 0]) - int(face.image[5, 5, 0])) <= 1
        expected = np.asarray(face.extra["landmarks"])
        back = transform_points(square_matrix(expected, 128), expected)
        np.testing.assert_allclose(face.landmarks, back, atol=1e-3)


def test_filters_and_cache(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "faces")
    assert len(aligned_faces([folder], None, 64)) == 3
    assert [face.id for face in aligned_faces([folder], None, 64, limit=1)] == ["f0"]
    (large,) = aligned_faces([folder], None, 64, min_native_face_px=300)
    assert large.id == "f1"
    assert large.native_face_px == 400
    first = aligned_faces([folder], "val", 64)
    again = aligned_faces([str(folder)], "val", 64)
    assert first[0] is again[0]
    first.clear()
    assert len(aligned_faces([folder], "val", 64)) == 1
    with pytest.raises(ValueError, match="read-only"):
        again[0].image[0, 0] = 0


def test_nothing_found_is_one_clear_error(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "faces")
    with pytest.raises(RecipeError, match="min_native_face_px"):
        aligned_faces([folder], "val", 64, min_native_face_px=1000)
    with pytest.raises(RecipeError, match="split 'test'"):
        aligned_faces([folder], "test", 64)
    with pytest.raises(RecipeError, match="no such folder"):
        aligned_faces([tmp_path / "nowhere"], "train", 64)


def test_fine_detail_of_a_large_photo_does_not_alias() -> None:
    """A photo of one-pixel checks, reduced 12 times, is grey."""
    rows, columns = np.mgrid[0:1536, 0:1536]
    checks = np.repeat((((rows + columns) % 2) * 255).astype(np.uint8)[..., None], 3, axis=2)
    square, _ = align_face(checks, 3 * drawn_landmarks(512), 96)
    inner = square[8:-8, 8:-8].astype(np.float64)
    assert abs(inner.mean() - 127.5) < 3
    assert inner.std() < 12


def _at_once(folder: Path, size: int) -> list[np.ndarray]:
    """The squares as they are without any memory: each decoded and aligned here."""
    squares = []
    for record in read_faces(folder, None):
        assert record.landmarks is not None
        squares.append(align_face(record.image(), record.landmarks, size)[0])
    return squares


def test_pictures_are_the_same_whatever_is_kept(
    portraits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _at_once(portraits_folder, 48)
    side = 48 * 48 * 3
    for room in (1, 2 * side, 100 * side):
        kept = Recent(room)
        monkeypatch.setattr(module, "_pictures", kept)
        faces = aligned_faces([portraits_folder], None, 48)
        assert len(kept) == 0  # nothing is decoded before it is asked for
        for index in (*range(len(faces)), 0, 3, 3, 1):
            np.testing.assert_array_equal(faces[index].image, expected[index])
            assert kept.size <= max(room, side)
        assert len(kept) == min(max(1, room // side), len(faces))


def test_what_was_used_last_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def face(name: str) -> AlignedFace:
        def image() -> np.ndarray:
            made.append(name)
            return np.full((8, 8, 3), len(name), np.uint8)

        return AlignedFace(name, "", image, drawn_landmarks(8), 8.0, {})

    monkeypatch.setattr(module, "_pictures", Recent(2 * 192))
    a, b, c = (face(name) for name in "abc")
    for one in (a, b, a, c, a, b):
        assert one.image.shape == (8, 8, 3)
    assert made == ["a", "b", "c", "b"]  # c drove b out, not a, which was used after it


def test_a_picture_that_is_given_is_kept_as_it_is() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    assert AlignedFace("a", "", image, drawn_landmarks(8), 8.0, {}).image is image


def test_threads_may_share_faces(portraits_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Recent(2 * 32 * 32 * 3)
    monkeypatch.setattr(module, "_pictures", kept)
    faces, expected = aligned_faces([portraits_folder], None, 32), _at_once(portraits_folder, 32)

    def look(seed: int) -> bool:
        order = np.random.default_rng(seed).integers(len(faces), size=60).tolist()
        return all(np.array_equal(faces[index].image, expected[index]) for index in order)

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(look, range(4))) == [True] * 4
    assert kept.size == 2 * 32 * 32 * 3
    assert len(kept) == 2


def test_an_unreadable_picture_is_named_when_it_is_asked_for(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "faces")
    (folder / "f1.png").write_bytes(b"no picture")
    faces = aligned_faces([folder], "train", 32)
    assert faces[0].image.shape == (32, 32, 3)
    with pytest.raises(MediaError, match=r"f1\.png: not a readable picture"):
        _ = faces[1].image
