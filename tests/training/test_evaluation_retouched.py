"""Faces that are retouched: how `revisage evaluate` judges blemishes and live."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from revisage.training.data.aligned_faces import aligned_faces
from revisage.training.data.picture_tensors import pictures_tensor
from revisage.training.evaluation import (
    blemishes,
    live,
)
from revisage.training.evaluation.study import (
    NOTHING,
    OURS,
    Findings,
    judge,
)
from revisage.training.metrics.report import LARGEST_PSNR
from tests.training.drawn_face import plain_skin
from tests.training.judged import one_face

Image = npt.NDArray[np.uint8]


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
