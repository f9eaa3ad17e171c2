"""pix2pixHD: the published layout, its pyramids, and its losses."""

from __future__ import annotations

import pytest
import torch

from revisage.training.importers import from_state_dict
from revisage.training.losses.gan import adversarial
from revisage.training.losses.multiscale_adversarial import (
    multiscale_critic_loss,
    multiscale_feature_matching,
    multiscale_generator_loss,
)
from revisage.training.models.cyclegan import ResnetGenerator
from revisage.training.models.pix2pixhd import (
    GlobalGenerator,
    LocalEnhancer,
    MultiscaleDiscriminator,
)


def _shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def test_paper_sizes_have_the_published_layers() -> None:
    with torch.device("meta"):
        generator, enhancer = GlobalGenerator.paper(), LocalEnhancer.paper()
        critic = MultiscaleDiscriminator.paper()
    shapes = _shapes(generator)
    assert shapes["model.1.weight"] == (64, 3, 7, 7)
    assert shapes["model.13.weight"] == (1024, 512, 3, 3)
    assert shapes["model.24.conv_block.5.weight"] == (1024, 1024, 3, 3)
    assert shapes["model.25.weight"] == (1024, 512, 3, 3)
    assert shapes["model.38.weight"] == (3, 64, 7, 7)
    shapes = _shapes(enhancer)
    assert shapes["model.34.weight"] == (128, 64, 3, 3)  # the head of G1 is gone
    assert "model.38.weight" not in shapes
    assert shapes["model1_1.1.weight"] == (32, 3, 7, 7)
    assert shapes["model1_1.4.weight"] == (64, 32, 3, 3)
    assert shapes["model1_2.2.conv_block.1.weight"] == (64, 64, 3, 3)
    assert shapes["model1_2.3.weight"] == (64, 32, 3, 3)
    assert shapes["model1_2.7.weight"] == (3, 32, 7, 7)
    shapes = _shapes(critic)
    assert shapes["scale2_layer0.0.weight"] == (64, 6, 4, 4)
    assert shapes["scale0_layer3.0.weight"] == (512, 256, 4, 4)
    assert shapes["scale1_layer4.0.weight"] == (1, 512, 4, 4)


@pytest.mark.parametrize(
    "network",
    [
        GlobalGenerator(2, 4, 3, 4, 2),
        GlobalGenerator(3, 3, 4, 3, 1, "batch"),
        LocalEnhancer(3, 2, 2, 3, 1, 2, 2),
        LocalEnhancer(3, 3, 2, 2, 2, 1, 1, "batch"),
        MultiscaleDiscriminator(6, 4, 2, 3),
        MultiscaleDiscriminator(3, 4, 3, 1, "batch"),
    ],
)
def test_checkpoints_come_back_in_their_size(network: torch.nn.Module) -> None:
    torch.manual_seed(0)
    network.eval()
    prefixed = {f"module.{key}": value for key, value in network.state_dict().items()}
    for state in (network.state_dict(), prefixed):
        again = from_state_dict(state)
        assert type(again) is type(network)
        assert _shapes(again) == _shapes(network)
    channels = next(iter(network.state_dict().values())).shape[1]
    x = torch.rand(1, channels, 64, 64)
    with torch.inference_mode():
        out, other = network(x), again(x)
    if isinstance(network, MultiscaleDiscriminator):
        out, other = (torch.cat([f[-1].flatten() for f in found]) for found in (out, other))
    torch.testing.assert_close(out, other, atol=0, rtol=0)


def test_two_halvings_are_the_generator_of_cyclegan() -> None:
    torch.manual_seed(0)
    network = GlobalGenerator(3, 3, 4, 2, 2).eval()
    again = from_state_dict(network.state_dict())
    assert isinstance(again, ResnetGenerator)
    x = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(again(x), network(x))


def test_the_enhancer_adds_the_features_of_the_halved_picture() -> None:
    torch.manual_seed(0)
    network = LocalEnhancer(3, 3, 2, 2, 1, 1, 1).eval()
    x = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        coarse = network.model(network.downsample(x))
        wanted = network.model1_2(network.model1_1(x) + coarse)  # type: ignore[operator]
        found = network(x)
    assert coarse.shape == (1, 4, 16, 16)
    torch.testing.assert_close(found, wanted)
    assert found.shape == x.shape
    assert float(found.abs().max()) <= 1


def test_scales_of_the_critic() -> None:
    torch.manual_seed(0)
    network = MultiscaleDiscriminator(3, 4, 2, 2).eval()
    x = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        large, small = network(x)
        alone = network.scale0_layer0(network.downsample(x))  # type: ignore[operator]
    assert [f.shape[1] for f in large] == [4, 8, 16, 1]
    assert [tuple(f.shape[-2:]) for f in large] == [(17, 17), (9, 9), (10, 10), (11, 11)]
    torch.testing.assert_close(small[0], alone)  # the halved picture goes to number 0


def test_losses_by_hand() -> None:
    squares = adversarial("least_squares")
    score = torch.full((1, 1, 2, 2), 0.5)
    real = [[torch.zeros(1, 2, 4, 4), torch.ones(1, 2, 2, 2), score]] * 3
    fake = [[torch.ones(1, 2, 4, 4), torch.ones(1, 2, 2, 2), 2 * score]] * 3
    assert multiscale_critic_loss(squares, real, fake).item() == pytest.approx(3 * 0.625)
    assert multiscale_generator_loss(squares, real).item() == pytest.approx(3 * 0.125)
    assert multiscale_feature_matching(fake, real).item() == pytest.approx(4 / 2 * 1.0)
    with pytest.raises(ValueError, match="scales"):
        multiscale_feature_matching(fake[:1], real)
    with pytest.raises(ValueError, match="layers"):
        multiscale_feature_matching([fake[0][1:]], real[:1])


def test_feature_matching_by_finite_differences() -> None:
    torch.manual_seed(0)
    real = [[torch.rand(1, 2, 3, 3, dtype=torch.float64), torch.rand(1, 1, 2, 2)]]
    fake = torch.rand(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: multiscale_feature_matching([[x, real[0][1]]], real), (fake,)
    )
    target = real[0][0].requires_grad_()
    loss = multiscale_feature_matching([[fake, real[0][1]]], [[target, real[0][1]]])
    loss.backward()
    assert target.grad is None


def test_bad_sizes_are_errors() -> None:
    with pytest.raises(ValueError, match="n_downsampling"):
        GlobalGenerator(n_downsampling=0)
    with pytest.raises(ValueError, match="n_local_enhancers"):
        LocalEnhancer(n_local_enhancers=0)
    with pytest.raises(ValueError, match="num_D"):
        MultiscaleDiscriminator(num_D=0)
    with pytest.raises(ValueError, match="norm is"):
        GlobalGenerator(ngf=2, norm="layer")  # type: ignore[arg-type]
