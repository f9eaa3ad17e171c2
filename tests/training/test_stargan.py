"""StarGAN: upstream's numbers with stored and with per-picture statistics, sizes, importer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from revisage.errors import CheckpointError
from revisage.training.importers import from_state_dict
from revisage.training.models.stargan import StarGANDiscriminator, StarGANGenerator
from tests.training.parity import close, fixtures

TOLERANCE = 2e-4  # of the fixtures; their float32 noise is below 1e-5


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_generator_fixtures() -> None:
    for fill, meta, arrays in fixtures("stargan_g_*.json"):
        state = fill.state_dict_torch(meta)
        network = from_state_dict(state)
        assert isinstance(network, StarGANGenerator)
        assert list(network.state_dict()) == list(state)
        x, label = torch.from_numpy(arrays["in_x"]), torch.from_numpy(arrays["in_label"])
        with torch.inference_mode():
            close(network(x, label), arrays["out_eval"], TOLERANCE)
            network.use_picture_statistics()
            close(network(x, label), arrays["out_train_stats"], TOLERANCE)
            network.use_picture_statistics(False)
            close(network(x, label), arrays["out_eval"], TOLERANCE)
            network.train()
            close(network(x, label), arrays["out_train_stats"], TOLERANCE)


def test_discriminator_fixtures() -> None:
    for fill, meta, arrays in fixtures("stargan_d_*.json"):
        state = fill.state_dict_torch(meta)
        network = from_state_dict(state)
        assert list(network.state_dict()) == list(state)
        with torch.inference_mode():
            scores, logits = network(torch.from_numpy(arrays["in_x"]))
        close(scores, arrays["out_src"], TOLERANCE)
        close(logits, arrays["out_cls"], TOLERANCE)


@pytest.mark.parametrize(
    "network",
    [
        StarGANGenerator(4, 1, 0),
        StarGANGenerator(6, 8, 3),
        StarGANGenerator(4, 2, 1, stored=False),
        StarGANDiscriminator(32, 4, 3, 2),
        StarGANDiscriminator(96, 2, 1, 5),
    ],
)
def test_importer_tells_sizes_from_keys(network: nn.Module) -> None:
    network.eval()
    found = from_state_dict(network.state_dict())
    assert type(found) is type(network)
    with torch.inference_mode():
        if isinstance(network, StarGANGenerator):
            inputs = torch.rand(2, 3, 12, 16), torch.rand(2, network.c_dim)
            torch.testing.assert_close(found(*inputs), network(*inputs))
        else:
            side = 32 if len(network.state_dict()) == 8 else 96
            x = torch.rand(2, 3, side, side)
            for one, two in zip(found(x), network(x), strict=True):
                torch.testing.assert_close(one, two)


def test_published_sizes() -> None:
    with torch.device("meta"):
        both = parameters(StarGANGenerator.paper(5)) + parameters(StarGANDiscriminator())
        # Choi et al., table 3: 53.2 million for the generator and the discriminator.
        assert round(both / 1e6, 1) == 53.2
        assert parameters(StarGANGenerator.compact()) < parameters(StarGANGenerator.paper()) / 8


def test_label_reaches_every_pixel() -> None:
    torch.manual_seed(1)
    network, x = StarGANGenerator(4, 2, 0, stored=False).eval(), torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        one = network(x, torch.tensor([[1.0, 0.0]]))
        two = network(x, torch.tensor([[0.0, 1.0]]))
    assert bool(((one - two).abs().amax(1) > 0).all())


def test_bad_input_is_refused() -> None:
    network = StarGANGenerator(4, 2, 0)
    with pytest.raises(ValueError, match=r"label must be \[N, 2\]"):
        network(torch.rand(1, 3, 8, 8), torch.rand(1, 3))
    with pytest.raises(ValueError, match="image_size must be at least 64"):
        StarGANDiscriminator(32)
    state = StarGANDiscriminator(32, 4, 3, 2).state_dict()
    state["main.7.weight"] = state["main.2.weight"]
    with pytest.raises(CheckpointError, match="convolutions stand at"):
        from_state_dict(state)
