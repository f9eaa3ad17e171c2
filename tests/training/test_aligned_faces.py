"""Aligned faces: the right pixels at the right landmarks, filters, and clear errors."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from revisage.alignment import square_matrix, transform_points
from revisage.errors import RecipeError
from revisage.training.data.aligned_faces import align_face, aligned_faces
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
