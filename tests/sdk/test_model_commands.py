"""`revisage models` and `revisage doctor`."""

from __future__ import annotations

from pathlib import Path

import pytest

from revisage.bundle import shipped_names
from revisage.cli import main
from revisage.manifest import Tolerance
from tests.sdk.toy_bundle import scaling_model, write_toy_bundle


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation with two small models."""
    for name in ("first", "second"):
        write_toy_bundle(tmp_path / name, name=name)
    monkeypatch.setattr("revisage.bundle._SHIPPED", tmp_path)
    return tmp_path


def test_models_are_listed(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shipped_names() == ("first", "second")
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "first" in out
    assert "Apache-2.0" in out
    assert "2 models" in out


def test_verify_runs_every_model(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "verify"]) == 0
    assert capsys.readouterr().out.count("certified output on onnxruntime-cpu") == 2


def test_verify_names_the_model_that_lies(
    shipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = scaling_model(0.0).SerializeToString()
    write_toy_bundle(shipped / "second", model, name="second")
    assert main(["models", "verify"]) == 1
    out = capsys.readouterr().out
    assert "first: digests match" in out
    assert "second: FAILED" in out
    assert main(["models", "verify", str(shipped / "first")]) == 0
    assert main(["models", "verify", str(tmp_path / "nothing")]) == 1
    assert "no such bundle folder or archive, and none of" in capsys.readouterr().out


def test_commands_take_names_folders_and_archives(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert main(["models", "pack", "first", "-o", "first.zip"]) == 0
    for bundle in ("first", str(shipped / "first"), "first.zip"):
        assert main(["models", "verify", bundle]) == 0
    assert main(["bench-engine", "first.zip", "--engine", "onnxruntime-cpu", "--seconds", "0"]) == 0
    assert main(["export", "first.zip", "--triton", "served"]) == 0


def test_a_model_that_no_engine_here_runs_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tolerances = {"tensorrt": {"fp32": Tolerance(1e-3, 1e-4)}}
    folder = write_toy_bundle(tmp_path / "toy", tolerances=tolerances)
    assert main(["models", "verify", str(folder)]) == 1
    assert "none of its engines" in capsys.readouterr().out


def test_doctor_says_what_works(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    out = capsys.readouterr().out
    for word in (
        "Python",
        "numpy",
        "onnxruntime",
        "Kernels",
        "onnxruntime-cpu",
        "onnxruntime-cuda",
        "cuda",
        "cpu",
        "first",
        "second",
    ):
        assert word in out


@pytest.mark.parametrize(
    ("library", "said"),
    [(None, "networks run their portable graphs: this Revisage was built without"), ("x.so", "ok")],
)
def test_doctor_says_who_runs_our_operators(
    library: str | None,
    said: str,
    shipped: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("revisage.engines.onnxruntime.onnxruntime_library", lambda: library)
    main(["doctor"])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "in ONNX Runtime" in line)
    assert said in line


def test_doctor_fails_where_a_model_is_damaged(
    shipped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shipped / "first" / "model.onnx").write_bytes(b"")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "[FAIL] first" in out
    assert "problem(s) found" in out


def test_doctor_fails_where_no_model_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("revisage.bundle._SHIPPED", tmp_path / "none")
    assert main(["doctor"]) == 1
    assert "none came with this installation" in capsys.readouterr().out
    assert main(["models"]) == 1
