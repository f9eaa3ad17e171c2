"""DMFN: upstream's numbers, the fusion block by its definition, losses, importer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from revisage.errors import CheckpointError
from revisage.training.importers import from_state_dict
from revisage.training.losses.dmfn import (
    centre_alignment_loss,
    centres,
    error_guidance,
    feature_matching_loss,
    self_guided_regression_loss,
)
from revisage.training.models.dmfn import DMFB, DMFNDiscriminator, DMFNGenerator, composite
from tests.training.parity import close, fixtures

TOLERANCE = 2e-4  # of the fixtures; their float32 noise is below 4e-6


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_generator_fixtures() -> None:
    for fill, meta, arrays in fixtures("dmfn_g_*.json"):
        state = fill.state_dict_torch(meta)
        network = from_state_dict(state)
        assert list(network.state_dict()) == list(state)
        image, mask = (torch.from_numpy(arrays[f"in_{n}"]) for n in ("image_masked", "mask"))
        with torch.inference_mode():
            raw, filled = composite(network, image, mask)
        close(raw, arrays["out_raw"], TOLERANCE)
        close(filled, arrays["out_composite"], TOLERANCE)


def test_block_fixtures() -> None:
    for fill, meta, arrays in fixtures("dmfn_dmfb_*.json"):
        state = fill.state_dict_torch(meta)
        network = from_state_dict(state)
        assert isinstance(network, DMFB)
        assert list(network.state_dict()) == list(state)
        with torch.inference_mode():
            close(network(torch.from_numpy(arrays["in_x"])), arrays["out_y"], TOLERANCE)


def test_block_reaches_as_far_as_its_largest_dilation() -> None:
    torch.manual_seed(2)
    block = DMFB(8).eval()
    # Instance norms look at the whole map; without them only the convolutions are left.
    block.norm, block.norm_part = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    x = torch.rand(1, 8, 41, 41, requires_grad=True)
    (gradient,) = torch.autograd.grad(block(x)[0, :, 20, 20].sum(), x)
    rows = gradient[0].abs().sum((0, 2)).nonzero().flatten()
    assert int(rows.max()) - 20 == 1 + 8 + 1  # c1, dilation 8, c2


@pytest.mark.parametrize(
    "network",
    [
        DMFNGenerator(4, 3, 4, 2),
        DMFNGenerator(6, 1, 8, 0),
        DMFB(12),
        DMFNDiscriminator(3, 2, 64, hidden=8),
        DMFNDiscriminator(4, 2, 128, hidden=5),
    ],
)
def test_importer_tells_sizes_from_keys(network: nn.Module) -> None:
    network.eval()
    found = from_state_dict(network.state_dict())
    assert type(found) is type(network)
    with torch.inference_mode():
        if isinstance(network, DMFNDiscriminator):
            channels, side = (3, 64) if network.size == 64 else (4, 128)
            inputs = (
                torch.rand(2, channels, side // 2, side // 2),
                torch.rand(2, channels, side, side),
            )
            scores, features = found(*inputs)
            wanted_scores, wanted_features = network(*inputs)
            torch.testing.assert_close(scores, wanted_scores)
            assert scores.shape == (2, 1)
            assert [f.shape for f in features] == [f.shape for f in wanted_features]
        else:
            first = next(network.parameters())
            x = torch.rand(1, first.shape[1], 16, 24)
            torch.testing.assert_close(found(x), network(x))


def test_published_sizes() -> None:
    with torch.device("meta"):
        generator, critic = DMFNGenerator.paper(), DMFNDiscriminator.paper()
        compact = DMFNGenerator.compact()
    assert sum("c1.weight" in key for key in generator.state_dict()) == 8
    # One block of 256 channels: to 64, four times 64 to 64, 256 to 256, all 3 x 3 with bias.
    block = (256 * 64 * 9 + 64) + 4 * (64 * 64 * 9 + 64) + (256 * 256 * 9 + 256)
    assert parameters(generator.blocks) == 8 * block
    assert critic.state_dict()["global_classifier.weight"].shape == (512, 8192)
    assert critic.state_dict()["classifier.1.weight"].shape == (1, 1024)
    assert parameters(compact) < parameters(generator) / 8


def test_train_and_eval_mode_agree() -> None:
    network, x = DMFNGenerator(nf=4, n_res=1), torch.rand(2, 4, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), network.eval()(x))


def test_composite_blanks_the_hole_and_keeps_the_rest() -> None:
    image, mask = torch.rand(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)
    mask[..., 2:5, 3:7] = 1
    seen: list[Tensor] = []

    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return torch.full_like(x[:, :3], -2.0)

    _, filled = composite(Constant(), image, mask)
    torch.testing.assert_close(filled, torch.where(mask > 0, torch.tensor(-2.0), image))
    torch.testing.assert_close(seen[0], torch.cat([image * (1 - mask), mask], dim=1))


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        DMFB(10)
    with pytest.raises(ValueError, match="multiple of 64"):
        DMFNDiscriminator(size=96)
    state = DMFNDiscriminator(3, 2, 64, hidden=8).state_dict()
    state["global_classifier.weight"] = torch.zeros(8, 48)
    with pytest.raises(CheckpointError, match="no square map"):
        from_state_dict(state)


# --- losses --------------------------------------------------------------------------------------


def maps(seed: int, channels: tuple[int, ...] = (2, 4), side: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.rand(2, c, side >> level, side >> level, generator=generator, dtype=torch.float64)
        for level, c in enumerate(channels)
    ]


def test_feature_matching_weighs_layers_by_their_channels() -> None:
    one, two = maps(0), maps(1)
    wanted = sum(
        1000 / c**2 * float((a - b).abs().mean()) for c, a, b in zip((2, 4), one, two, strict=True)
    )
    assert feature_matching_loss(one, two).item() == pytest.approx(wanted)
    with pytest.raises(ValueError, match="same ones"):
        feature_matching_loss(one, two[:1])


def test_guidance_is_the_error_over_its_largest() -> None:
    output, target = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    error = ((output - target) ** 2).numpy().mean(1)
    guidance = error_guidance(output, target)[:, 0].numpy()
    np.testing.assert_allclose(
        guidance, 1 + error / error.max(axis=(1, 2), keepdims=True), rtol=1e-5
    )
    assert bool((error_guidance(target, target) == 1).all())


def test_self_guided_loss_is_the_published_sum() -> None:
    one, two = maps(2), maps(3)
    guidance = 1 + maps(4, (1,))[0]
    half = functional.avg_pool2d(guidance, 2)
    wanted = 250 * ((one[0] - two[0]).abs() * guidance).mean()
    wanted = wanted + 62.5 * ((one[1] - two[1]).abs() * half).mean()
    torch.testing.assert_close(self_guided_regression_loss(one, two, guidance), wanted)


def test_centres_of_a_spike() -> None:
    features = torch.zeros(1, 2, 4, 8)
    features[0, 0, 1, 6] = 5
    found = centres(features)
    # Pixel 6 of 8 is at 6 * 2 / 8 - 1, row 1 of 4 at 1 * 2 / 4 - 1.
    torch.testing.assert_close(found[0, 0], torch.tensor([0.5, -0.5]), atol=1e-5, rtol=0)
    # A channel without anything has its centre in the middle of the coordinates.
    torch.testing.assert_close(found[0, 1], torch.tensor([-1 / 8, -1 / 4]), atol=1e-5, rtol=0)
    moved = features.roll(-2, dims=3)  # by half a unit of x in one of the two channels
    expected = 0.5**2 / 4
    assert centre_alignment_loss(moved, features).item() == pytest.approx(expected, abs=1e-5)


def test_losses_have_the_gradients_of_finite_differences() -> None:
    one, two = maps(5, (2, 3), 4), maps(6, (2, 3), 4)
    guidance = 1 + maps(7, (1,), 4)[0]
    inputs = tuple(m.requires_grad_() for m in one)

    def guided(*features: Tensor) -> Tensor:
        return self_guided_regression_loss(features, two, guidance)

    def matching(*features: Tensor) -> Tensor:
        return feature_matching_loss(features, two)

    def centred(features: Tensor) -> Tensor:
        return centre_alignment_loss(features, two[0])

    for loss, arguments in ((guided, inputs), (matching, inputs), (centred, inputs[:1])):
        assert torch.autograd.gradcheck(loss, arguments)  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad(loss(*arguments), arguments[0])  # type: ignore[operator]
        assert math.isfinite(float(gradient.sum()))
        assert float(gradient.abs().max()) > 0
