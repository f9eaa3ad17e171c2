"""U-Net: same keys, same numbers as segmentation_models.pytorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from revisage.errors import CheckpointError
from revisage.training.importers import from_state_dict
from revisage.training.models.unet import UNet
from tests.training.smp_reference import fill_by_key, rippled_picture

# What `Unet("resnext50_32x4d", ...)` of segmentation_models.pytorch (commit 5006616) returns for
# the same weights and picture: every sixth of the values, and their mean and deviation.
UPSTREAM: list[tuple[dict[str, Any], tuple[int, int], list[float], float, float]] = [
    (
        {},
        (64, 96),
        [0.02494, 0.12283, 0.13059, 0.02749, 0.08327, 0.06103],
        0.091848,
        0.045324,
    ),
    (
        {"in_channels": 1, "classes": 2, "decoder_channels": (64, 32, 16, 8)},
        (50, 70),
        [0.03905, 0.06771, 0.01913, 0.05076, -0.1417, -0.1628],
        -0.043592,
        0.117729,
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
    network = from_state_dict(fill_by_key(UNet(**settings)).state_dict())
    assert isinstance(network, UNet)
    with torch.inference_mode():
        out = network(rippled_picture(settings.get("in_channels", 3), *size))
    assert out.shape == (1, settings.get("classes", 1), *size)
    found = out.flatten()[:: out.numel() // 6][:6].tolist()
    assert found == pytest.approx(values, abs=2e-5)
    assert out.mean().item() == pytest.approx(mean, abs=1e-5)
    assert out.std().item() == pytest.approx(deviation, abs=1e-5)


def test_keys_and_parameters_of_upstream() -> None:
    with torch.device("meta"):
        network = UNet()
    assert len(network.state_dict()) == 380
    assert sum(p.numel() for p in network.parameters()) == 31_992_977
    keys = list(network.state_dict())
    assert keys[0] == "encoder.conv1.weight"
    assert "decoder.blocks.4.conv2.1.running_var" in keys
    assert keys[-1] == "segmentation_head.0.bias"


def test_another_encoder_is_listed_by_name() -> None:
    state = UNet(decoder_channels=(8, 8)).state_dict()
    del state["encoder.layer1.0.conv3.weight"]
    with pytest.raises(CheckpointError, match=r"missing keys: encoder\.layer1\.0\.conv3\.weight"):
        from_state_dict(state)


def test_gradient_reaches_the_first_and_last_layer() -> None:
    torch.manual_seed(0)
    network = UNet(decoder_channels=(16, 8, 8))
    network(torch.rand(2, 3, 32, 32)).square().mean().backward()
    for layer in (network.encoder.conv1, network.segmentation_head[0]):
        assert isinstance(layer.weight, torch.nn.Parameter)
        assert layer.weight.grad is not None
        assert layer.weight.grad.abs().max() > 0
