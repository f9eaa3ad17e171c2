"""Weights kept as float16 in a float32 graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from revisage.export.half_storage import store_as_half


def product(weight: np.ndarray) -> onnx.ModelProto:
    """y = x @ weight."""
    rows, columns = weight.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, rows])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, columns])],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return np.asarray(session.run(None, {"x": x})[0])


def test_a_stored_graph_is_half_as_large_and_computes_with_the_rounded_weights() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(64, 64)).astype(np.float32)
    x = rng.normal(size=(1, 64)).astype(np.float32)
    model = product(weight)
    before = len(model.SerializeToString())
    store_as_half(model)
    onnx.checker.check_model(model, full_check=True)
    assert len(model.SerializeToString()) < 0.52 * before
    np.testing.assert_allclose(
        run(model, x), x @ weight.astype(np.float16).astype(np.float32), rtol=1e-5, atol=1e-5
    )


def test_what_half_precision_cannot_hold_stays() -> None:
    for value in (70_000.0, np.inf, np.nan):
        weight = np.ones((64, 64), dtype=np.float32)
        weight[3, 5] = value
        model = product(weight)
        before = model.SerializeToString()
        store_as_half(model)
        assert model.SerializeToString() == before


def test_small_tensors_stay() -> None:
    model = product(np.ones((4, 4), dtype=np.float32))
    before = model.SerializeToString()
    store_as_half(model)
    assert model.SerializeToString() == before
