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
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper, shape_inference
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from revisage.export.compare import run_onnx, with_outputs
from revisage.export.integer_forms import rewrite_for_integers
from revisage.export.precision import name_nodes

__all__ = ["DEQUANTISED", "Quantiser", "chosen_range", "sampled"]

DEQUANTISED = "_DequantizeLinear_Output"  # behind the name of a tensor: the same, rounded

Arrays = Mapping[str, NDArray[Any]]
_Range = tuple[float, float]

# Operators with an integer form in ONNX Runtime's CPU provider, or that only move values.
_MATRIX_OPERATORS = {"Conv", "ConvTranspose"}
_MOVING_OPERATORS = {"Concat", "DepthToSpace", "MaxPool", "Pad", "Resize", "Slice", "Split"}
_BETWEEN_OPERATORS = _MOVING_OPERATORS | {
    "Add",
    "AveragePool",
    "Clip",
    "GlobalAveragePool",
    "LeakyRelu",
    "Mul",
    "Relu",
    "Sigmoid",
}
_QUANTISED = _MATRIX_OPERATORS | _BETWEEN_OPERATORS | {"Reshape", "Transpose"}
_LEAST_CHANNELS = 8  # of a convolution's output
_AT_ONCE = 64  # intermediate tensors of one run: they are all in memory at once
_FAINT = 0.3  # half a range whose variance is a few hundred times the usual epsilon of 1e-5
_SAMPLES = 8192  # values of a tensor, of each input, on which a range is chosen
_SHARES = np.linspace(1, 0.4, 25).tolist()  # of the whole range


