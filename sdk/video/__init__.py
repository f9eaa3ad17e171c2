"""Video in and out through PyAV: frames, their times, colours, and every other stream.

with rv.open_video("in.mp4") as source, source.writer("out.mp4") as out:
    for batch in session.stream(source, rv.Retouch(wrinkles=0.7)):
        out.write(batch)
"""

from __future__ import annotations

from revisage.video.frames import FrameBatch, VideoFrame
from revisage.video.reader import VideoReader, open_video
from revisage.video.writer import VideoWriter

__all__ = ["FrameBatch", "VideoFrame", "VideoReader", "VideoWriter", "open_video"]
