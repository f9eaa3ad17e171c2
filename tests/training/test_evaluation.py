"""`revisage evaluate`: groups of people, reports, what all operations share."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from safetensors.torch import save_file

from revisage.cli import main
from revisage.errors import CheckpointError, MediaError, RecipeError
from revisage.training.data.aligned_faces import AlignedFace, aligned_faces
from revisage.training.evaluation import (
    operations,
    restore,
    weights,
)
from revisage.training.evaluation.fills import mean_face, mean_of_others
from revisage.training.evaluation.landmarks import LandmarkFinder
from revisage.training.evaluation.operations import report_of
from revisage.training.evaluation.people import age_group, skin_tone
from revisage.training.evaluation.report import (
    Report,
    Section,
    Sheet,
    Table,
    difference,
    markdown,
    write,
)
from revisage.training.evaluation.study import (
    OURS,
    Case,
    Evaluation,
    Goal,
    Kind,
    LeftOut,
    Measure,
    judge,
    unreadable,
)
from revisage.training.evaluation.weights import recipe_of
from revisage.training.models.coarse_to_fine import CoarseToFine
from revisage.training.recipe import read_recipe, recipe_path
from tests.training.drawn_face import drawn_landmarks, plain_skin

Image = npt.NDArray[np.uint8]


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


# -- the report -----------------------------------------------------------------------------------


def test_a_report_is_whole(tmp_path: Path) -> None:
    picture = np.full((8, 12, 3), (200, 10, 10), np.uint8)
    section = Section("part", "words", [Table("T", ("x", "y"), [("a", "1")], "note")], ["mind <"])
    section.sheets.append(Sheet("red", "a red one", picture))
    write(Report("A < B", [section], {"value": 1}), tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| x | y |\n| --- | --: |\n| a | 1 |" in text
    assert "- mind <" in text
    assert "![a red one](red.jpg)" in text
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h1>A &lt; B</h1>" in page
    assert "<td>1</td>" in page
    assert "<li>mind &lt;</li>" in page
    assert json.loads((tmp_path / "out" / "figures.json").read_text()) == {"value": 1}
    shown = cv2.imread(str(tmp_path / "out" / "red.jpg"))[:, :, ::-1]
    assert np.abs(shown.astype(int) - picture).max() < 12


def test_the_difference_is_four_times_as_strong() -> None:
    target = np.full((2, 2, 3), 100, np.uint8)
    assert (difference(target, target) == 128).all()
    assert (difference(target + np.uint8(5), target) == 148).all()
    assert (difference(target - np.uint8(50), target) == 0).all()


# -- what all evaluations have in common ----------------------------------------------------------


class Numbered:
    """An evaluation whose figures are known: face n has n, its rivals 1 and 2 less."""

    name, text, weights = "numbered", "words", {"network": "file"}
    goals = (
        Goal("one", "score", 1.0, over="near"),
        Goal("one", "score", 1.5, over="near"),
        Goal("one", "score", 2.0, over="found"),
        Goal("one", "share", 0.6),
        Goal("one", "share", 0.4),
        Goal("one", "score", 0.0, group="tag: x"),
        Goal("one", "score", 0.0, group="tag: nobody"),
    )
    kinds: ClassVar = {
        "one": Kind(
            "Numbers",
            32,
            (Measure("score", "score"), Measure("share", "share", better="lower")),
            "a picture",
            over="near",
            best_of={"found": ("far", "further")},
        )
    }

    def prepare(self, kind: str, folders: object, faces: object) -> list[str]:
        return ["prepared"]

    def case(
        self, kind: str, faces: list[AlignedFace], index: int, rng: np.random.Generator
    ) -> Case | LeftOut:
        image = faces[index].image
        if index == 2:
            return LeftOut("unlucky")
        value = float(index)
        score = {OURS: value, "near": value - 1, "far": value - 2, "further": value - 3}
        return Case(
            {"score": score, "share": {OURS: (1.0, 2.0 + 2 * (index == 1))}}, (image,), ("tag: x",)
        )


def test_figures_gains_and_goals(portraits_folder: Path) -> None:
    findings = judge(Numbered(), [portraits_folder], split="train", seeds=2)
    tally = findings.tallies["one"]
    assert len(tally.rows) == 6
    assert tally.left_out == {"unlucky": 2}
    assert tally.figure("score").value == pytest.approx((0 + 1 + 3) / 3)
    assert tally.figure("share").value == pytest.approx(3 / (2 + 4 + 2))
    gain = tally.gain("score", "near")
    assert (gain.value, gain.low, gain.high, gain.faces) == (1, 1, 1, 3)
    assert tally.chosen("found") == "far"
    assert tally.ways() == [OURS, "near", "found"]
    assert [reached for _, _, reached in findings.goals()] == [True, False, True, True, True, True]
    assert "tag: x" in tally.groups()
    report = report_of([findings], {"other": "no weights"})
    text = markdown(report)
    assert "Left out, unlucky: 2." in text
    assert "other was left out: no weights" in text
    assert "found: far" in text
    assert text.count("| NO |") == 1
    figures = report.figures["operations"]["numbered"]["kinds"]["one"]
    assert figures["groups"]["tag: x"]["score"]["faces"] == 3
    assert figures["measures"]["score"]["found"]["gain"]["value"] == 2
    assert figures["chosen"] == {"found": "far"}


def test_intervals_are_of_faces(portraits_folder: Path) -> None:
    once = judge(Numbered(), [portraits_folder], split="train").tallies["one"].figure("score")
    again = judge(Numbered(), [portraits_folder], split="train", seeds=5).tallies["one"]
    assert once == again.figure("score")  # the same faces again make nothing surer
    assert once.low < once.value < once.high


def test_the_worst_come_first(portraits_folder: Path) -> None:
    class Worst(Numbered):
        kinds: ClassVar = {"one": Kind("Numbers", 32, (Measure("score", "score"),), "a picture")}
        goals = ()

        def case(
            self, kind: str, faces: list[AlignedFace], index: int, rng: np.random.Generator
        ) -> Case:
            value = float(rng.integers(100))
            return Case({"score": {OURS: value}}, (np.full((4, 4, 3), value, np.uint8),))

    tally = judge(Worst(), [portraits_folder], split=None, seeds=4).tallies["one"]
    scores = sorted(float(row.figures["score"][OURS]) for row in tally.rows)  # type: ignore[arg-type]
    assert [float(pictures[0][0, 0, 0]) for pictures in tally.worst()] == scores[:8]
    assert len(tally.sample()) == 6


def _damaged(portraits_folder: Path, folder: Path, names: list[str]) -> Path:
    shutil.copytree(portraits_folder, folder)
    for name in names:
        (folder / name).write_bytes(b"no picture")
    return folder


def test_a_broken_picture_is_named_and_the_others_count(
    portraits_folder: Path, tmp_path: Path
) -> None:
    folder = _damaged(portraits_folder, tmp_path / "faces", ["d001.png"])
    lines: list[str] = []
    findings = judge(Numbered(), [folder], split="train", say=lines.append)
    assert list(findings.skipped) == ["d001"]
    assert "d001.png: not a readable picture" in findings.skipped["d001"]
    assert len(findings.tallies["one"].rows) == 2
    assert any("d001" in line for line in lines)
    assert "1 pictures could not be judged and were skipped: d001" in markdown(
        report_of([findings], {})
    )
    mean, remarks = mean_of_others([str(folder)], 32, [])
    assert mean.shape == (32, 32, 3)
    assert "1 pictures not in the mean face" in remarks[0]


def test_half_a_picture_is_broken_too(portraits_folder: Path, tmp_path: Path) -> None:
    folder = _damaged(portraits_folder, tmp_path / "faces", [])
    whole = cv2.imread(str(folder / "d000.png"))
    _, content = cv2.imencode(".jpg", whole)
    half = content.tobytes()[: len(content) // 2]
    (folder / "d000.png").write_bytes(half)  # decoders look at what a file holds, not at its name
    assert cv2.imread(str(folder / "d000.png")) is not None
    findings = judge(Numbered(), [folder], split="train")
    assert "truncated" in findings.skipped["d000"]
    assert list(unreadable([str(folder)], None)) == ["d000"]


def test_a_folder_of_broken_pictures_is_an_error(portraits_folder: Path, tmp_path: Path) -> None:
    folder = _damaged(portraits_folder, tmp_path / "faces", ["d004.png", "d005.png"])
    with pytest.raises(MediaError, match=r"none of 2 pictures.*d004\.png"):
        judge(Numbered(), [folder])


def test_the_mean_face(portraits_folder: Path) -> None:
    faces = aligned_faces([portraits_folder], "train", 64)
    mean, broken = mean_face(faces)
    expected = np.mean([one.image for one in faces], axis=0)
    assert np.abs(mean - expected).max() <= 0.5
    assert broken == []


def test_the_recipe_of_a_run_lies_beside_its_weights(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    shipped_width = read_recipe(recipe_path("unmask"))["model"]["width"]
    assert recipe_of(file, "unmask")["model"]["width"] == shipped_width
    (tmp_path / "recipe.toml").write_text('[run]\ntask = "unmask"\n[model]\nwidth = 8\n')
    assert recipe_of(file, "unmask")["model"]["width"] == 8
    assert recipe_of(file, "unmask", "unmask_paper")["model"]["width"] == 64
    with pytest.raises(RecipeError, match="'unmask', where one of 'restore' is judged"):
        recipe_of(file, "gfrnet")


# -- the command ----------------------------------------------------------------------------------


def test_the_command(
    portraits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "w.safetensors"
    save_file(CoarseToFine().state_dict(), file)
    given = ["--portraits", str(portraits_folder), "--weights", str(file)]
    out = ["-o", str(tmp_path / "report")]
    assert main(["evaluate", "inpaint", *given, *out, "--faces", "1"]) == 0
    assert "free_form" in capsys.readouterr().out
    assert (tmp_path / "report" / "inpaint_free_form_worst.jpg").is_file()
    figures = json.loads((tmp_path / "report" / "figures.json").read_text())
    assert set(figures["operations"]["inpaint"]["kinds"]) == {"centre", "rectangle", "free_form"}
    assert main(["evaluate", "inpaint", *given, *out, "--faces", "1", "--split", "all"]) == 0
    assert "all faces" in capsys.readouterr().out
    assert main(["evaluate", "hair", *given, *out]) == 2
    assert "inpaint" in capsys.readouterr().err
    assert main(["evaluate", "inpaint", *given, *out, "--seeds", "0"]) == 2
    assert main(["evaluate", *given, *out]) == 2
    assert "--weights and --recipe need an operation" in capsys.readouterr().err


def test_operations_without_weights_are_named(
    portraits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {"gfrnet": tmp_path / "gfrnet.safetensors"}
    there["gfrnet"].touch()
    monkeypatch.setattr(operations, "shipped", lambda name: there.get(name, tmp_path / name))

    def load(files: object, recipe: str) -> Evaluation:
        return restore.RestoreEvaluation(lambda degraded, guide: degraded, size=32)

    monkeypatch.setattr(restore, "load", load)
    report = operations.evaluate([portraits_folder], limit=1)
    assert list(report.figures["operations"]) == ["restore"]
    assert "unmask" in report.figures["left_out"]
    assert "inpaint was left out: no weights at" in markdown(report)
    monkeypatch.setattr(weights, "shipped", lambda name: tmp_path / name)
    with pytest.raises(CheckpointError, match=r"face_landmarks: no such weights.*source checkout"):
        LandmarkFinder()
    there.clear()
    with pytest.raises(CheckpointError, match="no trained weights here"):
        operations.evaluate([portraits_folder])
