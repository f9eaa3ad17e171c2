"""Readers of public data sets, on folders of tiny pictures in the published layouts."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from revisage.errors import MediaError, RecipeError
from revisage.training.data.aligned_faces import aligned_faces
from revisage.training.data.folders import (
    by_identity,
    read_casia_webface,
    read_celeba,
    read_faces,
    read_ffhq,
    read_ffhq_wrinkles,
    read_ffhqr,
    read_masked_faces,
    read_vggface2,
)
from tests.training.drawn_face import drawn_landmarks


def _picture(path: Path, value: int, size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*size, 3), (value, 10, 20), np.uint8))
    return path


def _ffhq(folder: Path, numbers: tuple[int, ...] = (0, 1, 59999, 60000)) -> Path:
    entries = {}
    for number in numbers:
        file = f"images1024x1024/{number // 1000 * 1000:05d}/{number:05d}.png"
        _picture(folder / file, number % 251, (64, 64))
        entries[str(number)] = {
            "category": "training" if number < 60000 else "validation",
            "metadata": {"author": "somebody"},
            "image": {"file_path": file, "face_landmarks": drawn_landmarks(64).tolist()},
        }
    (folder / "ffhq-dataset-v2.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


def test_ffhq(tmp_path: Path) -> None:
    folder = _ffhq(tmp_path / "ffhq")
    records = read_ffhq(folder)
    assert [r.id for r in records] == ["00000", "00001", "59999", "60000"]
    assert [r.id for r in read_ffhq(folder, "val")] == ["60000"]
    assert len(read_ffhq(folder, "train")) == 3
    assert records[1].landmarks is not None
    np.testing.assert_allclose(records[1].landmarks, drawn_landmarks(64))
    assert records[1].image()[0, 0].tolist() == [20, 10, 1]
    assert records[1].extra["author"] == "somebody"
    with pytest.raises(RecipeError, match="train, val, not 'test'"):
        read_ffhq(folder, "test")


def test_ffhq_feeds_aligned_faces(tmp_path: Path) -> None:
    folder = _ffhq(tmp_path / "ffhq", (3, 60001))
    (face,) = aligned_faces([folder], "val", 32)
    assert face.id == "60001"
    assert face.image.shape == (32, 32, 3)


def test_missing_files_are_one_error(tmp_path: Path) -> None:
    folder = _ffhq(tmp_path / "ffhq")
    for number in (0, 1):
        (folder / f"images1024x1024/00000/{number:05d}.png").unlink()
    with pytest.raises(RecipeError, match=r"2 files of FFHQ are missing.*00000\.png.*partial=True"):
        read_ffhq(folder)
    assert [r.id for r in read_ffhq(folder, partial=True)] == ["59999", "60000"]
    with pytest.raises(RecipeError, match="metadata of FFHQ"):
        read_ffhq(tmp_path)
    (folder / "ffhq-dataset-v2.json").write_text('{"0": {}}', encoding="utf-8")
    with pytest.raises(RecipeError, match="version 2"):
        read_ffhq(folder)


def test_ffhq_wrinkles(tmp_path: Path) -> None:
    folder = _ffhq(tmp_path / "ffhq", (7, 12, 30))
    for name, value in (("00007", 255), ("00012", 0)):
        _picture(folder / f"manual_wrinkle_masks/{name}.png", value)
    _picture(folder / "weak_wrinkle_masks/00000/00030.png", 90)
    records = read_ffhq_wrinkles(folder)
    assert [r.id for r in records] == ["00007", "00012"]
    assert records[0].image("wrinkles").shape == (8, 8)
    assert records[0].image().shape == (64, 64, 3)
    assert [r.id for r in read_ffhq_wrinkles(folder, weak=True)] == ["00030"]
    with pytest.raises(RecipeError, match="not 'test'"):
        read_ffhq_wrinkles(folder, "test")
    (folder / "test_file_lists.txt").write_text("00012\n", encoding="utf-8")
    assert [r.id for r in read_ffhq_wrinkles(folder, "test")] == ["00012"]
    assert [r.id for r in read_ffhq_wrinkles(folder, "train")] == ["00007"]
    with pytest.raises(RecipeError, match="masks of FFHQ-Wrinkle not found"):
        read_ffhq_wrinkles(tmp_path)


def test_ffhqr_pairs(tmp_path: Path) -> None:
    numbers = (55999, 56000, 62999, 63000)
    ffhq = _ffhq(tmp_path / "ffhq", numbers)
    for number in numbers:
        _picture(tmp_path / f"ffhqr/{number // 1000 * 1000:05d}/{number:05d}.png", 200)
    splits = {r.id: r.split for r in read_ffhqr(ffhq, tmp_path / "ffhqr")}
    assert splits == {"55999": "train", "56000": "val", "62999": "val", "63000": "test"}
    (test,) = read_ffhqr(ffhq, tmp_path / "ffhqr", "test")
    assert test.image("retouched")[0, 0, 2] == 200
    assert test.image()[0, 0, 2] == 63000 % 251
    with pytest.raises(KeyError):
        test.image("wrinkles")
    (ffhq / "images1024x1024/63000/63000.png").unlink()
    with pytest.raises(RecipeError, match=r"missing.*63000\.png"):
        read_ffhqr(ffhq, tmp_path / "ffhqr")


def _celeba(folder: Path) -> Path:
    names = [f"{n:06d}.jpg" for n in range(1, 5)]
    for n, name in enumerate(names):
        _picture(folder / "img_align_celeba" / name, 50 * n, (218, 178))
    parts = [f"{name} {part}" for name, part in zip(names, (0, 0, 1, 2), strict=True)]
    (folder / "list_eval_partition.txt").write_text("\n".join(parts) + "\n", encoding="utf-8")
    head = "4\nlefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y"
    rows = [f"{name}  69  109  106  113   77  142   73  152  108  154" for name in names]
    text = head + " rightmouth_x rightmouth_y\n" + "\n".join(rows) + "\n"
    (folder / "list_landmarks_align_celeba.txt").write_text(text, encoding="utf-8")
    people = [f"{name} {person}" for name, person in zip(names, (2880, 2937, 2880, 5), strict=True)]
    (folder / "identity_CelebA.txt").write_text("\n".join(people) + "\n", encoding="utf-8")
    return folder


def test_celeba(tmp_path: Path) -> None:
    folder = _celeba(tmp_path / "celeba")
    records = read_celeba(folder)
    assert [r.split for r in records] == ["train", "train", "val", "test"]
    assert records[0].landmarks is not None
    assert records[0].landmarks.tolist()[2] == [77, 142]
    assert [r.id for r in by_identity(records)["2880"]] == ["000001", "000003"]
    assert list(by_identity(records)) == ["2880"]
    # The text files lie in Anno and Eval in the published archive.
    for part, name in (("Anno", "identity_CelebA.txt"), ("Eval", "list_eval_partition.txt")):
        (folder / part).mkdir()
        (folder / name).rename(folder / part / name)
    assert [r.id for r in read_celeba(folder, "test")] == ["000004"]
    with pytest.raises(RecipeError, match="5 landmarks, and aligning needs 68"):
        aligned_faces([folder], "train", 32)
    (folder / "list_landmarks_align_celeba.txt").write_text("1\nx\n000001.jpg 1 2\n")
    with pytest.raises(RecipeError, match="line 3 has 3 columns, not 11"):
        read_celeba(folder)


def test_vggface2(tmp_path: Path) -> None:
    folder = tmp_path / "vggface2"
    for split, person in (("train", "n000002"), ("train", "n000003"), ("test", "n000001")):
        for picture in ("0001_01", "0002_01"):
            _picture(folder / split / person / f"{picture}.jpg", 9)
    records = read_vggface2(folder)
    assert [r.id for r in records[:2]] == ["n000002/0001_01", "n000002/0002_01"]
    assert {r.identity for r in read_vggface2(folder, "test")} == {"n000001"}
    assert records[0].landmarks is None
    assert len(by_identity(records)) == 3
    listing = folder / "bb_landmark" / "loose_landmark_test.csv"
    listing.parent.mkdir()
    head = "NAME_ID,P1X,P1Y,P2X,P2Y,P3X,P3Y,P4X,P4Y,P5X,P5Y\n"
    row = ",1.5,2,3,4,5,6,7,8,9,10.25\n"
    listing.write_text(head + '"n000001/0001_01"' + row + '"n000001/0002_01"' + row)
    points = read_vggface2(folder, "test")[0].landmarks
    assert points is not None
    assert points.tolist()[0] == [1.5, 2.0]
    assert points.tolist()[4] == [9.0, 10.25]
    listing.write_text(head + '"n000001/0001_01"' + row)
    with pytest.raises(RecipeError, match="no landmarks of n000001/0002_01"):
        read_vggface2(folder, "test")
    with pytest.raises(RecipeError, match="no picture of VGGFace2"):
        read_vggface2(tmp_path / "elsewhere")


def test_casia_webface(tmp_path: Path) -> None:
    for person in ("0000045", "0000099"):
        for picture in ("001", "002"):
            _picture(tmp_path / "casia" / person / f"{picture}.jpg", 9)
    records = read_casia_webface(tmp_path / "casia")
    assert [r.id for r in records] == ["0000045/001", "0000045/002", "0000099/001", "0000099/002"]
    assert sorted(by_identity(records)) == ["0000045", "0000099"]
    with pytest.raises(RecipeError, match="no splits"):
        read_casia_webface(tmp_path / "casia", "train")
    with pytest.raises(RecipeError, match="no such folder"):
        read_casia_webface(tmp_path / "elsewhere")


def test_masked_faces(tmp_path: Path) -> None:
    ffhq = _ffhq(tmp_path / "ffhq")
    names = (
        "CMFD/00000/00000_Mask.jpg", "IMFD/00000/00000_Mask_Mouth_Chin.jpg",
        "IMFD/00000/00001_Mask_Nose_Mouth.jpg", "IMFD/60000/60000_Mask_Chin.jpg",
    )  # fmt: skip
    for name in names:
        _picture(tmp_path / "masked" / name, 120)
    records = read_masked_faces(tmp_path / "masked", ffhq)
    kinds = {r.id: r.kind for r in records}
    assert kinds == {
        "00000_Mask": "correct",
        "00000_Mask_Mouth_Chin": "nose_out",
        "00001_Mask_Nose_Mouth": "chin_out",
        "60000_Mask_Chin": "chin_only",
    }
    (val,) = read_masked_faces(tmp_path / "masked", ffhq, "val")
    assert val.image("clean")[0, 0, 2] == 60000 % 251
    assert val.identity == "60000"
    _picture(tmp_path / "masked" / "CMFD/02000/02000_Mask.jpg", 120)
    with pytest.raises(RecipeError, match=r"1 files of MaskedFace-Net.*02000\.png"):
        read_masked_faces(tmp_path / "masked", ffhq)
    assert len(read_masked_faces(tmp_path / "masked", ffhq, partial=True)) == 4


def test_layouts_are_recognised(tmp_path: Path) -> None:
    assert len(read_faces(_ffhq(tmp_path / "ffhq"), "train")) == 3
    assert len(read_faces(_celeba(tmp_path / "celeba"), "train")) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match="not a known layout"):
        read_faces(tmp_path / "empty")


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    folder = _ffhq(tmp_path / "ffhq", (5,))
    (folder / "images1024x1024/00000/00005.png").write_bytes(b"not a picture")
    with pytest.raises(MediaError, match=r"00005\.png"):
        read_ffhq(folder)[0].image()
