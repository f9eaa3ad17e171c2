"""How everything is measured here: warm-up, median, spread, a quiet machine, strict JSON.

Contenders of one case are timed in turns (a, b, c, a, b, c, ...), so that a slow minute of the
machine falls on all of them. What the rest of the machine does meanwhile is read from /proc/stat: a
round in which other processes took more than `QUIET_SHARE` of the cores is measured again, and a
result from a machine that never got quiet says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

QUIET_SHARE = 0.10


@dataclass(frozen=True)
class Timing:
    """Seconds of one contender over all rounds."""

    median_s: float
    low_s: float  # 10th percentile
    high_s: float  # 90th percentile
    rounds: int


@dataclass(frozen=True)
class Case:
    """All contenders of one case, on one number of threads."""

    name: str
    threads: int
    timings: dict[str, Timing]
    others_share: float  # median share of the cores that other processes took
    quiet: bool

    def ratio(self, ours: str) -> dict[str, float]:
        """Time of `ours` over that of each other contender: below 1 is faster."""
        own = self.timings[ours].median_s
        return {
            name: own / timing.median_s for name, timing in self.timings.items() if name != ours
        }


@dataclass
class Report:
    """What a benchmark file writes: strict JSON, no NaN."""

    suite: str
    machine: dict[str, str | int]
    cases: list[Case] = field(default_factory=list)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(self), indent=1, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")


class OtherLoad:
    """Share of all cores that processes other than this one take, between start and `share()`."""

    def __init__(self) -> None:
        self._start = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float]:
        """Seconds busy on all cores, seconds of ours, seconds of all cores."""
        try:
            line = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
        except OSError:
            return 0.0, 0.0, 0.0
        ticks = [int(value) for value in line.split()[1:9]]
        per_second = os.sysconf("SC_CLK_TCK")
        idle = ticks[3] + ticks[4]
        own = os.times()
        return (sum(ticks) - idle) / per_second, own.user + own.system, sum(ticks) / per_second

    def share(self) -> float:
        busy, own, total = (now - then for now, then in zip(self._read(), self._start, strict=True))
        return max(0.0, (busy - own) / total) if total > 0 else 0.0


def measure(
    name: str,
    contenders: Mapping[str, Callable[[], object]],
    *,
    threads: int,
    seconds: float = 1.0,
    patience: float = 3.0,
) -> Case:
    """Time contenders in turns.

    Args:
        contenders: name -> call that does the whole work and returns when it is done.
        seconds: measured time wanted per contender; at least 5 rounds, at most 200.
        patience: how many times `seconds` may be spent again on rounds that were not quiet.
    """
    once = {}
    for contender, call in contenders.items():
        call()  # first touch: page faults, plans, compilation
        start = time.perf_counter()
        call()
        once[contender] = time.perf_counter() - start
    # Enough repeats per round for the 10 ms clock of /proc/stat to see the neighbours.
    repeats = {c: max(1, round(0.02 / max(t, 1e-6))) for c, t in once.items()}
    per_round = sum(once[c] * repeats[c] for c in contenders)
    rounds = int(min(200, max(5, seconds * len(contenders) / per_round)))
    quiet: list[tuple[dict[str, float], float]] = []
    noisy: list[tuple[dict[str, float], float]] = []
    while len(quiet) < rounds and len(noisy) < rounds * patience:
        load, result = OtherLoad(), {}
        for contender, call in contenders.items():
            start = time.perf_counter()
            for _ in range(repeats[contender]):
                call()
            result[contender] = (time.perf_counter() - start) / repeats[contender]
        share = load.share()
        (quiet if share <= QUIET_SHARE else noisy).append((result, share))
    enough = len(quiet) >= rounds
    used = quiet if enough else quiet + noisy
    timings = {c: _summary([result[c] for result, _ in used]) for c in contenders}
    others = statistics.median(share for _, share in used)
    return Case(name, threads, timings, round(others, 3), enough)


def _summary(seconds: list[float]) -> Timing:
    tenths = statistics.quantiles(seconds, n=10, method="inclusive")
    return Timing(statistics.median(seconds), tenths[0], tenths[-1], len(seconds))


def machine() -> dict[str, str | int]:
    """What the numbers depend on."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions: dict[str, str | int] = {
        name: str(getattr(sys.modules[name], "__version__", "unknown"))
        for name in ("numpy", "torch", "cv2", "numba")
        if name in sys.modules
    }
    return {
        "processor": model,
        "cores": cores or 1,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        **versions,
    }


def run_suite(suite: str, ours: str, run: Callable[[Report, float], None]) -> None:
    """Command line of a benchmark file: run it, print a table, write JSON with --out."""
    parser = argparse.ArgumentParser(description=f"Benchmark {suite}.")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    parser.add_argument("--seconds", type=float, default=1.0, help="per contender and case")
    options = parser.parse_args()
    report = Report(suite, {})
    run(report, options.seconds)
    report.machine = machine()
    for case in report.cases:
        own = case.timings[ours]
        ratios = ", ".join(f"{value:.2f}x {name}" for name, value in case.ratio(ours).items())
        spread = f"{own.low_s * 1e3:.3g}..{own.high_s * 1e3:.3g}"
        warning = "" if case.quiet else f"  [BUSY: others took {case.others_share:.0%}]"
        print(
            f"{case.name:34} {case.threads} thr  {own.median_s * 1e3:8.3f} ms ({spread})"
            f"  time ratio: {ratios}{warning}"
        )
    if options.out:
        report.write(options.out)
