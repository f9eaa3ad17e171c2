"""Timing on a CUDA device, for the benchmarks that end in `_cuda`.

Contenders take turns as on the CPU (harness.py). Before every call a buffer that is several times
the L2 cache is written, so that all data comes from memory; that also keeps the device busy while
Python queues the call, so that its own time is hidden. Only the call lies between the two events.
A copy of as many bytes takes part in every case: bandwidth is compared within a round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
from harness import Case, Options, Report, Spread, case_of_rounds

COPY = "copy of as many bytes"
SCRUB_BYTES = 512 << 20
Call = Callable[[], Any]


def use_device(report: Report) -> None:
    """Name the device in the report; SystemExit where there is none."""
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA device")
    properties = torch.cuda.get_device_properties(0)
    report.machine["gpu"] = properties.name
    report.machine["gpu compute capability"] = f"{properties.major}.{properties.minor}"
    report.machine["gpu memory, GiB"] = properties.total_memory >> 30
    report.machine["torch CUDA"] = str(torch.version.cuda)
    report.settings["bytes written between calls"] = SCRUB_BYTES


def copy_of(bytes_moved: int) -> Call:
    """Reads half of the bytes and writes the other half."""
    source = torch.zeros(bytes_moved // 2, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def measure(
    name: str,
    contenders: Mapping[str, Call],
    options: Options,
    *,
    bytes_moved: int,
    operations: int,
    errors: Mapping[str, float] | None = None,
) -> Case:
    """Time all contenders, ours first, and a copy in turns.

    Args:
        contenders: calls that queue the whole work on the current stream.
        bytes_moved: what the definition has to read and write once.
        errors: of each contender, as the suite defines it.
    """
    calls = {**contenders, COPY: copy_of(bytes_moved)}
    scrub = torch.empty(SCRUB_BYTES, dtype=torch.uint8, device="cuda")
    repeats = {}
    for contender, call in calls.items():
        for _ in range(3):  # compilation, plans, caches of memory
            call()
        seconds = _turn(call, scrub, 3)
        repeats[contender] = int(min(200, max(5, options.seconds / len(calls) / seconds)))
    rounds = [
        {contender: _turn(call, scrub, repeats[contender]) for contender, call in calls.items()}
        for _ in range(options.rounds)
    ]
    return case_of_rounds(
        name, rounds, bytes_moved=bytes_moved, operations=operations, errors=errors
    )


def _turn(call: Call, scrub: torch.Tensor, repeats: int) -> float:
    """Median seconds of a call."""
    events = []
    for _ in range(repeats):
        scrub.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        events.append((start, end))
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) / 1e3 for start, end in events)


def share_of_copy(case: Case) -> Spread:
    """Our bandwidth over that of the copy: 1 is as fast as memory goes."""
    ratio = case.ratios[COPY]
    return Spread(1 / ratio.median, 1 / ratio.high, 1 / ratio.low)
