"""A rewrite of an exported graph: convolutions with few outputs, computed on cells of 2 x 2 pixels.

An engine for the CPU computes 16 channels at once, so a convolution to a picture of three leaves
most lanes empty, and at full size it may cost more than all others together. Where a pixel's place
in its cell is part of the channel, the same result takes four times as many outputs of a kernel
half as large, at a quarter of the places. Exact but for the order of sums.

Note [Convolution on cells]
    Padded explicitly, output 2g + a (a = 0, 1) of a convolution of odd size k takes the pixels
    2g + a to 2g + a + k - 1, which lie in the cells g to g + (k - 1) / 2. SpaceToDepth makes
    channels of the cells, a convolution of size (k + 1) / 2 gives the four outputs of each cell,
    and DepthToSpace lays them out.
"""

from __future__ import annotations

import re

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

__all__ = ["cells_of_kernel", "compute_on_cells"]

LANES = 16  # channels that ONNX Runtime computes at once with AVX-512
THIN = 3  # outputs: a picture, a flow or a mask
SIZES = (3, 5, 7)

Weights = NDArray[np.float32]


def compute_on_cells(model: onnx.ModelProto) -> None:
    """Rewrite the thin convolutions of `model` in place.

    A convolution is rewritten where the size of its result is known to be even (from the shapes
    that the exporter inferred), and gives no more than a picture.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    values = (*graph.value_info, *graph.output)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in values
    }
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        sides = shapes.get(node.output[0], [])[2:]
        if node.op_type == "Conv" and sides and all(map(_even, sides)):
            nodes.extend(_on_cells(node, constants) or [node])
        else:
            nodes.append(node)
    read = {name for node in nodes for name in node.input}
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensor for name, tensor in constants.items() if name in read)


def _on_cells(
    node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]
) -> list[onnx.NodeProto] | None:
    """The nodes that take a node's place, their constants added; None where it is not thin."""
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    source, *parameters = node.input
    plain = (
        given.get("group", 1) == 1
        and set(given.get("strides", [1])) == {1}
        and set(given.get("dilations", [1])) == {1}
        and given.get("auto_pad", b"NOTSET") == b"NOTSET"
    )
    if not plain or any(name not in constants for name in parameters):
        return None
    weights, *bias = (numpy_helper.to_array(constants[name]) for name in parameters)
    outside, inside, *sizes = weights.shape
    if inside < LANES or outside > THIN or sizes not in [[size, size] for size in SIZES]:
        return None
    result, made = node.output[0], []

    def constant(name: str, value: NDArray[np.generic]) -> str:
        constants[f"{result}.{name}"] = numpy_helper.from_array(value, f"{result}.{name}")
        return f"{result}.{name}"

    pads = list(given.get("pads", [0, 0, 0, 0]))
    if any(pads):
        margin = np.array([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64)
        made.append(
            helper.make_node("Pad", [source, constant("margin", margin)], [f"{result}.padded"])
        )
        source = f"{result}.padded"
    inputs = [f"{result}.cells", constant("weights", cells_of_kernel(weights))]
    inputs += [constant("bias", np.repeat(values, 4)) for values in bias]
    return [
        *made,
        helper.make_node("SpaceToDepth", [source], [f"{result}.cells"], blocksize=2),
        helper.make_node("Conv", inputs, [f"{result}.outputs"]),
        helper.make_node("DepthToSpace", [f"{result}.outputs"], [result], blocksize=2, mode="CRD"),
    ]


def cells_of_kernel(weights: Weights) -> Weights:
    """[D, C, k, k] of a convolution, k odd -> [4 D, 4 C, (k + 1) / 2, (k + 1) / 2].

    See Note [Convolution on cells]. Inputs are ordered as SpaceToDepth writes them (row in cell,
    column in cell, channel), outputs as DepthToSpace in mode CRD reads them (channel, row, column).
    """
    outside, inside, size, _ = weights.shape
    half = (size + 1) // 2
    cells = np.zeros((outside, 2, 2, 2, 2, inside, half, half), np.float32)
    for row, column, y, x in np.ndindex(2, 2, size, size):
        down, across = row + y, column + x
        cells[:, row, column, down % 2, across % 2, :, down // 2, across // 2] = weights[:, :, y, x]
    return cells.reshape(4 * outside, 4 * inside, half, half)


def _even(size: int | str) -> bool:
    """Whether a size such as 64, `8*H_units` or `2*s1` is known to be even."""
    if isinstance(size, int):
        return size % 2 == 0
    factor = re.fullmatch(r"(\d+)\*\w+", size)
    return factor is not None and int(factor[1]) % 2 == 0
