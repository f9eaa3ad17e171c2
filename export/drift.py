"""Which layer drifts first: two forms of one graph compared at their intermediate tensors.

The forms share the names of their tensors: a float32 graph, and what `precision.py` or
`quantise.py` made of it. The float32 graph stands in for torch at every layer, once the gate has
passed it. An error is taken relative to the range of the layer's own values, and a layer has
drifted where that share is larger than the share of the output's range that the tolerance allows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from revisage.bundle import Bundle
from revisage.export.compare import (
    Arrays,
    ErrorStatistics,
    run_onnx,
    statistics,
    with_outputs,
)
from revisage.export.precision import LOW_TYPES, emulated, float_graph, name_nodes
from revisage.export.quantise import DEQUANTISED
from revisage.manifest import Tolerance

__all__ = ["LayerError", "comparable_graphs", "first_drift", "layer_errors"]

_AT_ONCE = 24  # intermediate tensors of one run: they are all in memory at once


@dataclasses.dataclass(frozen=True)
class LayerError:
    """How far the output of one node is from the float32 graph's."""

    node: str
    operator: str
    tensor: str
    error: ErrorStatistics
    span: float  # largest minus smallest true value

    @property
    def share(self) -> float:
        """The largest error as a share of the layer's range."""
        return self.error.max_abs / (self.span or 1.0)

    def __str__(self) -> str:
        """For messages: the node with its error."""
        return (
            f"{self.node} ({self.operator}), off by {self.error.max_abs:.3g} of a range of "
            f"{self.span:.3g}"
        )


def comparable_graphs(bundle: Bundle, precision: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The float32 graph of a bundle and its graph at `precision`, as `first_drift` takes them.

    The float32 one has the names of the other; fp16 and bf16 are emulated (see `precision.py`).

    Raises:
        BundleError: the bundle has no such graph.
    """
    true = onnx.load_from_string(bundle.read_graph("fp32"))
    other = onnx.load_from_string(bundle.read_graph(precision))
    if precision in LOW_TYPES:
        return float_graph(true, precision), emulated(other)
    name_nodes(true)
    return true, other


def layer_errors(
    true: onnx.ModelProto, other: onnx.ModelProto, inputs: Sequence[Arrays]
) -> list[LayerError]:
    """The error of every layer that both graphs have, in the float32 graph's order."""
    pairs = _pairs(true, other)
    return [
        error
        for start in range(0, len(pairs), _AT_ONCE)
        for error in _measured(true, other, pairs[start : start + _AT_ONCE], inputs)
    ]


def first_drift(
    true: onnx.ModelProto,
    other: onnx.ModelProto,
    inputs: Sequence[Arrays],
    allowed: Tolerance | float,
) -> LayerError | None:
    """The layer that drifts although what it is computed from does not; None where none does.

    Bisects the graph's order, one intermediate tensor for each run, then follows the inputs of what
    was found upwards as long as one of them has drifted as well.

    Args:
        allowed: of the outputs, from which the share of a range follows; or that share itself.
    """
    outputs = {value.name for value in true.graph.output}
    pairs = _pairs(true, other)
    by_tensor = {tensor: (node, tensor, marked) for node, tensor, marked in pairs}
    ends = list(_measured(true, other, [p for p in pairs if p[1] in outputs], inputs))
    span = min((end.span for end in ends), default=1.0) or 1.0

    if isinstance(allowed, Tolerance):
        most, mean = allowed.max_abs / span, allowed.mean_abs / span
    else:
        most = mean = allowed

    def drifted(layer: LayerError) -> bool:
        own = layer.span or 1.0
        within = layer.error.max_abs <= most * own and layer.error.mean_abs <= mean * own
        return not within  # a NaN has drifted

    last = next((end for end in ends if drifted(end)), None)
    if last is None:
        return None
    low, high = -1, [tensor for _, tensor, _ in pairs].index(last.tensor)
    found = last
    while high - low > 1:
        middle = (low + high) // 2
        (layer,) = _measured(true, other, [pairs[middle]], inputs)
        low, high, found = (low, middle, layer) if drifted(layer) else (middle, high, found)
    while True:
        node = by_tensor[found.tensor][0]
        above = [by_tensor[name] for name in node.input if name in by_tensor]
        earlier = next((e for e in _measured(true, other, above, inputs) if drifted(e)), None)
        if earlier is None:
            return found
        found = earlier


_Pair = tuple[onnx.NodeProto, str, str]  # node of the true graph, its tensor, the other's tensor


def _pairs(true: onnx.ModelProto, other: onnx.ModelProto) -> list[_Pair]:
    floats = {
        value.name
        for value in (*true.graph.value_info, *true.graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    made = {name for node in other.graph.node for name in node.output}
    # An int8 graph rounds a tensor behind the node that makes it.
    return [
        (node, name, f"{name}{DEQUANTISED}" if f"{name}{DEQUANTISED}" in made else name)
        for node in true.graph.node
        for name in node.output
        if name in floats and name in made
    ]


def _measured(
    true: onnx.ModelProto, other: onnx.ModelProto, pairs: Sequence[_Pair], inputs: Sequence[Arrays]
) -> Iterator[LayerError]:
    if not pairs:
        return
    trues = run_onnx(with_outputs(true, [tensor for _, tensor, _ in pairs]), inputs)
    others = run_onnx(with_outputs(other, [marked for _, _, marked in pairs]), inputs)
    for node, tensor, marked in pairs:
        expected = _flat(trues, tensor)
        span = float(np.ptp(expected)) if expected.size else 0.0
        error = statistics(expected, _flat(others, marked))
        yield LayerError(
            node.name, node.op_type, tensor, error, span if math.isfinite(span) else 1.0
        )


def _flat(results: Sequence[Arrays], name: str) -> NDArray[Any]:
    return np.concatenate([result[name].reshape(-1) for result in results])
