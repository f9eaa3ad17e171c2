"""`revisage ablate`: run a paper's table at a chosen scale."""

from __future__ import annotations

import argparse
from pathlib import Path

from revisage.cli.extras import from_extra

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("ablate", help="run a paper's table at a chosen scale")
    parser.add_argument(
        "table",
        metavar="NAME",
        nargs="?",
        default="",
        help="a table (wrinkles_1) or all of a paper (wrinkles); without it, the tables are listed",
    )
    parser.add_argument(
        "--scale",
        default="small",
        help="tiny (seconds a row), small (minutes a row) or paper (the recipe); default: small",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="TABLE.KEY=VALUE",
        dest="overrides",
        help="change one value of every row's recipe; may be repeated",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the rows' recipes and stop")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where it is written; default: runs/ablate/SCALE"
    )
    parser.add_argument(
        "--device", default="cpu", help="torch device: cpu (default), cuda or cuda:N"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the tables; returns the exit code."""
    with from_extra("train", "running ablations"):
        from revisage.training import ablate
    if not args.table:
        for name in ablate.table_names():
            print(f"{name:<20} {ablate.read_table(name).title}")
        return 0
    return ablate.ablate(
        args.table,
        scale=args.scale,
        overrides=args.overrides,
        out=args.out,
        device=args.device,
        dry_run=args.dry_run,
    )
