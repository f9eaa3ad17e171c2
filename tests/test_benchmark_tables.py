"""The table of engines in `benchmarks/README.md` is what the committed results say."""

from __future__ import annotations

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
