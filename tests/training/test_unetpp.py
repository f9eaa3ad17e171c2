"""The paper-size segmenter: same keys, same numbers as segmentation_models.pytorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from revisage.training.importers import from_state_dict
from revisage.training.models.unetpp import UNetPlusPlus
from tests.training.parity import fixtures
from tests.training.smp_reference import fill_by_key, rippled_picture


def test_every_parity_fixture() -> None:
    for fill, meta, arrays in fixtures("unetpp_*.json"):
        state = fill.state_dict_torch(meta)
        network = UNetPlusPlus.for_state(state).eval()
        assert list(network.state_dict()) == list(state)
        network.load_state_dict(state, strict=True)
        with torch.no_grad():
            out = network(torch.from_numpy(arrays["in_x"]))
        # 2e-4: the tolerance of the fixtures; float32 noise is 3e-6.
        torch.testing.assert_close(out, torch.from_numpy(arrays["out_y"]), atol=2e-4, rtol=0)


def test_keys_and_values_without_a_checkpoint() -> None:
    state = UNetPlusPlus().state_dict()
    assert len(state) == 452
    # Float tensors only: batch norms also count their batches in an integer each.
    values = sum(v.numel() for v in state.values() if v.is_floating_point())
    counters = sum(1 for v in state.values() if not v.is_floating_point())
    assert values + counters == 48_532_764


@pytest.mark.parametrize(
    ("in_channels", "classes", "decoder_channels"),
    [(3, 1, (64, 32, 16, 8, 8)), (1, 3, (32, 16, 8, 8, 4)), (4, 2, (48, 24, 12))],
)
def test_other_sizes_are_read_from_the_state(
    in_channels: int, classes: int, decoder_channels: tuple[int, ...]
) -> None:
    first = UNetPlusPlus(in_channels, classes, decoder_channels).eval()
    again = UNetPlusPlus.for_state(first.state_dict()).eval()
    again.load_state_dict(first.state_dict(), strict=True)
    image = torch.linspace(0, 1, in_channels * 32 * 64).reshape(1, in_channels, 32, 64)
    with torch.no_grad():
        out = again(image)
        assert out.shape == (1, classes, 32, 64)
        assert torch.equal(out, first(image))


def test_a_wrong_size_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        UNetPlusPlus(decoder_channels=(8, 8, 8, 8, 8))(torch.zeros(1, 3, 48, 64))


def test_another_state_is_refused() -> None:
    with pytest.raises(ValueError, match=r"encoder\.conv1\.weight"):
        UNetPlusPlus.for_state({"fc.weight": torch.zeros(2, 2)})


# What `UnetPlusPlus("resnext50_32x4d", encoder_depth=..., ...)` of segmentation_models.pytorch
# (commit 5006616) returns for the same weights and picture: every sixth of the values.
VARIANTS: list[tuple[dict[str, Any], list[float]]] = [
    (
        {"in_channels": 4, "classes": 2, "decoder_channels": (64, 48, 16, 8)},
        [0.06792, 0.21549, 0.19825, -0.19146, -0.11057, -0.10463],
    ),
    (
        {"in_channels": 1, "decoder_channels": (48, 16, 8)},
        [0.05191, 0.0177, 0.01809, 0.02457, 0.04474, -0.0454],
    ),
]


@pytest.mark.parametrize(("settings", "values"), VARIANTS)
def test_variants_import_with_the_numbers_of_upstream(
    settings: dict[str, Any], values: list[float]
) -> None:
    network = from_state_dict(fill_by_key(UNetPlusPlus(**settings)).state_dict())
    assert isinstance(network, UNetPlusPlus)
    with torch.inference_mode():
        out = network(rippled_picture(settings["in_channels"], 32, 48))
    assert out.shape == (1, settings.get("classes", 1), 32, 48)
    assert out.flatten()[:: out.numel() // 6][:6].tolist() == pytest.approx(values, abs=2e-5)
