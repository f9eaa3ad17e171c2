"""How quick an engine is: `revisage bench-engine`, one process per engine and precision.

An engine in a process of its own starts as cold as it does for a user, its peak of memory is its
own, and one that crashes ends nothing but its row. `main` is that process: a `Job` as JSON on
standard input, a `Timing` as JSON on the last line of standard output.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from revisage.errors import OptionError, RevisageError
from revisage.python_process import python_command

if TYPE_CHECKING:
    from revisage.manifest import Manifest

__all__ = ["Job", "Timing", "input_shapes", "peak_memory", "time_engine"]

FEWEST_CALLS, MOST_CALLS = 5, 100_000
MOST_SECONDS = 3600.0


@dataclasses.dataclass(frozen=True)
class Job:
    """What one process measures."""

    bundle: str  # path of a folder or an archive
    engine: str  # one of `revisage.manifest.ENGINES`
    precision: str = "fp32"
    height: int | None = None  # of the inputs in pixels; None: the working size
    width: int | None = None
    batch: int = 1
    threads: int | None = None  # None: all cores
    seconds: float = 2.0  # for which calls are timed


@dataclasses.dataclass(frozen=True)
class Timing:
    """What came out. Times in seconds but the percentiles; memory in bytes."""

    engine: str
    precision: str
    calls: int
    p50_ms: float
    p95_ms: float
    p99_ms: float  # of fewer than 100 calls, hardly less than the slowest
    cold_start: float  # from the start of the process to the first result at this size
    build: float  # to build or load the engine with an empty cache, and to repeat its probe
    load: float  # to open it a second time, from the cache where the engine has one
    peak_memory: int | None  # of the process without TensorRT's builder, which has its own
    gpu_memory: int | None  # more in use on the GPU than before; None on the CPU


def input_shapes(manifest: Manifest, job: Job) -> dict[str, tuple[int, ...]]:
    """The shape of every input.

    Raises:
        OptionError: the network has a fixed size, the size is no multiple of what it needs, or
            batch, threads or seconds make no sense.
    """
    sides = {"H": job.height or manifest.working_size, "W": job.width or manifest.working_size}
    free = {d for spec in manifest.inputs for d in spec.shape if isinstance(d, str)}
    if (job.height or job.width) and not {"H", "W"} & free:
        raise OptionError(f"{manifest.name} has a fixed size: leave --size out")
    for name, side in sides.items():
        if name in free and (side < 1 or side % manifest.multiple_of):
            raise OptionError(
                f"{manifest.name}: a side of {side} is no multiple of {manifest.multiple_of}"
            )
    if job.batch < 1:
        raise OptionError(f"a batch of {job.batch} is empty; give 1 or more")
    if job.threads is not None and job.threads < 1:
        raise OptionError(f"{job.threads} threads cannot run anything; give 1 or more")
    if not 0 <= job.seconds <= MOST_SECONDS:
        raise OptionError(f"{job.seconds} seconds are not within 0 and {MOST_SECONDS:.0f}")
    sizes = {"N": job.batch, **sides}
    return {
        spec.name: tuple(d if isinstance(d, int) else sizes.get(d, 2) for d in spec.shape)
        for spec in manifest.inputs
    }


def time_engine(job: Job) -> Timing | str:
    """Measure in a new process.

    Returns:
        The timing, or why there is none: the error, or how the process ended.
    """
    with tempfile.TemporaryDirectory() as cache:  # so that a build is a build
        command, environment = python_command(__name__)
        started = time.time()
        done = subprocess.run(
            command,
            input=json.dumps({**dataclasses.asdict(job), "started": started}),
            env={**environment, "REVISAGE_CACHE": cache},
            capture_output=True,
            text=True,
            check=False,
        )
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return f"its process ended with {done.returncode}: {last}"
    found: dict[str, Any] = json.loads(lines[-1])
    return str(found["error"]) if "error" in found else Timing(**found)


def _measure(job: Job, started: float) -> Timing:
    """In the process of the engine."""
    import numpy as np

    from revisage.bundle import Bundle
    from revisage.engines import device_status, open_engine
    from revisage.engines.probe import probe_array
    from revisage.manifest import ProbeInput

    bundle = Bundle.open(job.bundle)
    shapes = input_shapes(bundle.manifest, job)
    inputs = {
        spec.name: probe_array(ProbeInput("picture", seed, shapes[spec.name]), spec)
        for seed, spec in enumerate(bundle.manifest.inputs)
    }
    usable = any(s.engine == job.engine and s.usable for s in device_status())
    on_gpu = usable and job.engine != "onnxruntime-cpu"
    before = _gpu_memory() if on_gpu else 0

    def opened() -> Any:
        return open_engine(bundle, engine=job.engine, precision=job.precision, threads=job.threads)

    start = time.perf_counter()
    with opened() as engine:
        build = time.perf_counter() - start
        engine.infer(inputs)
        cold_start = time.time() - started
        engine.infer(inputs)  # what is recorded or planned per shape is done by now
        times = _timed(lambda: engine.infer(inputs), job.seconds)
        gpu_memory = _gpu_memory() - before if on_gpu else None
    start = time.perf_counter()
    with opened():
        load = time.perf_counter() - start
    p50, p95, p99 = (round(1e3 * float(p), 4) for p in np.percentile(times, [50, 95, 99]))
    return Timing(
        job.engine,
        job.precision,
        len(times),
        p50,
        p95,
        p99,
        round(cold_start, 4),
        round(build, 4),
        round(load, 4),
        peak_memory(),
        gpu_memory,
    )


def _timed(call: Any, seconds: float) -> Sequence[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < FEWEST_CALLS or (time.perf_counter() < end and len(times) < MOST_CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def peak_memory() -> int | None:
    """The most bytes of memory that this process has had in use; None where nobody says.

    Linux's `ru_maxrss` would not do: a process begins with that of its parent.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) << 10
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def _gpu_memory() -> int:
    """Bytes in use on the GPU, by whomever."""
    import cupy

    free, total = cupy.cuda.runtime.memGetInfo()
    return int(total - free)


def main() -> None:
    """The process of one engine."""
    given = json.loads(sys.stdin.read())
    started = given.pop("started")
    try:
        answer = dataclasses.asdict(_measure(Job(**given), started))
    except RevisageError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))
