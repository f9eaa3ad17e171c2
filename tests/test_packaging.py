"""A wheel and an sdist hold the same package, and the package holds what it should.

Built without CMake, so that this takes seconds: the extension is tested by every other test.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def build(kind: str, source: Path, out: Path) -> Path:
    """Build one distribution of `source` into the empty folder `out`."""
    command = [
        sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(out),
        "-Cwheel.cmake=false", "-Cbuild-dir=", str(source),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = out.iterdir()
    return made


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {
            name: archive.read(name)
            for name in archive.namelist()
            if not name.endswith("/") and ".dist-info/" not in name
        }


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return contents(build("wheel", ROOT, tmp_path_factory.mktemp("wheel")))


def test_sdist_makes_the_same_package(
    wheel_files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    sdist = build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (tree,) = unpacked.iterdir()
    assert (tree / "LICENSE").exists()
    again = contents(build("wheel", tree, tmp_path_factory.mktemp("again")))
    assert sorted(again) == sorted(wheel_files)
    assert again == wheel_files


def test_wheel_holds_the_four_packages_and_the_bundles(wheel_files: dict[str, bytes]) -> None:
    for name in (
        "revisage/__init__.py",
        "revisage/py.typed",
        "revisage/kernels/flow_warp.py",
        "revisage/kernels/_native.pyi",
        "revisage/export/__init__.py",
        "revisage/training/models/lama.py",
        "revisage/bundles/wrinkle_segmenter/manifest.json",
        "revisage/bundles/wrinkle_filler/model.onnx",
        "revisage/bundles/face_finder/certificate.json",
        "revisage/bundles/face_landmarks/model.onnx",
    ):
        assert name in wheel_files


def test_wheel_holds_no_sources_weights_or_strangers(wheel_files: dict[str, bytes]) -> None:
    endings = (".cc", ".cu", ".h", ".safetensors", ".pyc", "CMakeLists.txt")
    assert not [name for name in wheel_files if name.endswith(endings)]
    assert {name.split("/")[0] for name in wheel_files} == {"revisage"}


def test_shipped_weights_stay_small(wheel_files: dict[str, bytes]) -> None:
    models = {name: len(data) for name, data in wheel_files.items() if name.endswith(".onnx")}
    assert sum(models.values()) <= 24e6
    faces = sum(models[name] for name in models if re.search(r"/face_\w+/model\.onnx$", name))
    assert 0 < faces < 4e6
