"""The command line: `revisage COMMAND ...`.

One file per command, each with `add_parser(subparsers)` and `run(args) -> exit code`. Command files
import nothing heavy at the top, so that `revisage --help` is quick; what trains or exports is
imported inside `run`.

Exit codes: 0 done; 1 what was checked does not hold or run (`doctor`, `models verify`,
`bench-engine`); 2 the input or the options were at fault, with one line on stderr that says what to
do; 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from revisage.errors import OptionError, RevisageError

__all__ = ["main"]

# Command -> module; `import` is a word of Python.
COMMANDS = {
    "retouch": "retouch",
    "inpaint": "inpaint",
    "faces": "faces",
    "video": "video",
    "models": "models",
    "build": "build",
    "cache": "cache",
    "doctor": "doctor",
    "export": "export",
    "bench-engine": "bench_engine",
    "drift": "drift",
    "import": "import_checkpoint",
    "train": "train",
    "ablate": "ablate",
    "evaluate": "evaluate",
}


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message} (see {self.prog} --help)")


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="revisage",
        description="Retouches faces in photos and video, and changes nothing else.",
        epilog="revisage COMMAND --help explains a command.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name in names:
        # A module that is missing is a broken installation: it shows, it is not skipped.
        module = importlib.import_module(f"revisage.cli.{COMMANDS[name]}")
        module.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        argv: arguments without the program's name; default: `sys.argv[1:]`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    named = arguments[0] if arguments and arguments[0] in COMMANDS else None
    try:
        args = _parser([named] if named else list(COMMANDS)).parse_args(arguments)
        if args.version:
            from revisage import __version__

            print(f"revisage {__version__}")
            return 0
        if args.command is None:
            raise OptionError(f"name a command: {', '.join(COMMANDS)} (see revisage --help)")
        return int(args.run(args))
    except RevisageError as error:
        print_error(error)
        return 2
    except BrokenPipeError:  # the reader of our output went away (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except KeyboardInterrupt:
        print("revisage: interrupted", file=sys.stderr)
        return 130


def print_error(error: Exception) -> None:
    """One line on stderr."""
    print(f"revisage: error: {' '.join(str(error).split())}", file=sys.stderr)
