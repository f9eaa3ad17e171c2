"""Optimisers and their rates over time, from the `[optimiser.NAME]` tables of a recipe."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from revisage.training.recipe import Optimiser

__all__ = ["learning_rate", "make_optimiser"]


def learning_rate(settings: Optimiser, step: int, steps: int) -> float:
    """The rate of the optimiser step number `step` (from 0) of `steps`; see `Optimiser`."""
    peak, end = settings.learning_rate, settings.final_learning_rate
    if step < settings.warmup_steps:
        return peak * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return peak
    if settings.schedule == "step":
        return float(peak * settings.gamma ** sum(step >= m for m in settings.milestones))
    if settings.schedule == "linear":
        begin = max(settings.warmup_steps, settings.decay_from)
        return peak + (end - peak) * _share(step, begin, steps)
    done = _share(step, settings.warmup_steps, steps)
    return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * done))


def _share(step: int, begin: int, end: int) -> float:
    return min(1.0, max(0.0, (step - begin) / max(1, end - begin)))


def make_optimiser(
    settings: Optimiser, parameters: Sequence[torch.nn.Parameter]
) -> torch.optim.Optimizer:
    """The optimiser of a table; the loop sets its rate at every step."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.kind == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=settings.momentum, weight_decay=decay)
    if settings.kind == "rmsprop":
        return torch.optim.RMSprop(
            parameters,
            lr=rate,
            alpha=settings.smoothing,
            eps=settings.epsilon,
            momentum=settings.momentum,
            weight_decay=decay,
        )
    adaptive = torch.optim.AdamW if settings.kind == "adamw" else torch.optim.Adam
    return adaptive(
        parameters, lr=rate, betas=settings.betas, eps=settings.epsilon, weight_decay=decay
    )
