"""`revisage export`: a trained network as a certified bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "export", help="turn trained weights into a bundle, through the parity gate"
    )
    parser.add_argument("network", metavar="NAME", help="wrinkle_segmenter, wrinkle_filler, ...")
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="safetensors; default: training/weights/NAME.safetensors of a source checkout",
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="DIR", help="the bundle becomes DIR/NAME"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing bundle")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export one network; returns the exit code."""
    from revisage.errors import MissingExtraError

    try:
        from revisage.export import export_named
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("revisage"):
            raise
        raise MissingExtraError("export", "exporting models") from error
    bundle = export_named(args.network, args.out, weights=args.weights, force=args.force)
    for engine, precisions in bundle.certificate.errors.items():
        for precision, outputs in precisions.items():
            tolerance = bundle.manifest.tolerance(engine.partition("+")[0], precision)
            for output, errors in outputs.items():
                print(
                    f"{engine} {precision} {output}: off by {errors['max_abs']:.2g} at most, "
                    f"{errors['mean_abs']:.2g} on average (tolerance {tolerance.max_abs:.2g})"
                )
    megabytes = (bundle.path / "model.onnx").stat().st_size / 1e6
    print(f"{bundle.path}: {megabytes:.1f} MB, certified")
    return 0
