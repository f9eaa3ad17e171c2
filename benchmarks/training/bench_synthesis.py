"""Samples per second of every synthesis, as the training loop would be fed.

Each synthesis makes 256 px samples (`--size`) of aligned portraits in three ways: by one background
thread, as the loop's own prefetch does; by two threads, which overlap where compiled code lets go
of the interpreter; by two processes. Rounds in which other programs took more than a tenth of the
cores are measured again, at most `PATIENCE` times as many; a row that never got a quiet machine
says BUSY. The processor time of a sample is printed beside, because other programs slow it less.

    python benchmarks/training/bench_synthesis.py --portraits FOLDER [--out FILE.json]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
from harness import QUIET_SHARE, machine  # noqa: E402

DEMAND = 150.0  # samples a second at 256 px on two cores
PATIENCE = 3  # rounds that may be thrown away, per round that counts
ROUNDS = 7

Sample = Callable[[np.ndarray, np.ndarray, np.random.Generator], object]


def syntheses(templates: str) -> dict[str, Sample]:
    """Name -> making of one sample from an aligned face, its landmarks and a generator."""
    from revisage.training.data import holes
    from revisage.training.data.blemishes import add_blemishes
    from revisage.training.data.degrade import degrade
    from revisage.training.data.guides import synthetic_guide
    from revisage.training.data.worn_masks import wear_mask
    from revisage.training.data.wrinkles import draw_wrinkles

    made: dict[str, Sample] = {
        "wrinkles": lambda image, points, rng: draw_wrinkles(image, points, rng),
        "blemishes": lambda image, points, rng: add_blemishes(image, points, rng),
        "worn masks": lambda image, points, rng: wear_mask(image, points, rng),
        "degradation": lambda image, points, rng: degrade(image, rng),
        "guides": lambda image, points, rng: synthetic_guide(image, points, rng),
        "holes: strokes": lambda image, points, rng: holes.stroke_holes(len(image), rng),
        "holes: polygons": lambda image, points, rng: holes.polygon_chain_hole(len(image), rng),
        "holes: free form": lambda image, points, rng: holes.free_form_hole(len(image), rng),
        "holes: rectangle": lambda image, points, rng: holes.rectangle_hole(len(image), rng),
    }
    if templates:
        from revisage.training.data.mask_templates import MaskTemplates

        ready = MaskTemplates(templates)
        made["mask templates"] = lambda image, points, rng: ready.wear(image, points, rng)
    return made


def load_faces(portraits: str, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Aligned faces of a folder, or drawn ones without a folder."""
    if portraits:
        from revisage.training.data.aligned_faces import aligned_faces

        faces = aligned_faces([portraits], None, size, min_native_face_px=200, limit=32)
        return [(face.image, face.landmarks) for face in faces]
    from revisage.training.data.aligned_faces import align_face
    from tests.training.drawn_portraits import drawn_portrait

    return [align_face(*drawn_portrait(person, 0, 2 * size), size) for person in range(8)]


_made: dict[str, Sample] = {}
_faces: list[tuple[np.ndarray, np.ndarray]] = []


def prepare(portraits: str, templates: str, size: int) -> None:
    """Fill this process with what samples are made from."""
    cv2.setNumThreads(1)
    _made.update(syntheses(templates))
    _faces[:] = load_faces(portraits, size)


def make(name: str, first: int, count: int) -> int:
    """Make the samples with seeds from `first`; tell in which process."""
    sample = _made[name]
    for seed in range(first, first + count):
        image, points = _faces[seed % len(_faces)]
        sample(image, points, np.random.default_rng(seed))
    return os.getpid()


def _seconds(pids: Sequence[int]) -> tuple[float, float, float]:
    """Busy seconds of all cores, of these processes, and all seconds there were."""
    try:
        line = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
        ticks = [int(value) for value in line.split()[1:9]]
        own = 0
        for pid in pids:
            # After the name in brackets: user and system time are the 12th and 13th field.
            fields = (
                Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            )
            own += int(fields[11]) + int(fields[12])
    except OSError:
        return 0.0, 0.0, 0.0
    return float(sum(ticks) - ticks[3] - ticks[4]), float(own), float(sum(ticks))


