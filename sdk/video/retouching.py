"""Retouch a stream of frames: follow the faces, edit each, keep nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from revisage.results import Stopwatch
from revisage.video.frames import FrameBatch, VideoFrame

if TYPE_CHECKING:
    from revisage.faces import Face
    from revisage.options import Retouch
    from revisage.session import Session

__all__ = ["retouched_batches"]

# Tracking follows the faces it has; a search finds those that came in since. Twice a second at
# 25 frames a second is soon enough for an eye.
_SEARCH_EVERY = 12


def retouched_batches(
    session: Session, source: Iterable[FrameBatch], options: Retouch
) -> Iterator[FrameBatch]:
    """Batches with their frames retouched, in order; one frame at a time is in work."""
    if not options.strengths():
        yield from source
        return
    faces: list[Face] = []
    since_search = _SEARCH_EVERY
    for batch in source:
        done: list[VideoFrame] = []
        for frame in batch.frames:
            picture = frame.rgb()
            since_search += 1
            if since_search >= _SEARCH_EVERY or not faces:
                faces, since_search = session.find_faces(picture), 0
            else:
                faces = session.track_faces(picture, faces)
            edits = session.edits(picture, options, faces, Stopwatch())
            done.append(frame.with_edits(edits, faces, threads=session.threads))
        yield FrameBatch(tuple(done), batch.packets)
