"""`revisage evaluate`: groups of people, reports, and the figures of holes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file

from revisage.cli import main
from revisage.training.data.aligned_faces import AlignedFace, aligned_faces
from revisage.training.evaluation import inpaint
from revisage.training.evaluation.people import age_group, skin_tone
from revisage.training.evaluation.report import Report, Sheet, Table, difference, interval, write
from revisage.training.models.coarse_to_fine import CoarseToFine
from tests.training.drawn_face import drawn_landmarks, plain_skin


def face(gain: float = 1.0, **extra: object) -> AlignedFace:
    image = np.clip(plain_skin() * gain, 0, 255).astype(np.uint8)
    return AlignedFace("a", "a", image, drawn_landmarks(), 300.0, dict(extra))


def test_skin_tone_follows_the_skin() -> None:
    found = [skin_tone(face(gain)) for gain in (0.3, 0.75, 1.2)]
    assert found[0] == "dark"
    assert found[2] == "light"
    assert found[1] not in {"dark", "light", "unknown"}
    assert skin_tone(face(gray=True)) == "unknown"


def test_age_is_what_the_data_set_states() -> None:
    assert [age_group(face(age=age)) for age in (29, 30, 45)] == [
        "under 30",
        "30 to 44",
        "45 and over",
    ]
    assert age_group(face()) == "unknown"


def test_interval_holds_the_mean() -> None:
    assert interval([2.0] * 9) == "+2.00 [+2.00, +2.00]"
    values = np.random.default_rng(0).normal(1, 1, 400)
    mean, low, high = (float(v.strip("[],")) for v in interval(values).split())
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)


def test_a_report_is_whole(tmp_path: Path) -> None:
    picture = np.full((8, 12, 3), (200, 10, 10), np.uint8)
    report = Report("A < B", "words", [Table("T", ("x", "y"), [("a", "1")], "note")])
    report.sheets.append(Sheet("red", "a red one", picture))
    write(report, tmp_path / "out")
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert "| x | y |\n| --- | --: |\n| a | 1 |" in markdown
    assert "![a red one](red.jpg)" in markdown
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h1>A &lt; B</h1>" in page
    assert "<td>1</td>" in page
    shown = cv2.imread(str(tmp_path / "out" / "red.jpg"))[:, :, ::-1]
    assert np.abs(shown.astype(int) - picture).max() < 12


def test_the_difference_is_four_times_as_strong() -> None:
    target = np.full((2, 2, 3), 100, np.uint8)
    assert (difference(target, target) == 128).all()
    assert (difference(target + np.uint8(5), target) == 148).all()
    assert (difference(target - np.uint8(50), target) == 0).all()


def test_holes_are_judged_alike(portraits_folder: Path) -> None:
    """Telea in the network's place gains nothing over Telea, and no fill sees what is hidden."""

    def fill(image: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        assert (image[mask > 0] == 0).all()
        return np.asarray(cv2.inpaint(image, mask, 3, cv2.INPAINT_TELEA), dtype=np.uint8)

    report, results = inpaint.evaluate(fill, [portraits_folder], seeds=2, limit=1)
    assert list(results) == ["centre", "rectangle", "free_form"]
    for kind, cases in results.items():
        assert len(cases) == 2
        for case in cases:
            assert case.gain("telea 3") == 0
            assert case.gain(inpaint.BEST) <= 0
            assert case.mask.shape[0] == inpaint.HOLES[kind][0]
    assert results["centre"][0].mask.sum() == 64 * 64
    assert not np.array_equal(results["free_form"][0].mask, results["free_form"][1].mask)
    assert len(report.tables) == 4
    assert len(report.sheets) == 6


def test_a_network_fills_other_sizes() -> None:
    image = cv2.resize(plain_skin(), (128, 128), interpolation=cv2.INTER_AREA)
    mask = np.zeros((128, 128), np.uint8)
    mask[40:90, 30:80] = 1

    def gray(picture: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
        assert picture.shape[-1] == hole.shape[-1] == inpaint.SIZE
        return torch.full_like(picture, 0.5)

    filled = inpaint.fill_with(gray)(image, mask)
    assert (filled[mask > 0] == 128).all()
    assert (filled[mask == 0] == image[mask == 0]).all()


def test_the_mean_face(portraits_folder: Path) -> None:
    faces = aligned_faces([portraits_folder], "train", 64)
    mean = inpaint.mean_face(faces)
    expected = np.mean([one.image for one in faces], axis=0)
    assert np.abs(mean - expected).max() <= 0.5


def test_the_command(
    portraits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "w.safetensors"
    save_file(CoarseToFine().state_dict(), weights)
    given = ["--portraits", str(portraits_folder), "--weights", str(weights)]
    out = ["-o", str(tmp_path / "report")]
    assert main(["evaluate", "inpaint", *given, *out, "--faces", "1"]) == 0
    assert "free_form" in capsys.readouterr().out
    assert (tmp_path / "report" / "free_form_worst.jpg").is_file()
    assert main(["evaluate", "hair", *given, *out]) == 2
    assert "inpaint" in capsys.readouterr().err
    assert main(["evaluate", "inpaint", *given, *out, "--seeds", "0"]) == 2