@dataclasses.dataclass(frozen=True)
class Rate:
    """Samples per second of one synthesis, fed in one way."""

    synthesis: str
    feed: str
    cores: int
    median: float
    low: float  # 10th percentile
    high: float  # 90th percentile
    rounds: int
    cpu_ms: float  # processor time of a sample, all threads and processes together
    others_share: float
    quiet: bool


def measure(
    name: str, feed: str, workers: int, pool: Executor, pids: Sequence[int], seconds: float
) -> Rate:
    """Rates over `ROUNDS` quiet rounds of about `seconds` each."""

    def batch(count: int) -> float:
        start = time.perf_counter()
        share = max(1, count // workers)
        jobs = [pool.submit(make, name, number * share, share) for number in range(workers)]
        for job in jobs:
            job.result()
        return share * workers / (time.perf_counter() - start)

    batch(8 * workers)  # compiles, fills caches
    count = max(2 * workers, int(batch(8 * workers) * seconds))
    quiet: list[tuple[float, float]] = []
    noisy: list[tuple[float, float]] = []
    spent, made = 0.0, 0
    while len(quiet) < ROUNDS and len(noisy) < PATIENCE * ROUNDS:
        before = _seconds(pids)
        rate = batch(count)
        busy, own, total = (now - then for now, then in zip(_seconds(pids), before, strict=True))
        others = max(0.0, (busy - own) / total) if total > 0 else 0.0
        spent += own / os.sysconf("SC_CLK_TCK")
        made += count // workers * workers
        (quiet if others <= QUIET_SHARE else noisy).append((rate, others))
    enough = len(quiet) >= ROUNDS
    used = quiet if enough else quiet + noisy
    rates = [rate for rate, _ in used]
    tenths = statistics.quantiles(rates, n=10, method="inclusive")
    others = statistics.median(share for _, share in used)
    return Rate(
        name, feed, workers, round(statistics.median(rates), 1), round(tenths[0], 1),
        round(tenths[-1], 1), len(rates), round(1e3 * spent / made, 3), round(others, 3), enough,
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="Benchmark the data synthesis.")
    parser.add_argument("--portraits", default="", help="annotated portraits; drawn ones without")
    parser.add_argument("--templates", default="", help="folder of RGBA face masks")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=0.5, help="per round")
    parser.add_argument("--only", default="", help="names of syntheses, separated by commas")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    what = (options.portraits, options.templates, options.size)
    prepare(*what)
    names = [name.strip() for name in options.only.split(",") if name.strip()] or list(_made)
    unknown = [name for name in names if name not in _made]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(_made)}")
    rates = []
    # Workers keep BLAS on one thread, as a loader's do: two times two threads only wait for each
    # other. NumPy reads it when a worker imports it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    spawn = multiprocessing.get_context("spawn")
    with (
        ThreadPoolExecutor(1) as one,
        ThreadPoolExecutor(2) as two,
        ProcessPoolExecutor(2, spawn, prepare, what) as processes,
    ):
        # Both processes must be there before any is measured.
        for job in [processes.submit(make, names[0], 0, 40) for _ in range(4)]:
            job.result()
        workers = list(processes._processes)
        here = [os.getpid()]
        feeds: list[tuple[str, int, Executor, list[int]]] = [
            ("one thread", 1, one, here),
            ("two threads", 2, two, here),
            ("two processes", 2, processes, here + workers),
        ]
        source = options.portraits or "drawn faces"
        print(
            f"{options.size} px samples a second, from {source}; at least {DEMAND:g} on two cores"
        )
        for name in names:
            for feed, cores, pool, pids in feeds:
                rate = measure(name, feed, cores, pool, pids, options.seconds)
                rates.append(rate)
                busy = "" if rate.quiet else f"  [BUSY: others took {rate.others_share:.0%}]"
                short = "  below demand" if cores == 2 and rate.median < DEMAND else ""
                print(
                    f"{name:18} {feed:14} {rate.median:8.0f}  ({rate.low:.0f}..{rate.high:.0f})"
                    f"  {rate.cpu_ms:6.2f} ms cpu"
                    f"{short}{busy}",
                    flush=True,
                )
    if options.out:
        report = {
            "suite": "synthesis",
            "size": options.size,
            "source": "portraits" if options.portraits else "drawn",
            "machine": machine(),
            "rates": [dataclasses.asdict(rate) for rate in rates],
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(
            json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
