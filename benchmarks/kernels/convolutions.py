"""What the benchmarks of the two convolutions share: others' forms of them, and how they compare.

Errors are relative to the largest result in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from harness import (
    Case,
    Farm,
    Inputs,
    Report,
    Requirement,
    Spread,
    Work,
    on_threads,
    print_case,
    require,
)

OURS = "revisage"
ERROR_LIMIT = 1e-5


def torch_work(torch, function, arguments) -> Work:  # type: ignore[no-untyped-def]
    latest = {}

    def run() -> None:
        with torch.inference_mode():
            latest["result"] = function(*arguments)

    return Work(run, lambda: latest["result"].contiguous().numpy())


class Graph:
    """A small ONNX graph being written; every method returns the name of a value."""

    def __init__(self) -> None:
        self.nodes: list[object] = []
        self.constants: list[object] = []

    def constant(self, array: np.ndarray) -> str:
        from onnx import numpy_helper

        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: object):  # type: ignore[no-untyped-def]
        from onnx import helper

        names = [f"value{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def work(
        self,
        result: str,
        inputs: Inputs,
        threads: int,
        library: Path | None = None,
        shape: Sequence[int] = (),
    ) -> Work:
        """The graph in ONNX Runtime, its output (of `shape`, or as x) bound to memory of ours."""
        import onnxruntime
        from onnx import TensorProto, helper

        x = inputs["x"]
        shape = shape or x.shape
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "convolution",
            [value("x", TensorProto.FLOAT, x.shape)],
            [value(result, TensorProto.FLOAT, shape)],
            self.constants,
        )
        domains = [helper.make_opsetid("", 18), helper.make_opsetid("revisage", 1)]
        model = helper.make_model(graph, opset_imports=domains, ir_version=10)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if library is not None:
            options.register_custom_ops_library(str(library))
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        out = onnxruntime.OrtValue.ortvalue_from_numpy(np.empty(shape, np.float32))
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
        binding.bind_ortvalue_output(result, out)
        return Work(lambda: session.run_with_iobinding(binding), out.numpy)


def measure(
    report: Report, farm: Farm, name: str, inputs: Inputs, expected: np.ndarray, **counts: int
) -> None:
    """One case on one thread and on two; `counts` are its bytes_moved and operations."""
    largest = np.abs(expected).max()

    def error(contender: str, result: np.ndarray) -> float:
        found = float(np.abs(result - expected).max() / largest)
        if not found <= 1e-3:
            raise SystemExit(f"{contender} is wrong: relative error {found:.1e}")
        return found

    for threads in (1, 2):
        case = farm.measure(name, inputs, threads=threads, error=error, **counts)
        report.cases.append(case)
        print_case(case)


def largest_error(op: str, cases: Sequence[Case], threads: int) -> Requirement:
    errors = [case.contenders[OURS].error or 0.0 for case in cases]
    spread = Spread(max(errors), min(errors), max(errors))
    where = cases[int(np.argmax(errors))].name
    what = f"{op}: largest error against float64, {on_threads(threads)}"
    return require(what, ERROR_LIMIT, spread, where)
