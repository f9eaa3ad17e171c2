"""`revisage evaluate`: groups of people, reports, and the figures of every operation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from revisage.cli import main
from revisage.errors import CheckpointError, MediaError, RecipeError
from revisage.training.data.aligned_faces import AlignedFace, aligned_faces
from revisage.training.data.guided_pairs import pictures_tensor
from revisage.training.data.picture_tensors import signed_pictures
from revisage.training.data.ridges import skin_mask
from revisage.training.data.wrinkle_crops import drawing_area
from revisage.training.data.wrinkles import draw_wrinkles
from revisage.training.evaluation import (
    blemishes,
    inpaint,
    live,
    operations,
    restore,
    unmask,
    weights,
    wrinkles,
)
from revisage.training.evaluation.fills import TELEA, mean_face, mean_of_others
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
    NOTHING,
    OURS,
    Case,
    Evaluation,
    Findings,
    Goal,
    Kind,
    LeftOut,
    Measure,
    judge,
    unreadable,
)
from revisage.training.evaluation.weights import recipe_of
from revisage.training.metrics.landmarks import landmark_error
from revisage.training.metrics.report import LARGEST_PSNR
from revisage.training.models.coarse_to_fine import CoarseToFine
from revisage.training.models.gfrnet import GFRNet
from revisage.training.models.wrinkle_filler import CompactFiller
from revisage.training.models.wrinkle_segmenter import CompactSegmenter
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


# -- operations -----------------------------------------------------------------------------------


def one_face(findings: Findings, kind: str) -> dict[str, dict[str, float]]:
    row = findings.tallies[kind].rows[0]
    return {key: dict(ways) for key, ways in row.figures.items()}  # type: ignore[arg-type]


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
        assert tally.gain("psnr", inpaint.BEST).value <= 0
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


def test_a_copy_of_the_degraded_face_is_bicubic(portraits_folder: Path) -> None:
    evaluation = restore.RestoreEvaluation(lambda degraded, guide: degraded, size=64)
    findings = judge(evaluation, [portraits_folder])
    for kind in ("4x", "8x"):
        psnr = one_face(findings, kind)["psnr"]
        assert psnr[OURS] == psnr[restore.BICUBIC] == psnr[restore.NO_GUIDE]
        assert findings.tallies[kind].gain("psnr", restore.BICUBIC).value == 0
        assert psnr[OURS] < 40
    by_scale = [findings.tallies[kind].figure("psnr").value for kind in ("4x", "8x")]
    assert by_scale[0] > by_scale[1]


def test_what_the_guide_is_worth(portraits_folder: Path) -> None:
    """A network that copies its guide is judged by the guide it is given."""
    evaluation = restore.RestoreEvaluation(lambda degraded, guide: guide, size=64)
    findings = judge(evaluation, [portraits_folder])
    psnr = one_face(findings, "4x")["psnr"]
    assert psnr[restore.NO_GUIDE] == psnr[restore.BICUBIC] != psnr[OURS]
    assert findings.tallies["4x"].rows[0].groups[-1] == restore.REAL
    sharp = {
        face.id: signed_pictures([face.image])
        for face in aligned_faces([portraits_folder], "val", 64)
    }
    perfect = restore.RestoreEvaluation(lambda d, g: (sharp["d004"] + 1) / 2, size=64)
    found = judge(perfect, [portraits_folder], limit=1)
    assert found.tallies["8x"].figure("psnr").value == LARGEST_PSNR
    assert found.goals()[0][2]


def _stay(image: Image, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return points


def test_a_mask_left_on_is_doing_nothing(portraits_folder: Path) -> None:
    evaluation = unmask.UnmaskEvaluation(lambda picture: picture, _stay, size=64)
    findings = judge(evaluation, [portraits_folder])
    tally = findings.tallies["worn_mask"]
    for measure in ("psnr", "l1"):
        figures = one_face(findings, "worn_mask")[measure]
        assert figures[OURS] == pytest.approx(figures[NOTHING], abs=1e-9)
        assert tally.gain(measure, NOTHING).value == pytest.approx(0, abs=1e-9)
        assert tally.gain(measure, unmask.MEAN).value < 0
    assert tally.figure("landmarks").value == 0


def test_a_perfect_unmasking(portraits_folder: Path) -> None:
    bare = aligned_faces([portraits_folder], "val", 64)[0]
    moved = bare.landmarks + np.array([3.0, 4.0])  # 5 px everywhere
    evaluation = unmask.UnmaskEvaluation(
        lambda picture: signed_pictures([bare.image]), lambda image, points: moved, size=64
    )
    findings = judge(evaluation, [portraits_folder], limit=1)
    figures = one_face(findings, "worn_mask")
    assert figures["psnr"][OURS] == LARGEST_PSNR
    assert figures["l1"][OURS] == 0
    eyes = np.linalg.norm(bare.landmarks[45] - bare.landmarks[36])
    assert figures["landmarks"][OURS] == pytest.approx(500 / eyes)


def test_who_wears_a_mask_is_left_out(portraits_folder: Path) -> None:
    faces = aligned_faces([portraits_folder], "val", 64)
    masked = AlignedFace("m", "m", faces[0].image, faces[0].landmarks, 300.0, {"face_mask": True})
    evaluation = unmask.UnmaskEvaluation(lambda picture: picture, _stay, size=64)
    found = evaluation.case("worn_mask", [masked], 0, np.random.default_rng(0))
    assert isinstance(found, LeftOut)


def test_landmarks_of_a_drawn_face_are_found(portraits_folder: Path) -> None:
    file = Path(__file__).parents[2] / "training" / "weights" / "face_landmarks.safetensors"
    one = aligned_faces([portraits_folder], "val", 256)[0]
    found = LandmarkFinder(file)(one.image, one.landmarks)
    assert landmark_error(found, one.landmarks) < 0.25


def blemish_figures(
    retouch: blemishes.Retouch, folder: Path
) -> tuple[Findings, dict[str, dict[str, float]]]:
    findings = judge(blemishes.BlemishEvaluation(retouch, 128), [folder], limit=1)
    return findings, one_face(findings, "blemished")


def test_a_blemished_face_left_alone_is_doing_nothing(portraits_folder: Path) -> None:
    findings, figures = blemish_figures(lambda picture: picture, portraits_folder)
    assert figures["psnr"][OURS] == figures["psnr"][NOTHING] < LARGEST_PSNR
    assert figures["skin"][OURS] == figures["features"][OURS] == 0
    assert [reached for _, _, reached in findings.goals()] == [False, False, False, True, True]
    ways = [way for filters in blemishes.FILTERS.values() for way in filters]
    assert all(figures["skin"][way] > 0 for way in ways)
    assert findings.tallies["blemished"].ways()[-2:] == [blemishes.BILATERAL, blemishes.GUIDED]


def test_blemishes_cleared_by_the_truth(portraits_folder: Path) -> None:
    clean = aligned_faces([portraits_folder], "val", 128)[0].image
    findings, figures = blemish_figures(lambda p: pictures_tensor([clean]), portraits_folder)
    assert figures["psnr"][OURS] == LARGEST_PSNR
    assert figures["skin"][OURS] == figures["features"][OURS] == 0
    assert all(reached for _, _, reached in findings.goals())


def test_what_else_was_touched(portraits_folder: Path) -> None:
    findings, figures = blemish_figures(lambda p: p + 2 / 255, portraits_folder)
    assert figures["skin"][OURS] == pytest.approx(2)
    assert figures["features"][OURS] == pytest.approx(2, abs=0.1)  # white is cut off
    assert not findings.goals()[3][2]


def test_the_guided_filter_keeps_steps_and_smooths_grain() -> None:
    picture = np.full((40, 40, 3), 60, np.uint8)
    picture[:, 20:] = 200
    assert np.abs(blemishes.guided_filter(picture, 4, 5.0).astype(int) - picture).max() <= 1
    grain = plain_skin(64)
    assert (
        blemishes.guided_filter(grain, 4, 20.0).std(axis=(0, 1)).max()
        < 0.5 * grain.std(axis=(0, 1)).max()
    )


class _Live:
    """A live network that is told what to answer."""

    def __init__(self, change: float = 0.0) -> None:
        self.change = change

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        delta = torch.zeros_like(image)
        delta[1::2] = self.change  # every other frame
        return delta, torch.ones_like(image[:, :1])


def test_live_against_teachers(portraits_folder: Path) -> None:
    def lazy(*given: Tensor) -> tuple[Tensor, Tensor]:
        return given[0], torch.zeros_like(given[2])

    still = live.LiveEvaluation(_Live(), lazy, 128, 64)
    findings = judge(still, [portraits_folder], limit=1)
    figures = one_face(findings, "retouch")
    assert figures["psnr"] == {OURS: LARGEST_PSNR, NOTHING: LARGEST_PSNR}
    assert figures["flicker"] == {OURS: 0, live.TEACHERS: 0, NOTHING: 0}
    assert all(reached for _, _, reached in findings.goals())

    flickering = live.LiveEvaluation(_Live(0.02), lazy, 128, 64)
    findings = judge(flickering, [portraits_folder], limit=1)
    figures = one_face(findings, "retouch")
    assert figures["psnr"][OURS] == LARGEST_PSNR  # of the first frame
    assert figures["flicker"][OURS] == pytest.approx(255 * 0.02, rel=0.2)
    assert [reached for _, _, reached in findings.goals()] == [True, False]


def test_live_that_does_nothing_has_the_figure_of_the_input(portraits_folder: Path) -> None:
    def truth(*given: Tensor) -> tuple[Tensor, Tensor]:
        return given[1], given[2]

    findings = judge(live.LiveEvaluation(_Live(), truth, 128, 64), [portraits_folder])
    tally = findings.tallies["retouch"]
    assert tally.gain("psnr", NOTHING).value == 0
    assert tally.figure("psnr").value < 50


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
        assert tallies[kind].gain("psnr", wrinkles.BEST).value > 10
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


def test_a_checkpoint_of_a_run_is_judged_by_its_recipe(
    portraits_folder: Path, tmp_path: Path
) -> None:
    network = GFRNet("full", warpnet="paper", warp_ngf=4, rec_ngf=4, levels=5)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "recipe.toml").write_text(
        '[run]\ntask = "restore"\n[model]\nwarpnet = "paper"\nwarp_ngf = 4\nrec_ngf = 4\n'
        'levels = 5\n[data]\nportraits = ["somewhere"]\nsize = 32\n'
    )
    found = restore.load([tmp_path / "weights.safetensors"])
    assert found.kinds["4x"].size == 32
    twice = restore.load([tmp_path / "weights.safetensors"] * 2)
    findings = judge(twice, [portraits_folder])
    assert np.isfinite(findings.tallies["4x"].figure("psnr").value)
    assert findings.tallies["4x"].gain("psnr", "network 2, variant full").value == 0
    assert len(findings.goals()) == 12  # three rivals, two scales, all guides and real ones
    with pytest.raises(CheckpointError, match="this GFRNet"):
        restore.load([tmp_path / "weights.safetensors"], "gfrnet")
    with pytest.raises(CheckpointError, match="no such weights"):
        restore.load([tmp_path / "absent.safetensors"], "gfrnet")


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
