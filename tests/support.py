"""What the tests share: tolerances with their reasons, inputs with obvious answers, shared data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def shared_folder(*parts: str) -> Path:
    """A folder of the data that lies beside a developer's checkout; skips clearly without it.

    REVISAGE_SHARED names it, else `../shared` from the repository root is tried.
    """
    base = Path(os.environ.get("REVISAGE_SHARED", ROOT.parent / "shared"))
    folder = base.joinpath(*parts)
    if not folder.exists():
        pytest.skip(f"needs the shared data ({'/'.join(parts) or 'shared'}); set REVISAGE_SHARED")
    return folder
