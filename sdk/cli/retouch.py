"""`revisage retouch`: retouch photos, file to file."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from revisage.manifest import ENGINES, PRECISIONS

if TYPE_CHECKING:
    from revisage.results import Receipt, Result
    from revisage.session import Session

__all__ = [
    "add_output_options",
    "add_parser",
    "add_session_options",
    "add_strength_options",
    "open_session",
    "run",
    "run_jobs",
]

_COMPARE_SIDE = 1600  # of each half of a before/after picture, pixels


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "retouch",
        help="retouch photos",
        description="Retouch the faces in photos. What no mask covers stays as it is: bit for bit "
        "in PNG and TIFF; JPEG encodes anew, with the tables of the photo it came from.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("photos", nargs="+", type=Path, metavar="IN", help="photos to retouch")
    add_output_options(parser)
    add_strength_options(parser)
    add_session_options(parser)
    parser.add_argument(
        "--faces", choices=("all", "largest"), default="all", help="which faces (default all)"
    )


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Options that say what is written."""
    parser.add_argument(
        "-o",
        "--out",
        required=True,
        metavar="OUT",
        help="a file (.jpg, .png, .tif, .webp, .avif), or a folder, which takes IN_retouched.*",
    )
    parser.add_argument(
        "--layers", action="store_true", help="write delta and mask of each edit, 16-bit TIFF"
    )
    parser.add_argument("--compare", action="store_true", help="write a before/after picture")
    parser.add_argument("--receipt", action="store_true", help="print what ran and for how long")
    parser.add_argument(
        "--json", metavar="FILE", help="write the receipts of all photos as JSON; - for stdout"
    )


def add_strength_options(parser: argparse.ArgumentParser) -> None:
    """Options that say what is retouched, for photos and video."""
    parser.add_argument(
        "--wrinkles", type=float, default=0.8, metavar="0..1", help="strength (default 0.8)"
    )


