"""What the tests share: tolerances with their reasons, inputs with obvious answers, shared data."""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def machine_traces(content: bytes) -> list[bytes]:
    """What in a file tells of the machine that made it: source files, packages, home, temporaries.

    Folders are looked for as this machine calls them, and as Unix does. A source file has a name:
    weights hold every three bytes somewhere.
    """
    here = [Path.home(), Path(tempfile.gettempdir()), ROOT, Path("/home")]
    folders = b"|".join(re.escape(f"{folder}/".encode()) for folder in here)
    return re.findall(folders + rb"|site-packages|\w{4}\.py\b", content)


def needs_tensorrt_rtx() -> None:
    """Skip where TensorRT for RTX, which builds engines with no GPU, did not install."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("needs TensorRT for RTX: pip install 'revisage[tensorrt-rtx]'")


def shared_folder(*parts: str) -> Path:
    """A folder of the data that lies beside a developer's checkout; skips clearly without it.

    REVISAGE_SHARED names it, else `../shared` from the repository root is tried.
    """
    base = Path(os.environ.get("REVISAGE_SHARED", ROOT.parent / "shared"))
    folder = base.joinpath(*parts)
    if not folder.exists():
        pytest.skip(f"needs the shared data ({'/'.join(parts) or 'shared'}); set REVISAGE_SHARED")
    return folder
