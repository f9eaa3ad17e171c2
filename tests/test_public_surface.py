"""The names that users touch are frozen in `public_surface.json`.

A name that goes, or comes, fails here until the file is edited in the same change. Regenerate with
`python tests/test_public_surface.py`.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

SURFACE = Path(__file__).with_name("public_surface.json")
MODULES = (
    "revisage",
    "revisage.alignment",
    "revisage.bundle",
    "revisage.engines",
    "revisage.errors",
    "revisage.faces",
    "revisage.kernels",
    "revisage.manifest",
    "revisage.photo",
    "revisage.video",
)


def public_names(module: str) -> list[str]:
    return sorted(importlib.import_module(module).__all__)


@pytest.mark.parametrize("module", MODULES)
def test_surface_is_what_was_frozen(module: str) -> None:
    frozen = json.loads(SURFACE.read_text(encoding="utf-8"))
    assert public_names(module) == frozen[module]


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_exists_and_is_documented(module: str) -> None:
    namespace = importlib.import_module(module)
    for name in namespace.__all__:
        value = getattr(namespace, name)
        if callable(value):
            assert value.__doc__, f"{module}.{name} has no docstring"


if __name__ == "__main__":
    SURFACE.write_text(json.dumps({m: public_names(m) for m in MODULES}, indent=2) + "\n")
