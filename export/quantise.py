"""int8 graphs for the CPU: static quantisation with ONNX Runtime's own tool.

Activations are unsigned and weights signed bytes (U8S8), because that pair is what ONNX Runtime's
convolutions compute with AVX-512 VNNI dot products; signed activations (S8S8) run slower there than
float32. Weights have a scale for each channel. The graph holds QuantizeLinear and DequantizeLinear
around every quantised node (QDQ), which ONNX Runtime fuses into integer operators when it loads.

Note [What is quantised]
    Convolutions with enough channels to fill a vector, and what lies between two of them. A Concat,
    an addition or a Resize left in float between two quantised convolutions would cost two
    conversions and the time that they save. What comes before the first convolution and after the
    last one stays float: eight bits of a picture are steps that a retoucher sees.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import shape_inference
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from revisage.export.precision import name_nodes

__all__ = ["DEQUANTISED", "Quantiser"]

DEQUANTISED = "_DequantizeLinear_Output"  # behind the name of a tensor: the same, rounded

Arrays = Mapping[str, NDArray[Any]]

# Operators with an integer form in ONNX Runtime's CPU provider, or that only move values.
_MATRIX_OPERATORS = {"Conv"}
_BETWEEN_OPERATORS = {
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "DepthToSpace",
    "GlobalAveragePool",
    "LeakyRelu",
    "MaxPool",
    "Mul",
    "Pad",
    "Relu",
    "Resize",
    "Sigmoid",
    "Slice",
    "Split",
}
_LEAST_CHANNELS = 8  # of a convolution's output


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, inputs: Sequence[Arrays]) -> None:
        self._left = iter(inputs)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        found = next(self._left, None)
        return None if found is None else dict(found)


class Quantiser:
    """Makes int8 graphs of one float32 graph; a context manager, as it keeps files meanwhile.

    Args:
        model: the portable float32 graph.
        inputs: what the ranges of all values are measured on, once. Nothing else of it is kept.
    """

    def __init__(self, model: onnx.ModelProto, inputs: Sequence[Arrays]) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        name_nodes(self.model)
        self._inputs = inputs
        self.layers = _between_convolutions(self.model)

    def __enter__(self) -> Quantiser:
        self._folder = tempfile.TemporaryDirectory(prefix="revisage-int8-")
        onnx.save(self.model, Path(self._folder.name) / "float.onnx")
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def graph(self, keep_float: Collection[str] = ()) -> onnx.ModelProto:
        """The graph with all layers quantised but `keep_float`."""
        folder = Path(self._folder.name)
        chosen = [name for name in self.layers if name not in keep_float]
        if not chosen:
            return self.model
        ranges = folder / "ranges.json"
        with _quiet():
            quantize_static(
                folder / "float.onnx",
                folder / "int8.onnx",
                None if ranges.exists() else _Reader(self._inputs),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                op_types_to_quantize=sorted(_MATRIX_OPERATORS | _BETWEEN_OPERATORS),
                nodes_to_quantize=chosen,
                calibration_cache_path=ranges,
            )
        model = onnx.load(folder / "int8.onnx")
        known = {function.domain for function in model.functions} | {"", "ai.onnx"}
        opsets = [entry for entry in model.opset_import if entry.domain in known]
        del model.opset_import[:], model.metadata_props[:]
        model.opset_import.extend(opsets)
        model.producer_name, model.producer_version = "revisage", ""
        del model.graph.value_info[:]
        return shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def _between_convolutions(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the nodes of Note [What is quantised], in the graph's order."""
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    nodes = model.graph.node
    wide = {
        node.name
        for node in nodes
        if node.op_type in _MATRIX_OPERATORS
        and weights.get(node.input[1], (0,))[0] >= _LEAST_CHANNELS
    }

    def reached(order: Sequence[onnx.NodeProto], *, forward: bool) -> set[str]:
        """Nodes that a wide convolution leads to through operators of `_BETWEEN_OPERATORS`."""
        tensors: set[str] = set()
        found = set()
        for node in order:
            near, far = (node.input, node.output) if forward else (node.output, node.input)
            passes = node.op_type in _BETWEEN_OPERATORS and not tensors.isdisjoint(near)
            if passes:
                found.add(node.name)
            if passes or node.name in wide:
                tensors.update(far)
        return found

    between = reached(nodes, forward=True) & reached(nodes[::-1], forward=False)
    return tuple(node.name for node in nodes if node.name in wide | between)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime's tool advises by the root logger, even where its advice was followed."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
