"""Graphs at fp16 and bf16, with the precision of every layer written into the graph.

Strongly typed builders (TensorRT for RTX) take no precision from a flag: a tensor has the type that
the graph gives it. So a layer that shall run in half precision gets inputs, weights and outputs of
that type, a layer that shall stay in float32 keeps its own, and a `Cast` stands where they meet.
Inputs and outputs of the graph stay float32.

Note [What may be low]
    A layer is a node that computes with data, and whose operator takes the low type at the graph's
    opset. What only depends on sizes (the transform matrices of a Fourier unit: angles up to the
    number of pixels, which half precision cannot count) is made in float32 and cast where it meets
    data. Functions of ours are inlined first, so that a Fourier unit's matrix products may be low
    and its root and its angles may not.

Note [Emulation]
    Where no engine at hand runs a precision, its graph is emulated: all arithmetic in float32, and
    every low tensor rounded to its type and back by a pair of casts. That is what a layer does that
    accumulates in float32 and stores low. A kernel that accumulates in half precision is worse, so
    a certificate calls these figures emulated, and the probe at load judges the engine that runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper, shape_inference, version_converter

from revisage.errors import EngineError

__all__ = ["LOW_TYPES", "emulated", "float_graph", "low_graph", "low_layers", "name_nodes"]

LOW_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_TYPE_NAMES = {"fp16": "tensor(float16)", "bf16": "tensor(bfloat16)"}
# The first opset whose Conv, ConvTranspose and pooling take the type.
_OPSETS = {"fp16": 18, "bf16": 22}
# What no engine computes in the type although ONNX allows it: TensorRT for RTX has no bfloat16
# kernel of transposed convolutions.
_ALWAYS_FLOAT = {"fp16": {"Cast"}, "bf16": {"Cast", "ConvTranspose"}}
_FLOAT = TensorProto.FLOAT
# They read a tensor's shape, or make values of it that do not depend on the data.
_SIZE_OPERATORS = {"Shape", "Size"}


def float_graph(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """The float32 graph that a low one is made of: functions inlined, at an opset with the type.

    Node names are filled in where they are missing, so that every layer can be named.

    Raises:
        EngineError: the graph has no form at that opset.
    """
    inlined = inliner.inline_local_functions(model) if model.functions else model
    try:
        converted = version_converter.convert_version(inlined, _OPSETS[precision])
    except (RuntimeError, ValueError) as error:
        raise EngineError(
            f"the graph cannot be written at opset {_OPSETS[precision]}, which {precision} needs: "
            f"{str(error).splitlines()[0]}"
        ) from error
    kept = [entry for entry in converted.opset_import if entry.domain in {"", "ai.onnx"}]
    del converted.opset_import[:]
    converted.opset_import.extend(kept)
    name_nodes(converted)
    del converted.graph.value_info[:]
    return shape_inference.infer_shapes(converted, strict_mode=True, data_prop=True)


@dataclasses.dataclass(frozen=True)
class _Ports:
    """Which inputs and outputs of a node take the low type, by index."""

    inputs: frozenset[int]
    outputs: frozenset[int]


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node of the graph a name of its own, where it has none."""
    taken: set[str] = set()
    for node in model.graph.node:
        name = node.name or f"{node.op_type}_{node.output[0]}"
        while name in taken:
            name += "_"
        taken.add(name)
        node.name = name


def low_layers(model: onnx.ModelProto, precision: str) -> tuple[str, ...]:
    """Names of the nodes that may run in low precision, in the graph's order.

    Args:
        model: of `float_graph`. See Note [What may be low].
    """
    return tuple(_layers(model, precision))


def _layers(model: onnx.ModelProto, precision: str) -> dict[str, _Ports]:
    opset = model.opset_import[0].version
    types = _element_types(model)
    data = {value.name for value in model.graph.input}
    layers = {}
    for node in model.graph.node:
        if node.op_type in _SIZE_OPERATORS or data.isdisjoint(node.input):
            continue
        data.update(node.output)
        schema = onnx.defs.get_schema(node.op_type, opset)
        floats = [i for i, name in enumerate(node.output) if types.get(name) == _FLOAT]
        kinds = {_kind(schema.outputs, i) for i in floats}
        inputs = [
            i
            for i, name in enumerate(node.input)
            if types.get(name) == _FLOAT and (_kind(schema.inputs, i) in kinds or name in data)
        ]
        kinds |= {_kind(schema.inputs, i) for i in inputs}
        allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
        fits = all(_TYPE_NAMES[precision] in allowed.get(kind, ()) for kind in kinds)
        if floats and fits and node.op_type not in _ALWAYS_FLOAT[precision]:
            layers[node.name] = _Ports(frozenset(inputs), frozenset(floats))
    return layers


