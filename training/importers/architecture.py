"""What an importer knows about one published network: how to recognise and how to rebuild it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from revisage.errors import CheckpointError

__all__ = ["Architecture", "Arguments", "Shapes", "check_keys", "listed", "load_checked"]

Shapes = Mapping[str, tuple[int, ...]]  # state-dict key -> shape
Arguments = dict[str, Any]  # of the network's constructor; numbers, words and lists only

LISTED = 8  # names in a message, before "and N more"
MOST_VALUES = 2_000_000_000  # more than any network here has; a file may claim one storage often
PARALLEL = "module."  # what DataParallel puts before the keys


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One network of one published code base.

    A checkpoint is of this architecture when, below one of `prefixes`, all `marks` are there.
    Hyper-parameters are never read from configuration objects: they follow from the shapes.
    """

    name: str  # "lama"
    source: str  # the code base whose checkpoints these are
    marks: tuple[str, ...]
    prefixes: tuple[str, ...]  # tried in this order, "" for a plain state dict; see `places`
    arguments: Callable[[Shapes], Arguments]  # raises CheckpointError where a size is impossible
    build: Callable[[Arguments], torch.nn.Module]
    surplus: tuple[str, ...] = ()  # patterns of keys that old versions stored and nothing needs
    absent: tuple[str, ...] = (r".*\.num_batches_tracked",)  # patterns of keys that may be missing

    def matches(self, keys: Mapping[str, Any], prefix: str) -> bool:
        """Whether the marks are there."""
        return all(prefix + mark in keys for mark in self.marks)

    def places(self) -> Iterator[str]:
        """Every prefix, and then with that of DataParallel before or behind it."""
        for prefix in self.prefixes:
            yield from (prefix, PARALLEL + prefix, prefix + PARALLEL)


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
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
        f"{what}: {listed(names)}"
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
    looks = f"looks like {architecture.name} ({architecture.source}), but"
    empty = sorted(key for key, shape in given.items() if 0 in shape)
    if empty:
        raise CheckpointError(f"{looks} has tensors without values: {listed(empty)}")
    try:
        arguments = architecture.arguments(given)
    except CheckpointError:
        raise
    except _IMPOSSIBLE as error:
        raise CheckpointError(
            f"{looks} its sizes cannot be told from its tensors ({type(error).__name__}: {error})"
        ) from error
    try:
        # Built without memory first: a hostile shape is refused before anything is allocated.
        with torch.device("meta"):
            outline = architecture.build(arguments).state_dict()
    except _IMPOSSIBLE as error:
        raise CheckpointError(
            f"{looks} no such network can be built: {' '.join(str(error).split())[:200]}"
        ) from error
    check_keys(architecture, given, {key: tuple(value.shape) for key, value in outline.items()})
    values = sum(value.numel() for value in outline.values())
    if values > MOST_VALUES:
        raise CheckpointError(f"{looks} it has {values} values; at most {MOST_VALUES} are read")
    network = architecture.build(arguments)
    state = network.state_dict()
    for key in set(given) & set(state):
        state[key] = _converted(key, load(key), state[key].dtype)
    network.load_state_dict(state)
    return network.eval().requires_grad_(False), arguments


# What sizes that make no sense lead to, in our own arithmetic and in torch's constructors.
_IMPOSSIBLE = (
    ArithmeticError,
    AssertionError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


def _converted(key: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A tensor of the checkpoint as the network wants it."""
    if tensor.is_complex() or (dtype.is_floating_point and not tensor.is_floating_point()):
        raise CheckpointError(f"{key} holds {str(tensor.dtype).removeprefix('torch.')}, no weights")
    try:
        values = tensor.detach().to("cpu", dtype)
        finite = bool(torch.isfinite(values).all())  # after the conversion, which may overflow
    except (RuntimeError, TypeError) as error:  # quantised, sparse, or on the "meta" device
        raise CheckpointError(f"{key} is no plain tensor with values ({error})") from error
    if not finite:
        raise CheckpointError(f"{key} holds values that are not finite; the file is damaged")
    return values
