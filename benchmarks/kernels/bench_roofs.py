"""The roofs of this machine, for the other benchmarks: what any kernel here could reach at best."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench_feature_blend import COPY, FASTEST_COPY, non_temporal_copy, prefetching_copy
from harness import Inputs, Options, Report, Work, print_case, run_suite

MEMORY, READING, CACHE, ARITHMETIC = "memory", "reading", "cache", "arithmetic"
COPIED = 256 << 20  # bytes: in no cache
CACHED = 2 << 20  # bytes: source and target together fit a last-level cache
CONVOLUTION = (256, 56)  # channels, side


def roof(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    """The fastest ways known here: non-temporal copy, torch's copy, oneDNN's convolution."""
    if "kernel" in inputs:
        return _arithmetic(inputs, threads)
    if "read" in inputs:
        return _reading(inputs, threads)
    import torch

    torch.set_num_threads(threads)
    source = torch.from_numpy(inputs["style"])
    out = torch.empty_like(source)
    ways = {"torch copy": Work(lambda: out.copy_(source), out.numpy)}
    if inputs["style"].nbytes == COPIED:
        ways[COPY] = non_temporal_copy(inputs, threads)[""]
        ways[FASTEST_COPY] = prefetching_copy(inputs, threads)[""]
    return ways


def _reading(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    """Nothing is written: what bounds an operation that reads more than it writes."""
    import torch

    torch.set_num_threads(threads)
    source = torch.from_numpy(inputs["read"])
    return {"torch sum": Work(source.sum, lambda: inputs["read"][:1])}


def _arithmetic(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    import torch

    torch.set_num_threads(threads)
    x, kernel = (torch.from_numpy(array) for array in inputs.values())

    def convolution() -> None:
        with torch.inference_mode():
            torch.conv2d(x, kernel, padding=1)

    return {"oneDNN 3x3 convolution": Work(convolution, kernel.numpy)}


def run(report: Report, options: Options) -> None:
    random = np.random.default_rng(0)
    channels, side = CONVOLUTION
    cases = {
        MEMORY: {"style": random.random(COPIED // 4, np.float32)},
        READING: {"read": random.random(COPIED // 4, np.float32)},
        CACHE: {"style": random.random(CACHED // 4, np.float32)},
        ARITHMETIC: {
            "x": random.random((1, channels, side, side), np.float32),
            "kernel": random.random((channels, channels, 3, 3), np.float32),
        },
    }
    moved = {MEMORY: 2 * COPIED, READING: COPIED, CACHE: 2 * CACHED, ARITHMETIC: 0}
    with options.farm({"roof": roof}) as farm:
        for name, inputs in cases.items():
            for threads in (1, 2):
                arithmetic = name == ARITHMETIC
                case = farm.measure(
                    name,
                    inputs,
                    threads=threads,
                    bytes_moved=moved[name],
                    operations=2 * 9 * (channels * side) ** 2 if arithmetic else 0,
                    error=lambda contender, result: 0.0,
                )
                report.cases.append(case)
                print_case(case)


if __name__ == "__main__":
    run_suite("roofs", run)
