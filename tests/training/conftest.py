"""Fixtures of the training tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.drawn_portraits import drawn_portraits


@pytest.fixture(scope="session")
def portraits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawn portraits of 160 px: four to train on, two held out. Nobody writes into it."""
    return drawn_portraits(tmp_path_factory.mktemp("portraits"))
