"""`revisage drift`: where in a network a lower precision loses it."""

from __future__ import annotations

import argparse

from revisage.cli.extras import from_extra

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "drift", help="show which layer of a bundle's graph at a precision drifts first"
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="a name that ships, or a folder or file")
    parser.add_argument("--precision", required=True, metavar="NAME", help="fp16, bf16 or int8")
    parser.add_argument(
        "--share",
        type=float,
        default=0.01,
        metavar="X",
        help="of its own range by which a layer may be off; default: 0.01",
    )
    parser.add_argument("--layers", action="store_true", help="list every layer with its error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare the layers of two graphs; returns the exit code."""
    from revisage.bundle import named_bundle

    with from_extra("export", "comparing layers"):
        from revisage.export.drift import comparable_graphs, first_drift, layer_errors
        from revisage.export.reference_set import reference_inputs
    bundle = named_bundle(args.bundle)
    true, other = comparable_graphs(bundle, args.precision)
    inputs = reference_inputs(bundle.manifest.inputs, bundle.manifest.working_size)
    if args.layers:
        for layer in layer_errors(true, other, inputs):
            print(f"{layer.share:8.5f}  {layer}")
    found = first_drift(true, other, inputs, args.share)
    if found is None:
        print(f"no output of {bundle.name} at {args.precision} is off by {args.share} of its range")
    else:
        print(f"first to drift: {found}")
    return 0
