"""The shipped face bundles are small, are what the kept weights say, and hold what is needed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from revisage.bundle import MODEL, shipped_bundle
from revisage.engines import open_engine
from revisage.errors import CheckpointError
from revisage.export.faces import face_finder
from revisage.training.models.face_finder import FaceFinder
from revisage.training.models.face_landmarks import FaceLandmarks

NAMES = ("face_finder", "face_landmarks")


def kept_weights(name: str) -> Path:
    """The weights of the source tree: a wheel ships bundles, not weights."""
    return Path(__file__).parents[2] / "training" / "weights" / f"{name}.safetensors"


def test_all_face_models_together_are_under_4_mb() -> None:
    assert sum((shipped_bundle(n).path / MODEL).stat().st_size for n in NAMES) < 4_000_000
    assert sum(kept_weights(n).stat().st_size for n in NAMES) < 4_000_000


@pytest.mark.parametrize("name", NAMES)
def test_the_bundle_comes_from_the_kept_weights(name: str) -> None:
    digest = hashlib.sha256(kept_weights(name).read_bytes()).hexdigest()
    assert shipped_bundle(name).manifest.weights_digest == digest


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_computes_what_the_weights_compute(name: str) -> None:
    network = (FaceFinder if name == "face_finder" else FaceLandmarks)().eval()
    network.load_state_dict(load_file(kept_weights(name)))
    size = (64, 96) if name == "face_finder" else (128, 128)
    image = np.random.default_rng(4).random((2, 3, *size), dtype=np.float32)
    with torch.no_grad():
        truth = network(torch.from_numpy(image))
    truths = truth if isinstance(truth, tuple) else (truth,)
    with open_engine(shipped_bundle(name), "cpu", threads=1) as engine:
        found = engine.infer({"image": image})
    for spec, expected in zip(shipped_bundle(name).manifest.outputs, truths, strict=True):
        assert np.abs(found[spec.name] - expected.numpy()).max() < 2e-3


def test_wrong_weights_are_refused(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"not the weights of this network: .*FaceFinder"):
        face_finder(kept_weights("face_landmarks"), tmp_path)
    assert list(tmp_path.iterdir()) == []
