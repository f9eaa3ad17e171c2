"""fft_conv against torch (eager and compiled) and ONNX Runtime (matrix products and `DFT`).

Shapes are those of LaMa's Fourier units (16 to 192 channels, 16 to 128 pixels a side, batches to
16), non-square ones, and odd and prime sizes. Constants are folded for everybody: the affine is in
the weights and the bias of the convolution, twiddle matrices are constants of the graph.
"""

from __future__ import annotations

import math
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

Shape = tuple[int, int, int, int]

LAMA: list[Shape] = [
    (1, 48, 16, 16),
    (16, 96, 16, 16),
    (1, 96, 32, 32),
    (1, 192, 32, 32),
    (8, 48, 32, 32),
    (1, 96, 64, 64),
    (1, 192, 64, 64),
    (8, 96, 64, 64),
    (1, 16, 128, 128),
    (1, 192, 128, 128),
    (1, 192, 48, 64),
    (1, 96, 128, 64),
]
ODD: list[Shape] = [
    (1, 96, 45, 63),
    (1, 96, 31, 37),
    (1, 192, 61, 61),
    (1, 48, 127, 127),
]
QUICK: list[Shape] = [(1, 96, 32, 32), (1, 192, 64, 64), (1, 96, 31, 37)]

ALTERNATIVES = ["torch", "torch.compile", "onnxruntime, matrices", "onnxruntime, DFT"]


def name_of(shape: Shape) -> str:
    return "x".join(str(size) for size in shape)


def inputs_of(shape: Shape) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    channels = 2 * shape[1]
    spread = np.float32(1 / math.sqrt(channels))
    return {
        "x": random.standard_normal(shape, np.float32),
        "weight": random.standard_normal((channels, channels), np.float32) * spread,
        "scale": random.uniform(0.5, 1.5, channels).astype(np.float32),
        "shift": random.standard_normal(channels).astype(np.float32),
    }


def exact(inputs: Inputs) -> np.ndarray:
    """The definition in float64."""
    x, weight, scale, shift = (array.astype(np.float64) for array in inputs.values())
    n, c, h, w = x.shape
    spectrum = np.fft.rfft2(x, norm="ortho")
    parts = np.stack([spectrum.real, spectrum.imag], axis=2).reshape(n, 2 * c, -1)
    mixed = np.maximum(scale[:, None] * (weight @ parts) + shift[:, None], 0)
    mixed = mixed.reshape(n, c, 2, h, -1)
    return np.fft.irfft2(mixed[:, :, 0] + 1j * mixed[:, :, 1], s=(h, w), norm="ortho")


