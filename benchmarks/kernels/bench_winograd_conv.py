"""winograd_conv against convolutions of torch (eager and compiled) and ONNX Runtime.

A 3x3 convolution with reflection around, bias and ReLU, at the widths and sizes of the compact
networks, a non-square and an odd one. Ours transforms its weights in every call; as an operator in
ONNX Runtime, where networks use it, once.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from convolutions import OURS, Graph, largest_error, measure, torch_work
from harness import (
    Case,
    Inputs,
    Options,
    Report,
    Requirement,
    Work,
    geometric_mean,
    on_threads,
    require,
    run_suite,
)

Shape = tuple[int, int, int, int, int]  # batch, channels in and out, height, width

WIDE: list[Shape] = [
    (1, 48, 48, 64, 64),
    (1, 48, 48, 256, 256),
    (1, 64, 64, 128, 128),
    (1, 128, 128, 64, 64),
    (1, 48, 64, 96, 64),
]
OTHERS: list[Shape] = [
    (1, 16, 16, 256, 256),
    (1, 40, 120, 32, 32),
    (8, 128, 128, 16, 16),
    (1, 48, 48, 75, 45),
]
QUICK: list[Shape] = [(1, 64, 64, 64, 64), (1, 16, 16, 64, 64), (1, 48, 48, 75, 45)]

ALTERNATIVES = ["torch", "torch.compile", "onnxruntime"]


def name_of(shape: Shape) -> str:
    n, c, d, h, w = shape
    return f"{n}x{c}x{h}x{w} to {d}"


def inputs_of(shape: Shape) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    n, c, d, h, w = shape
    spread = np.float32(1 / np.sqrt(9 * c))
    return {
        "x": random.standard_normal((n, c, h, w), np.float32),
        "weight": random.standard_normal((d, c, 3, 3), np.float32) * spread,
        "bias": random.standard_normal(d, np.float32),
    }


def exact(inputs: Inputs) -> np.ndarray:
    """The definition in float64."""
    import torch

    x, weight, bias = (torch.from_numpy(array).double() for array in inputs.values())
    around = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
    return torch.nn.functional.conv2d(around, weight, bias).relu().numpy()


def operations_of(shape: Shape) -> int:
    """Of the definition: 18 for each pair of channels; the bias, the ReLU."""
    n, c, d, h, w = shape
    return n * h * w * d * (18 * c + 2)


def bytes_of(shape: Shape) -> int:
    n, c, d, h, w = shape
    return 4 * (n * (c + d) * h * w + 9 * c * d + d)


# --- contenders ----------------------------------------------------------------------------------


def revisage(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    from revisage import kernels

    x, weight, bias = inputs.values()
    out = np.empty(_result_shape(inputs), np.float32)

    def run() -> None:
        kernels.winograd_conv_into(
            out, x, weight, bias, padding="reflect", slope=0, threads=threads
        )

    return {"": Work(run, lambda: out)}


def _torch_form(inputs: Inputs, threads: int):  # type: ignore[no-untyped-def]
    import torch

    torch.set_num_threads(threads)

    def convolution(x, weight, bias):  # type: ignore[no-untyped-def]
        around = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
        return torch.conv2d(around, weight, bias).relu_()

    return torch, convolution, [torch.from_numpy(array) for array in inputs.values()]


def torch_eager(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    torch, function, arguments = _torch_form(inputs, threads)
    last = [torch.channels_last if a.ndim == 4 else torch.contiguous_format for a in arguments]
    moved = [a.to(memory_format=order) for a, order in zip(arguments, last, strict=True)]
    return {
        "NCHW": torch_work(torch, function, arguments),
        "channels last": torch_work(torch, function, moved),
    }


def torch_compiled(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    torch, function, arguments = _torch_form(inputs, threads)
    torch._dynamo.reset()
    return {"": torch_work(torch, torch.compile(function, dynamic=False), arguments)}


def _result_shape(inputs: Inputs) -> tuple[int, ...]:
    x, weight, _ = inputs.values()
    return (len(x), len(weight), *x.shape[2:])


def onnx_convolution(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    graph = Graph()
    around = graph.node("Pad", "x", graph.integers(*[0, 0, 1, 1] * 2), mode="reflect")
    constants = (graph.constant(inputs[name]) for name in ("weight", "bias"))
    result = graph.node("Relu", graph.node("Conv", around, *constants))
    return {"": graph.work(result, inputs, threads, shape=_result_shape(inputs))}


def in_onnxruntime(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    """For information: `winograd_conv` as networks use it, where built."""
    from revisage import kernels

    library = kernels.onnxruntime_library()
    if library is None:
        return {}
    graph = Graph()
    constants = (graph.constant(inputs[name]) for name in ("weight", "bias"))
    result = graph.node("PadWinogradConvRelu", "x", *constants, domain="revisage")
    return {"": graph.work(result, inputs, threads, library, _result_shape(inputs))}


BUILDS = {
    OURS: revisage,
    "torch": torch_eager,
    "torch.compile": torch_compiled,
    "onnxruntime": onnx_convolution,
    "revisage in onnxruntime": in_onnxruntime,
}


# --- the suite -----------------------------------------------------------------------------------


def run(report: Report, options: Options) -> None:
    shapes = [s for s in (QUICK if options.quick else WIDE + OTHERS) if options.wants(name_of(s))]
    with options.farm(BUILDS) as farm:
        for shape in shapes:
            inputs = inputs_of(shape)
            counts = {"bytes_moved": bytes_of(shape), "operations": operations_of(shape)}
            measure(report, farm, name_of(shape), inputs, exact(inputs), **counts)
    for threads in (1, 2):
        cases = [case for case in report.cases if case.threads == threads]
        report.requirements += requirements(cases, threads)


def requirements(cases: list[Case], threads: int) -> list[Requirement]:
    if not cases:
        return []
    wide = [case for case in cases if case.name in map(name_of, WIDE)]
    lines = []
    if wide:
        mean = geometric_mean([case.best_ratio(ALTERNATIVES) for case in wide])
        what = "winograd_conv: time over the best alternative, geometric mean from 48 channels on"
        lines.append(require(f"{what}, {on_threads(threads)}", 0.5, mean, f"{len(wide)} shapes"))
    return [*lines, largest_error("winograd_conv", cases, threads)]


if __name__ == "__main__":
    run_suite("winograd_conv", run)
