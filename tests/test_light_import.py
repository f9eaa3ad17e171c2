"""`import revisage` takes a blink and pulls in nothing heavy."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "onnxruntime", "cv2", "PIL", "av", "tensorrt", "nvidia", "tifffile", "numba")


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_nothing_heavy_is_imported() -> None:
    loaded = run(
        "import sys, revisage; "
        f"print([m for m in {HEAVY!r} if m in sys.modules or any("
        "k.startswith(m + '.') for k in sys.modules)])"
    )
    assert loaded == "[]"


def test_import_takes_under_150_milliseconds() -> None:
    # Minimum of five: a busy machine makes a run slower, never faster.
    code = "import time; t = time.perf_counter(); import revisage; print(time.perf_counter() - t)"
    assert min(float(run(code)) for _ in range(5)) < 0.15
