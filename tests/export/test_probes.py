"""Which probes the export chooses: those that tell the network from anything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from revisage.bundle import shipped_bundle
from revisage.engines import open_engine
from revisage.engines.probe import contrast, probe_array
from revisage.errors import ParityError
from revisage.export.probes import FACES, LEAST, WANTED, make_probes
from revisage.manifest import Probe, ProbeInput, TensorSpec, Tolerance

IMAGE = TensorSpec("image", "float32", ("N", 3, "H", "W"), "NCHW", "RGB", (0.0, 1.0))
OUT = TensorSpec("out", "float32", ("N", 3, "H", "W"), "NCHW")
TOLERANCES = {"onnxruntime-cpu": {"fp32": Tolerance(1e-4, 1e-5), "int8": Tolerance(0.05, 0.01)}}


class Function(torch.nn.Module):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, image: Any) -> Any:
        return self.function(image)


def probes_of(function: Callable[[Any], Any], multiple_of: int = 8) -> tuple[Probe, Probe]:
    return make_probes(Function(function), (IMAGE,), (OUT,), multiple_of, TOLERANCES)


def test_one_sample_and_two_that_differ_in_every_way() -> None:
    one, two = probes_of(lambda image: image, multiple_of=24)
    assert one.inputs["image"].shape == (1, 3, 72, 96)
    assert two.inputs["image"].shape == (2, 3, 96, 72)
    assert one.inputs["image"].kind == two.inputs["image"].kind == "picture"
    assert one.outputs["out"].shape == (1, 3, 72, 96)
    half = len(two.outputs["out"].values) // 2
    assert two.outputs["out"].values[:half] != two.outputs["out"].values[half:]


def test_an_input_that_leaves_the_network_cold_is_not_taken() -> None:
    def edges(image: Any) -> Any:
        """Answers where neighbours differ by half the range: never in a smooth picture."""
        step = torch.diff(image, dim=3, append=image[..., -1:]).abs()
        return (step > 0.5).float()

    for probe in probes_of(edges):
        assert probe.inputs["image"].kind != "picture"
        # One of a few edges in thousands of values, and the certificate states one.
        assert contrast(probe.outputs["out"], Tolerance(0.05, 1)) == 20.0 >= WANTED


def test_where_no_probe_tells_anything_the_export_is_refused() -> None:
    with pytest.raises(ParityError, match=r"'out' stays within .* times the widest tolerance"):
        probes_of(lambda image: image * 0.05 * LEAST * 0.9)
    with pytest.raises(ParityError, match="not finite"):
        probes_of(lambda image: image * float("nan"))


def test_a_probe_of_faces_shows_what_the_landmark_network_takes_for_one() -> None:
    spec = TensorSpec("image", "float32", ("N", 3, 128, 128), "NCHW", "RGB", (0.0, 1.0))
    faces = probe_array(ProbeInput("face", 7, (2, 3, 128, 128)), spec)
    assert (faces * 2**14 == np.round(faces * 2**14)).all()  # exact on every machine
    assert not np.array_equal(faces[0], faces[1])
    with open_engine(shipped_bundle("face_landmarks"), "cpu", threads=1) as engine:
        assert engine.infer({"image": faces})["score"].min() > 5
    probes = make_probes(Function(lambda x: x), (spec,), (spec,), 1, TOLERANCES, FACES)
    assert {probe.inputs["image"].kind for probe in probes} == {"face"}
