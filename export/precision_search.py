"""Which layers must stay in float32: an automatic search with a bounded number of runs.

Layers are put into stretches of the graph's order, so that a network of a thousand nodes and one of
thirty take the same time. The search is deterministic: the same measurements give the same answer.

1. Everything low. Most networks pass here.
2. Every stretch alone low: how much of the tolerance does it use up? An estimate on a part
   of the reference set is enough to put them into an order.
3. The worst stretches stay float, as few of them as let the rest pass (a binary search, as errors
   only fall where more stays float).
4. Every stretch that stayed float is halved as often as runs are left, and the halves that can go
   low go low.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence

from revisage.errors import ParityError

__all__ = ["MAX_RUNS", "SearchResult", "layers_to_keep"]

MAX_RUNS = 48  # of the network on the reference set
STRETCHES = 16


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What stays in float32, and what the search cost."""

    keep_float: tuple[str, ...]  # in the graph's order
    layers: int  # that might have been low
    runs: int
    excess: float  # of the result; at most 1


def layers_to_keep(
    layers: Sequence[str],
    excess: Callable[[Collection[str]], float],
    *,
    estimate: Callable[[Collection[str]], float] | None = None,
    max_runs: int = MAX_RUNS,
) -> SearchResult:
    """Find few layers that have to stay float for the rest to be low within the tolerance.

    Args:
        layers: names of the layers that may be low, in the graph's order.
        excess: error over tolerance when the layers named stay float: passes at 1 and below. NaN
            fails.
        estimate: the same, quicker and less exactly; None takes `excess`.
        max_runs: how often the two may be called, at least 4.

    Raises:
        ParityError: not even one low stretch is within the tolerance.
    """
    runs = 0

    def measured(keep: Collection[str], by: Callable[[Collection[str]], float] = excess) -> float:
        nonlocal runs
        runs += 1
        return by(frozenset(keep))

    found = measured(())
    if found <= 1:
        return SearchResult((), len(layers), runs, found)
    stretches = _stretches(layers, min(STRETCHES, max(2, max_runs // 3)))
    alone = [measured(set(layers) - set(stretch), estimate or excess) for stretch in stretches]
    # Sorting is stable, and a NaN is the worst of all.
    order = sorted(
        range(len(stretches)), key=lambda i: -math.inf if math.isnan(alone[i]) else -alone[i]
    )

    def kept(count: int) -> list[Sequence[str]]:
        return [stretches[i] for i in sorted(order[:count])]

    fails, passes = 0, len(stretches)
    best = math.nan
    while passes - fails > 1 and runs < max_runs:
        middle = (fails + passes) // 2
        value = measured(_joined(kept(middle)))
        if value <= 1:
            passes, best = middle, value
        else:
            fails = middle
    if passes == len(stretches):
        raise ParityError(
            f"none of the {len(layers)} layers can be low within the tolerance; leave this "
            "precision out, or state the tolerance that the job allows"
        )
    keep = kept(passes)
    open_ = [stretch for stretch in keep if len(stretch) > 1]
    while open_ and runs < max_runs:
        stretch = max(open_, key=len)
        open_.remove(stretch)
        keep.remove(stretch)
        middle = len(stretch) // 2
        halves = [stretch[:middle], stretch[middle:]]
        for stays in halves:
            value = measured(_joined([*keep, stays])) if runs < max_runs else math.inf
            if value <= 1:
                halves, best = [stays], value
                break
        keep += halves
        open_ += [half for half in halves if len(half) > 1]
    names = _joined(keep)
    return SearchResult(tuple(n for n in layers if n in names), len(layers), runs, best)


def _joined(stretches: Sequence[Sequence[str]]) -> set[str]:
    return {name for stretch in stretches for name in stretch}


def _stretches(layers: Sequence[str], count: int) -> list[Sequence[str]]:
    """At most `count` stretches of the order, of one length."""
    size = math.ceil(len(layers) / count)
    return [layers[start : start + size] for start in range(0, len(layers), size)]
