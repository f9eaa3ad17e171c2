"""`revisage build` and `revisage cache`: engines built ahead on a machine without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from revisage.bundle import Bundle
from revisage.cli import main
from revisage.engines import building
from revisage.engines.building import cached_engine
from revisage.engines.cache import EngineCache, watched
from revisage.engines.cards import CARDS, compute_capability_of
from revisage.engines.driver import gpu_obstacle
from revisage.engines.tensorrt import BuiltEngine, supported_capabilities
from revisage.errors import EngineError, OptionError
from tests.sdk.toy_bundle import write_toy_bundle
from tests.support import needs_tensorrt_rtx


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    needs_tensorrt_rtx()
    monkeypatch.setenv("REVISAGE_CACHE", str(tmp_path / "engines"))
    return str(write_toy_bundle(tmp_path / "toy"))


def test_built_for_two_cards_and_found_by_each(
    toy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cards = ["--for", "rtx-4090", "--for", "NVIDIA GeForce RTX 4070 Ti SUPER"]
    assert main(["build", toy, *cards]) == 0
    assert main(["build", toy, "--for", "8.6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("toy fp32 for 8.9 (rtx-4090, NVIDIA GeForce RTX 4070 Ti SUPER): ")
    assert "layers, " in lines[0]
    assert lines[1].startswith("1 of 1 engines are in ")
    assert "built before" not in lines[2]

    def never(*_: object) -> None:
        raise AssertionError("built again")

    bundle = Bundle.open(toy)
    for capability in ("8.6", "8.9"):
        # What a session on that card asks for, whatever its driver.
        with watched(never):
            found = cached_engine(bundle, engine="tensorrt-rtx", compute_capability=capability)
        assert found.report is None
        assert found.path.exists()
    assert main(["build", toy, "--for", "8.9"]) == 0
    assert "built before" in capsys.readouterr().out

    assert main(["cache"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in listed[1:3]] == [["toy", "tensorrt-rtx"]] * 2
    assert listed[3].startswith("2 files, ")
    assert main(["cache", "clear"]) == 0
    assert EngineCache().entries() == []


def test_a_folder_to_copy(toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "to ship"
    assert main(["build", toy, "--for", "12.0", "-o", str(out), "--batch", "1,2,2"]) == 0
    (entry,) = EngineCache(out).entries()
    assert entry.key is not None
    assert entry.key.compute_capability == "12.0"
    assert entry.path.stat().st_mode & 0o777 == 0o644  # others may run it, and nobody else writes
    assert "2x3x64x64" in entry.key.shapes
    assert EngineCache().entries() == []
    capsys.readouterr()
    assert main(["cache", "list", str(out)]) == 0
    assert "toy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--for", "rtx-9999"], "no card 'rtx-9999' is known"),
        (["--for", "h100"], "--for h100: tensorrt-rtx builds here for"),
        (["--for", "8.9", "--precision", "fp16"], "has no graph at fp16"),
        (["--for", "8.9", "--precision", "fp8"], "fp8 is not one of fp32, fp16, bf16, int8"),
        (["--for", "8.9", "--batch", "4,1,8"], "three growing whole numbers"),
        (["--for", "8.9", "--batch", "many"], "three growing whole numbers"),
        (["--for", "8.9", "--engine", "openvino"], "not one of tensorrt, tensorrt-rtx"),
    ],
)
def test_what_cannot_be_built(
    toy: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["build", toy, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_engines_that_cannot_be_kept_are_a_failure(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    command = ["build", toy, "--for", "8.9"]
    assert main([*command, "-o", str(file)]) == 2
    assert "file: cannot be made (File exists)" in capsys.readouterr().err
    monkeypatch.setenv("REVISAGE_CACHE", str(file / "engines"))
    assert main(command) == 2
    captured = capsys.readouterr()
    assert "could not be kept there" in captured.err
    assert captured.out.startswith("0 of 1 engines are in ")
    assert main(["cache", "list", str(file)]) == 2


def test_without_a_gpu_a_card_must_be_named(toy: str, capsys: pytest.CaptureFixture[str]) -> None:
    if not gpu_obstacle():
        pytest.skip("this machine has a GPU")
    assert main(["build", toy]) == 2
    assert "--for rtx-4090" in capsys.readouterr().err


def test_one_failure_does_not_stop_the_others(
    toy: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build_in_child = building.build_in_child

    def fail_for_ampere(model: bytes, **options: object) -> BuiltEngine:
        if options["compute_capabilities"] == ["8.6"]:
            raise EngineError("no tactic for the node Mul")
        return build_in_child(model, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(building, "build_in_child", fail_for_ampere)
    assert main(["build", toy, "--for", "8.6", "--for", "8.9"]) == 2
    captured = capsys.readouterr()
    assert "toy fp32 for 8.6: no tactic for the node Mul" in captured.err
    assert "1 of 2 engines" in captured.out
    assert len(EngineCache().entries()) == 1


# --- cards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "capability"),
    [
        ("rtx-4090", "8.9"),
        ("RTX 3080 Ti", "8.6"),
        ("NVIDIA GeForce RTX 5070 Ti Laptop GPU", "12.0"),
        ("nvidia_rtx_6000_ada", "8.9"),
        ("a100", "8.0"),
        ("10.3", "10.3"),
    ],
)
def test_capability_of_a_card(card: str, capability: str) -> None:
    assert compute_capability_of(card) == capability


def test_cards_are_named_once_and_builders_know_them() -> None:
    names = [name for group in CARDS.values() for name in group.split()]
    assert len(names) == len(set(names))
    assert all(compute_capability_of(name) in CARDS for name in names)
    for wrong in ("", "rtx", "8.", "geforce", "rtx-4090-"):
        with pytest.raises(OptionError, match="compute capability"):
            compute_capability_of(wrong)
    needs_tensorrt_rtx()
    assert {"8.6", "8.9", "12.0"} <= set(supported_capabilities("tensorrt-rtx")) & set(CARDS)
