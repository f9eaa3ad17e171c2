"""Every hand-written loss against finite differences, in float64.

Losses with a file of their own in `tests/training` are checked there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from revisage.training.losses.adversarial import (
    critic_loss,
    feature_matching_loss,
    filler_adversarial_loss,
    gradient_penalty,
)
from revisage.training.losses.dice import dice_loss
from revisage.training.losses.focal_frequency import focal_frequency_loss
from revisage.training.losses.masked import known_missing_l1, masked_l1, masked_log_mse
from revisage.training.losses.perceptual import (
    PerceptualNetwork,
    high_receptive_field_loss,
    perceptual_loss,
)
from revisage.training.losses.wrinkle_critic import WrinkleCritic
from revisage.training.metrics.ssim import ssim
from revisage.training.models.perceptual_trunks import SequentialTrunk


def values(*shape: int, seed: int = 0) -> Tensor:
    """Uniform in 0..1, float64, with gradient."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64).requires_grad_()


def mask(*shape: int) -> Tensor:
    """About half of it 1."""
    return (values(*shape, seed=9).detach() > 0.5).double()


def check(loss: Callable[..., Tensor], *inputs: Tensor) -> None:
    assert torch.autograd.gradcheck(loss, inputs)
    # A loss that depends on nothing would pass too.
    for gradient in torch.autograd.grad(loss(*inputs), inputs):
        assert bool(gradient.abs().max() > 0)


def test_dice() -> None:
    target, weight = values(2, 1, 4, 5, seed=1).detach(), values(2, 1, 4, 5, seed=2).detach()
    logits = (4 * values(2, 1, 4, 5).detach() - 2).requires_grad_()
    check(lambda x: dice_loss(x, target), logits)
    check(lambda x: dice_loss(x, target, weight), logits)


def test_masked_l1() -> None:
    hole = mask(2, 1, 4, 5)
    check(lambda x, y: masked_l1(x, y, hole), values(2, 3, 4, 5), values(2, 3, 4, 5, seed=1))


def test_masked_log_mse() -> None:
    hole = mask(2, 1, 4, 5)
    check(lambda x, y: masked_log_mse(x, y, hole), values(2, 3, 4, 5), values(2, 3, 4, 5, seed=1))


def test_known_missing_l1() -> None:
    hole = mask(2, 1, 4, 5)
    check(
        lambda x, y: known_missing_l1(x, y, hole, known=10, missing=2),
        values(2, 3, 4, 5),
        values(2, 3, 4, 5, seed=1),
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha": 0.5},
        {"patch_factor": 2},
        {"ave_spectrum": True},
        {"log_matrix": True},
        {"batch_matrix": True},
        {"alpha": 2.0, "patch_factor": 2, "log_matrix": True, "batch_matrix": True},
    ],
)
def test_focal_frequency(options: dict[str, Any]) -> None:
    # The weights carry no gradient: they are those of the given pictures, whatever the step.
    found, true = values(2, 3, 4, 6), values(2, 3, 4, 6, seed=1)
    loss = focal_frequency_loss(found, true, **options)
    (gradient,) = torch.autograd.grad(loss, found)
    weights: list[Tensor] = []
    factor = options.get("patch_factor", 1)

    def with_fixed_weights(x: Tensor) -> Tensor:
        # Written out: cut, transform, weigh, average.
        pieces = [
            part for rows in (x - true).chunk(factor, dim=2) for part in rows.chunk(factor, dim=3)
        ]
        spectra = [torch.fft.fft2(piece, norm="ortho") for piece in pieces]
        if options.get("ave_spectrum"):
            spectra = [s.mean(dim=0, keepdim=True) for s in spectra]
        if not weights:
            raw = [s.detach().abs() ** options.get("alpha", 1.0) for s in spectra]
            if options.get("log_matrix"):
                raw = [torch.log(w + 1) for w in raw]
            everywhere = torch.stack([w.max() for w in raw]).max()
            whole = options.get("batch_matrix", False)
            weights.extend(w / (everywhere if whole else w.amax((-2, -1), True)) for w in raw)
        return torch.stack(
            [(w * s.abs().square()).mean() for w, s in zip(weights, spectra, strict=True)]
        ).mean()

    torch.testing.assert_close(with_fixed_weights(found), loss)
    check(with_fixed_weights, found)
    (wanted,) = torch.autograd.grad(with_fixed_weights(found), found)
    torch.testing.assert_close(gradient, wanted)


def test_critic_and_filler() -> None:
    hole = mask(2, 1, 8, 12)
    check(
        lambda real, fake: critic_loss(real, fake, hole),
        values(2, 1, 4, 6),
        values(2, 1, 4, 6, seed=1),
    )
    check(filler_adversarial_loss, values(2, 1, 4, 6))


def test_feature_matching() -> None:
    check(
        lambda a, b: feature_matching_loss([a, a[:, :2]], [b, b[:, :2] ** 2]),
        values(2, 3, 4, 5),
        values(2, 3, 4, 5, seed=1),
    )


def test_gradient_penalty() -> None:
    weight = values(4, 2, 3, 3, seed=1)

    def penalty(real: Tensor, kernel: Tensor) -> Tensor:
        scores = torch.tanh(nn.functional.conv2d(real, kernel))
        return gradient_penalty(scores, real)

    check(penalty, values(2, 2, 5, 4), weight)


def test_gradient_penalty_of_a_linear_critic() -> None:
    real = values(3, 2, 4, 4)
    weight = values(2, 4, 4, seed=1).detach()
    scores = (real * weight).sum(dim=(1, 2, 3))
    torch.testing.assert_close(gradient_penalty(scores, real), weight.square().sum())


def test_wrinkle_critic() -> None:
    torch.manual_seed(0)
    segmenter = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 1)).double()
    critic = WrinkleCritic(segmenter)
    hole = mask(2, 1, 5, 6)
    check(lambda x: critic(x, hole), values(2, 3, 5, 6))


def small_network() -> PerceptualNetwork:
    torch.manual_seed(0)
    trunk = SequentialTrunk(
        [
            ("one", nn.Conv2d(3, 4, 3, padding=1)),
            ("bent", nn.Softplus()),  # smooth, so that finite differences are exact
            ("two", nn.Conv2d(4, 3, 3, 2)),
        ]
    ).double()
    network = PerceptualNetwork(
        "small", trunk, ("bent", "two"), mean=(0.5, 0.4, 0.3), deviation=(0.2, 0.2, 0.3), bgr=True
    )
    return network.double()


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_perceptual(distance: str) -> None:
    network = small_network()
    check(
        lambda x, y: perceptual_loss(network, x, y, distance=distance, layer_weights=(1.0, 0.5)),
        values(1, 3, 6, 7),
        values(1, 3, 6, 7, seed=1),
    )


def test_high_receptive_field() -> None:
    network = small_network()
    check(
        lambda x, y: high_receptive_field_loss(network, x, y),
        values(1, 3, 6, 7),
        values(1, 3, 6, 7, seed=1),
    )


def test_ssim() -> None:
    check(lambda x, y: ssim(x, y).sum(), values(1, 1, 12, 13), values(1, 1, 12, 13, seed=1))
