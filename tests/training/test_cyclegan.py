"""CycleGAN and pix2pix networks: upstream's numbers, and importers that tell variants from keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from revisage.errors import CheckpointError
from revisage.training.importers import from_checkpoint, from_state_dict, read_network
from revisage.training.models.cyclegan import (
    NLayerDiscriminator,
    PixelDiscriminator,
    ResnetGenerator,
    UnetGenerator,
)
from tests.training.parity import close, fixtures

TOLERANCE = 2e-4  # of the fixtures; their float32 noise is below 2e-6


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def filled(network: nn.Module) -> nn.Module:
    """Weights and statistics that are not the initial ones, in eval mode."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.copy_(0.2 + 0.3 * torch.rand(value.shape, generator=generator))
    return network.eval()


def with_statistics(state: dict[str, Tensor], norms: list[str]) -> dict[str, Tensor]:
    """What releases before June 2018 stored for their instance norms."""
    legacy = dict(state)
    for norm in norms:
        legacy[f"{norm}.running_mean"] = torch.full((4,), 9.0)
        legacy[f"{norm}.running_var"] = torch.full((4,), 100.0)
        legacy[f"{norm}.num_batches_tracked"] = torch.tensor(7)
    return legacy


def test_fixtures() -> None:
    for fill, meta, arrays in fixtures("cg_*.json"):
        state = fill.state_dict_torch(meta)
        network = from_state_dict(state)
        assert not network.training
        # Everything that the network has came from the fixture; legacy statistics are left over.
        assert set(network.state_dict()) <= set(state)
        with torch.inference_mode():
            close(network(torch.from_numpy(arrays["in_x"])), arrays["out_y"], TOLERANCE)


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
@pytest.mark.parametrize("padding", ["reflect", "zero"])
@pytest.mark.parametrize("dropout", [False, True])
def test_resnet_variants_are_told_from_keys(norm: Any, padding: Any, dropout: bool) -> None:
    network = filled(ResnetGenerator(4, 2, 6, 2, norm, padding, dropout))
    found = from_state_dict(network.state_dict())
    assert isinstance(found, ResnetGenerator)
    x = torch.rand(1, 4, 12, 20)
    with torch.inference_mode():
        torch.testing.assert_close(found(x), network(x))
    kinds = [[type(m) for m in net.modules()] for net in (found, network)]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
@pytest.mark.parametrize("levels", [5, 6, 8])
def test_unet_variants_are_told_from_keys(norm: Any, levels: int) -> None:
    network = filled(UnetGenerator(3, 2, levels, 2, norm, dropout=True))
    found = from_state_dict(network.state_dict())
    assert isinstance(found, UnetGenerator)
    assert found.model.model[0].bias is None if norm != "instance" else True
    x = torch.rand(1, 3, 2**levels, 2 ** (levels + 1))
    with torch.inference_mode():
        torch.testing.assert_close(found(x), network(x))


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
def test_discriminator_variants_are_told_from_keys(norm: Any) -> None:
    x = torch.rand(2, 6, 96, 128)
    for network in (
        NLayerDiscriminator(6, 4, 1, norm),
        NLayerDiscriminator(6, 4, 3, norm),
        NLayerDiscriminator(6, 2, 5, norm),
        PixelDiscriminator(6, 4, norm),
    ):
        filled(network)
        found = from_state_dict(network.state_dict())
        assert type(found) is type(network)
        with torch.inference_mode():
            torch.testing.assert_close(found(x), network(x))


@pytest.mark.parametrize(
    ("network", "norms", "shape"),
    [
        (ResnetGenerator(ngf=4, n_blocks=1), ["model.2", "model.10.conv_block.2"], (1, 3, 16, 16)),
        (
            UnetGenerator(num_downs=5, ngf=2, norm="instance"),
            ["model.model.1.model.2", "model.model.1.model.6"],
            (1, 3, 64, 64),
        ),
        (NLayerDiscriminator(ndf=4), ["model.3", "model.9"], (1, 3, 64, 64)),
        (PixelDiscriminator(ndf=4), ["net.3"], (1, 3, 8, 8)),
    ],
)
def test_legacy_statistics_are_dropped(
    network: nn.Module, norms: list[str], shape: tuple[int, ...]
) -> None:
    filled(network)
    found = from_state_dict(with_statistics(dict(network.state_dict()), norms))
    assert list(found.state_dict()) == list(network.state_dict())
    x = torch.rand(shape)
    with torch.inference_mode():
        torch.testing.assert_close(found(x), network(x))


