"""Weights stored as half precision in a float32 graph: half the file, the same arithmetic.

Large weights become float16 constants with a Cast behind them, which every engine folds when it
loads the graph. What the rounding costs is measured as everything else is: by the parity gate.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["store_as_half"]

LEAST = 1024  # values in a tensor that is worth a node
LARGEST = float(np.finfo(np.float16).max)


def store_as_half(model: onnx.ModelProto) -> None:
    """Round the large float32 weights of a graph to float16, in place.

    A weight that float16 cannot hold (beyond 65504, or not finite) stays as it is, with its tensor.
    """
    graph = model.graph
    stored: list[onnx.TensorProto] = []
    casts: list[onnx.NodeProto] = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        small = values.size < LEAST or values.dtype != np.float32
        if small or not np.abs(values).max() <= LARGEST:
            stored.append(tensor)
            continue
        half = f"{tensor.name}.half"
        stored.append(numpy_helper.from_array(values.astype(np.float16), half))
        casts.append(
            helper.make_node(
                "Cast", [half], [tensor.name], f"{tensor.name}/Cast", to=onnx.TensorProto.FLOAT
            )
        )
        graph.value_info.append(
            helper.make_tensor_value_info(tensor.name, onnx.TensorProto.FLOAT, tensor.dims)
        )
    nodes = [*casts, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(stored)
    graph.node.extend(nodes)
