"""Convolutions on cells: the same result, only where the size is even and the outputs are few."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from revisage.export.thin_convolutions import cells_of_kernel, compute_on_cells


def one_convolution(
    weights: np.ndarray, bias: np.ndarray | None, pads: list[int], sides: tuple[object, ...]
) -> onnx.ModelProto:
    """x [N, C, h, w] -> y, of which the exporter knows the sides."""
    names = ["x", "weights", *(["bias"] if bias is not None else [])]
    constants = [numpy_helper.from_array(weights, "weights")]
    if bias is not None:
        constants.append(numpy_helper.from_array(bias, "bias"))
    graph = helper.make_graph(
        [helper.make_node("Conv", names, ["y"], pads=pads)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", weights.shape[1], "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", weights.shape[0], *sides])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_result_is_the_same(
    size: int, padded: bool, with_bias: bool, rng: np.random.Generator
) -> None:
    weights = rng.standard_normal((3, 16, size, size)).astype(np.float32)
    bias = rng.standard_normal(3).astype(np.float32) if with_bias else None
    margin = size // 2 if padded else 0
    model = one_convolution(weights, bias, 4 * [margin], ("4*H_units", "4*W_units"))
    compute_on_cells(model)
    onnx.checker.check_model(model, full_check=True)
    operators = [node.op_type for node in model.graph.node]
    assert operators == [*(["Pad"] if padded else []), "SpaceToDepth", "Conv", "DepthToSpace"]
    assert "weights" not in {tensor.name for tensor in model.graph.initializer}
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for height, width in ((8, 20), (12, 4)):
        shape = (2, 16, height + size - 1 - 2 * margin, width + size - 1 - 2 * margin)
        x = rng.standard_normal(shape).astype(np.float32)
        (found,) = session.run(None, {"x": x})
        true = functional.conv2d(
            torch.from_numpy(x).double(),
            torch.from_numpy(weights).double(),
            None if bias is None else torch.from_numpy(bias).double(),
            padding=margin,
        )
        assert found.shape == (2, 3, height, width)
        np.testing.assert_allclose(found, true.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("outside", "inside", "size", "side", "attributes"),
    [
        (3, 16, 3, "3*H_units", {}),  # may be odd
        (3, 16, 3, "s1", {}),
        (3, 16, 3, "4*H_units + 2", {}),
        (4, 16, 3, "4*H_units", {}),  # no thin one
        (3, 8, 3, "4*H_units", {}),  # fills no lanes of the input
        (3, 16, 1, "4*H_units", {}),
        (3, 16, 3, "4*H_units", {"strides": [2, 2]}),
        (3, 16, 3, "4*H_units", {"dilations": [2, 2]}),
        (2, 32, 3, "4*H_units", {"group": 2}),
    ],
)
def test_what_is_left_alone(
    outside: int, inside: int, size: int, side: str, attributes: dict[str, object]
) -> None:
    group = attributes.get("group", 1)
    weights = np.zeros((outside, inside // group, size, size), np.float32)  # type: ignore[operator]
    model = one_convolution(weights, None, 4 * [size // 2], (side, side))
    model.graph.node[0].attribute.extend(
        helper.make_attribute(name, value) for name, value in attributes.items()
    )
    before = model.SerializeToString(deterministic=True)
    compute_on_cells(model)
    assert model.SerializeToString(deterministic=True) == before


def test_a_kernel_on_cells_holds_every_weight_four_times(rng: np.random.Generator) -> None:
    weights = rng.uniform(1, 2, (3, 5, 7, 7)).astype(np.float32)
    cells = cells_of_kernel(weights)
    assert cells.shape == (12, 20, 4, 4)
    np.testing.assert_array_equal(np.sort(cells[cells > 0]), np.sort(np.tile(weights.ravel(), 4)))
