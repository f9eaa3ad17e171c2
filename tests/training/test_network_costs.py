"""The cost table counts what can be counted by hand, and names what it leaves out."""

from __future__ import annotations

import importlib.util
import math
import sys
from types import ModuleType

import pytest

from tests.support import ROOT


@pytest.fixture(scope="module")
def costs() -> ModuleType:
    path = ROOT / "benchmarks" / "quality" / "network_costs.py"
    spec = importlib.util.spec_from_file_location("network_costs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["network_costs"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a_network_by_hand(costs: ModuleType) -> None:
    entry = costs.Entry("pixel", "cyclegan:PixelDiscriminator", (costs.square(8),), {"ndf": 4})
    found = costs.cost(entry)
    # 1 x 1 convolutions 3 -> 4 -> 8 -> 1 on 64 pixels, each with a bias (instance norm).
    assert found.multiply_adds == 64 * (3 * 4 + 4 * 8 + 8 * 1)
    assert found.parameters == (3 * 4 + 4) + (4 * 8 + 8) + (8 + 1)
    assert found.inputs == "3x8x8"


def test_fourier_transforms_by_hand(costs: ModuleType) -> None:
    entry = costs.Entry(
        "unit", "ffc:FourierUnit", ((1, 4, 8, 16),), {"channels_in": 4, "channels_out": 4}
    )
    found = costs.cost(entry)
    transforms = 2 * 1.25 * 4 * 128 * math.log2(128)
    mixing = 8 * 8 * 8 * 9  # 1 x 1 on the half spectrum of 8 x 9 values
    assert found.multiply_adds == pytest.approx(transforms + mixing)


def test_published_sizes(costs: ModuleType) -> None:
    stated = [entry for entry in costs.ENTRIES if entry.stated != costs.NONE_FOUND]
    assert len(stated) >= 5
    for entry in stated:
        with costs.FakeTensorMode():
            network = costs.build(entry)
        values = sum(v.numel() for v in network.state_dict().values())
        assert values / 1e6 == pytest.approx(float(entry.stated), abs=0.006), entry.name


def test_networks_without_a_row_are_named(
    costs: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = costs.missing_networks()
    assert "lama.LamaGenerator" not in before
    kept = tuple(entry for entry in costs.ENTRIES if "LamaGenerator" not in entry.build)
    monkeypatch.setattr(costs, "ENTRIES", kept)
    assert set(costs.missing_networks()) == {*before, "lama.LamaGenerator"}


def test_the_document_has_every_row(costs: ModuleType) -> None:
    text = (ROOT / "docs" / "networks.md").read_text()
    assert [e.name for e in costs.ENTRIES if f"| {e.name} |" not in text] == []
