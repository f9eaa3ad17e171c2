"""feature_blend against the copy rate of the machine, a Numba loop, torch and torch.compile.

`feature_blend` reads two arrays and writes one, so the machine's fastest copy (stores that bypass
the caches) is its roof. Outputs are allocated once for everybody.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import (
    Case,
    Inputs,
    Options,
    Report,
    Requirement,
    Spread,
    Work,
    on_threads,
    print_case,
    require,
    run_suite,
)

OURS, COPY = "revisage", "non-temporal copy"
FASTEST_COPY = "non-temporal copy, prefetching"
BLENDS = [(1, 64, 512, 512), (1, 256, 128, 128), (4, 512, 32, 32)]


def inputs_of(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    n, c, h, w = shape
    return {
        "style": random.standard_normal(shape, np.float32),
        "image": random.standard_normal(shape, np.float32),
        "spatial": random.standard_normal((n, 2, h, w), np.float32),
        "channel": random.standard_normal((n, 2, c), np.float32),
    }


def exact(inputs: Inputs) -> np.ndarray:
    """The definition in float64."""
    style, image, spatial, channel = (array.astype(np.float64) for array in inputs.values())
    ms = (1 / (1 + np.exp(spatial[:, 1] - spatial[:, 0])))[:, None]
    mc = (1 / (1 + np.exp(channel[:, 1] - channel[:, 0])))[:, :, None, None]
    return ms * mc * style + (1 - ms) * (1 - mc) * image


# --- contenders ----------------------------------------------------------------------------------


def revisage(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    from revisage import kernels

    out, arrays = np.empty_like(inputs["style"]), tuple(inputs.values())
    return {
        "": Work(lambda: kernels.feature_blend_into(out, *arrays, threads=threads), lambda: out)
    }


def non_temporal_copy(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    """The roof: as many bytes copied, with stores that bypass the caches."""
    return _copy(inputs, threads, prefetch=False)


def prefetching_copy(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    """A higher roof: the same, asking for its one input earlier than the hardware does."""
    return _copy(inputs, threads, prefetch=True)


def _copy(inputs: Inputs, threads: int, prefetch: bool) -> Mapping[str, Work]:
    from revisage.kernels import _native

    # A smaller array would be copied from the last-level cache, in part.
    source = np.ones(bytes_of(inputs) // 8, np.float32)
    out = np.empty_like(source)
    return {"": Work(lambda: _native.copy_nontemporal(out, source, threads, prefetch), lambda: out)}


def torch_eager(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    import torch

    torch.set_num_threads(threads)
    style, image, spatial, channel = (torch.from_numpy(a) for a in inputs.values())
    out, product = torch.empty_like(style), torch.empty_like(style)

    def in_place() -> None:
        with torch.inference_mode():
            ms = torch.softmax(spatial, dim=1)[:, :1]
            mc = torch.softmax(channel, dim=1)[:, 0, :, None, None]
            torch.mul(ms, mc, out=out).mul_(style)
            torch.mul(1 - ms, 1 - mc, out=product).mul_(image)
            out.add_(product)

    def fewer_passes() -> None:
        with torch.inference_mode():
            ms = torch.softmax(spatial, dim=1)[:, :1]
            mc = torch.softmax(channel, dim=1)[:, 0, :, None, None]
            torch.mul(style, ms, out=out).mul_(mc)
            torch.mul(image, 1 - ms, out=product)
            torch.addcmul(out, product, 1 - mc, out=out)

    return {f.__name__.replace("_", " "): Work(f, out.numpy) for f in (in_place, fewer_passes)}


def torch_compiled(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    import torch

    torch.set_num_threads(threads)
    torch._dynamo.reset()
    tensors = [torch.from_numpy(a) for a in inputs.values()]
    out = torch.empty_like(tensors[0])
    latest = {}

    def blend(style, image, spatial, channel):  # type: ignore[no-untyped-def]
        ms = torch.softmax(spatial, dim=1)[:, :1]
        mc = torch.softmax(channel, dim=1)[:, 0, :, None, None]
        return ms * mc * style + (1 - ms) * (1 - mc) * image

    def blend_into(out, *arrays):  # type: ignore[no-untyped-def]
        out.copy_(blend(*arrays))

    allocating, filling = (torch.compile(f, dynamic=False) for f in (blend, blend_into))

    def run() -> None:
        with torch.inference_mode():
            latest["result"] = allocating(*tensors)

    def run_into() -> None:
        with torch.inference_mode():
            filling(out, *tensors)

    return {
        "new output": Work(run, lambda: latest["result"].numpy()),
        "into an output": Work(run_into, out.numpy),
    }


def numba_loop(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    """The spatial weights once, then a loop over planes; or pixels in blocks that stay in cache."""
    import numba

    numba.set_num_threads(threads)

    @numba.njit(parallel=True, fastmath=True)
    def weigh(weights, spatial):  # type: ignore[no-untyped-def]
        for b in range(weights.shape[0]):
            for p in numba.prange(weights.shape[1]):
                weights[b, p] = 1 / (1 + np.exp(spatial[b, 1, p] - spatial[b, 0, p]))

    @numba.njit(parallel=True, fastmath=True)
    def by_planes(out, style, image, weights, mc):  # type: ignore[no-untyped-def]
        one = np.float32(1)
        for plane in numba.prange(out.shape[0] * out.shape[1]):
            b, c = plane // out.shape[1], plane % out.shape[1]
            m = mc[b, c]
            for p in range(out.shape[2]):
                w = weights[b, p]
                out[b, c, p] = w * m * style[b, c, p] + (one - w) * (one - m) * image[b, c, p]

    @numba.njit(parallel=True, fastmath=True)
    def by_blocks(out, style, image, weights, mc):  # type: ignore[no-untyped-def]
        one, pixels = np.float32(1), out.shape[2]
        blocks = (pixels + 4095) // 4096
        for block in numba.prange(out.shape[0] * blocks):
            b, start = block // blocks, block % blocks * 4096
            stop = min(start + 4096, pixels)
            for c in range(out.shape[1]):
                m = mc[b, c]
                for p in range(start, stop):
                    w = weights[b, p]
                    out[b, c, p] = w * m * style[b, c, p] + (one - w) * (one - m) * image[b, c, p]

    style, image, spatial, channel = inputs.values()
    planes = [array.reshape(*array.shape[:2], -1) for array in (style, image, spatial)]
    out = np.empty_like(planes[0])
    weights = np.empty((out.shape[0], out.shape[2]), np.float32)

    def work(loop: Callable[..., None]) -> Work:
        def run() -> None:
            weigh(weights, planes[2])
            mc = 1 / (1 + np.exp(channel[:, 1] - channel[:, 0]))
            loop(out, planes[0], planes[1], weights, mc)

        return Work(run, lambda: out.reshape(style.shape))

    return {"by planes": work(by_planes), "by blocks": work(by_blocks)}


def numpy_twin(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    """For information: what `impl="reference"` costs. It takes no number of threads."""
    from revisage import kernels

    if threads > 1:
        return {}
    out, arrays = np.empty_like(inputs["style"]), tuple(inputs.values())
    return {
        "": Work(lambda: kernels.feature_blend_into(out, *arrays, impl="reference"), lambda: out)
    }


BUILDS = {
    OURS: revisage,
    COPY: non_temporal_copy,
    FASTEST_COPY: prefetching_copy,
    "numba": numba_loop,
    "torch": torch_eager,
    "torch.compile": torch_compiled,
    "numpy twin": numpy_twin,
}


# --- the suite -----------------------------------------------------------------------------------


def run(report: Report, options: Options) -> None:
    with options.farm(BUILDS) as farm:
        for shape in BLENDS[:1] if options.quick else BLENDS:
            name = "x".join(str(size) for size in shape)
            if not options.wants(name):
                continue
            inputs = inputs_of(shape)
            expected = exact(inputs)

            def error(contender: str, result: np.ndarray) -> float:
                """Largest distance from float64; features have deviation 1."""
                wanted = 1.0 if contender in (COPY, FASTEST_COPY) else expected  # noqa: B023
                distance = float(np.abs(result - wanted).max())
                if distance > 1e-4:
                    raise SystemExit(f"{contender} is wrong by {distance:.1e}")
                return distance

            for threads in (1, 2):
                case = farm.measure(
                    name,
                    inputs,
                    threads=threads,
                    bytes_moved=bytes_of(inputs),
                    operations=operations_of(inputs),
                    error=error,
                )
                report.cases.append(case)
                print_case(case)
    large = [case for case in report.cases if case.name == "1x64x512x512"]
    report.requirements += [line for case in large for line in requirements(case)]


def bytes_of(inputs: Inputs) -> int:
    """Both features, the result, the logits."""
    return sum(array.nbytes for array in inputs.values()) + inputs["style"].nbytes


def operations_of(inputs: Inputs) -> int:
    """Two products of weights, two with features, a sum; about 10 for each spatial weight."""
    return 5 * inputs["style"].size + 10 * inputs["spatial"].size // 2


def requirements(case: Case) -> Iterator[Requirement]:
    for copy in (COPY, FASTEST_COPY):
        ratio = case.ratios[copy]
        rate = Spread(1 / ratio.median, 1 / ratio.high, 1 / ratio.low)  # of as many bytes
        statement = f"feature_blend: rate over that of a {copy}, {on_threads(case.threads)}"
        yield require(statement, 0.9, rate, case.name, at_most=False)
    statement = f"feature_blend: time over the best Numba loop, {on_threads(case.threads)}"
    yield require(statement, 0.85, case.ratios["numba"], case.name)


if __name__ == "__main__":
    run_suite("feature_blend", run)
