"""`revisage import`: a published checkpoint as safetensors, without executing anything in it."""

from __future__ import annotations

import argparse
from pathlib import Path

from revisage.cli.extras import from_extra

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "import",
        help="turn a published checkpoint into our safetensors, running nothing in it",
        description="Recognise the network in a published checkpoint by its keys and write it as "
        "safetensors. Nothing that the file holds is executed.",
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="a torch file (.pth, .pt, .ckpt) or safetensors",
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="OUT.safetensors", help="file to write"
    )
    parser.add_argument(
        "--network",
        metavar="NAME",
        help="which one, where a file holds several; default: the generator, not its critic "
        "(any unknown name prints all known ones)",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Import one checkpoint; returns the exit code."""
    from revisage.errors import OptionError

    with from_extra("train", "importing checkpoints"):
        from revisage.training.importers import read_network, save_imported
    if args.out.suffix != ".safetensors":
        raise OptionError(f"{args.out}: the output is a safetensors file, name it *.safetensors")
    imported = read_network(args.checkpoint, args.network)
    save_imported(imported, args.out, force=args.force)
    count = sum(parameter.numel() for parameter in imported.network.parameters())
    sizes = ", ".join(f"{name}={value}" for name, value in imported.arguments.items())
    print(f"{args.out}: {imported.architecture} ({sizes}), {count / 1e6:.2f} M parameters")
    for remark in imported.remarks():
        print(remark)
    return 0
