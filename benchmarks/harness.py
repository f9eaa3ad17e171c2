"""How everything is measured here: a process per contender, turns, a quiet machine, strict JSON.

Note [How contenders are timed]
    Every contender of a suite lives in a worker process of its own, because thread pools spin and
    allocators hold on to memory: in one process they would be timing one another. The processes
    differ in nothing else; all start with `ENVIRONMENT`, so that nobody pays for page faults of
    fresh outputs, and outputs are allocated once wherever a library takes one.

    Contenders of a case take turns (a, b, c, a, b, c, ...). A turn is one call that is not timed
    (it brings the data back into the caches and wakes the threads), then as many calls as fill the
    turn, timed together. Between turns the machine rests until the threads of the one before have
    gone to sleep: those of ONNX Runtime look for work for 50 ms after a call, and would take a core
    from whoever comes next.
    A slow minute of the machine therefore falls on everybody, and ratios are formed within a round:
    a ratio's spread is that of the rounds, not that of two medians.

    During each round `/proc/stat` says how busy all cores were (time stolen by the hypervisor
    counts as busy). What the workers and this process used is subtracted; if the rest is more than
    `QUIET_SHARE`, the round is thrown away and repeated. After `PATIENCE` times as many rounds as
    wanted the case is reported as it is, with `quiet` false.

    A contender that has several forms (layouts, compiler modes, graph forms) offers them as
    variants. Each is tried before the case starts and the fastest takes part.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import importlib.metadata
import json
import math
import multiprocessing
import os
import platform
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

QUIET_SHARE = 0.04
PATIENCE = 3  # rounds that may be thrown away, per round that counts
REST_S = 0.01  # a process that used less than a tenth of this as CPU time is asleep
LONGEST_REST_S = 1.0
SLOW = 4.0  # a contender that takes this many times the fastest needs only the first rounds
SLOW_ROUNDS = 3
TRIALS = 4  # of every variant of a contender, to find the fastest

# Without these, fresh outputs of 64 MiB cost a library that allocates them several times the work
# itself in page faults. Large blocks come from the heap, the heap is never given back, and it is
# made of huge pages.
ENVIRONMENT = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_THRESHOLD_": "4294967295",
    "MALLOC_TRIM_THRESHOLD_": "4294967295",
    "THP_MEM_ALLOC_ENABLE": "1",  # torch's own switch for huge pages
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # compile in the worker, so that nothing runs beside it
}

Inputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Work:
    """One way of doing a case: `run` does it all and returns when it is done, `result` reads it."""

    run: Callable[[], object]
    result: Callable[[], np.ndarray]


# Variants of a contender for one case on a number of threads; none where it cannot do the case.
# Called in the worker, where it imports its library.
Build = Callable[[Inputs, int], Mapping[str, Work]]


@dataclass(frozen=True)
class Spread:
    """Of rounds: median, 10th and 90th percentile."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        low, middle, high = np.percentile(values, [10, 50, 90])
        return cls(float(middle), float(low), float(high))


@dataclass(frozen=True)
class Contender:
    """What one contender did in one case."""

    seconds: Spread
    rounds: int
    variant: str  # the form that won; "" where there is one
    error: float | None = None  # as the suite defines it


@dataclass(frozen=True)
class Case:
    """All contenders of one case. The first is ours."""

    name: str
    threads: int  # 0 on a GPU
    bytes: int  # that must be read and written once
    operations: int  # additions and multiplications that the definition asks for
    contenders: dict[str, Contender]
    ratios: dict[str, Spread]  # time of ours over that of each other, by round
    others_share: float  # median share of the cores that other processes took
    quiet: bool
    rounds_thrown_away: int

    @classmethod
    def of_json(cls, raw: dict[str, Any]) -> Case:
        """A case as result files hold it."""
        for contender in raw["contenders"].values():
            contender["seconds"] = Spread(**contender["seconds"])
        contenders = {n: Contender(**c) for n, c in raw["contenders"].items()}
        ratios = {n: Spread(**s) for n, s in raw["ratios"].items()}
        return cls(**{**raw, "contenders": contenders, "ratios": ratios})

    @property
    def ours(self) -> str:
        return next(iter(self.contenders))

    def best_other(self, among: Sequence[str] | None = None) -> str:
        """The fastest of the others (or of `among`)."""
        others = [name for name in self.ratios if among is None or name in among]
        return min(others, key=lambda name: self.contenders[name].seconds.median)

    def best_ratio(self, among: Sequence[str] | None = None) -> Spread:
        return self.ratios[self.best_other(among)]


