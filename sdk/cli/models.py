"""`revisage models`: the bundles that ship, whether bundles hold, and bundles as one file."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("models", help="list, verify, pack or unpack models")
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="name, operation, size and licence of every model (default)")
    verify = actions.add_parser(
        "verify", help="check digests, and run each model against its certificate"
    )
    verify.add_argument(
        "bundles",
        nargs="*",
        metavar="BUNDLE",
        help="models that ship, bundle folders or archives, or folders of bundles; default: all "
        "that ship",
    )
    pack = actions.add_parser("pack", help="write a bundle as one file")
    pack.add_argument("bundle", metavar="BUNDLE", help="a model that ships, or a bundle folder")
    pack.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="NAME.zip")
    unpack = actions.add_parser("unpack", help="verify such a file and write it as a folder")
    unpack.add_argument("bundle", metavar="FILE", help="what `pack` wrote")
    unpack.add_argument(
        "-o", "--out", type=Path, required=True, metavar="DIR", help="the bundle becomes DIR/NAME"
    )
    for action in (pack, unpack):
        action.add_argument("--force", action="store_true", help="replace what exists")


def run(args: argparse.Namespace) -> int:
    """Run one action; returns the exit code."""
    if args.action == "verify":
        return _verify(args.bundles)
    return _copy(args) if args.action in {"pack", "unpack"} else _list()


def _copy(args: argparse.Namespace) -> int:
    from revisage.bundle import named_bundle
    from revisage.bundle_archive import pack, unpack

    copy = pack if args.action == "pack" else unpack
    place = copy(named_bundle(args.bundle), args.out, force=args.force)
    print(place)
    return 0


def _list() -> int:
    from revisage.bundle import shipped_bundle, shipped_names

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
        graphs = [bundle.path / file for file in manifest.graphs.values()]
        megabytes = sum(graph.stat().st_size for graph in graphs) / 1e6
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


def _expanded(given: list[str]) -> list[str]:
    """Names and paths, folders of bundles replaced by what is in them."""
    from revisage.bundle import MANIFEST, shipped_names

    found: list[str] = []
    for name in given or shipped_names():
        inside = sorted(str(path.parent) for path in Path(name).glob(f"*/{MANIFEST}"))
        alone = name in shipped_names() or (Path(name) / MANIFEST).exists() or not inside
        found += [name] if alone else inside
    return found


def _verify(given: list[str]) -> int:
    from revisage.bundle import named_bundle
    from revisage.engines import device_status, open_engine
    from revisage.errors import RevisageError

    failed = 0
    for name in _expanded(given):
        try:
            bundle = named_bundle(name)
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
            print(f"{Path(name).resolve().name}: FAILED: {error}")
            continue
        if ran:
            print(f"{bundle.name}: digests match, certified output on {', '.join(ran)}")
        else:
            failed += 1
            engines = ", ".join(bundle.manifest.tolerances) or "-"
            print(f"{bundle.name}: FAILED: none of its engines ({engines}) runs on this machine")
    return 1 if failed else 0