def _kind(ports: Sequence[onnx.defs.OpSchema.FormalParameter], index: int) -> str:
    """The type variable of a port; the last port of a schema may stand for several."""
    return str(ports[min(index, len(ports) - 1)].type_str)


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    graph = model.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return types


def low_graph(
    model: onnx.ModelProto, precision: str, keep_float: Collection[str] = ()
) -> onnx.ModelProto:
    """Write a precision into a graph.

    Args:
        model: of `float_graph`.
        precision: "fp16" or "bf16".
        keep_float: names of layers that stay in float32.

    Returns:
        A strongly typed graph: same names of nodes and tensors, inputs and outputs in float32.
    """
    low_type = LOW_TYPES[precision]
    types = _element_types(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}
    layers = _layers(model, precision)
    low = onnx.ModelProto()
    low.CopyFrom(model)
    graph = low.graph
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    copies: dict[tuple[str, int], str] = {}  # (tensor, type other than its own) -> its copy

    def as_type(name: str, wanted: int) -> str:
        """The tensor `name` in the wanted type: itself, a weight of that type, or a cast."""
        if types[name] == wanted:
            return name
        if (name, wanted) not in copies:
            copy = copies[name, wanted] = f"{name}_{TensorProto.DataType.Name(wanted).lower()}"
            if name in weights:
                graph.initializer.append(_converted(weights[name], wanted, copy))
            else:
                graph.node.append(helper.make_node("Cast", [name], [copy], copy, to=wanted))
        return copies[name, wanted]

    floats = {name for name, kind in types.items() if kind == _FLOAT}
    none = _Ports(frozenset(), frozenset())
    for original in model.graph.node:
        ports = none if original.name in keep_float else layers.get(original.name, none)
        node = onnx.NodeProto()
        node.CopyFrom(original)
        for index, name in enumerate(original.input):
            if name in floats:
                node.input[index] = as_type(name, low_type if index in ports.inputs else _FLOAT)
        behind = []
        for index in ports.outputs:
            name = original.output[index]
            if name in outputs:  # float32 outside, low inside
                inside = copies[name, low_type] = node.output[index] = f"{name}_{precision}"
                behind.append(helper.make_node("Cast", [inside], [name], name, to=_FLOAT))
            else:
                types[name] = low_type
        graph.node.extend([node, *behind])
    used = {name for node in graph.node for name in node.input}
    graph.initializer.extend(tensor for name, tensor in weights.items() if name in used)
    return shape_inference.infer_shapes(low, check_type=True, strict_mode=True, data_prop=True)


def _converted(tensor: TensorProto, wanted: int, name: str) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    limit = 65504.0  # of half precision; a constant beyond it only means "very large"
    if wanted == TensorProto.FLOAT16 and np.abs(values).max(initial=0) > limit:
        values = np.clip(values, -limit, limit)
    return numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(wanted)), name)


def emulated(low: onnx.ModelProto) -> onnx.ModelProto:
    """A low graph as a float32 graph that rounds where the low one stores; see Note [Emulation]."""
    types = _element_types(low)
    model = onnx.ModelProto()
    model.CopyFrom(low)
    graph = model.graph
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    for tensor in low.graph.initializer:
        if tensor.data_type in LOW_TYPES.values():
            tensor = _converted(tensor, _FLOAT, tensor.name)
        graph.initializer.append(tensor)
    for original in low.graph.node:
        node = graph.node.add()
        node.CopyFrom(original)
        if original.op_type == "Cast" and types[original.input[0]] in LOW_TYPES.values():
            node.CopyFrom(helper.make_node("Identity", original.input, original.output, node.name))
            continue
        for index, name in enumerate(original.output):
            if types.get(name) not in LOW_TYPES.values():
                continue
            rounded = f"{name}_rounded"
            if original.op_type == "Cast":
                node.output[index] = rounded
            else:
                exact = node.output[index] = f"{name}_exact"
                graph.node.append(
                    helper.make_node("Cast", [exact], [rounded], rounded, to=types[name])
                )
            graph.node.append(
                helper.make_node("Cast", [rounded], [name], f"{rounded}_back", to=_FLOAT)
            )
    return shape_inference.infer_shapes(model, strict_mode=True)
