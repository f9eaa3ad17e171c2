"""`revisage bench-engine`: every engine of a bundle timed, or why it did not run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from revisage.bundle import Bundle
from revisage.bundle_archive import pack
from revisage.cli import main
from revisage.engine_benchmark import Job, Timing, time_engine
from revisage.manifest import Tolerance
from tests.sdk.toy_bundle import scaling_model, write_toy_bundle

LIMIT = {"fp32": Tolerance(1e-3, 1e-4)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One engine that runs everywhere, and one that runs nowhere that CUDA is not."""
    tolerances = {"onnxruntime-cpu": LIMIT, "onnxruntime-cuda": LIMIT}
    return write_toy_bundle(tmp_path / "toy", tolerances=tolerances)


def test_json_says_everything(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["bench-engine", str(folder), "--json", "--size", "64x96", "--batch", "2",
              "--threads", "1", "--seconds", "0.1"])
        == 0
    )  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "toy"
    assert found["inputs"] == {"image": [2, 3, 64, 96]}
    cpu, cuda = found["engines"]
    assert cpu["engine"] == "onnxruntime-cpu"
    assert 0 < cpu["p50_ms"] <= cpu["p95_ms"] <= cpu["p99_ms"]
    assert cpu["calls"] >= 5
    assert 0 < cpu["load"] < cpu["cold_start"]
    assert 0 < cpu["build"] < cpu["cold_start"]
    assert cpu["peak_memory"] > 10e6
    assert cpu["gpu_memory"] is None
    assert cuda["engine"] == "onnxruntime-cuda"
    assert "error" in cuda or cuda["gpu_memory"] >= 0


def test_the_table(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = pack(Bundle.open(folder), tmp_path / "toy.zip")
    command = ["bench-engine", str(archive), "--engine", "onnxruntime-cpu", "--seconds", "0.05"]
    assert main(command) == 0
    title, head, row = capsys.readouterr().out.splitlines()
    assert title == "toy, image 1x3x64x64"
    assert head.split()[0] == "engine"
    assert row.startswith("onnxruntime-cpu fp32")
    assert len(row) == len(head)


def test_what_cannot_be_measured_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, message in (
        (["--size", "65"], "no multiple of 8"),
        (["--size", "big"], "512 or 768x512"),
        (["--batch", "0"], "empty"),
        (["--threads", "0"], "give 1 or more"),
        (["--seconds", "-1"], "not within 0 and 3600"),
        (["--seconds", "nan"], "not within 0 and 3600"),
        (["--precision", "int8"], "it is for onnxruntime-cpu fp32, onnxruntime-cuda fp32"),
    ):
        assert main(["bench-engine", str(folder), *options]) == 2
        assert message in capsys.readouterr().err
    assert main(["bench-engine", "face_landmarks", "--size", "64"]) == 2
    assert "fixed size" in capsys.readouterr().err


def test_an_engine_that_does_not_run_is_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_toy_bundle(tmp_path / "toy", scaling_model(0.0).SerializeToString())
    assert main(["bench-engine", str(folder), "--engine", "onnxruntime-cpu"]) == 1
    assert "did not run: toy on onnxruntime-cpu" in capsys.readouterr().out


def test_the_memory_is_that_of_the_engine_and_not_of_who_asks(folder: Path) -> None:
    megabytes = 600
    held = b"x" * (megabytes << 20)
    timing = time_engine(Job(str(folder), "onnxruntime-cpu", seconds=0.01))
    assert isinstance(timing, Timing)
    assert timing.peak_memory is not None
    assert 10e6 < timing.peak_memory < len(held)


def test_a_crash_ends_a_row_and_nothing_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crashed = subprocess.CompletedProcess([], -11, stdout="", stderr="Fatal Python error\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: crashed)
    said = time_engine(Job(str(folder), "onnxruntime-cpu"))
    assert said == "its process ended with -11: Fatal Python error"