def case_of_rounds(
    name: str,
    rounds: Sequence[Mapping[str, float]],
    *,
    bytes_moved: int,
    operations: int,
    threads: int = 0,
    variants: Mapping[str, str] | None = None,
    errors: Mapping[str, float] | None = None,
    others_share: float = 0.0,
    quiet: bool = True,
    rounds_thrown_away: int = 0,
) -> Case:
    """A case from seconds per contender per round; the first contender of the first is ours."""
    variants, errors = variants or {}, errors or {}
    names = list(rounds[0])
    ours, times = names[0], {n: [r[n] for r in rounds if n in r] for n in names}
    return Case(
        name,
        threads,
        bytes_moved,
        operations,
        {
            n: Contender(Spread.of(times[n]), len(times[n]), variants.get(n, ""), errors.get(n))
            for n in names
        },
        {n: Spread.of([r[ours] / r[n] for r in rounds if n in r]) for n in names[1:]},
        round(others_share, 4),
        quiet,
        rounds_thrown_away,
    )


@dataclass(frozen=True)
class Requirement:
    """One line of what must be shown, and whether it was."""

    statement: str
    limit: float
    at_most: bool
    measured: Spread | None  # None: there was nothing to measure, and it does not hold
    holds: bool
    where: str  # the case that decided, or what was averaged


def require(
    statement: str, limit: float, measured: Spread, where: str, *, at_most: bool = True
) -> Requirement:
    """A requirement on a median."""
    holds = measured.median <= limit if at_most else measured.median >= limit
    return Requirement(statement, limit, at_most, measured, bool(holds), where)


def on_threads(threads: int) -> str:
    """ "1 thread", "2 threads"."""
    return f"{threads} thread" + "s" * (threads != 1)


def geometric_mean(spreads: Sequence[Spread]) -> Spread:
    """Of medians, of low ends and of high ends, each by itself."""

    def mean(values: Sequence[float]) -> float:
        return math.exp(statistics.fmean(math.log(value) for value in values))

    return Spread(
        *(mean([getattr(s, part) for s in spreads]) for part in ("median", "low", "high"))
    )


