"""DeepLabV3: same keys, same numbers as segmentation_models.pytorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from revisage.errors import CheckpointError
from revisage.training.importers import from_state_dict
from revisage.training.models.deeplabv3 import DeepLabV3
from revisage.training.models.resnext import ResNeXt50
from tests.training.smp_reference import fill_by_key, rippled_picture

# What `DeepLabV3("resnext50_32x4d", ...)` of segmentation_models.pytorch (commit 5006616) returns
# for the same weights and picture: every sixth of the values, and their mean and deviation.
UPSTREAM: list[tuple[dict[str, Any], tuple[int, int], list[float], float, float]] = [
    (
        {},
        (64, 96),
        [0.67191, 1.30019, 1.33808, 0.93447, 1.06705, 0.70326],
        1.011706,
        0.302224,
    ),
    (
        {"in_channels": 4, "classes": 2, "decoder_channels": 64, "depth": 4},
        (32, 48),
        [0.45342, 0.06608, -0.1123, 0.19902, 0.62957, 0.77138],
        0.354226,
        0.266012,
    ),
]


@pytest.mark.parametrize(("settings", "size", "values", "mean", "deviation"), UPSTREAM)
def test_numbers_of_upstream(
    settings: dict[str, Any],
    size: tuple[int, int],
    values: list[float],
    mean: float,
    deviation: float,
) -> None:
    network = from_state_dict(fill_by_key(DeepLabV3(**settings)).state_dict())
    assert isinstance(network, DeepLabV3)
    with torch.inference_mode():
        out = network(rippled_picture(settings.get("in_channels", 3), *size))
    assert out.shape == (1, settings.get("classes", 1), *size)
    found = out.flatten()[:: out.numel() // 6][:6].tolist()
    assert found == pytest.approx(values, abs=2e-5)
    assert out.mean().item() == pytest.approx(mean, abs=1e-5)
    assert out.std().item() == pytest.approx(deviation, abs=1e-5)


def test_keys_and_parameters_of_upstream() -> None:
    with torch.device("meta"):
        network = DeepLabV3()
    assert len(network.state_dict()) == 362
    assert sum(p.numel() for p in network.parameters()) == 39_105_601


@pytest.mark.parametrize(
    ("output_stride", "strides"), [(8, [2, 4, 8, 8, 8]), (16, [2, 4, 8, 16, 16])]
)
def test_dilated_encoder_keeps_its_size(output_stride: int, strides: list[int]) -> None:
    features = ResNeXt50(3, 5, output_stride).eval()(torch.rand(1, 3, 32, 32))
    assert [32 // feature.shape[-1] for feature in features] == strides


def test_what_no_checkpoint_has_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        DeepLabV3(decoder_channels=8)(torch.zeros(1, 3, 36, 40))
    with pytest.raises(ValueError, match="8 or 16"):
        DeepLabV3(output_stride=32)
    state = DeepLabV3(decoder_channels=8).state_dict()
    state["decoder.aspp.convs.0.0.weight"] = torch.zeros(8, 256, 1, 1)
    with pytest.raises(CheckpointError, match="last feature has 256 channels"):
        from_state_dict(state)
