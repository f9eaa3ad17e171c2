"""`revisage bench-engine`: how quick a model is on every engine, each in a process of its own."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from typing import TYPE_CHECKING

from revisage.manifest import ENGINES, PRECISIONS

if TYPE_CHECKING:
    from revisage.bundle import Bundle
    from revisage.engine_benchmark import Job, Timing

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "bench-engine", help="time a model on every engine and precision that it is certified for"
    )
    parser.add_argument("model", metavar="MODEL", help="a model that ships, or a bundle's path")
    parser.add_argument(
        "--engine", choices=ENGINES, metavar="NAME", help=f"only {', '.join(ENGINES)}"
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, metavar="P", help=f"only {', '.join(PRECISIONS)}"
    )
    parser.add_argument(
        "--size", type=_size, metavar="PX", help="512 or 768x512 (height first); default: as made"
    )
    parser.add_argument("--batch", type=int, default=1, help="inputs of one call (default 1)")
    parser.add_argument("--threads", type=int, help="CPU threads; default: all")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="how long calls are timed (default 2)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9][0-9]{0,4})(?:x([1-9][0-9]{0,4}))?", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 512 or 768x512")
    return int(found[1]), int(found[2] or found[1])


def run(args: argparse.Namespace) -> int:
    """Measure; returns 0 where an engine ran, else 1."""
    from revisage.bundle import named_bundle
    from revisage.engine_benchmark import input_shapes, time_engine

    bundle = named_bundle(args.model)
    jobs = _jobs(bundle, args)
    shapes = input_shapes(bundle.manifest, jobs[0])
    results: list[tuple[Job, Timing | str]] = []
    for job in jobs:
        results.append((job, time_engine(job)))
        if not args.json:
            if len(results) == 1:
                print(f"{bundle.name}, {_shapes_text(shapes)}")
                print(_row("engine", "p50 ms", "p95", "p99", "calls", "start s", "build s",
                           "load s", "peak MB", "GPU MB"))  # fmt: skip
            print(_result_row(*results[-1]), flush=True)
    if args.json:
        print(_json(bundle, shapes, results))
    return 0 if any(not isinstance(timing, str) for _, timing in results) else 1


def _jobs(bundle: Bundle, args: argparse.Namespace) -> list[Job]:
    from revisage.engine_benchmark import Job
    from revisage.errors import OptionError

    height, width = args.size or (None, None)
    jobs = [
        Job(
            str(bundle.path),
            engine,
            precision,
            height=height,
            width=width,
            batch=args.batch,
            threads=args.threads,
            seconds=args.seconds,
        )
        for engine, precisions in bundle.manifest.tolerances.items()
        for precision in precisions
        if args.engine in (None, engine) and args.precision in (None, precision)
    ]
    if not jobs:
        made_for = [f"{e} {p}" for e, ps in bundle.manifest.tolerances.items() for p in ps]
        raise OptionError(
            f"{bundle.name} is not certified for that engine and precision; it is for "
            f"{', '.join(made_for)}"
        )
    return jobs


def _shapes_text(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())


def _row(name: str, *cells: str) -> str:
    return f"{name:<28}" + "".join(f"{cell:>9}" for cell in cells)


def _result_row(job: Job, timing: Timing | str) -> str:
    name = f"{job.engine} {job.precision}"
    if isinstance(timing, str):
        return f"{name:<28}  did not run: {timing}"
    megabytes = [
        "-" if value is None else f"{value / 1e6:.0f}"
        for value in (timing.peak_memory, timing.gpu_memory)
    ]
    return _row(
        name,
        *(f"{value:.2f}" for value in (timing.p50_ms, timing.p95_ms, timing.p99_ms)),
        str(timing.calls),
        *(f"{value:.2f}" for value in (timing.cold_start, timing.build, timing.load)),
        *megabytes,
    )


def _json(
    bundle: Bundle, shapes: dict[str, tuple[int, ...]], results: list[tuple[Job, Timing | str]]
) -> str:
    engines = [
        {"engine": job.engine, "precision": job.precision, "error": timing}
        if isinstance(timing, str)
        else dataclasses.asdict(timing)
        for job, timing in results
    ]
    about = {"model": bundle.name, "digest": bundle.digest, "inputs": shapes}
    return json.dumps({**about, "threads": results[0][0].threads, "engines": engines}, indent=1)
