"""Convolutions that our kernel computes with fewer multiplications, as nodes of our own.

A 3x3 convolution of stride 1 becomes one node of the domain `revisage`, together with a reflecting
Pad in front and what follows it: an addition, an activation, another addition. The node's name
lists them in that order (`PadWinogradConvAddRelu`), and is that of an operator in
`kernels/onnxruntime/winograd_conv.cc`. Its meaning is the function of that name in the same file,
whose body are the very nodes that it replaces: an engine without our kernel inlines it and is back
at the graph as it was, with all the fusions that it knows.

Graphs at lower precisions are made before, of the plain graph.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from revisage.export.onnx_from_torch import OPSET, check_portable
from revisage.export.portable_functions import DOMAIN, VERSION

__all__ = ["use_winograd"]

# Below, ONNX Runtime's own convolution is quicker, or nearly: with fewer channels the transforms
# cost what the products save, and a smaller picture has fewer tiles than a vector has lanes.
# Measured on a Zen 4 with AVX-512 (benchmarks/kernels/bench_winograd_conv.py).
LEAST_CHANNELS, LEAST_PIXELS = 8, 16 * 16
_BATCH = 2  # for the shapes that are looked at
_REFLECTED = [0, 0, 1, 1, 0, 0, 1, 1]
# Operator -> how an operator's name calls it. A Clip is a Relu6 between 0 and 6.
_ACTIVATIONS = {"Relu": "Relu", "LeakyRelu": "LeakyRelu", "Clip": "Relu6"}


@dataclasses.dataclass
class _Chain:
    """A convolution and the nodes around it that one node can stand for."""

    nodes: list[onnx.NodeProto]  # in order, the Pad first and not to be removed with them
    name: str
    inputs: list[str]
    attributes: dict[str, Any]


def use_winograd(model: onnx.ModelProto, side: int) -> onnx.ModelProto:
    """The graph with our nodes wherever the kernel of that name is quicker.

    Args:
        model: the portable graph, of standard operators around convolutions. Not modified.
        side: of the pictures, in pixels, at which it is quicker: the working size.

    Returns:
        The checked graph; the same where there is no such convolution.

    Raises:
        EngineError: it is not portable.
    """
    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(model)
    graph = _Graph(rewritten, side)
    names = set()
    for node in list(rewritten.graph.node):
        chain = graph.chain_from(node)
        if chain is not None:
            graph.replace(chain)
            names.add(chain.name)
    if not names:
        return rewritten
    graph.remove_unused_pads()
    rewritten.functions.extend(_function(name) for name in sorted(names))
    if DOMAIN not in {entry.domain for entry in rewritten.opset_import}:
        rewritten.opset_import.add(domain=DOMAIN, version=VERSION)
    del rewritten.graph.value_info[:]
    rewritten = shape_inference.infer_shapes(
        rewritten, check_type=True, strict_mode=True, data_prop=True
    )
    check_portable(rewritten)
    return rewritten


class _Graph:
    """Who makes and who reads each value of a graph."""

    def __init__(self, model: onnx.ModelProto, side: int) -> None:
        self._graph = model.graph
        self._shapes = _shapes_at(model, side)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self._readers[name].append(node)
        self._outputs = {value.name for value in model.graph.output}
        self._taken: set[str] = set()  # outputs of nodes that are part of a chain

    def chain_from(self, convolution: onnx.NodeProto) -> _Chain | None:
        """What can be replaced around a convolution; None where it cannot, or should not, be."""
        if convolution.op_type != "Conv" or not self._is_eligible(convolution):
            return None
        attributes = _attributes(convolution)
        pads = list(attributes.get("pads", [0] * 4))
        source = convolution.input[0]
        pad = self._makers.get(source)
        nodes: list[onnx.NodeProto] = []
        if pads == [0] * 4 and pad is not None and self._reflects(pad):
            nodes.append(pad)
            source = pad.input[0]
        elif pads != [1] * 4:
            return None
        bias = convolution.input[2] if len(convolution.input) > 2 else self._no_bias(convolution)
        chain = _Chain([*nodes, convolution], "", [source, convolution.input[1], bias], {})
        chain.name = "PadWinogradConv" if nodes else "WinogradConv"
        self._follow(chain)
        return chain

    def _is_eligible(self, node: onnx.NodeProto) -> bool:
        weight = self._constants.get(node.input[1])
        if weight is None or list(weight.dims[2:]) != [3, 3] or node.output[0] in self._taken:
            return False
        attributes = _attributes(node)
        ones = ("strides", "dilations")
        if attributes.get("group", 1) != 1 or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
            return False
        if any(list(attributes.get(name, [1, 1])) != [1, 1] for name in ones):
            return False
        shape = self._shapes.get(node.output[0], ())
        pixels = math.prod(shape[2:]) if len(shape) == 4 else 0
        return bool(min(weight.dims[:2]) >= LEAST_CHANNELS) and pixels >= LEAST_PIXELS

    def _reflects(self, node: onnx.NodeProto) -> bool:
        if node.op_type != "Pad" or any(node.input[2:]):
            return False
        pads = self._constants.get(node.input[1])
        if pads is None or _attributes(node).get("mode") != b"reflect":
            return False
        return list(numpy_helper.to_array(pads)) == _REFLECTED

    def _no_bias(self, convolution: onnx.NodeProto) -> str:
        """A bias of zeros for a convolution that has none."""
        weight = self._constants[convolution.input[1]]
        name = f"zeros_{weight.dims[0]}"
        if name not in self._constants:
            zeros = numpy_helper.from_array(np.zeros(weight.dims[0], np.float32), name)
            self._constants[name] = zeros
            self._graph.initializer.append(zeros)
        return name

    def _follow(self, chain: _Chain) -> None:
        """Take in what follows the convolution: Add, an activation, Add."""
        if self._take_addition(chain):
            chain.name += "Add"
        follower = self._only_reader(chain)
        if follower is None or follower.op_type not in _ACTIVATIONS:
            return
        if follower.op_type == "Clip" and self._limits(follower) != (0, 6):
            return
        if follower.op_type == "LeakyRelu":
            chain.attributes["alpha"] = _attributes(follower).get("alpha", 0.01)
        chain.nodes.append(follower)
        chain.name += _ACTIVATIONS[follower.op_type]
        if self._take_addition(chain):
            chain.name += "Add"

    def _only_reader(self, chain: _Chain) -> onnx.NodeProto | None:
        value = chain.nodes[-1].output[0]
        readers = self._readers[value]
        alone = len(readers) == 1 and list(readers[0].input).count(value) == 1
        free = value not in self._outputs and readers and readers[0].output[0] not in self._taken
        return readers[0] if alone and free and readers[0].domain == "" else None

    def _take_addition(self, chain: _Chain) -> bool:
        """Take in an Add that follows; of two values of one shape, because ours broadcasts none."""
        follower, value = self._only_reader(chain), chain.nodes[-1].output[0]
        if follower is None or follower.op_type != "Add":
            return False
        (other,) = (name for name in follower.input if name != value)
        shape = self._shapes.get(value)
        if shape is None or self._shapes.get(other) != shape or other in self._constants:
            return False
        chain.nodes.append(follower)
        chain.inputs.append(other)
        return True

    def _limits(self, clip: onnx.NodeProto) -> tuple[float, ...]:
        bounds = [self._constants[name] for name in clip.input[1:] if name in self._constants]
        return tuple(float(numpy_helper.to_array(bound)) for bound in bounds)

    def replace(self, chain: _Chain) -> None:
        """Put one node in the place of the last of a chain, where all of its inputs are known."""
        inside = [node for node in chain.nodes if node.op_type != "Pad"]
        last = inside[-1]
        made = helper.make_node(
            chain.name,
            chain.inputs,
            list(last.output),
            last.name,
            domain=DOMAIN,
            **chain.attributes,
        )
        nodes = list(self._graph.node)
        place = next(i for i, node in enumerate(nodes) if node is last or node == last)
        self._graph.node[place].CopyFrom(made)
        for node in inside[:-1]:
            self._graph.node.remove(node)
        self._taken.update(name for node in inside for name in node.output)

    def remove_unused_pads(self) -> None:
        """Drop the Pads that only replaced convolutions read, and what only they read."""
        read = {name for node in self._graph.node for name in node.input} | self._outputs
        for node in list(self._graph.node):
            if node.op_type == "Pad" and node.output[0] not in read:
                self._graph.node.remove(node)
        read = {name for node in self._graph.node for name in node.input} | self._outputs
        for tensor in list(self._graph.initializer):
            if tensor.name not in read:
                self._graph.initializer.remove(tensor)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}


def _shapes_at(model: onnx.ModelProto, side: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the values of a graph, for a batch of pictures of one size."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    del sized.graph.value_info[:]
    for value in sized.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = _BATCH if dim.dim_param == "N" else side
    for value in sized.graph.output:
        value.type.tensor_type.ClearField("shape")
    found = shape_inference.infer_shapes(sized, data_prop=True).graph
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*found.value_info, *found.input, *found.output)
        if all(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    }


def _function(name: str) -> onnx.FunctionProto:
    """The body of the operator `name`, read from its name."""
    inputs, value = ["x", "weight", "bias"], "x"
    attributes: list[str] = []
    nodes: list[onnx.NodeProto] = []

    def node(operator: str, *arguments: str, **options: Any) -> str:
        made = f"{operator.lower()}_{len(nodes)}"
        nodes.append(helper.make_node(operator, list(arguments), [made], **options))
        return made

    def constant(array: Iterable[float], kind: int) -> str:
        values = list(array)
        shape = [len(values)] if kind == TensorProto.INT64 else []
        return node("Constant", value=helper.make_tensor("", kind, shape, values))

    before, _, after = name.partition("WinogradConv")
    if before:
        value = node("Pad", value, constant(_REFLECTED, TensorProto.INT64), mode="reflect")
    pads = [0] * 4 if before else [1] * 4
    value = node("Conv", value, "weight", "bias", kernel_shape=[3, 3], pads=pads)
    residual, activation, skip = _parts(after)
    if residual:
        inputs.append("residual")
        value = node("Add", value, "residual")
    if activation == "LeakyRelu":
        attributes.append("alpha")
        value = node("LeakyRelu", value)
        reference = onnx.AttributeProto(
            name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="alpha"
        )
        nodes[-1].attribute.append(reference)
    elif activation == "Relu6":
        limits = [constant([limit], TensorProto.FLOAT) for limit in (0.0, 6.0)]
        value = node("Clip", value, *limits)
    elif activation:
        value = node("Relu", value)
    if skip:
        inputs.append("skip")
        value = node("Add", value, "skip")
    nodes[-1].output[0] = "result"
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_function(DOMAIN, name, inputs, ["result"], nodes, opset, attributes)


def _parts(after: str) -> tuple[bool, str, bool]:
    """What follows a convolution by its name: an addition, an activation, an addition."""
    residual = after.startswith("Add")
    rest = after.removeprefix("Add")
    return residual, rest.removesuffix("Add"), rest.endswith("Add")
