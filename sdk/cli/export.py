"""`revisage export`: a trained network as a certified bundle, and bundles for a Triton server."""

from __future__ import annotations

import argparse
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from revisage.cli.extras import from_extra

if TYPE_CHECKING:
    from revisage.bundle import Bundle

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "export", help="turn trained weights into a bundle, or bundles into a Triton repository"
    )
    parser.add_argument(
        "networks",
        nargs="*",
        metavar="NAME",
        help="wrinkle_segmenter, wrinkle_filler, ...; with --triton also a bundle's folder or "
        "file; --triton alone takes every bundle that ships",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="safetensors; default: training/weights/NAME.safetensors of a source checkout",
    )
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", help="the bundle becomes DIR/NAME")
    parser.add_argument(
        "--triton",
        type=Path,
        metavar="DIR",
        help="write a model of NVIDIA Triton Inference Server into the model repository DIR; "
        "without --out and --weights, of the bundle that ships or that NAME is the path of",
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help="with --triton: also a TensorRT plan, built for the GPU of this machine",
    )
    parser.add_argument(
        "--precision",
        default="fp32",
        metavar="LIST",
        help="graphs beside fp32: fp16, bf16, int8 (comma between them); layers that would break "
        "the tolerance stay float32",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="portraits with annotations.jsonl from which int8 takes its ranges; default: the "
        "reference pictures",
    )
    parser.add_argument("--force", action="store_true", help="replace what exists")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export networks; returns the exit code."""
    from revisage.bundle import shipped_names
    from revisage.errors import OptionError

    if args.out is None and args.triton is None:
        raise OptionError("say where the bundle goes with --out DIR, or --triton DIR")
    if args.plan and args.triton is None:
        raise OptionError("--plan is a part of a Triton repository: name it with --triton DIR")
    if args.plan:
        from revisage.engines.tensorrt import supported_capabilities

        supported_capabilities("tensorrt")  # raises before anything is written
    names = args.networks or (shipped_names() if args.out is None else ())
    if not names:
        raise OptionError("name a network to export (see revisage export --help)")
    if args.weights is not None and len(names) > 1:
        raise OptionError(f"--weights are those of one network; named are {', '.join(names)}")
    for name in names:
        _export_one(name, args)
    return 0


def _export_one(name: str, args: argparse.Namespace) -> None:
    bundle = _existing(name) if args.out is None and args.weights is None else None
    with tempfile.TemporaryDirectory() if args.out is None else nullcontext(args.out) as folder:
        if bundle is None:
            bundle = _export(name, args, Path(folder))
        if args.triton is not None:
            _serve(args, bundle)


def _existing(name: str) -> Bundle | None:
    """A bundle that needs no export: it ships, or `name` is its path."""
    from revisage.bundle import named_bundle, shipped_names

    return named_bundle(name) if name in shipped_names() or Path(name).exists() else None


def _export(name: str, args: argparse.Namespace, folder: Path) -> Bundle:
    with from_extra("export", "exporting models"):
        from revisage.export import export_named
    bundle = export_named(
        name,
        folder,
        weights=args.weights,
        force=args.force,
        precisions=tuple(name.strip() for name in args.precision.split(",")),
        calibration=args.calibration,
    )
    for engine, precisions in bundle.certificate.errors.items():
        for precision, outputs in precisions.items():
            for output, errors in outputs.items():
                pictures = ", ".join(
                    f"{key} {errors[key]:.4g}"
                    for key in ("levels_max", "levels_mean", "ssim", "flipped_share", "iou")
                    if key in errors
                )
                print(
                    f"{engine} {precision} {output}: off by {errors['max_abs']:.2g} at most, "
                    f"{errors['mean_abs']:.2g} on average{'; ' if pictures else ''}{pictures}"
                )
    if args.out is None:
        return bundle
    for precision, file in bundle.manifest.graphs.items():
        layers = bundle.certificate.layers.get(precision)
        kept = f", {layers['float']:.0f} of its layers stay float32" if layers else ""
        size = (bundle.path / file).stat().st_size / 1e6
        stated: dict[str, list[str]] = {}
        for engine, tolerances in bundle.manifest.tolerances.items():
            if precision in tolerances:
                tolerance = tolerances[precision]
                text = f"{tolerance.max_abs:.2g} at most, {tolerance.mean_abs:.2g} on average"
                stated.setdefault(text, []).append(engine)
        allowed = "; ".join(f"{text} ({', '.join(engines)})" for text, engines in stated.items())
        print(f"{precision}: {size:.2f} MB{kept}; tolerance {allowed}")
    print(f"{bundle.path}: certified")
    return bundle


def _serve(args: argparse.Namespace, bundle: Bundle) -> None:
    from revisage.triton_repository import write_models, write_plan

    for place in write_models(bundle, args.triton, force=args.force):
        print(f"{place}: a model of Triton's ONNX Runtime backend")
    if args.plan:
        print(f"{write_plan(bundle, args.triton, force=args.force)}: a TensorRT plan")
