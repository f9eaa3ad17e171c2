"""`revisage train`: run a training recipe."""

from __future__ import annotations

import argparse
from pathlib import Path

from revisage.cli.extras import from_extra

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "train",
        help="run a training recipe, or continue a run",
        description="Run a training recipe; a run that was stopped goes on in its folder.",
        epilog="Pictures of your own: --set 'data.portraits=[\"FOLDER\"]', after python -m "
        "revisage.training.data.annotate has described them. The guide is docs/training.md.",
    )
    parser.add_argument(
        "recipe", nargs="?", metavar="RECIPE", help="a .toml file, or the name of a shipped one"
    )
    parser.add_argument("--list", action="store_true", help="list the recipes that ship and stop")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe and stop")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="TABLE.KEY=VALUE",
        dest="overrides",
        help="change one value of the recipe (optimiser.NAME.KEY=VALUE too); may be repeated",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the run is written; default: runs/RECIPE"
    )
    parser.add_argument(
        "--device", default="cpu", help="torch device: cpu (default), cuda or cuda:N"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train; returns the exit code."""
    from revisage.errors import OptionError

    with from_extra("train", "training"):
        from revisage.training.train import list_recipes, train
    if args.list:
        print(list_recipes())
        return 0
    if args.recipe is None:
        raise OptionError("give a RECIPE: a .toml file, or a name from revisage train --list")
    return train(
        args.recipe, args.overrides, out=args.out, dry_run=args.dry_run, device=args.device
    )
