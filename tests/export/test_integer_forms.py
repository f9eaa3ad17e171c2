"""Rewrites before quantisation: the same values, in operators that have a quick integer form."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference

from revisage.export.compare import run_onnx
from revisage.export.integer_forms import rewrite_for_integers

NEAREST = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}


def graph_of(
    nodes: list[onnx.NodeProto], channels: int, constants: dict[str, NDArray[Any]]
) -> onnx.ModelProto:
    """A graph from `x` [N, channels, H, W] to `y`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, "H", "W"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", None, None, None])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return shape_inference.infer_shapes(model, strict_mode=True)


def rewritten(model: onnx.ModelProto, layers: set[str], size: tuple[int, int]) -> list[str]:
    """Operators of the rewritten graph, after it was found to give the same as `model`."""
    x = np.random.RandomState(0).normal(0, 1, (2, 8, *size)).astype(np.float32)
    (before,) = run_onnx(model.SerializeToString(), [{"x": x}])
    names, sources = rewrite_for_integers(model, layers)
    onnx.checker.check_model(model, full_check=True)
    made = {name for node in model.graph.node for name in node.output}
    assert set(sources) <= made
    assert names <= {node.name for node in model.graph.node}
    (after,) = run_onnx(model.SerializeToString(), [{"x": x}])
    np.testing.assert_allclose(after["y"], before["y"], atol=1e-4)
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(("size", "pad", "more"), [(4, 1, 0), (3, 1, 1), (2, 0, 0), (6, 2, 0)])
def test_a_transposed_convolution_becomes_an_ordinary_one(
    size: int, pad: int, more: int, rng: np.random.Generator
) -> None:
    node = helper.make_node(
        "ConvTranspose",
        ["x", "w", "b"],
        ["y"],
        "layer",
        strides=[2, 2],
        pads=[pad] * 4,
        output_padding=[more] * 2,
    )
    constants = {
        "w": rng.normal(0, 1, (8, 3, size, size)).astype(np.float32),
        "b": rng.normal(0, 1, 3).astype(np.float32),
    }
    operators = rewritten(graph_of([node], 8, constants), {"layer"}, (5, 9))
    assert "Conv" in operators
    assert "ConvTranspose" not in operators


@pytest.mark.parametrize(
    ("node", "constants"),
    [
        (
            helper.make_node("Resize", ["x", "", "s"], ["y"], "layer", **NEAREST),
            {"s": np.array([1, 1, 2, 2], np.float32)},
        ),
        (helper.make_node("DepthToSpace", ["x"], ["y"], "layer", blocksize=2), {}),
    ],
)
def test_pixels_are_laid_out_in_one_piece(
    node: onnx.NodeProto, constants: dict[str, NDArray[Any]]
) -> None:
    operators = rewritten(graph_of([node], 8, constants), {"layer"}, (4, 6))
    assert {"Transpose", "Reshape"} <= set(operators)
    assert node.op_type not in operators


def test_channels_of_a_shuffle_are_put_in_order_in_the_convolution_before(
    rng: np.random.Generator,
) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "wide"),
        helper.make_node("DepthToSpace", ["c"], ["y"], "layer", blocksize=2, mode="CRD"),
    ]
    constants = {
        "w": rng.normal(0, 1, (12, 8, 1, 1)).astype(np.float32),
        "b": rng.normal(0, 1, 12).astype(np.float32),
    }
    operators = rewritten(graph_of(nodes, 8, constants), {"wide", "layer"}, (4, 6))
    assert "DepthToSpace" not in operators


def test_what_is_not_chosen_or_not_known_stays() -> None:
    scales = {"s": np.array([1, 1, 3, 2], np.float32)}
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], "layer", **NEAREST)
    for layers in (set(), {"layer"}):
        assert rewritten(graph_of([node], 8, scales), layers, (4, 6)) == ["Resize"]
    shuffle = helper.make_node("DepthToSpace", ["x"], ["y"], "layer", blocksize=2, mode="CRD")
    assert rewritten(graph_of([shuffle], 8, {}), {"layer"}, (4, 6)) == ["DepthToSpace"]
