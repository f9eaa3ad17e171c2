"""Reading of the parity fixtures: numbers that the published code gave on seeded weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from tests.support import shared_folder

__all__ = ["close", "fixtures"]


def _fill_rules(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("parity_fill", folder / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fixtures(pattern: str) -> list[tuple[ModuleType, dict[str, Any], dict[str, np.ndarray]]]:
    """(rules that rebuild weights, description, arrays) of every fixture `pattern` matches."""
    folder = shared_folder("fixtures", "parity")
    fill = _fill_rules(folder)
    found = [(fill, *fill.load_fixture(str(path))) for path in sorted(folder.glob(pattern))]
    assert found, f"no {pattern} in {folder}"
    return found


def close(found: torch.Tensor, wanted: np.ndarray, tolerance: float) -> None:
    """Equal within an absolute and relative tolerance."""
    torch.testing.assert_close(
        found.detach(), torch.from_numpy(np.asarray(wanted)), atol=tolerance, rtol=tolerance
    )
