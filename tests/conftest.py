"""Fixtures for every test."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import settings

# The same examples in every run: what passed passes again. `--hypothesis-profile=default` looks for
# new ones.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator of its own for each test, so that no test depends on another's draws."""
    return np.random.default_rng(20240229)


@pytest.fixture(autouse=True)
def _global_random_state_is_left_alone() -> Iterator[None]:
    before = np.random.get_state()
    yield
    np.random.set_state(before)
