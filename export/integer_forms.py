"""Rewrites of a float32 graph before it is quantised: what has no quick integer form gets one.

ONNX Runtime computes integer convolutions on pixels whose channels lie together (NHWC), and keeps
that layout between two of them. Three operators break the chain. Transposed convolutions have no
integer kernel at all; DepthToSpace and nearest-neighbour Resize exist for planes only, or move
single bytes on one thread. All three are written here as what moves whole pixels: copies, reshapes
and a transposition, between two changes of layout that cancel those of ONNX Runtime. Exact, but
for the order of sums.

Note [Transposed convolution on cells]
    Of stride 2, it takes output o = 2 j - p + t from input j and tap t. In the cell i lie the
    outputs 2 i - s + r (r = 0, 1; s a shift of 0 or 1), so t = 2 (i - j) + r - s + p: each cell is
    an ordinary convolution of the inputs j = i - d, with four times the outputs. The shift is taken
    that needs the smaller kernel; with s = 1 the outermost row and column are cut off again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

__all__ = ["rewrite_for_integers"]

_PIXELS_LAST, _PIXELS_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
_REWRITTEN = {"ConvTranspose", "DepthToSpace", "Resize"}


def rewrite_for_integers(
    model: onnx.ModelProto, layers: Collection[str]
) -> tuple[set[str], dict[str, str]]:
    """Rewrite the nodes named `layers` in place, where they are of a kind that profits.

    Returns:
        The names of the nodes that stand in the place of `layers`; and for each new tensor, the
        tensor of the graph before that has the same values, in another order or more often.
    """
    return _Rewriter(model).run(layers)


class _Rewriter:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._channels = {
            value.name: value.type.tensor_type.shape.dim[1].dim_value
            for value in (*model.graph.value_info, *model.graph.input)
            if len(value.type.tensor_type.shape.dim) == 4
        }
        self._nodes: list[onnx.NodeProto] = []
        self._sources: dict[str, str] = {}

    def run(self, layers: Collection[str]) -> tuple[set[str], dict[str, str]]:
        names = set(layers)
        for node in self._graph.node:
            before = len(self._nodes)
            if node.name in names and node.op_type in _REWRITTEN and self._rewrite(node):
                names.remove(node.name)
                names.update(made.name for made in self._nodes[before:])
            else:
                self._nodes.append(node)
        read = {name for node in self._nodes for name in node.input}
        del self._graph.node[:], self._graph.initializer[:]
        self._graph.node.extend(self._nodes)
        self._graph.initializer.extend(t for name, t in self._constants.items() if name in read)
        return names, self._sources

    def _rewrite(self, node: onnx.NodeProto) -> bool:
        """Whether the nodes in the place of `node` were appended."""
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "ConvTranspose":
            return self._transposed_convolution(node, given)
        if node.op_type == "DepthToSpace":
            return self._depth_to_space(node, given)
        return self._nearest(node, given)

    def _transposed_convolution(self, node: onnx.NodeProto, given: Mapping[str, object]) -> bool:
        parameters = list(node.input[1:])
        if not all(name in self._constants for name in parameters):
            return False
        weights, *bias = (numpy_helper.to_array(self._constants[name]) for name in parameters)
        pads, more = set(_list(given, "pads", [0])), set(_list(given, "output_padding", [0]))
        size = weights.shape[-1]
        known = (
            weights.shape[2:] == (size, size)
            and given.get("group", 1) == 1
            and set(_list(given, "strides", [1])) == {2}
            and set(_list(given, "dilations", [1])) == {1}
            and given.get("auto_pad", b"NOTSET") == b"NOTSET"
            and len(pads) == len(more) == 1
            and size - 2 * min(pads) + min(more) == 2  # the result is twice as large
        )
        if not known:
            return False
        kernel, first, shift = _cells_of_taps(weights, min(pads))
        inputs = [node.input[0], self._constant(node, "weights", kernel)]
        inputs += [self._constant(node, "bias", np.tile(values, 4)) for values in bias]
        reach = kernel.shape[-1] - 1 + first
        cells = self._append(
            "Conv", inputs, node, "cells", pads=[reach, reach, shift - first, shift - first]
        )
        self._lay_out(cells, weights.shape[1], node, node.output[0], cut=shift)
        return True

    def _depth_to_space(self, node: onnx.NodeProto, given: Mapping[str, object]) -> bool:
        channels = self._channels.get(node.input[0], 0)
        if given["blocksize"] != 2 or not channels:
            return False
        cells = node.input[0]
        if given.get("mode", b"DCR") == b"CRD":
            order = np.arange(channels).reshape(-1, 4).T.reshape(-1)
            permuted = self._permuted(cells, order)
            if permuted is None:
                return False
            cells = permuted
        self._lay_out(cells, channels // 4, node, node.output[0])
        return True

    def _permuted(self, name: str, order: NDArray[np.int64]) -> str | None:
        """The result `name` of a convolution with its channels in another order, else None."""
        made = next((n for n in self._nodes if name in n.output), None)
        used = sum(name in n.input for n in self._graph.node)
        if made is None or used != 1 or made.op_type != "Conv":
            return None
        for index in range(1, len(made.input)):
            if made.input[index] not in self._constants:
                return None
        for index, what in ((1, "weights"), (2, "bias")):
            if index < len(made.input):
                values = numpy_helper.to_array(self._constants[made.input[index]])
                made.input[index] = self._constant(made, f"permuted_{what}", values[order])
        return name

    def _nearest(self, node: onnx.NodeProto, given: Mapping[str, object]) -> bool:
        scales = self._constants.get(node.input[2]) if len(node.input) > 2 else None
        channels = self._channels.get(node.input[0], 0)
        doubles = (
            scales is not None
            and numpy_helper.to_array(scales).tolist() == [1, 1, 2, 2]
            and given.get("mode") == b"nearest"
            and given.get("coordinate_transformation_mode") == b"asymmetric"
            and given.get("nearest_mode") == b"floor"
        )
        if not doubles or not channels:
            return False
        source = node.input[0]
        cells = self._append("Concat", [source] * 4, node, "cells", like=source, axis=1)
        self._lay_out(cells, channels, node, node.output[0])
        return True

    def _lay_out(
        self, cells: str, channels: int, node: onnx.NodeProto, result: str, *, cut: int = 0
    ) -> None:
        """[N, 4 C, H, W], cells of 2 x 2 pixels (row, column, channel), -> [N, C, 2 H, 2 W].

        Args:
            cut: rows and columns that are cut off at every side.
        """

        def moved(operator: str, source: str, name: str, *more: str, **attributes: Any) -> str:
            return self._append(operator, [source, *more], node, name, like=cells, **attributes)

        pixels = moved("Transpose", cells, "pixels", perm=_PIXELS_LAST)
        shape = self._append("Shape", [pixels], node, "shape")
        factors = self._constant(node, "factors", np.array([4, 8, 8, 1]))
        quarters = self._append("Mul", [shape, factors], node, "larger")
        size = self._append(
            "Div", [quarters, self._constant(node, "four", np.array([4, 4, 4, 4]))], node, "size"
        )
        rows = moved(
            "Reshape",
            pixels,
            "rows",
            self._constant(node, "row_shape", np.array([0, 0, 0, 2, 2 * channels])),
        )
        joined = moved("Transpose", rows, "joined", perm=[0, 1, 3, 2, 4])
        whole = moved("Reshape", joined, "whole", size)
        if cut:
            first, last = np.array([cut, cut]), np.array([-cut, -cut])
            names = [
                self._constant(node, "first", first),
                self._constant(node, "last", last),
                self._constant(node, "axes", np.array([1, 2])),
            ]
            whole = moved("Slice", whole, "inner", *names)
        self._nodes.append(
            helper.make_node(
                "Transpose", [whole], [result], f"{node.name}.planes", perm=_PIXELS_FIRST
            )
        )

    def _append(
        self,
        operator: str,
        inputs: list[str],
        node: onnx.NodeProto,
        name: str,
        *,
        like: str = "",
        **attributes: Any,
    ) -> str:
        """Append a node of one result, and return the name of that."""
        result = f"{node.name}.{name}"
        self._nodes.append(helper.make_node(operator, inputs, [result], result, **attributes))
        if like:
            self._sources[result] = self._sources.get(like, like)
        elif operator == "Conv":
            self._sources[result] = node.output[0]
        return result

    def _constant(self, node: onnx.NodeProto, name: str, value: NDArray[np.generic]) -> str:
        full = f"{node.name}.{name}"
        self._constants[full] = numpy_helper.from_array(np.ascontiguousarray(value), full)
        return full


def _list(given: Mapping[str, object], name: str, default: list[int]) -> list[int]:
    found = given.get(name, default)
    assert isinstance(found, list)
    return found


def _cells_of_taps(weights: NDArray[np.float32], pad: int) -> tuple[NDArray[np.float32], int, int]:
    """Weights [C, D, k, k] of a transposed convolution -> [4 D, C, m, m], least d, shift.

    See Note [Transposed convolution on cells].
    """
    inside, outside, size, _ = weights.shape

    def reach(shift: int) -> tuple[int, int]:
        """The least and the largest d."""
        found = [
            d
            for d in range(-size, size + 1)
            if any(0 <= 2 * d + r - shift + pad < size for r in (0, 1))
        ]
        return found[0], found[-1]

    shift = min((0, 1), key=lambda s: reach(s)[1] - reach(s)[0])
    least, most = reach(shift)
    count = most - least + 1
    cells = np.zeros((2, 2, outside, inside, count, count), np.float32)
    for row, column, y, x in np.ndindex(2, 2, count, count):
        down = 2 * (most - y) + row - shift + pad
        across = 2 * (most - x) + column - shift + pad
        if 0 <= down < size and 0 <= across < size:
            cells[row, column, :, :, y, x] = weights[:, :, down, across].T
    return cells.reshape(4 * outside, inside, count, count), least, shift
