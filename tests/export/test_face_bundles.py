"""The shipped face bundles are small, are what the kept weights say, and hold what is needed."""

from __future__ import annotations

import hashlib

import pytest

from revisage.bundle import MODEL, shipped_bundle
from revisage.export.exporters import default_weights

NAMES = ("face_finder", "face_landmarks")


def test_all_face_models_together_are_under_4_mb() -> None:
    assert sum((shipped_bundle(n).path / MODEL).stat().st_size for n in NAMES) < 4_000_000
    assert sum(default_weights(n).stat().st_size for n in NAMES) < 4_000_000


@pytest.mark.parametrize("name", NAMES)
def test_the_bundle_comes_from_the_kept_weights(name: str) -> None:
    digest = hashlib.sha256(default_weights(name).read_bytes()).hexdigest()
    assert shipped_bundle(name).manifest.weights_digest == digest


@pytest.mark.parametrize("name", NAMES)
def test_export_again_gives_the_shipped_graph(name: str, tmp_path) -> None:
    from revisage.export.exporters import export_named

    made = export_named(name, tmp_path)
    assert (made.path / MODEL).read_bytes() == (shipped_bundle(name).path / MODEL).read_bytes()
