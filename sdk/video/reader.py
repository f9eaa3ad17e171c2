"""Read a video: frames of its first video stream, packets of all the others."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from revisage.errors import MediaError, MissingExtraError
from revisage.photo.photo import MAX_SIDE
from revisage.video.frames import FrameBatch, VideoFrame, supported_format, turn_of

if TYPE_CHECKING:
    from revisage.video.writer import VideoWriter

__all__ = ["VideoReader", "decoding", "import_av", "open_video"]

_MAX_PIXELS = 100_000_000  # 8K has 33 million
_ATTACHED_PICTURE = 1024  # AV_DISPOSITION_ATTACHED_PIC: cover art


def import_av() -> Any:
    """PyAV, which is an extra.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        raise MissingExtraError("video", "reading and writing video") from error
    return av


@contextlib.contextmanager
def decoding(path: Path) -> Iterator[None]:
    """What FFmpeg says about a bad file becomes one MediaError."""
    av = import_av()
    try:
        yield
    except FileNotFoundError:
        raise MediaError(f"{path}: no such file") from None
    except (av.error.InvalidDataError, av.error.EOFError) as error:
        raise MediaError(f"{path}: damaged, truncated, or not a video") from error
    except av.error.FFmpegError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror})") from error


def open_video(path: str | os.PathLike[str]) -> VideoReader:
    """Open a video file for reading; use it as a context manager.

    Raises:
        MediaError: missing, empty, not a video, without a video stream, or of a pixel format that
            cannot be edited without loss.
        MissingExtraError: PyAV is not installed.
    """
    return VideoReader(Path(path))


class VideoReader:
    """Frames of a video in presentation order, one `FrameBatch` at a time; read once.

    Use `open_video`. Only what the decoder holds is in memory.
    """

    def __init__(self, path: Path) -> None:
        av = import_av()
        self.path = path
        if path.is_dir():
            raise MediaError(f"{path}: is a folder, not a video")
        if path.is_file() and path.stat().st_size == 0:
            raise MediaError(f"{path}: the file is empty")
        with decoding(path):
            self.container: Any = av.open(str(path))
        try:
            self.stream: Any = self._video_stream()
            self.format = supported_format(self.stream.codec_context.pix_fmt, str(path))
        except BaseException:
            self.container.close()
            raise
        self.stream.thread_type = "AUTO"
        self.frames_read = 0

    def _video_stream(self) -> Any:
        for stream in self.container.streams.video:
            if not int(stream.disposition) & _ATTACHED_PICTURE:
                width, height = stream.codec_context.width, stream.codec_context.height
                if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE) or (
                    width * height > _MAX_PIXELS
                ):
                    raise MediaError(f"{self.path}: claims frames of {width} x {height} pixels")
                return stream
        raise MediaError(f"{self.path}: holds no video stream")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the stored frames in pixels (before a turn)."""
        return int(self.stream.codec_context.width), int(self.stream.codec_context.height)

    @property
    def rate(self) -> Fraction | None:
        """Average frames per second, or None where the file does not say."""
        rate = self.stream.average_rate or self.stream.base_rate
        return Fraction(rate) if rate else None

    @property
    def frames_expected(self) -> int | None:
        """How many frames there should be, or None where the file does not say."""
        if self.stream.frames:
            return int(self.stream.frames)
        duration = self.container.duration
        return round(duration / 1e6 * self.rate) if duration and self.rate else None

    def __iter__(self) -> Iterator[FrameBatch]:
        """Batches of one frame, each with the packets of other streams that lie before it.

        Raises:
            MediaError: the video is damaged or ends early.
        """
        waiting: list[Any] = []
        seen, furthest = 0, 0.0
        for packet in self._packets():
            if packet.pts is not None and packet.time_base is not None:
                furthest = max(
                    furthest, float((packet.pts + (packet.duration or 0)) * packet.time_base)
                )
            if packet.stream_index != self.stream.index:
                if packet.size:  # the last, empty packet of a stream says: flush
                    waiting.append(packet)
                continue
            seen += packet.size > 0
            with decoding(self.path):
                decoded = packet.decode()
            for native in decoded:
                yield FrameBatch((self._frame(native),), tuple(waiting))
                waiting.clear()
        if waiting:
            yield FrameBatch((), tuple(waiting))
        self._check_complete(seen, furthest)

    def _packets(self) -> Iterator[Any]:
        packets = self.container.demux()
        while True:
            with decoding(self.path):
                packet = next(packets, None)
            if packet is None:
                return
            yield packet

    def _frame(self, native: Any) -> VideoFrame:
        if native.is_corrupt:
            raise MediaError(f"{self.path}: frame {self.frames_read} is damaged")
        if native.format.name != self.format:
            if supported_format(native.format.name, str(self.path)) != self.format:
                raise MediaError(f"{self.path}: changes its pixel format on the way")
            native = native.reformat(format=self.format)
        if (native.width, native.height) != self.size:
            raise MediaError(f"{self.path}: changes its size on the way")
        frame = VideoFrame(self.frames_read, native, turn_of(native, str(self.path)))
        self.frames_read += 1
        return frame

    def _check_complete(self, seen: int, furthest: float) -> None:
        """A file cut short often just ends; what its header promised tells."""
        promised = int(self.stream.frames)
        duration = float(self.container.duration or 0) / 1e6
        start = float(self.container.start_time or 0) / 1e6
        if seen == 0 or self.frames_read == 0:
            raise MediaError(f"{self.path}: holds no frame that can be decoded")
        if seen < promised or furthest - start < 0.95 * duration - 1.0:
            raise MediaError(
                f"{self.path}: truncated ({self.frames_read} frames, then the file ends early)"
            )

    def writer(self, path: str | os.PathLike[str], *, force: bool = False) -> VideoWriter:
        """A writer of a video like this one: same codec, size, times, colours and other streams.

        Args:
            path: file to write; its ending chooses the container.
            force: replace a file that exists.

        Raises:
            OutputError: it exists already, cannot be written, or the container or codec does not
                take this video.
        """
        from revisage.video.writer import VideoWriter

        return VideoWriter(self, Path(path), force=force)

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