def operations_of(shape: Shape) -> int:
    """A real transform of P points counts 2.5 P log2 P; then the product, the affine, the ReLU."""
    n, c, h, w = shape
    transforms = 2 * c * 2.5 * h * w * math.log2(h * w)
    frequencies = h * (w // 2 + 1)
    return round(n * (transforms + frequencies * 2 * c * (2 * 2 * c + 3)))


def bytes_of(shape: Shape) -> int:
    n, c, h, w = shape
    return 4 * (2 * n * c * h * w + 4 * c * c + 4 * c)


# --- contenders ----------------------------------------------------------------------------------


def revisage(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    from revisage import kernels

    out = np.empty_like(inputs["x"])
    arrays = tuple(inputs.values())
    return {"": Work(lambda: kernels.fft_conv_into(out, *arrays, threads=threads), lambda: out)}


def _torch_forms(inputs: Inputs, threads: int):  # type: ignore[no-untyped-def]
    """The Fourier unit as published, the affine folded: by convolution, and by matrix product."""
    import torch

    torch.set_num_threads(threads)
    x = torch.from_numpy(inputs["x"])
    n, c, h, w = x.shape
    weight = torch.from_numpy(inputs["weight"] * inputs["scale"][:, None])
    kernel, shift = weight[:, :, None, None], torch.from_numpy(inputs["shift"])

    def convolution(x, kernel, shift):  # type: ignore[no-untyped-def]
        spectrum = torch.fft.rfft2(x, norm="ortho")
        parts = torch.stack([spectrum.real, spectrum.imag], dim=2).flatten(1, 2)
        mixed = torch.conv2d(parts, kernel, shift).relu_().unflatten(1, (c, 2))
        return torch.fft.irfft2(torch.complex(mixed[:, :, 0], mixed[:, :, 1]), (h, w), norm="ortho")

    def product(x, weight, shift):  # type: ignore[no-untyped-def]
        spectrum = torch.view_as_real(torch.fft.rfft2(x, norm="ortho"))
        parts = spectrum.movedim(-1, 2).reshape(n, 2 * c, -1)
        mixed = torch.baddbmm(shift[None, :, None], weight.expand(n, -1, -1), parts).relu_()
        mixed = mixed.view(n, c, 2, h, w // 2 + 1)
        return torch.fft.irfft2(torch.complex(mixed[:, :, 0], mixed[:, :, 1]), (h, w), norm="ortho")

    return torch, {
        "convolution": (convolution, (x, kernel, shift)),
        "matrix product": (product, (x, weight, shift)),
    }


def torch_eager(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    torch, forms = _torch_forms(inputs, threads)
    return {name: torch_work(torch, *form) for name, form in forms.items()}


def torch_compiled(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    torch, forms = _torch_forms(inputs, threads)
    torch._dynamo.reset()
    function, arguments = forms["convolution"]
    return {
        mode: torch_work(torch, torch.compile(function, mode=mode, dynamic=False), arguments)
        for mode in COMPILE_MODES
    }


COMPILE_MODES = ["default", "max-autotune-no-cudagraphs"]


def _mix(graph: Graph, parts: str, inputs: Inputs, *, stacked: bool) -> str:
    """Convolution and ReLU on [N, 2C, H, W / 2 + 1]; `stacked` channels are (re..., im...)."""
    weight, shift = inputs["weight"] * inputs["scale"][:, None], inputs["shift"]
    if stacked:
        order = np.r_[0 : len(weight) : 2, 1 : len(weight) : 2]
        weight, shift = weight[order][:, order], shift[order]
    kernel = graph.constant(weight[:, :, None, None])
    return graph.node("Relu", graph.node("Conv", parts, kernel, graph.constant(shift)))


def onnx_matrices(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    """As `export/` writes it, with real and imaginary parts stacked so that nothing is permuted.

    "six products" has one real product per sine and cosine; "four products" joins those that share
    an operand.
    """
    h, w = inputs["x"].shape[-2:]
    half = w // 2 + 1

    def turns(rows: int, columns: int, period: int) -> np.ndarray:
        return np.outer(np.arange(rows), np.arange(columns)) % period * (2 * np.pi / period)

    scale = 1 / math.sqrt(h * w)
    across, down, back = turns(w, half, w), turns(h, h, h), turns(half, w, w)
    twice = np.where(2 * np.arange(half) % w == 0, 1, 2)[:, None]
    cosines, sines = (np.float32(f(down)) for f in (np.cos, np.sin))

    def six(graph: Graph) -> str:
        def product(a: str, b: str) -> str:
            return graph.node("MatMul", a, b)

        cosine, sine = graph.constant(cosines), graph.constant(sines)
        real = product("x", graph.constant(np.float32(np.cos(across) * scale)))
        imaginary = product("x", graph.constant(np.float32(-np.sin(across) * scale)))
        parts = graph.node(
            "Concat",
            graph.node("Add", product(cosine, real), product(sine, imaginary)),
            graph.node("Sub", product(cosine, imaginary), product(sine, real)),
            axis=1,
        )
        mixed = _mix(graph, parts, inputs, stacked=True)
        real, imaginary = graph.node("Split", mixed, axis=1, num_outputs=2, outputs=2)
        rows_real = graph.node("Sub", product(cosine, real), product(sine, imaginary))
        rows_imaginary = graph.node("Add", product(cosine, imaginary), product(sine, real))
        return str(
            graph.node(
                "Sub",
                product(rows_real, graph.constant(np.float32(np.cos(back) * twice * scale))),
                product(rows_imaginary, graph.constant(np.float32(np.sin(back) * twice * scale))),
            )
        )

    def four(graph: Graph) -> str:
        both = np.concatenate([np.cos(across), -np.sin(across)], axis=1) * scale
        wide = graph.node("MatMul", "x", graph.constant(np.float32(both)))
        tall = graph.node("MatMul", graph.constant(np.concatenate([cosines, sines])), wide)
        # [[cos re, cos im], [sin re, sin im]]
        top, bottom = graph.node("Split", tall, axis=2, num_outputs=2, outputs=2)
        sizes = graph.integers(half, half)
        cos_re, cos_im = graph.node("Split", top, sizes, axis=3, outputs=2)
        sin_re, sin_im = graph.node("Split", bottom, sizes, axis=3, outputs=2)
        parts = graph.node(
            "Concat",
            graph.node("Add", cos_re, sin_im),
            graph.node("Sub", cos_im, sin_re),
            axis=1,
        )
        mixed = _mix(graph, parts, inputs, stacked=True)
        real, imaginary = graph.node("Split", mixed, axis=1, num_outputs=2, outputs=2)
        stacked = graph.node("Concat", real, imaginary, axis=2)  # [N, C, 2H, W / 2 + 1]
        turn = np.block([[cosines, -sines], [sines, cosines]])
        rows = graph.node("MatMul", graph.constant(turn), stacked)
        real, imaginary = graph.node("Split", rows, axis=2, num_outputs=2, outputs=2)
        wide = graph.node("Concat", real, imaginary, axis=3)
        last = np.concatenate([np.cos(back) * twice, -np.sin(back) * twice]) * scale
        return str(graph.node("MatMul", wide, graph.constant(np.float32(last))))

    variants = {}
    for name, write in (("six products", six), ("four products", four)):
        graph = Graph()
        variants[name] = graph.work(write(graph), inputs, threads)
    return variants


def onnx_dft(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    """`DFT` nodes of opset 17, whose inverse needs the whole spectrum of the last axis."""
    n, c, h, w = inputs["x"].shape
    half = w // 2 + 1
    graph = Graph()

    def reshape(value: str, *shape: int) -> str:
        return str(graph.node("Reshape", value, graph.integers(*shape)))

    def scaled(value: str, factor: float) -> str:
        return str(graph.node("Mul", value, graph.constant(np.float32([factor]))))

    rows = graph.node("DFT", reshape("x", n * c, h, w, 1), axis=2, onesided=1)
    spectrum = scaled(graph.node("DFT", rows, axis=1), 1 / math.sqrt(h * w))
    parts = graph.node("Transpose", reshape(spectrum, n, c, h, half, 2), perm=[0, 1, 4, 2, 3])
    mixed = _mix(graph, reshape(parts, n, 2 * c, h, half), inputs, stacked=False)
    mixed = graph.node("Transpose", reshape(mixed, n, c, 2, h, half), perm=[0, 1, 3, 4, 2])
    columns = graph.node("DFT", reshape(mixed, n * c, h, half, 2), axis=1, inverse=1)
    # The other columns are the conjugates of columns 1 .. (W - 1) // 2, backwards.
    mirrored = graph.node(
        "Slice",
        columns,
        graph.integers((w - 1) // 2),
        graph.integers(0),
        graph.integers(2),
        graph.integers(-1),
    )
    mirrored = graph.node("Mul", mirrored, graph.constant(np.float32([1, -1])))
    full = graph.node("Concat", columns, mirrored, axis=2)
    planes = graph.node("DFT", full, axis=2, inverse=1)
    real = graph.node("Slice", planes, graph.integers(0), graph.integers(1), graph.integers(3))
    result = scaled(reshape(real, n, c, h, w), math.sqrt(h * w))
    return {"": graph.work(result, inputs, threads)}


def in_onnxruntime(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    """For information: `fft_conv` as an operator of ONNX Runtime, on its threads, where built."""
    from revisage import kernels

    library = kernels.onnxruntime_library()
    if library is None:
        return {}
    graph = Graph()
    constants = (graph.constant(inputs[name]) for name in ("weight", "scale", "shift"))
    result = graph.node("FftConv", "x", *constants, domain="revisage")
    return {"": graph.work(result, inputs, threads, library)}


def numpy_twin(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    """For information: what `impl="reference"` costs. It takes no number of threads."""
    from revisage import kernels

    if inputs["x"].size > 200_000 or threads > 1:
        return {}
    out, arrays = np.empty_like(inputs["x"]), tuple(inputs.values())
    return {"": Work(lambda: kernels.fft_conv_into(out, *arrays, impl="reference"), lambda: out)}


BUILDS = {
    OURS: revisage,
    "torch": torch_eager,
    "torch.compile": torch_compiled,
    "onnxruntime, matrices": onnx_matrices,
    "onnxruntime, DFT": onnx_dft,
    "revisage in onnxruntime": in_onnxruntime,
    "numpy twin": numpy_twin,
}


# --- the suite -----------------------------------------------------------------------------------


def run(report: Report, options: Options) -> None:
    shapes = [s for s in (QUICK if options.quick else LAMA + ODD) if options.wants(name_of(s))]
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
    lama = [case for case in cases if case.name in map(name_of, LAMA)]
    lines = []
    if lama:
        mean = geometric_mean([case.best_ratio(ALTERNATIVES) for case in lama])
        what = "fft_conv: time over the best alternative, geometric mean of the LaMa shapes"
        lines.append(require(f"{what}, {on_threads(threads)}", 0.33, mean, f"{len(lama)} shapes"))
    worst = max(cases, key=lambda case: case.best_ratio(ALTERNATIVES).median)
    lines.append(
        require(
            f"fft_conv: time over the best alternative, worst of all shapes, {on_threads(threads)}",
            0.5,
            worst.best_ratio(ALTERNATIVES),
            f"{worst.name}, {worst.best_other(ALTERNATIVES)}",
        )
    )
    return [*lines, largest_error("fft_conv", cases, threads)]


if __name__ == "__main__":
    run_suite("fft_conv", run)
