"""`revisage video`: retouch a video, file to file."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TextIO

from revisage.cli.retouch import (
    add_session_options,
    add_strength_options,
    open_session,
)

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "video",
        help="retouch a video",
        description="Retouch the faces in a video, frame by frame. Times, colour tags, sound and "
        "all other streams stay as they are.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("video", type=Path, metavar="IN", help="video to retouch")
    parser.add_argument("out", type=Path, metavar="OUT", help="file to write")
    add_strength_options(parser)
    add_session_options(parser)


def run(args: argparse.Namespace) -> int:
    """Retouch one video; returns 0."""
    from revisage.errors import NoFaceError, OptionError
    from revisage.options import Retouch
    from revisage.video import open_video

    options = Retouch(wrinkles=args.wrinkles)
    if args.out.exists() and args.video.exists() and args.out.samefile(args.video):
        raise OptionError(f"{args.out}: is the video itself; name another file")
    start = time.perf_counter()
    with (
        open_session(args) as session,
        open_video(args.video) as source,
        source.writer(args.out, force=args.force) as out,
    ):
        progress = _Progress(source.frames_expected, None if args.quiet else sys.stderr)
        faces = 0
        for batch in session.stream(source, options):
            out.write(batch)
            faces += sum(len(frame.faces) for frame in batch.frames)
            progress.show(out.frames_written)
        progress.end()
        if faces == 0 and options.strengths():
            raise NoFaceError(f"{args.video}: no face was found in the video")
    seconds = time.perf_counter() - start
    print(args.out)
    if not args.quiet:
        for stream in out.left_out:
            print(f"{args.out}: this container cannot hold {stream}; left out", file=sys.stderr)
        rate = out.frames_written / seconds
        print(
            f"{args.video}: {out.frames_written} frames, {faces} faces in them, {seconds:.1f} s "
            f"({rate:.2f} frames/s)",
            file=sys.stderr,
        )
    return 0


class _Progress:
    """A line on a terminal that counts frames; nothing where stderr is a file."""

    def __init__(self, expected: int | None, stream: TextIO | None) -> None:
        self._of = f" of {expected}" if expected else ""
        self._stream = stream if stream is not None and stream.isatty() else None
        self._shown = 0.0

    def show(self, done: int) -> None:
        now = time.monotonic()
        if self._stream is not None and now - self._shown > 0.2:
            self._shown = now
            self._stream.write(f"\rframe {done}{self._of} ")
            self._stream.flush()

    def end(self) -> None:
        if self._stream is not None:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
