"""`revisage models`: the bundles that came with this installation, and whether they still hold."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("models", help="list or verify the models that ship")
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="name, operation, size and licence of every model (default)")
    verify = actions.add_parser(
        "verify", help="check digests, and run each model against its certificate"
    )
    verify.add_argument(
        "folders",
        nargs="*",
        type=Path,
        metavar="DIR",
        help="bundle folders, or folders of bundles; default: those that ship",
    )


def run(args: argparse.Namespace) -> int:
    """List or verify; returns the exit code."""
    return _verify(args.folders) if args.action == "verify" else _list()


def _list() -> int:
    from revisage.bundle import MODEL, shipped_bundle, shipped_names

    names = shipped_names()
    if not names:
        print("No models came with this installation.")
        return 1
    row = "{:<20} {:<10} {:<8} {:>5} {:>7}  {:<12}  {}"
    print(row.format("name", "operation", "size", "px", "MB", "digest", "licence"))
    total = 0.0
    for name in names:
        bundle = shipped_bundle(name)
        manifest = bundle.manifest
        megabytes = (bundle.path / MODEL).stat().st_size / 1e6
        total += megabytes
        print(
            row.format(
                name,
                manifest.operation,
                manifest.size,
                manifest.working_size,
                f"{megabytes:.1f}",
                bundle.model_digest[:12],
                manifest.licence,
            )
        )
    print(f"{len(names)} models, {total:.1f} MB")
    return 0


def _bundle_folders(given: list[Path]) -> list[Path]:
    """Expand folders of bundles; a folder that is no bundle stays, to be refused by name."""
    from revisage.bundle import MANIFEST, shipped_folder

    folders: list[Path] = []
    for folder in given or [shipped_folder()]:
        inside = sorted(p.parent for p in folder.glob(f"*/{MANIFEST}"))
        folders += [folder] if (folder / MANIFEST).exists() or not inside else inside
    return folders


def _verify(given: list[Path]) -> int:
    from revisage.bundle import Bundle
    from revisage.engines import device_status, open_engine
    from revisage.errors import RevisageError

    failed = 0
    for folder in _bundle_folders(given):
        try:
            bundle = Bundle.open(folder)
            ran = []
            for status in device_status():
                for precision in bundle.manifest.tolerances.get(status.engine, {}):
                    if status.usable:
                        with open_engine(
                            bundle, engine=status.engine, precision=precision
                        ) as engine:
                            ran.append(f"{engine.name} {engine.precision}")
        except RevisageError as error:
            failed += 1
            print(f"{folder.name}: FAILED: {error}")
            continue
        if ran:
            print(f"{bundle.name}: digests match, certified output on {', '.join(ran)}")
        else:
            failed += 1
            engines = ", ".join(bundle.manifest.tolerances) or "-"
            print(f"{bundle.name}: FAILED: none of its engines ({engines}) runs on this machine")
    return 1 if failed else 0
