"""`revisage evaluate`: figures and contact sheets of trained weights on portraits kept back."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "evaluate",
        help="figures and contact sheets of trained weights on portraits kept back",
        description="Judge trained weights on portraits that training did not see, beside methods "
        "that need no network. Writes report.html, report.md and contact sheets.",
    )
    parser.add_argument("what", metavar="WHAT", help="what to judge: inpaint")
    parser.add_argument(
        "--portraits", action="append", required=True, metavar="DIR", help="annotated portraits"
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="default: those that ship")
    parser.add_argument("--split", default="val", help="of the portraits; default: val")
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="holes of a kind per face"
    )
    parser.add_argument("--faces", type=int, default=0, metavar="N", help="only the first N faces")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="DIR", help="folder of the report"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate; returns the exit code."""
    from revisage.errors import MissingExtraError, OptionError

    if args.what != "inpaint":
        raise OptionError(f"no evaluation of {args.what!r}; there is: inpaint")
    if args.seeds < 1 or args.faces < 0:
        raise OptionError("--seeds is at least 1 and --faces at least 0")
    try:
        from revisage.export.exporters import default_weights
        from revisage.training.evaluation import inpaint
        from revisage.training.evaluation.report import write
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("revisage"):
            raise
        raise MissingExtraError("train", "evaluating") from error
    weights = args.weights or default_weights("inpainting")
    report, _ = inpaint.evaluate(
        inpaint.fill_with(inpaint.load(weights)),
        args.portraits,
        split=args.split,
        seeds=args.seeds,
        limit=args.faces,
    )
    write(report, args.out)
    print((args.out / "report.md").read_text(encoding="utf-8").partition("\n![")[0])
    return 0