class Quantiser:
    """Makes int8 graphs of one float32 graph.

    Args:
        model: the portable float32 graph.
        inputs: what the ranges of all values are measured on, once. Nothing else of it is kept.
    """

    def __init__(self, model: onnx.ModelProto, inputs: Sequence[Arrays]) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        name_nodes(self.model)
        _fill_range_before_norms(self.model, inputs)
        self.layers = _between_convolutions(self.model)
        self._ranges = _ranges(self.model, self.layers, inputs)

    def graph(self, keep_float: Collection[str] = (), *, cut: bool = True) -> onnx.ModelProto:
        """The graph with all layers quantised but `keep_float`.

        Args:
            cut: cut off outliers where that loses less on average; else every value that the inputs
                led to has its step, and single pixels err less.
        """
        chosen = [name for name in self.layers if name not in keep_float]
        if not chosen:
            return self.model
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        names, sources = rewrite_for_integers(model, chosen)
        ranges = {name: found if cut else whole for name, (whole, found) in self._ranges.items()}
        ranges |= {new: ranges[old] for new, old in sources.items()}
        model = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        with _quiet():
            quantizer = QDQQuantizer(
                model,
                per_channel=True,
                reduce_range=False,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=TensorsData(
                    CalibrationMethod.MinMax,
                    {
                        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
                        for name, (low, high) in ranges.items()
                    },
                ),
                nodes_to_quantize=sorted(names),
                nodes_to_exclude=[],
                op_types_to_quantize=sorted(_QUANTISED),
                extra_options={},
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
            model = quantizer.model.model
        known = {function.domain for function in model.functions} | {"", "ai.onnx"}
        opsets = [entry for entry in model.opset_import if entry.domain in known]
        del model.opset_import[:], model.metadata_props[:]
        model.opset_import.extend(opsets)
        model.producer_name, model.producer_version = "revisage", ""
        del model.graph.value_info[:]
        return shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def _fill_range_before_norms(model: onnx.ModelProto, inputs: Sequence[Arrays]) -> None:
    """Let the channels of convolutions before instance norms share one range, in place.

    They are shifted to its middle and scaled up to it; the norm takes out what was put in, but
    eight bits for all channels are eight for each then. (Cross-layer equalisation as of Nagel et
    al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", where the
    next layer undoes it by itself.) Channels so faint that the norm's epsilon counts keep their
    scale.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    reads = Counter(name for node in graph.node for name in node.input)
    normed = {n.input[0] for n in graph.node if n.op_type == "InstanceNormalization"}
    chosen = [
        node
        for node in graph.node
        if node.op_type == "Conv"
        and node.output[0] in normed
        and reads[node.output[0]] == 1
        and all(name in constants for name in node.input[1:])
    ]
    made = {node.output[0]: node for node in chosen}
    for name, values in _values(model, list(made), inputs, _channel_ends):
        node = made[name]
        low, high = np.min(values, axis=(0, 1)), np.max(values, axis=(0, 1))
        half = (high - low) / 2
        scale = np.where(half > _FAINT, half.max() / np.maximum(half, _FAINT), 1)
        weights = numpy_helper.to_array(constants[node.input[1]])
        bias = numpy_helper.to_array(constants[node.input[2]]) if len(node.input) > 2 else 0
        changed = {
            f"{node.name}.weights": weights * scale[:, None, None, None],
            f"{node.name}.bias": (bias - (low + high) / 2) * scale,
        }
        for tensor, value in changed.items():
            constants[tensor] = numpy_helper.from_array(value.astype(np.float32), tensor)
        node.input[1:] = changed
    del graph.initializer[:]
    used = {name for node in graph.node for name in node.input}
    graph.initializer.extend(tensor for name, tensor in constants.items() if name in used)


def _ranges(
    model: onnx.ModelProto, layers: Collection[str], inputs: Sequence[Arrays]
) -> dict[str, tuple[_Range, _Range]]:
    """The whole range of every tensor that a layer reads or makes, and the one that loses least."""
    constants = {tensor.name for tensor in model.graph.initializer}
    floats = {
        value.name
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    chosen = [node for node in model.graph.node if node.name in set(layers)]
    names = [name for node in chosen for name in (*node.input, *node.output)]
    names = [name for name in dict.fromkeys(names) if name in floats - constants]
    return {
        name: (whole_range(values), chosen_range(values))
        for name, values in _values(model, names, inputs, sampled)
    }


def whole_range(values: Sequence[NDArray[np.float32]]) -> _Range:
    """From the smallest to the largest value, and zero, which pads."""
    return min(0.0, *(float(v.min()) for v in values)), max(0.0, *(float(v.max()) for v in values))


def chosen_range(values: Sequence[NDArray[np.float32]]) -> _Range:
    """The range that loses least: 255 steps from end to end, and what is beyond is cut off.

    Args:
        values: of `sampled`.
    """
    low, high = whole_range(values)
    some = np.concatenate([v[:-2] for v in values])  # the ends would count more than they are

    def loss(share: float) -> float:
        step = share * (high - low) / 255 or 1.0
        zero = np.round(-share * low / step)
        rounded = np.clip(np.round(some / step) + zero, 0, 255) - zero
        return float(np.mean((rounded * step - some) ** 2))

    share = min(_SHARES, key=loss)
    return share * low, share * high


def sampled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[K + 2]: K of the values, then the smallest and the largest of all."""
    stride = values.size // _SAMPLES | 1  # odd, so that it goes through all columns
    return np.append(values.reshape(-1)[::stride], [values.min(), values.max()])


def _channel_ends(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[2, C]: the smallest and the largest value of every channel."""
    return np.stack([values.min(axis=(0, 2, 3)), values.max(axis=(0, 2, 3))])


def _values(
    model: onnx.ModelProto,
    names: Sequence[str],
    inputs: Sequence[Arrays],
    keep: Callable[[NDArray[Any]], NDArray[Any]],
) -> Iterator[tuple[str, list[NDArray[np.float32]]]]:
    """What is to be kept of tensors of the graph, one array for each of the inputs."""
    given = {value.name for value in model.graph.input}
    made = [name for name in names if name not in given]
    for name in names:
        if name in given:
            yield name, [keep(x[name]) for x in inputs]
    for start in range(0, len(made), _AT_ONCE):
        some = made[start : start + _AT_ONCE]
        found = run_onnx(with_outputs(model, some), inputs, keep=keep)
        for name in some:
            yield name, [outputs[name] for outputs in found]


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