def test_published_keys_of_dropout_and_zero_padding() -> None:
    def places(**options: Any) -> set[str]:
        state = ResnetGenerator(ngf=4, n_blocks=1, **options).state_dict()
        return {key for key in state if "conv_block" in key}

    block = "model.10.conv_block"
    assert places() == {f"{block}.{i}.{kind}" for i in (1, 5) for kind in ("weight", "bias")}
    weights = {key for key in places(norm="batch", dropout=True) if key.endswith("weight")}
    assert weights == {f"{block}.{i}.weight" for i in (1, 2, 6, 7)}
    assert places(norm="none", padding="zero") == {f"{block}.{i}.weight" for i in (0, 3)}
    assert places(padding="replicate") == places()


def test_published_sizes() -> None:
    with torch.device("meta"):
        # As upstream prints them at start.
        assert round(parameters(ResnetGenerator.paper()) / 1e6, 3) == 11.378
        assert round(parameters(ResnetGenerator(n_blocks=6)) / 1e6, 3) == 7.838
        assert round(parameters(UnetGenerator.paper()) / 1e6, 3) == 54.414
        assert round(parameters(NLayerDiscriminator()) / 1e6, 3) == 2.765
        assert round(parameters(NLayerDiscriminator(6, norm="batch")) / 1e6, 3) == 2.769
        assert parameters(ResnetGenerator.compact()) < parameters(ResnetGenerator.paper()) / 8
        assert parameters(UnetGenerator.compact()) < parameters(UnetGenerator.paper()) / 8


def test_a_patch_score_sees_70_pixels() -> None:
    network = NLayerDiscriminator(1, 2, 3, "none").double()
    x = torch.zeros(1, 1, 160, 160, dtype=torch.float64, requires_grad=True)
    scores = network(x)
    (gradient,) = torch.autograd.grad(scores[0, 0, 8, 8], x)
    rows = gradient[0, 0].abs().sum(1).nonzero().flatten()
    assert int(rows.max() - rows.min()) + 1 == 70


def test_dropout_acts_in_train_mode_only() -> None:
    torch.manual_seed(0)
    network, x = ResnetGenerator(ngf=4, n_blocks=1, dropout=True), torch.rand(1, 3, 16, 16)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_generator_keeps_sizes_and_range() -> None:
    for padding in ("reflect", "replicate", "zero"):
        network = ResnetGenerator(ngf=4, n_blocks=1, padding=padding)  # type: ignore[arg-type]
        out = network(100 * torch.rand(2, 3, 20, 12))
        assert out.shape == (2, 3, 20, 12)
        assert float(out.detach().abs().max()) <= 1


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match="norm is one of"):
        ResnetGenerator(norm="layer")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="padding is one of"):
        ResnetGenerator(padding="circular")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 5"):
        UnetGenerator(num_downs=4)
    with pytest.raises(ValueError, match="at least 1"):
        NLayerDiscriminator(n_layers=0)


def test_file_from_several_gpus_and_foreign_depth(tmp_path: Path) -> None:
    network = filled(ResnetGenerator(ngf=4, n_blocks=3))
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save(state, tmp_path / "latest_net_G.pth")
    read = read_network(tmp_path / "latest_net_G.pth")
    assert read.architecture == "cyclegan_resnet"
    assert read.arguments["n_blocks"] == 3
    state = dict(network.state_dict())
    state["model.40.conv_block.1.weight"] = state["model.10.conv_block.1.weight"]
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match="residual blocks are"):
        from_checkpoint(tmp_path / "odd.pth")
