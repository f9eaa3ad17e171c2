"""What an importer knows about one published network: how to recognise and how to rebuild it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from revisage.errors import CheckpointError

__all__ = ["Architecture", "Arguments", "Shapes", "check_keys", "load_checked"]

Shapes = Mapping[str, tuple[int, ...]]  # state-dict key -> shape
Arguments = dict[str, Any]  # of the network's constructor; numbers, words and lists only

LISTED = 8  # names in an error message, before "and N more"


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One network of one published code base.

    A checkpoint is of this architecture when, below one of `prefixes`, all `marks` are there.
    Hyper-parameters are never read from configuration objects: they follow from the shapes.
    """

    name: str  # "lama"
    source: str  # the code base whose checkpoints these are
    marks: tuple[str, ...]
    prefixes: tuple[str, ...]  # tried in this order; "" for a plain state dict
    arguments: Callable[[Shapes], Arguments]  # raises CheckpointError where a size is impossible
    build: Callable[[Arguments], torch.nn.Module]
    surplus: tuple[str, ...] = ()  # patterns of keys that old versions stored and nothing needs
    absent: tuple[str, ...] = (r".*\.num_batches_tracked",)  # patterns of keys that may be missing

    def matches(self, keys: Mapping[str, Any], prefix: str) -> bool:
        """Whether the marks are there."""
        return all(prefix + mark in keys for mark in self.marks)


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:LISTED])
    return shown if len(names) <= LISTED else f"{shown} and {len(names) - LISTED} more"


def _without(names: set[str], patterns: tuple[str, ...]) -> list[str]:
    return sorted(n for n in names if not any(re.fullmatch(p, n) for p in patterns))


def check_keys(architecture: Architecture, given: Shapes, wanted: Shapes) -> None:
    """Compare keys and shapes with the rebuilt network.

    Raises:
        CheckpointError: keys are missing, surplus or of other shapes, listed by name.
    """
    missing = _without(set(wanted) - set(given), architecture.absent)
    surplus = _without(set(given) - set(wanted), architecture.surplus)
    shapes = sorted(
        f"{key} {list(given[key])} instead of {list(wanted[key])}"
        for key in set(given) & set(wanted)
        if tuple(given[key]) != tuple(wanted[key])
    )
    reasons = [
        f"{what}: {_listed(names)}"
        for what, names in (
            ("missing keys", missing),
            ("unknown keys", surplus),
            ("wrong shapes", shapes),
        )
        if names
    ]
    if reasons:
        raise CheckpointError(
            f"looks like {architecture.name} ({architecture.source}), but does not fit it; "
            + "; ".join(reasons)
        )


def load_checked(
    architecture: Architecture,
    given: Shapes,
    load: Callable[[str], torch.Tensor],
) -> tuple[torch.nn.Module, Arguments]:
    """Rebuild the network and fill it with the checkpoint's tensors.

    Args:
        given: shapes of the checkpoint's tensors, prefix removed.
        load: reads one of them.

    Returns:
        The network in eval mode, float32, and its constructor arguments.

    Raises:
        CheckpointError: sizes, keys or values do not fit.
    """
    try:
        arguments = architecture.arguments(given)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"looks like {architecture.name} ({architecture.source}), but its sizes cannot be "
            f"told from its tensors ({type(error).__name__}: {error})"
        ) from error
    try:
        # Built without memory first: a hostile shape is refused before anything is allocated.
        with torch.device("meta"):
            outline = architecture.build(arguments).state_dict()
    except (ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"looks like {architecture.name} ({architecture.source}), but no such network can be "
            f"built: {' '.join(str(error).split())[:200]}"
        ) from error
    check_keys(architecture, given, {key: tuple(value.shape) for key, value in outline.items()})
    network = architecture.build(arguments)
    state = network.state_dict()
    for key in set(given) & set(state):
        tensor = load(key)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{key} holds values that are not finite; the file is damaged")
        state[key] = tensor.to(state[key].dtype)
    network.load_state_dict(state)
    return network.eval().requires_grad_(False), arguments
