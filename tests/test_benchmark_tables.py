"""The table of engines in `benchmarks/README.md` is what the committed results say."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_table_of_engines_is_written_by_its_command(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    shutil.copy(ROOT / "benchmarks" / "README.md", readme)
    command = [sys.executable, str(ROOT / "benchmarks" / "engines" / "report.py")]
    subprocess.run([*command, "--readme", str(readme)], check=True)
    written = readme.read_text(encoding="utf-8")
    assert written == (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert "times as fast as torch eager" in written


def test_what_takes_a_gpu_is_one_command() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_session.py"), "--dry-run"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for path in sorted((ROOT / "benchmarks").glob("*/bench_*_cuda.py")):
        assert path.name in said
    assert said.count("compute-sanitizer --tool") == 2
    assert said.count("REVISAGE_REQUIRE_CUDA=1") == said.count("# ")


def test_the_benchmark_of_gpu_engines_runs_on_a_cpu(tmp_path: Path) -> None:
    readme, out = tmp_path / "README.md", tmp_path / "results.json"
    shutil.copy(ROOT / "benchmarks" / "README.md", readme)
    command = [sys.executable, str(ROOT / "benchmarks" / "engines" / "bench_engines_cuda.py")]
    command += ["face_landmarks", "--engine", "onnxruntime-cpu"]
    subprocess.run([*command, "--readme", str(readme), "--out", str(out)], check=True)
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert {(row["precision"], row["batch"]) for row in rows} >= {("fp32", 1), ("fp16", 8)}
    for row in rows:
        assert 0 < row["milliseconds"][0] <= row["milliseconds"][1]
        assert row["within"]
        assert (row["error"] == 0.0) == (row["precision"] == "fp32")
    assert "| face_landmarks | onnxruntime-cpu | fp32 | 8 | yes |" in readme.read_text()