def add_session_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command that opens a session."""
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    parser.add_argument(
        "--engine", metavar="NAME", help=f"this engine and no other: {', '.join(ENGINES)}"
    )
    parser.add_argument(
        "--while-building",
        metavar="NAME",
        help="an engine that serves while the GPU's is built in the background; default: wait",
    )
    parser.add_argument(
        "--precision",
        default="fp32",
        help=f"{', '.join(PRECISIONS)} (default fp32); or for single networks: NAME=int8,NAME=fp16",
    )
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: all)")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


def open_session(args: argparse.Namespace) -> Session:
    """A session as those options say."""
    from revisage.session import Session

    return Session(
        device=args.device,
        engine=args.engine,
        precision=_precision(args.precision),
        while_building=args.while_building,
        threads=args.threads,
    )


def _precision(text: str) -> str | dict[str, str]:
    """`int8`, or `NAME=int8,NAME=fp16` as a mapping."""
    if "=" not in text:
        return text
    pairs = [pair.partition("=") for pair in text.split(",")]
    return {name.strip(): precision.strip() for name, _, precision in pairs}


@dataclasses.dataclass(frozen=True)
class _Job:
    """One photo and everything that will be written for it."""

    photo: Path
    image: Path
    layers: Path | None
    compare: Path | None


def run(args: argparse.Namespace) -> int:
    """Retouch every photo; 0 when all succeeded, 2 when some failed (each with its line)."""
    from revisage.options import Retouch

    options = Retouch(wrinkles=args.wrinkles)
    return run_jobs(args, lambda session, photo: session.retouch(photo, options, args.faces))


def run_jobs(args: argparse.Namespace, work: Callable[[Session, Any], Result]) -> int:
    """Do the work on every photo of the command line, and write what its options ask for.

    Args:
        work: from a session and the pixels of a photo to its result.

    Returns:
        0 when all succeeded, 2 when some failed (each with its line).
    """
    from revisage.cli import print_error
    from revisage.errors import RevisageError
    from revisage.photo.output import check_output

    jobs = _plan(args)
    if args.json not in (None, "-"):
        check_output(args.json, force=args.force)
    receipts: list[dict[str, Any]] = []
    failed = 0
    with open_session(args) as session:
        for number, job in enumerate(jobs, start=1):
            try:
                receipt = _retouch(session, job, work, force=args.force)
            except RevisageError as error:
                failed += 1
                print_error(error if str(job.photo) in str(error) else _about(job, error))
                continue
            receipts.append({"photo": str(job.photo), "out": str(job.image), **receipt.to_dict()})
            _report(job, receipt, args, f"[{number}/{len(jobs)}] ")
    _write_receipts(args, receipts)
    return 2 if failed else 0


def _about(job: _Job, error: Exception) -> Exception:
    return type(error)(f"{job.photo}: {error}")


def _plan(args: argparse.Namespace) -> list[_Job]:
    """Where everything goes; refuses a plan in which two results would share a name."""
    from revisage.errors import OptionError
    from revisage.photo import FORMATS, format_for

    out = Path(args.out)
    endings = {ending for known in FORMATS.values() for ending in known}
    to_folder = len(args.photos) > 1 or out.is_dir() or args.out.endswith("/") or out.suffix == ""
    if not to_folder:
        format_for(out)  # an ending that cannot be written is found before the work
    elif out.suffix.lower() in endings and not out.is_dir():
        raise OptionError(f"{out}: several photos go into a folder; name one")
    jobs: list[_Job] = []
    taken: dict[Path, Path] = {}
    for photo in args.photos:
        image = out / f"{photo.stem}_retouched{photo.suffix.lower()}" if to_folder else out
        stem = photo.stem if to_folder else image.stem
        if image in taken:
            raise OptionError(
                f"{photo} and {taken[image]} would both become {image}; retouch them in two calls"
            )
        taken[image] = photo
        jobs.append(
            _Job(
                photo,
                image,
                image.parent / f"{stem}_layers" if args.layers else None,
                image.parent / f"{stem}_compare.png" if args.compare else None,
            )
        )
    return jobs


def _retouch(
    session: Session, job: _Job, work: Callable[[Session, Any], Result], *, force: bool
) -> Receipt:
    from revisage.layers import stage_layers
    from revisage.photo import format_for, read_photo
    from revisage.photo.output import Staging, check_output
    from revisage.photo.writing import photo_pieces
    from revisage.results import Stopwatch

    before, after = Stopwatch(), Stopwatch()
    if job.photo.exists():  # else the missing photo is the better error
        format_for(job.image)
        check_output(job.image, force=force)
    with before.stage("read"):
        photo = read_photo(job.photo)
    result = work(session, photo.pixels)
    with after.stage("write"), Staging(force=force) as staging:
        staging.write(job.image, photo_pieces(photo.with_pixels(result.image), job.image))
        if job.layers is not None:
            stage_layers(staging, result.edits, job.layers)
        if job.compare is not None:
            staging.write(job.compare, _comparison(photo.pixels, result))
    receipt = result.receipt
    stages = {**before.milliseconds, **receipt.milliseconds, **after.milliseconds}
    return dataclasses.replace(receipt, milliseconds=stages)


def _comparison(before: Any, result: Result) -> bytes:
    """Before and after side by side, 8 bit, as PNG; large photos are reduced."""
    import io

    from PIL import Image

    halves = [_preview(pixels) for pixels in (before, result.image)]
    width, height = halves[0].size
    sheet = Image.new("RGB", (2 * width + 8, height), "white")
    sheet.paste(halves[0], (0, 0))
    sheet.paste(halves[1], (width + 8, 0))
    stream = io.BytesIO()
    sheet.save(stream, "PNG", compress_level=3)
    return stream.getvalue()


def _preview(pixels: Any) -> Any:
    import numpy as np
    from PIL import Image

    from revisage.operations.square import block_average
    from revisage.pixels import colour_channels

    height, width = pixels.shape[:2]
    planes = pixels.reshape(height, width, -1)
    block = max(1, max(height, width) // _COMPARE_SIDE)
    if block > 1 or pixels.dtype != np.uint8:  # averaged in strips: no float copy of the photo
        planes = np.rint(block_average(planes, block) * np.float32(255)).astype(np.uint8)
    colours = planes[:, :, : colour_channels(planes)]
    image = Image.fromarray(colours[:, :, 0] if colours.shape[2] == 1 else colours).convert("RGB")
    image.thumbnail((_COMPARE_SIDE, _COMPARE_SIDE), reducing_gap=2.0)
    return image


def _report(job: _Job, receipt: Receipt, args: argparse.Namespace, count: str) -> None:
    if not args.quiet:
        print(f"{count}{job.photo}: {receipt.total_ms:.0f} ms", file=sys.stderr)
    if args.json == "-":  # stdout belongs to the JSON
        return
    print(job.image)
    if job.compare is not None:
        print(f"{job.compare}  (before | after)")
    if job.layers is not None:
        print(f"{job.layers}/  (delta and mask of each edit)")
    if args.receipt:
        print(receipt)


def _write_receipts(args: argparse.Namespace, receipts: list[dict[str, Any]]) -> None:
    from revisage.photo.output import Staging

    if args.json is None:
        return
    text = json.dumps(receipts, indent=2) + "\n"
    if args.json == "-":
        sys.stdout.write(text)
        return
    with Staging(force=args.force) as staging:
        staging.write(args.json, text.encode())
