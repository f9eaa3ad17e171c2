"""`revisage inpaint`: fill a painted hole of a photo."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from revisage.cli.retouch import add_output_options, add_session_options, run_jobs

if TYPE_CHECKING:
    from revisage.results import Result
    from revisage.session import Session

__all__ = ["add_parser", "run"]

_BLACK = 1 / 16  # a mask that was saved as JPEG is not quite black where it should be


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "inpaint",
        help="fill a painted hole: scratches, spots, stray hair",
        description="Fill what a mask paints white from what is around it. What the mask leaves "
        "black stays as it is: bit for bit in PNG and TIFF.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("photos", nargs=1, type=Path, metavar="IN", help="the photo")
    parser.add_argument(
        "--hole",
        required=True,
        type=Path,
        metavar="MASK",
        help="a picture as large as the photo (as it is seen upright): white is filled, black kept",
    )
    parser.add_argument(
        "--strength", type=float, default=1.0, metavar="0..1", help="of the fill (default 1)"
    )
    add_output_options(parser)
    add_session_options(parser)


def run(args: argparse.Namespace) -> int:
    """Fill the hole; 0 when it succeeded, 2 when not."""
    import numpy as np

    from revisage.photo import read_photo
    from revisage.pixels import colour_channels, unit_range

    painted = read_photo(args.hole).pixels
    colours = painted.reshape(*painted.shape[:2], -1)[:, :, : colour_channels(painted)]
    hole = unit_range(colours.max(axis=2))
    hole = np.where(hole < _BLACK, np.float32(0), hole)

    def fill(session: Session, photo: Any) -> Result:
        return session.inpaint(photo, hole, strength=args.strength)

    return run_jobs(args, fill)
