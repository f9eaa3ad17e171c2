"""One network at a lower precision, as low as its tolerance allows."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Sequence

import onnx

from revisage.engines.probe import MEAN_ROOM
from revisage.errors import ParityError
from revisage.export.compare import Arrays, excess, run_onnx, statistics_of
from revisage.export.drift import first_drift
from revisage.export.precision import emulated, float_graph, low_graph, low_layers
from revisage.export.precision_search import MAX_RUNS, SearchResult, layers_to_keep
from revisage.export.quantise import Quantiser
from revisage.manifest import TensorSpec, Tolerance

__all__ = ["LoweredGraph", "lowered", "serialised"]

# The search looks at one in so many references first, the hardest ones. What it finds is checked on
# all of them.
SEARCH_PART = 4


@dataclasses.dataclass(frozen=True)
class LoweredGraph:
    """A graph at a precision, and what was found out on the way."""

    precision: str
    model: bytes
    emulation: bytes | None  # the same in float32 arithmetic; None where ONNX Runtime's CPU runs it
    search: SearchResult


def lowered(
    model: onnx.ModelProto,
    precision: str,
    tolerance: Tolerance,
    references: Sequence[Arrays],
    truths: Sequence[Arrays],
    outputs: Sequence[TensorSpec],
    *,
    probes: tuple[Sequence[Arrays], Sequence[Arrays]],
    calibration: Sequence[Arrays] | None = None,
    max_runs: int = MAX_RUNS,
) -> LoweredGraph:
    """Lower a graph; layers whose error breaks the tolerance stay in float32.

    Args:
        model: the portable float32 graph.
        precision: "fp16", "bf16" or "int8".
        tolerance: against `truths`, float32 torch's outputs for `references`.
        probes: further inputs and their true outputs, which count by themselves: the engine that
            loads the graph has to pass the bundle's probes.
        calibration: inputs from which int8 takes its ranges; None takes the references.
        max_runs: of one search; there is a second one, on all references, where these refuse what
            the first one found on its part of them.

    Raises:
        ParityError: no layer can be low within the tolerance.
    """
    at_load = Tolerance(tolerance.max_abs, MEAN_ROOM * tolerance.mean_abs)
    everywhere = range(len(references))

    def measured(lower: onnx.ModelProto, places: Sequence[int] = everywhere) -> float:
        content = serialised(lower)
        worst = 0.0
        for inputs, true, limit in (
            ([references[i] for i in places], [truths[i] for i in places], tolerance),
            (*probes, at_load),
        ):
            errors = statistics_of(true, run_onnx(content, inputs), inputs, outputs)
            if limit is at_load:  # which looks at numbers, and not at pictures
                errors = {n: dataclasses.replace(e, picture={}) for n, e in errors.items()}
            worst = max(excess(errors, limit), worst)  # in this order a NaN stays one
        return worst

    def search(
        layers: Sequence[str],
        graph: Callable[[Collection[str]], onnx.ModelProto],
        whole: onnx.ModelProto,
    ) -> SearchResult:
        def found_on(places: Sequence[int]) -> SearchResult:
            return layers_to_keep(
                layers,
                lambda keep: measured(graph(keep), places),
                estimate=lambda keep: measured(graph(keep), places[:1]),
                max_runs=max_runs,
            )

        all_low = measured(graph(()))
        if all_low <= 1:
            return SearchResult((), len(layers), 1, all_low)
        alone = [measured(graph(()), [place]) for place in everywhere]
        hardest = sorted(everywhere, key=lambda i: -math.inf if math.isnan(alone[i]) else -alone[i])
        try:
            result = found_on(hardest[: max(1, len(hardest) // SEARCH_PART)])
            if not measured(graph(result.keep_float)) <= 1:  # what was left out disagrees
                result = found_on(hardest)
        except ParityError as error:
            first = first_drift(whole, graph(()), references[:1], tolerance)
            hint = "" if first is None else f"; first to drift is {first}"
            raise ParityError(f"the graph at {precision}: {error}{hint}") from None
        return result

    if precision == "int8":
        quantiser = Quantiser(model, references if calibration is None else calibration)
        cut = min((True, False), key=lambda cut: measured(quantiser.graph(cut=cut)))
        graph = functools.partial(quantiser.graph, cut=cut)
        result = search(quantiser.layers, graph, quantiser.model)
        quantised = graph(result.keep_float)
        return LoweredGraph(precision, serialised(quantised), None, result)
    whole = float_graph(model, precision)
    result = search(
        low_layers(whole, precision),
        lambda keep: emulated(low_graph(whole, precision, keep)),
        whole,
    )
    low = low_graph(whole, precision, result.keep_float)
    return LoweredGraph(precision, serialised(low), serialised(emulated(low)), result)


def serialised(model: onnx.ModelProto) -> bytes:
    """Bytes of a graph: equal graphs give equal bytes."""
    content: bytes = model.SerializeToString(deterministic=True)
    return content
