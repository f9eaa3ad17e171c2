"""Five adversarial losses on scores without a sigmoid, and the gradient penalty of WGAN-GP.

Scores may have any shape (a value per picture, or a map of patches); every loss is a mean over all
of them. Below, D is a score, s the sigmoid, and the means run over real and generated pictures.

| kind | the critic minimises | the generator minimises | source |
|---|---|---|---|
| minimax | -log s(D(real)) - log(1 - s(D(fake))) | -log s(D(fake)) | Goodfellow et al. 2014 |
| hinge | max(0, 1 - D(real)) + max(0, 1 + D(fake)) | -D(fake) | Lim and Ye 2017 |
| wasserstein | D(fake) - D(real), and the penalty | -D(fake) | Gulrajani et al. 2017 |
| least_squares | ((D(real) - 1)^2 + D(fake)^2) / 2 | (D(fake) - 1)^2 / 2 | Mao et al. 2017, eq. 9 |
| relativistic | see `Relativistic` | see `Relativistic` | Jolicoeur-Martineau 2019 |

The generator's part of "minimax" is the form that Goodfellow et al. (section 3) recommend in place
of log(1 - s(D(fake))), whose gradient vanishes while the critic wins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from revisage.training.losses.adversarial import gradient_penalty as r1_penalty

__all__ = [
    "ADVERSARIAL",
    "AdversarialLoss",
    "Hinge",
    "LeastSquares",
    "Minimax",
    "Relativistic",
    "Wasserstein",
    "adversarial",
    "r1_penalty",
    "wasserstein_penalty",
]


class AdversarialLoss(Protocol):
    """What both players minimise; scores in, scalar out."""

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """Of the critic, from its scores of real and of generated pictures."""

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """Of the generator; only the relativistic loss needs the scores of real pictures."""


class Minimax:
    """Cross entropy of "real" and "fake"."""

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        return functional.softplus(-real).mean() + functional.softplus(fake).mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return functional.softplus(-fake).mean()


class Hinge:
    """Real scores are pushed above 1 and fake ones below -1, and no further."""

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        return torch.relu(1 - real).mean() + torch.relu(1 + fake).mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return -fake.mean()


class Wasserstein:
    """Difference of the mean scores; meaningful with `wasserstein_penalty` only."""

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        return fake.mean() - real.mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return -fake.mean()


class LeastSquares:
    """Squared distance from the labels 1 (real) and 0 (fake)."""

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        return ((real - 1).square().mean() + fake.square().mean()) / 2

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return (fake - 1).square().mean() / 2


class Relativistic:
    """How much more real a picture looks than the average one of the other kind.

    The critic minimises half of -log s(D(real) - mean D(fake)) - log(1 - s(D(fake) - mean D(real)))
    and the generator the same with real and fake exchanged ("The relativistic
    discriminator", section 4, the average form; the half is DMFN's).
    """

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        real_wins = functional.softplus(fake.mean() - real).mean()
        fake_loses = functional.softplus(fake - real.mean()).mean()
        return (real_wins + fake_loses) / 2

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        if real is None:
            raise ValueError("the relativistic loss also needs the scores of real pictures")
        return self.critic(fake, real)


ADVERSARIAL: dict[str, Callable[[], AdversarialLoss]] = {
    "minimax": Minimax,
    "hinge": Hinge,
    "wasserstein": Wasserstein,
    "least_squares": LeastSquares,
    "relativistic": Relativistic,
}


def adversarial(kind: str) -> AdversarialLoss:
    """The loss of a name in `ADVERSARIAL`.

    Raises:
        ValueError: there is no such loss.
    """
    if kind not in ADVERSARIAL:
        raise ValueError(f"no adversarial loss {kind!r}; known: {', '.join(ADVERSARIAL)}")
    return ADVERSARIAL[kind]()


def wasserstein_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """WGAN-GP's penalty: mean of (norm of the critic's gradient - 1)^2 between real and fake.

    Gulrajani et al. 2017, "Improved Training of Wasserstein GANs", equation 3 without its weight
    (10 in the paper). The gradient is taken at a point drawn uniformly on the line from each real
    picture to a fake one. A critic of patches is differentiated as the sum of its scores, which is
    what StarGAN does.

    Args:
        critic: pictures [N, C, H, W] -> scores of any shape.
        real, fake: [N, C, H, W]; no gradient reaches them.

    Returns:
        A scalar that can be differentiated by the critic's parameters.
    """
    share = torch.rand(len(real), 1, 1, 1, dtype=real.dtype, device=real.device)
    between = (share * real.detach() + (1 - share) * fake.detach()).requires_grad_()
    # A norm near 1 is compared with 1: the eight bits of bfloat16 are too few for that.
    with torch.autocast(real.device.type, enabled=False):
        (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    lengths: Tensor = gradient.flatten(1).norm(dim=1)
    return (lengths - 1).square().mean()
