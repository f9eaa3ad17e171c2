"""Context Encoder, models 0 to 3: the published layers, what each predicts, and their critic."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from revisage.training.models.context_encoder import (
    MEAN_COLOUR,
    ContextEncoder,
    HoleCritic,
    picture_with_hole,
)


def centre_mask(size: int) -> torch.Tensor:
    mask = torch.zeros(1, 1, size, size)
    mask[..., size // 4 : -size // 4, size // 4 : -size // 4] = 1
    return mask


def convolutions(network: nn.Module) -> list[tuple[int, int]]:
    return [
        (m.in_channels, m.out_channels)
        for m in network.modules()
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)
    ]


def test_published_layers() -> None:
    with torch.device("meta"):
        network = ContextEncoder.paper()
    assert convolutions(network) == [
        (3, 64), (64, 64), (64, 128), (128, 256), (256, 512), (512, 4000),
        (4000, 512), (512, 256), (256, 128), (128, 64), (64, 3),
    ]  # fmt: skip


@pytest.mark.parametrize("model", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [16, 32, 128])
def test_every_model_predicts_a_picture(model: int, size: int) -> None:
    torch.manual_seed(0)
    network = ContextEncoder(model, size, nef=2, bottleneck=5).eval()
    image, mask = torch.rand(2, 3, size, size), centre_mask(size).expand(2, -1, -1, -1)
    with torch.inference_mode():
        predicted = network(image, mask)
        other = network(image * (1 - mask), mask)
    assert predicted.shape == image.shape
    assert predicted.min() >= 0
    assert predicted.max() <= 1
    # What stands in the hole is not looked at.
    torch.testing.assert_close(predicted * mask, other * mask)
    if model == 0:  # knows the hole only
        torch.testing.assert_close(predicted * (1 - mask), image * (1 - mask))


def test_models_differ_by_one_step_each() -> None:
    with torch.device("meta"):
        models = [ContextEncoder.paper(number) for number in range(4)]
    outputs = [len(convolutions(model.decoder)) for model in models]
    assert outputs == [5, 6, 5, 5]  # 1 x 1 -> 64; 1 x 1 -> 128; 4 x 4 -> 128
    assert [4000 in dict(convolutions(model)) for model in models] == [True, True, False, False]
    assert [model.critic_norm for model in models] == ["batch", "batch", "batch", "instance"]
    assert convolutions(models[2]) == convolutions(models[3])


def test_hole_has_the_mean_colour() -> None:
    image, mask = torch.rand(1, 3, 8, 8), centre_mask(8)
    shown = (picture_with_hole(image, mask) + 1) / 2
    torch.testing.assert_close(shown[0, :, 4, 4], torch.tensor(MEAN_COLOUR))
    torch.testing.assert_close(shown[0, :, 0, 0], image[0, :, 0, 0])


def test_critic_of_the_published_size() -> None:
    with torch.device("meta"):
        critic = HoleCritic()
        assert convolutions(critic) == [(3, 64), (64, 128), (128, 256), (256, 512), (512, 1)]
        assert critic(torch.rand(3, 3, 64, 64)).shape == (3,)
    with pytest.raises(ValueError, match="judges 64 px"):
        critic(torch.rand(3, 3, 32, 32, device="meta"))


@pytest.mark.parametrize(("norm", "alone"), [("instance", True), ("batch", False)])
def test_instance_norm_judges_each_picture_by_itself(norm: str, alone: bool) -> None:
    torch.manual_seed(0)
    critic = HoleCritic(16, 4, norm).train()
    pictures = torch.rand(3, 3, 16, 16)
    together = critic(pictures)[0]
    company = critic(torch.cat([pictures[:1], 1 - pictures[1:]]))[0]
    assert torch.allclose(together, company, atol=1e-6) == alone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": 4}, "0, 1, 2 or 3"),
        ({"size": 96}, "power of two"),
        ({"size": 8}, "at least 16"),
    ],
)
def test_impossible_networks_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContextEncoder(**arguments)
    with pytest.raises(ValueError, match="batch or instance"):
        HoleCritic(norm="layer")


def test_other_sizes_of_picture_are_refused() -> None:
    with pytest.raises(ValueError, match="takes 32 px"):
        ContextEncoder(2, 32, nef=2)(torch.rand(1, 3, 16, 16), torch.zeros(1, 1, 16, 16))