@dataclass
class Report:
    """What a benchmark file writes: strict JSON, no NaN."""

    suite: str
    machine: dict[str, str | int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    cases: list[Case] = field(default_factory=list)
    requirements: list[Requirement] = field(default_factory=list)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Report:
        raw = json.loads(path.read_text(encoding="utf-8"))
        for line in raw["requirements"]:
            line["measured"] = Spread(**line["measured"])
        raw["cases"] = [Case.of_json(case) for case in raw["cases"]]
        raw["requirements"] = [Requirement(**line) for line in raw["requirements"]]
        return cls(**raw)


def own_cpu_seconds() -> float:
    """CPU time of this process and of those children that it has waited for."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


class OtherLoad:
    """Share of all cores that others take, between start and `share()`.

    Args:
        own: CPU seconds so far of everything that does not count as others.
    """

    def __init__(self, own: Callable[[], float] = own_cpu_seconds) -> None:
        self._own = own
        self._start = self._read()

    def _read(self) -> tuple[float, float, float]:
        """Seconds busy on all cores (stolen ones too), seconds of ours, seconds of all cores."""
        own = self._own()
        try:
            line = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
        except OSError:
            return 0.0, 0.0, 0.0
        ticks = [int(value) for value in line.split()[1:9]]
        per_second = os.sysconf("SC_CLK_TCK")
        idle = ticks[3] + ticks[4]
        return (sum(ticks) - idle) / per_second, own, sum(ticks) / per_second

    def share(self) -> float:
        busy, own, total = (now - then for now, then in zip(self._read(), self._start, strict=True))
        return max(0.0, (busy - own) / total) if total > 0 else 0.0


class _Worker:
    """A process that holds one contender, as this process sees it."""

    def __init__(self, name: str, build: Build) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, build), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, *request: object) -> Any:
        """The worker's answer; its error becomes one here."""
        self._pipe.send(request)
        try:
            failed, answer = self._pipe.recv()
        except EOFError as error:
            raise SystemExit(f"the process of {self.name!r} died") from error
        if failed:
            raise SystemExit(f"{self.name}: {answer}")
        return answer

    def stop(self) -> None:
        self._pipe.send(("stop",))
        self._process.join()


def _serve(pipe: Connection, build: Build) -> None:
    """The life of a worker: answer requests until "stop"."""
    gc.disable()
    work: Work | None = None
    with suppress(EOFError):  # the parent is gone
        while (request := pipe.recv())[0] != "stop":
            try:
                if request[0] == "clock":
                    answer: Any = time.process_time()
                elif request[0] == "prepare":
                    work = None  # its memory goes before the next is made
                    gc.collect()
                    work, answer = _fastest(build(*request[1:]))
                else:
                    assert work is not None
                    answer = _turn(work.run, request[1])
                pipe.send((False, answer))
            except Exception:
                pipe.send((True, traceback.format_exc()))


def _turn(run: Callable[[], object], repeats: int) -> float:
    """Seconds per call, after one that does not count; returns when the process is asleep."""
    run()
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    seconds = (time.perf_counter() - start) / repeats
    _sleep_until_idle()
    return seconds


def _sleep_until_idle() -> None:
    """Wait until no thread of this process spins any more."""
    end = time.monotonic() + LONGEST_REST_S
    while time.monotonic() < end:
        used = time.process_time()
        time.sleep(REST_S)
        if time.process_time() - used < REST_S / 10:
            return
    raise RuntimeError(
        f"threads still spin {LONGEST_REST_S:g} s after a call: what comes next cannot be timed"
    )


def _fastest(variants: Mapping[str, Work]) -> tuple[Work | None, Any]:
    """The variant to use, and (its name, its seconds, its result)."""
    if not variants:
        return None, None
    seconds = {}
    for name, work in variants.items():
        work.run()  # first touch: page faults, plans, compilation
        seconds[name] = _turn(work.run, 1)
    for _ in range(TRIALS if len(variants) > 1 else 0):  # in turns, as the case itself
        for name, work in variants.items():
            repeats = max(1, min(20, round(0.02 / max(seconds[name], 1e-6))))
            seconds[name] = min(seconds[name], _turn(work.run, repeats))
    name = min(seconds, key=seconds.__getitem__)
    variants[name].run()  # variants may share an output
    return variants[name], (name, seconds[name], np.array(variants[name].result()))


class Farm:
    """The contenders of a suite, each in a process of its own; the first is ours."""

    def __init__(self, builds: Mapping[str, Build], *, rounds: int, seconds: float) -> None:
        """
        Args:
            rounds: quiet rounds wanted per case.
            seconds: length of a round; shorter ones drown in the 10 ms clock of /proc/stat.
        """
        self._rounds, self._seconds = rounds, seconds
        before = dict(os.environ)
        os.environ.update(ENVIRONMENT)
        try:
            self._workers = {name: _Worker(name, build) for name, build in builds.items()}
        finally:
            os.environ.clear()
            os.environ.update(before)

    def stop(self) -> None:
        for worker in self._workers.values():
            worker.stop()

    def _cpu_seconds(self) -> float:
        return own_cpu_seconds() + sum(w.ask("clock") for w in self._workers.values())

    def measure(
        self,
        name: str,
        inputs: Inputs,
        *,
        threads: int,
        bytes_moved: int,
        operations: int,
        error: Callable[[str, np.ndarray], float],
    ) -> Case:
        """Check the result of every contender, then time all in turns.

        Args:
            error: takes a contender's name and result; returns the error to report, or raises.
        """
        once, variants, errors = {}, {}, {}
        for contender, worker in self._workers.items():
            answer = worker.ask("prepare", dict(inputs), threads)
            if answer is not None:
                variants[contender], once[contender], result = answer
                errors[contender] = error(contender, result)
        fastest = min(once.values())
        turn = self._seconds / len(once)
        repeats = {c: max(1, round(turn / s)) for c, s in once.items()}
        slow = {c for c, s in once.items() if s > SLOW * fastest and c != next(iter(once))}
        quiet: list[dict[str, float]] = []
        noisy: list[dict[str, float]] = []
        shares: dict[bool, list[float]] = {True: [], False: []}
        while len(quiet) < self._rounds and len(noisy) < self._rounds * PATIENCE:
            load, result_of = OtherLoad(self._cpu_seconds), {}
            for contender in once:
                if contender in slow and len(quiet) >= SLOW_ROUNDS:
                    continue
                result_of[contender] = self._workers[contender].ask("turn", repeats[contender])
            share = load.share()
            is_quiet = share <= QUIET_SHARE
            (quiet if is_quiet else noisy).append(result_of)
            shares[is_quiet].append(share)
        enough = len(quiet) >= self._rounds
        return case_of_rounds(
            name,
            quiet if enough else quiet + noisy,
            bytes_moved=bytes_moved,
            operations=operations,
            threads=threads,
            variants=variants,
            errors=errors,
            others_share=statistics.median(shares[True] + ([] if enough else shares[False])),
            quiet=enough,
            rounds_thrown_away=len(noisy) if enough else 0,
        )


def machine() -> dict[str, str | int]:
    """What the numbers depend on."""
    model = platform.processor() or platform.machine()
    details: dict[str, str | int] = {}
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        about = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        model = about.get("model name", model)
        details["family and model"] = f"{about['cpu family']}, {about['model']}"
        size = Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text(encoding="ascii")
        details["last-level cache, MiB"] = int(size.strip().removesuffix("K")) // 1024
    except (OSError, KeyError, ValueError):
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions: dict[str, str | int] = {}
    for package in ("numpy", "torch", "opencv-python-headless", "numba", "onnxruntime"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": model,
        **details,
        "cores": cores or 1,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        **versions,
    }


@dataclass(frozen=True)
class Options:
    """Command line of a benchmark file."""

    quick: bool
    rounds: int
    seconds: float
    only: str

    def wants(self, case: str) -> bool:
        return self.only in case

    @contextmanager
    def farm(self, builds: Mapping[str, Build]) -> Iterator[Farm]:
        farm = Farm(builds, rounds=self.rounds, seconds=self.seconds)
        try:
            yield farm
        finally:
            farm.stop()


def print_case(case: Case) -> None:
    """One line per contender."""
    warning = "" if case.quiet else f"  [BUSY: others took {case.others_share:.0%}]"
    print(f"{case.name}, {case.threads} thr{warning}", flush=True)
    for name, contender in case.contenders.items():
        s = contender.seconds
        line = f"    {name:26} {s.median * 1e3:9.3f} ms ({s.low * 1e3:.3f}..{s.high * 1e3:.3f})"
        if name in case.ratios:
            r = case.ratios[name]
            line += f"  ours/this {r.median:.3f} ({r.low:.3f}..{r.high:.3f})"
        if contender.error is not None:
            line += f"  error {contender.error:.1e}"
        print(line + (f"  [{contender.variant}]" if contender.variant else ""), flush=True)


def run_suite(suite: str, run: Callable[[Report, Options], None]) -> None:
    """Command line of a benchmark file: run it, print what is measured, write JSON with --out."""
    parser = argparse.ArgumentParser(description=f"Benchmark {suite}.")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    parser.add_argument("--quick", action="store_true", help="few cases, few rounds")
    parser.add_argument("--rounds", type=int, help="quiet rounds per case; default 7, quick 3")
    parser.add_argument("--seconds", type=float, default=0.4, help="per round")
    parser.add_argument("--only", default="", help="cases with this in their name")
    given = parser.parse_args()
    rounds = given.rounds or (3 if given.quick else 7)
    options = Options(given.quick, rounds, given.seconds, given.only)
    report = Report(
        suite,
        machine(),
        {
            "rounds": rounds,
            "seconds per round": given.seconds,
            "quick": given.quick,
            "quiet below": QUIET_SHARE,
            "environment of every contender": ENVIRONMENT,
        },
    )
    run(report, options)
    for line in report.requirements:
        m, sign = line.measured, "<=" if line.at_most else ">="
        print(
            f"{'holds ' if line.holds else 'FAILS '} {line.statement}: {m.median:.3g} "
            f"({m.low:.3g}..{m.high:.3g}), required {sign} {line.limit:g}; {line.where}"
        )
    if given.out:
        report.write(given.out)
