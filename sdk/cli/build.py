"""`revisage build`: compile engines ahead of time, for this machine's card or for others."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from revisage.bundle import Bundle
    from revisage.engines.cache import EngineCache

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "build",
        help="compile GPU engines ahead of time, so that no session waits for it",
        description="Compile GPU engines ahead of time. TensorRT for RTX builds for any card on "
        "any machine, with or without a GPU; TensorRT builds for the card of this machine.",
        epilog="Engines go where sessions look for them; revisage cache lists them. For another "
        "machine, build with -o DIR and set REVISAGE_CACHE to a copy of DIR there. Ctrl-C stops at "
        "once; what was finished is kept.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="models that ship, or bundle folders or archives; default: every model that ships",
    )
    parser.add_argument(
        "--for",
        dest="cards",
        action="append",
        metavar="CARD",
        help="rtx-4090, rtx-3090, ..., a compute capability (8.9), or current (default: the card "
        "of this machine); may be repeated",
    )
    parser.add_argument(
        "--engine", default="tensorrt-rtx", help="tensorrt-rtx (default) or tensorrt"
    )
    parser.add_argument(
        "--precision",
        action="append",
        dest="precisions",
        metavar="PRECISION",
        help="fp32 (default), fp16, bf16 or int8; may be repeated",
    )
    parser.add_argument(
        "--batch",
        type=_batch,
        metavar="MIN,USUAL,MAX",
        help="faces in one call; default: what sessions ask for (1,4,8)",
    )
    parser.add_argument(
        "-o", "--out", type=Path, metavar="DIR", help="default: REVISAGE_CACHE, or the user's cache"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    parser.set_defaults(run=run)


def _batch(text: str) -> tuple[int, int, int]:
    try:
        smallest, usual, largest = (int(number) for number in text.split(","))
    except ValueError:
        smallest, usual, largest = 0, 0, 0
    if not 1 <= smallest <= usual <= largest:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not three growing whole numbers such as 1,4,8"
        )
    return smallest, usual, largest


@dataclasses.dataclass(frozen=True)
class _Job:
    """One engine to build."""

    bundle: Bundle
    precision: str
    compute_capability: str
    cards: str  # as they were asked for

    def __str__(self) -> str:
        cards = f" ({self.cards})" if self.cards != self.compute_capability else ""
        return f"{self.bundle.name} {self.precision} for {self.compute_capability}{cards}"


def run(args: argparse.Namespace) -> int:
    """Build every engine; 0 when all are there, 2 when some failed (each with its line)."""
    from revisage.cli import print_error
    from revisage.engines.cache import EngineCache
    from revisage.errors import OutputError, RevisageError

    jobs = _plan(args)
    if args.out is None:
        cache = EngineCache()
    else:
        try:
            args.out.mkdir(parents=True, exist_ok=True)  # to be copied: readable as others are
        except OSError as error:
            raise OutputError(f"{args.out}: cannot be made ({error.strerror})") from error
        cache = EngineCache(args.out, limit=sys.maxsize)
    progress = _Progress(None if args.quiet else sys.stderr)
    failed = 0
    for job in jobs:
        try:
            line = _build(job, args, cache, progress)
        except RevisageError as error:
            failed += 1
            progress.end()
            print_error(type(error)(f"{job}: {error}"))
        except KeyboardInterrupt:
            progress.end()
            raise
        else:
            progress.end()
            print(line, flush=True)
    print(f"{len(jobs) - failed} of {len(jobs)} engines are in {cache.folder}")
    return 2 if failed else 0


def _plan(args: argparse.Namespace) -> list[_Job]:
    """Every engine that was asked for, each once; what cannot be built is found before the work."""
    from revisage.bundle import named_bundle, shipped_names
    from revisage.engines.cards import compute_capability_of
    from revisage.engines.tensorrt import supported_capabilities
    from revisage.errors import DeviceError, OptionError
    from revisage.manifest import PRECISIONS

    precisions = dict.fromkeys(args.precisions or ["fp32"])
    if unknown := set(precisions) - set(PRECISIONS):
        raise OptionError(
            f"--precision {', '.join(sorted(unknown))} is not one of {', '.join(PRECISIONS)}"
        )
    supported = supported_capabilities(args.engine)
    cards: dict[str, list[str]] = {}
    for card in args.cards or ["current"]:
        try:
            capability = compute_capability_of(card)
        except DeviceError as error:
            raise DeviceError(f"{error}; or name a card to build for: --for rtx-4090") from None
        if capability not in supported:
            raise OptionError(
                f"--for {card}: {args.engine} builds here for the compute capabilities "
                f"{', '.join(supported)}, not for {capability}"
            )
        cards.setdefault(capability, []).append(card)
    bundles = [named_bundle(name) for name in args.names or shipped_names()]
    jobs = []
    for bundle in bundles:
        for precision in precisions:
            if not args.names and precision not in bundle.manifest.graphs:
                print(f"{bundle.name}: has no graph at {precision}, left out")
                continue
            bundle.manifest.graph(precision)  # a named model must have it
            if precision not in bundle.manifest.tolerances.get(args.engine, {}):
                print(
                    f"revisage: {bundle.name} states no tolerance for {args.engine} at "
                    f"{precision}: it is built, and sessions refuse it",
                    file=sys.stderr,
                )
            jobs += [_Job(bundle, precision, c, ", ".join(n)) for c, n in cards.items()]
    if not jobs:
        raise OptionError(f"no model has a graph at {', '.join(precisions)}: nothing to build")
    return jobs


def _build(job: _Job, args: argparse.Namespace, cache: EngineCache, progress: _Progress) -> str:
    """Build one engine, or find it built; gives the line that says which."""
    from revisage.engines.building import cached_engine
    from revisage.engines.cache import watched
    from revisage.engines.profile import Profile
    from revisage.errors import OutputError

    manifest = job.bundle.manifest
    with watched(functools.partial(progress.show, job, time.monotonic())):
        found = cached_engine(
            job.bundle,
            engine=args.engine,
            precision=job.precision,
            profile=Profile.of(manifest, batch=args.batch) if args.batch else None,
            compute_capability=job.compute_capability,
            cache=cache,
        )
    if not found.path.exists():
        raise OutputError(f"{cache.folder}: the engine was built and could not be kept there")
    size = f"{len(found.content) / 1e6:.1f} MB"
    if found.report is None:
        return f"{job}: {size}, built before"
    return f"{job}: {size}, {found.report.layers} layers, {found.report.seconds:.1f} s"


class _Progress:
    """A line on a terminal; nothing where stderr is a file."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream if stream is not None and stream.isatty() else None

    def show(self, job: _Job, start: float, phase: str, done: int, total: int) -> None:
        if self._stream is not None:
            count = f" {done} of {total}," if total else ""
            seconds = time.monotonic() - start
            self._stream.write(f"\r\x1b[K{job}: {phase},{count} {seconds:.0f} s")
            self._stream.flush()

    def end(self) -> None:
        if self._stream is not None:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
