"""`revisage faces`: boxes, landmarks and poses of the faces in photos."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from revisage.manifest import ENGINES

if TYPE_CHECKING:
    from revisage.faces import Face

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("faces", help="find the faces in photos, with 68 landmarks each")
    parser.set_defaults(run=run)
    parser.add_argument("photos", nargs="+", type=Path, metavar="IN", help="photos to search")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON: per photo its size and faces with box, landmarks (iBUG order), score, "
        "yaw, pitch and roll",
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    parser.add_argument(
        "--engine", metavar="NAME", help=f"engine of the networks: {', '.join(ENGINES)}"
    )
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; default: all")
    parser.add_argument(
        "--smallest",
        type=float,
        default=48.0,
        metavar="PX",
        help="width of the smallest face to search for, 24 or more (default 48)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the faces; returns 0, also where a photo shows none."""
    from revisage.faces import FaceFinder
    from revisage.photo import read_photo

    photos: list[dict[str, Any]] = []
    with FaceFinder(
        args.device, args.threads, engine=args.engine, smallest_face=args.smallest
    ) as finder:
        for path in args.photos:
            pixels = read_photo(path).pixels
            faces = finder.find(pixels)
            if args.json:
                height, width = pixels.shape[:2]
                described = [describe(face) for face in faces]
                photos.append(
                    {"photo": str(path), "width": width, "height": height, "faces": described}
                )
            else:
                sys.stdout.write(table(path, faces))
    if args.json:
        sys.stdout.write(json.dumps(photos, indent=1) + "\n")
    return 0


def describe(face: Face) -> dict[str, Any]:
    """A face as plain numbers, photo pixels and degrees, to a hundredth."""
    return {
        "box": [round(value, 2) for value in face.box],
        "score": round(face.score, 4),
        "yaw": round(face.yaw, 2),
        "pitch": round(face.pitch, 2),
        "roll": round(face.roll, 2),
        "landmarks": [[round(float(x), 2), round(float(y), 2)] for x, y in face.landmarks],
    }


def table(path: Path, faces: list[Face]) -> str:
    """Readable lines: one for the photo, one per face."""
    count = f"{len(faces)} face{'s' if len(faces) != 1 else ''}" if faces else "no face"
    lines = [f"{path}: {count}"]
    if faces:
        lines.append(
            "  {:>8}{:>8}{:>8}{:>8}{:>8}{:>6}{:>7}{:>6}".format(
                "x", "y", "width", "height", "score", "yaw", "pitch", "roll"
            )
        )
    for face in faces:
        x, y, width, height = face.box
        lines.append(
            f"  {x:8.0f}{y:8.0f}{width:8.0f}{height:8.0f}{face.score:8.3f}"
            f"{face.yaw:6.0f}{face.pitch:7.0f}{face.roll:6.0f}"
        )
    return "\n".join(lines) + "\n"
