"""Adversarial losses by their formulas, the gradient penalty, cycle and mask losses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from revisage.training.losses.adversarial import gradient_penalty
from revisage.training.losses.cycle import (
    cycle_loss,
    identity_loss,
    mask_smoothness_loss,
    mask_sparsity_loss,
)
from revisage.training.losses.gan import (
    ADVERSARIAL,
    adversarial,
    r1_penalty,
    wasserstein_penalty,
)

REAL, FAKE = torch.tensor([2.0, -0.5, 0.25]), torch.tensor([0.5, -3.0, 1.5])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def by_hand(kind: str, real: list[float], fake: list[float]) -> tuple[float, float]:
    """Losses of the critic and of the generator as the papers write them."""
    if kind == "minimax":
        critic = -mean([math.log(sigmoid(r)) for r in real])
        critic -= mean([math.log(1 - sigmoid(f)) for f in fake])
        return critic, -mean([math.log(sigmoid(f)) for f in fake])
    if kind == "hinge":
        critic = mean([max(0, 1 - r) for r in real]) + mean([max(0, 1 + f) for f in fake])
        return critic, -mean(fake)
    if kind == "wasserstein":
        return mean(fake) - mean(real), -mean(fake)
    if kind == "least_squares":
        critic = mean([(r - 1) ** 2 for r in real]) / 2 + mean([f**2 for f in fake]) / 2
        return critic, mean([(f - 1) ** 2 for f in fake]) / 2
    critic = -mean([math.log(sigmoid(r - mean(fake))) for r in real])
    critic -= mean([math.log(1 - sigmoid(f - mean(real))) for f in fake])
    generator = -mean([math.log(sigmoid(f - mean(real))) for f in fake])
    generator -= mean([math.log(1 - sigmoid(r - mean(fake))) for r in real])
    return critic / 2, generator / 2


@pytest.mark.parametrize("kind", sorted(ADVERSARIAL))
def test_losses_are_the_formulas(kind: str) -> None:
    loss = adversarial(kind)
    critic, generator = by_hand(kind, REAL.tolist(), FAKE.tolist())
    assert loss.critic(REAL, FAKE).item() == pytest.approx(critic, rel=1e-5)
    assert loss.generator(FAKE, REAL).item() == pytest.approx(generator, rel=1e-5)
    # A mean over all scores: maps of patches give what their values would give.
    folded = REAL.reshape(1, 1, 1, 3), FAKE.reshape(1, 1, 3, 1)
    assert loss.critic(*folded).item() == pytest.approx(critic, rel=1e-5)


@pytest.mark.parametrize("kind", sorted(ADVERSARIAL))
def test_losses_have_the_gradients_of_finite_differences(kind: str) -> None:
    loss = adversarial(kind)
    # Away from the corners of the hinge.
    real = torch.tensor([[0.3, -0.8], [1.7, 0.1]], dtype=torch.float64, requires_grad=True)
    fake = torch.tensor([[-0.4, 0.6], [0.2, -1.9]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss.critic, (real, fake))
    assert torch.autograd.gradcheck(lambda f: loss.generator(f, real.detach()), (fake,))


@pytest.mark.parametrize("kind", sorted(ADVERSARIAL))
def test_players_pull_in_opposite_directions(kind: str) -> None:
    loss = adversarial(kind)
    real = torch.full((3, 1), 0.5, requires_grad=True)
    fake = torch.full((3, 1), 0.5, requires_grad=True)
    up, down = torch.autograd.grad(loss.critic(real, fake), (real, fake))
    assert bool((up < 0).all())
    assert bool((down > 0).all())
    (up,) = torch.autograd.grad(loss.generator(fake, real), fake)
    assert bool((up < 0).all())


@pytest.mark.parametrize("kind", sorted(ADVERSARIAL))
def test_large_scores_stay_finite(kind: str) -> None:
    loss = adversarial(kind)
    large = torch.tensor([1e4, -1e4])
    assert math.isfinite(loss.critic(large, -large).item())
    assert math.isfinite(loss.generator(large, -large).item())


def test_unknown_kind_and_missing_scores() -> None:
    with pytest.raises(ValueError, match="minimax, hinge, wasserstein"):
        adversarial("softmax")
    with pytest.raises(ValueError, match="scores of real pictures"):
        adversarial("relativistic").generator(FAKE)


class Linear(nn.Module):
    """score = <w, x>, so the gradient is w everywhere."""

    def __init__(self, length: float) -> None:
        super().__init__()
        weight = torch.ones(1, 2, 3, 3, dtype=torch.float64)
        self.weight = nn.Parameter(weight * length / weight.norm())

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight * x).sum((1, 2, 3))


@pytest.mark.parametrize("length", [0.0, 0.5, 1.0, 3.0])
def test_penalty_of_a_linear_critic(length: float) -> None:
    critic = Linear(length)
    real, fake = (torch.rand(4, 2, 3, 3, dtype=torch.float64) for _ in range(2))
    penalty = wasserstein_penalty(critic, real, fake)
    assert penalty.item() == pytest.approx((length - 1) ** 2)
    if length > 0:
        (gradient,) = torch.autograd.grad(penalty, critic.weight)
        # d (|w| - 1)^2 / dw = 2 (|w| - 1) w / |w|
        wanted = 2 * (length - 1) * critic.weight / length
        torch.testing.assert_close(gradient, wanted)


def test_penalty_looks_between_real_and_fake() -> None:
    seen: list[Tensor] = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x.square().sum((1, 2, 3)) / 2  # gradient x

    torch.manual_seed(5)
    real, fake = torch.zeros(64, 1, 2, 2), torch.ones(64, 1, 2, 2)
    penalty = wasserstein_penalty(critic, real, fake)
    (between,) = seen
    share = between[:, 0, 0, 0]
    torch.testing.assert_close(between, share[:, None, None, None].expand_as(between))
    assert float(share.min()) < 0.1 < 0.9 < float(share.max())
    norms = 2 * share  # |x| of four equal values
    torch.testing.assert_close(penalty, (norms - 1).square().mean())


def test_penalty_has_the_gradient_of_finite_differences() -> None:
    torch.manual_seed(6)
    real, fake = (torch.rand(2, 1, 3, 3, dtype=torch.float64) for _ in range(2))

    def penalty(weight: Tensor) -> Tensor:
        torch.manual_seed(7)  # the same places every time

        def critic(x: Tensor) -> Tensor:
            return torch.tanh(nn.functional.conv2d(x, weight)).sum((1, 2, 3))

        return wasserstein_penalty(critic, real, fake)

    weight = torch.rand(2, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(penalty, (weight,))


def test_r1_is_the_gradient_penalty_at_real_pictures() -> None:
    assert r1_penalty is gradient_penalty


def test_cycle_and_mask_losses() -> None:
    one, two = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.25)
    assert cycle_loss(two, one).item() == pytest.approx(0.25)
    assert identity_loss(two, one).item() == pytest.approx(0.25)
    assert mask_sparsity_loss(two).item() == pytest.approx(0.0625)
    step = torch.zeros(1, 1, 3, 4)
    step[..., 2:] = 1  # one column of steps out of three, none downwards
    assert mask_smoothness_loss(step).item() == pytest.approx(1 / 3)
    assert mask_smoothness_loss(step.transpose(2, 3)).item() == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="2 x 2"):
        mask_smoothness_loss(torch.zeros(1, 1, 1, 4))


def test_cycle_and_mask_losses_have_the_gradients_of_finite_differences() -> None:
    torch.manual_seed(8)
    x = torch.rand(1, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    other = torch.rand(1, 1, 3, 4, dtype=torch.float64)
    for loss in (
        mask_sparsity_loss,
        mask_smoothness_loss,
        lambda m: cycle_loss(m, other),
        lambda m: identity_loss(m, other),
    ):
        assert torch.autograd.gradcheck(loss, (x,))  # type: ignore[arg-type]
