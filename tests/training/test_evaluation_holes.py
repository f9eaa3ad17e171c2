"""Holes filled and wrinkles found: how `revisage evaluate` judges inpaint and wrinkles."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from revisage.errors import CheckpointError
from revisage.training.data.aligned_faces import aligned_faces
from revisage.training.data.ridges import skin_mask
from revisage.training.data.wrinkle_crops import drawing_area
from revisage.training.data.wrinkles import draw_wrinkles
from revisage.training.evaluation import (
    inpaint,
    wrinkles,
)
from revisage.training.evaluation.fills import BEST, TELEA
from revisage.training.evaluation.study import (
    NOTHING,
    OURS,
    judge,
)
from revisage.training.metrics.report import LARGEST_PSNR
from revisage.training.models.wrinkle_filler import CompactFiller
from revisage.training.models.wrinkle_segmenter import CompactSegmenter
from tests.training.drawn_face import drawn_landmarks, plain_skin

Image = npt.NDArray[np.uint8]


def test_holes_are_judged_alike(portraits_folder: Path) -> None:
    """Telea in the network's place gains nothing over Telea, and no fill sees what is hidden."""

    def fill(image: Image, mask: Image) -> Image:
        assert (image[mask > 0] == 0).all()
        return TELEA["telea 3"](image, mask)

    findings = judge(inpaint.InpaintEvaluation(fill), [portraits_folder], seeds=2, limit=1)
    assert list(findings.tallies) == ["centre", "rectangle", "free_form"]
    for kind, tally in findings.tallies.items():
        assert len(tally.rows) == 2
        assert tally.kind.size == inpaint.HOLES[kind][0]
        assert tally.gain("psnr", "telea 3").value == 0
        assert tally.gain("psnr", BEST).value <= 0
    assert not any(reached for _, _, reached in findings.goals())
    section = findings.section()
    assert len(section.tables) == 4
    assert len(section.sheets) == 6


def test_a_perfect_fill_has_the_largest_figure(portraits_folder: Path) -> None:
    true = aligned_faces([portraits_folder], "val", 256)[0].image
    reduced = aligned_faces([portraits_folder], "val", 128)[0].image
    evaluation = inpaint.InpaintEvaluation(
        lambda image, mask: true if len(image) == 256 else reduced
    )
    findings = judge(evaluation, [portraits_folder], limit=1)
    assert all(t.figure("psnr").value == LARGEST_PSNR for t in findings.tallies.values())
    assert all(reached for _, _, reached in findings.goals())


def test_a_network_fills_other_sizes() -> None:
    image = np.asarray(cv2.resize(plain_skin(), (128, 128), interpolation=cv2.INTER_AREA))
    mask = np.zeros((128, 128), np.uint8)
    mask[40:90, 30:80] = 1

    def gray(picture: Tensor, hole: Tensor) -> Tensor:
        assert picture.shape[-1] == hole.shape[-1] == inpaint.SIZE
        return torch.full_like(picture, 0.5)

    filled = inpaint.fill_with(gray)(image, mask)
    assert (filled[mask > 0] == 128).all()
    assert (filled[mask == 0] == image[mask == 0]).all()


@pytest.fixture
def skin_folder(tmp_path: Path) -> Path:
    """One portrait kept back, all skin with a fold across each cheek."""
    picture = plain_skin()
    for left in (150, 315):
        cv2.line(picture, (left, 300), (left + 50, 312), (150, 112, 92), 3, cv2.LINE_AA)
    cv2.imwrite(str(tmp_path / "a.png"), picture[:, :, ::-1])
    entry = {
        "id": "a", "file": "a.png", "identity": "a", "split": "val", "width": 512, "height": 512,
        "box": [120, 100, 270, 370], "landmarks": drawn_landmarks().tolist(), "native_face_px": 270,
    }  # fmt: skip
    (tmp_path / "annotations.jsonl").write_text(json.dumps(entry) + "\n")
    return tmp_path


def test_wrinkles_found_and_filled_perfectly(skin_folder: Path) -> None:
    one = aligned_faces([skin_folder], "val", 512)[0]
    plain, rng = one.image, np.random.default_rng([1000, 0])
    area = drawing_area(skin_mask(plain, one.landmarks), one.landmarks)
    wrinkled, truth = draw_wrinkles(plain, one.landmarks, rng, skin=area)

    def find(image: Image) -> Image:
        return truth if np.array_equal(image, wrinkled) else np.zeros_like(truth)

    def fill(image: Image, mask: Image) -> Image:
        assert (image[mask > 0] == 0).all()
        return plain

    findings = judge(wrinkles.WrinkleEvaluation(find, fill), [skin_folder])
    tallies = findings.tallies
    assert tallies["drawn"].figure("bare").value == 0
    assert tallies["drawn"].figure("iou").value == 1
    assert tallies["drawn"].figure("near").value == 1
    assert tallies["drawn"].figure("precision").value == 1
    for kind in ("holes", "face_holes"):
        assert tallies[kind].figure("psnr").value == LARGEST_PSNR
        assert tallies[kind].gain("psnr", BEST).value > 10
    # Nothing is found on the face as it is, so its lines stay.
    assert tallies["lines"].figure("left").value == 100
    assert tallies["lines"].figure("found").value == 0


def test_lines_that_are_filled_are_gone(skin_folder: Path) -> None:
    """Every pixel is taken for a wrinkle and skin is painted over."""
    clean = plain_skin()
    evaluation = wrinkles.WrinkleEvaluation(
        lambda image: np.ones(image.shape[:2], np.uint8), lambda image, mask: clean
    )
    findings = judge(evaluation, [skin_folder])
    tallies = findings.tallies
    assert tallies["lines"].figure("found").value == 100
    assert tallies["lines"].figure("left").value < 30
    assert [reached for _, _, reached in findings.goals()[-2:]] == [True, True]
    left = tallies["lines"]
    lost = left.figure("left", NOTHING).value - left.figure("left").value
    assert left.gain("left", NOTHING).value == pytest.approx(lost)
    drawn = tallies["drawn"].rows[0].figures["iou"][OURS]
    assert isinstance(drawn, tuple)
    assert drawn[1] == 512 * 512  # all was found
    assert tallies["drawn"].figure("bare").value == 100


def test_lines_are_no_clean_skin() -> None:
    square, landmarks = plain_skin(), drawn_landmarks()
    before = wrinkles.clean_skin(square, landmarks)
    lined = square.copy()
    cv2.line(lined, (160, 300), (215, 300), (120, 90, 75), 3)
    after = wrinkles.clean_skin(lined, landmarks)
    assert before[300, 190] == 1
    assert after[296:305, 180:200].max() == 0


def test_wrinkle_weights_are_told_apart(tmp_path: Path) -> None:
    save_file(CompactFiller().state_dict(), tmp_path / "one.safetensors")
    save_file(CompactSegmenter().state_dict(), tmp_path / "two.safetensors")
    files = [tmp_path / "two.safetensors", tmp_path / "one.safetensors"]
    found = wrinkles.load(files)
    assert found.weights["wrinkle_filler"].startswith("one.safetensors, sha256")
    assert found.weights["wrinkle_segmenter"].startswith("two.safetensors, sha256")
    square = plain_skin(64)
    assert found.find(square).shape == (64, 64)
    with pytest.raises(CheckpointError, match="no such weights"):
        wrinkles.load([tmp_path / "three.safetensors"])
