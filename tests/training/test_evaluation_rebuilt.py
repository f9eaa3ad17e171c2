"""Faces that are rebuilt: how `revisage evaluate` judges restore and unmask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.torch import save_file

from revisage.errors import CheckpointError
from revisage.training.data.aligned_faces import AlignedFace, aligned_faces
from revisage.training.data.picture_tensors import signed_pictures
from revisage.training.evaluation import (
    restore,
    unmask,
)
from revisage.training.evaluation.fills import MEAN
from revisage.training.evaluation.landmarks import LandmarkFinder
from revisage.training.evaluation.study import (
    NOTHING,
    OURS,
    LeftOut,
    judge,
)
from revisage.training.metrics.landmarks import landmark_error
from revisage.training.metrics.report import LARGEST_PSNR
from revisage.training.models.gfrnet import GFRNet
from tests.training.judged import one_face

Image = npt.NDArray[np.uint8]


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
        assert tally.gain(measure, MEAN).value < 0
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
