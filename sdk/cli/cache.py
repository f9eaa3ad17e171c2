"""`revisage cache`: the engines that were built on this machine."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("cache", help="list or remove the engines that were built")
    parser.set_defaults(run=run, folder=None)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    for name, text in (
        ("list", "every engine and its kernels, the least recently used first (default)"),
        ("clear", "remove every engine; sessions build them again"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument(
            "folder",
            nargs="?",
            type=Path,
            metavar="DIR",
            help="default: REVISAGE_CACHE, or the user's cache",
        )


def run(args: argparse.Namespace) -> int:
    """List or clear; returns the exit code."""
    from revisage.engines.cache import EngineCache
    from revisage.errors import OptionError

    if args.folder is not None and not args.folder.is_dir():
        raise OptionError(f"{args.folder}: no such folder")
    cache = EngineCache(args.folder)
    if args.action == "clear":
        count, size = cache.clear()
        print(f"{count} files removed from {cache.folder}, {size / 1e6:.1f} MB")
        return 0
    entries = cache.entries()
    row = "{:<20} {:<20} {:<15} {:<9} {:>5} {:>9} {:>8}  {}"
    if entries:
        print(row.format("model", "engine", "version", "precision", "card", "driver", "MB", "used"))
    for entry in entries:
        key = entry.key
        print(
            row.format(
                entry.about.get("model", "?"),
                key.engine if key else "damaged",
                key.engine_version if key else "",
                key.precision if key else "",
                key.compute_capability if key else "",
                key.driver if key else "",
                f"{entry.bytes / 1e6:.1f}",
                time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used)),
            )
        )
    size = sum(entry.bytes for entry in entries)
    print(f"{len(entries)} files, {size / 1e6:.1f} of {cache.limit / 1e6:.0f} MB, {cache.folder}")
    return 0
