"""`revisage evaluate`: figures and contact sheets of trained weights on portraits kept back."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from revisage.cli.extras import from_extra

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "evaluate",
        help="figures and contact sheets of trained weights on portraits kept back",
        description="Judge trained weights on portraits that training did not see, beside methods "
        "that need no network. Writes report.html, report.md, figures.json and contact sheets.",
    )
    parser.add_argument(
        "operation",
        metavar="OPERATION",
        nargs="?",
        default="all",
        help="wrinkles, blemishes, unmask, inpaint, restore, live, or all (default): every one "
        "that has weights here",
    )
    parser.add_argument(
        "--portraits", action="append", required=True, metavar="DIR", help="annotated portraits"
    )
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="judge these instead of those that ship; may be repeated: for wrinkles, one for each "
        "network; for restore, more networks to compare with the first",
    )
    parser.add_argument(
        "--recipe",
        default="",
        metavar="NAME",
        help="of the network in --weights, a name or a file; default: recipe.toml beside the "
        "weights, else that of the network that ships",
    )
    parser.add_argument(
        "--split", default="val", help="of the portraits, or all of them; default: val"
    )
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="random draws of a kind for each face"
    )
    parser.add_argument("--faces", type=int, default=0, metavar="N", help="only the first N faces")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="DIR", help="folder of the report"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate; returns the exit code."""
    from revisage.errors import OptionError

    if args.seeds < 1 or args.faces < 0:
        raise OptionError("--seeds is at least 1 and --faces at least 0")
    with from_extra("train", "evaluating"):
        from revisage.training.evaluation.operations import evaluate
        from revisage.training.evaluation.report import markdown, write
    report = evaluate(
        args.portraits,
        "" if args.operation == "all" else args.operation,
        weights=args.weights,
        recipe=args.recipe,
        split=None if args.split == "all" else args.split,
        seeds=args.seeds,
        limit=args.faces,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    write(report, args.out)
    print(markdown(report, sheets=False))
    print(f"{args.out / 'report.html'}")
    return 0
