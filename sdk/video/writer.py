"""Write a video like the one it came from; the file appears whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from revisage.errors import OutputError
from revisage.photo.output import Staging
from revisage.video.frames import FrameBatch, VideoFrame
from revisage.video.reader import import_av

if TYPE_CHECKING:
    from revisage.video.reader import VideoReader

__all__ = ["VideoWriter"]

# Codec of the source -> encoder and its options: visually lossless, at a sensible speed.
_ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {"crf": "17", "preset": "medium"}),
    "hevc": ("libx265", {"crf": "18", "preset": "fast", "x265-params": "log-level=error"}),
    "av1": ("libsvtav1", {"crf": "22", "preset": "8"}),
    "vp9": ("libvpx-vp9", {"crf": "20", "b": "0", "cpu-used": "4", "row-mt": "1"}),
    "vp8": ("libvpx", {"crf": "8", "b": "20M", "cpu-used": "4"}),
    "mpeg4": ("mpeg4", {"qscale": "2"}),
    "mjpeg": ("mjpeg", {"qscale": "2"}),
    "prores": ("prores_ks", {}),
    "dnxhd": ("dnxhd", {"profile": "dnxhr_hq"}),
    "ffv1": ("ffv1", {}),
}
_DEFAULT = _ENCODERS["h264"]
_QUALITY_SCALE = 1 << 1  # AV_CODEC_FLAG_QSCALE
_FF_QP2LAMBDA = 118


class VideoWriter:
    """Encodes frames with their original times; copies packets of other streams as they are.

    Made by `VideoReader.writer`; a context manager. After an exception in its block, nothing is
    left behind. `left_out` lists streams that the container cannot hold.
    """

    def __init__(self, source: VideoReader, path: Path, *, force: bool = False) -> None:
        self._source = source
        self.path = path
        self.left_out: list[str] = []
        self.frames_written = 0
        self._staging = Staging(force=force)
        self._temporary = self._staging.path(path)
        self._container: Any = None
        try:
            with self._encoding():
                self._open()
        except BaseException:
            self._discard()
            raise

    @contextlib.contextmanager
    def _encoding(self) -> Iterator[None]:
        av = import_av()
        try:
            yield
        except (av.error.FFmpegError, ValueError, av.codec.codec.UnknownCodecError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise OutputError(
                f"{self.path}: cannot hold this video ({reason}); another ending, such as .mkv, may"
            ) from error

    def _open(self) -> None:
        av = import_av()
        source = self._source
        self._container = av.open(str(self._temporary), "w")
        self._container.metadata.update(source.container.metadata)
        self._stream = self._video_stream()
        self._copied: dict[int, Any] = {}
        for stream in source.container.streams:
            if stream.index == source.stream.index:
                continue
            try:
                copy = self._container.add_stream_from_template(stream, opaque=True)
            except (ValueError, av.error.FFmpegError):
                self.left_out.append(f"stream {stream.index} ({stream.type})")
                continue
            copy.metadata.update(stream.metadata)
            copy.disposition = stream.disposition
            self._copied[stream.index] = copy
        chapters = source.container.chapters()
        if chapters:
            self._container.set_chapters(chapters)

    def _video_stream(self) -> Any:
        origin = self._source.stream
        context = origin.codec_context
        name, options = _ENCODERS.get(context.name, _DEFAULT)
        stream = self._container.add_stream(
            name, rate=self._source.rate or Fraction(25), options=dict(options)
        )
        made = stream.codec_context
        made.width, made.height = self._source.size
        made.pix_fmt = self._source.format
        made.time_base = origin.time_base
        made.thread_type = "AUTO"
        for tag in ("color_range", "color_primaries", "color_trc", "colorspace"):
            setattr(made, tag, int(getattr(context, tag)))
        if context.sample_aspect_ratio:
            made.sample_aspect_ratio = context.sample_aspect_ratio
        if name in ("mpeg4", "mjpeg"):
            made.flags |= _QUALITY_SCALE
            made.global_quality = int(options["qscale"]) * _FF_QP2LAMBDA
        stream.time_base = origin.time_base
        stream.metadata.update(origin.metadata)
        stream.disposition = origin.disposition
        return stream

    def write(self, batch: FrameBatch) -> None:
        """Encode the frames of a batch and copy its packets; the container puts them in order.

        Raises:
            OutputError: the disk is full, or the container does not take the packet.
        """
        with self._encoding():
            for frame in batch.frames:
                if self.frames_written == 0:
                    self._start(frame)
                self._encode(frame)
            self._copy(batch)

    def _start(self, first: VideoFrame) -> None:
        if first.turn:
            self._stream.set_display_rotation(first.turn)

    def _encode(self, frame: VideoFrame) -> None:
        native = frame.native
        native.pict_type = 0  # the encoder chooses; the source's choice belonged to its encoder
        for packet in self._stream.encode(native):
            self._container.mux(packet)
        self.frames_written += 1

    def _copy(self, batch: FrameBatch) -> None:
        for packet in batch.packets:
            copy = self._copied.get(packet.stream_index)
            if copy is not None:
                packet.stream = copy
                self._container.mux(packet)

    def _finish(self) -> None:
        with self._encoding():
            if self.frames_written:
                for packet in self._stream.encode(None):
                    self._container.mux(packet)
            self._container.close()
        self._staging.commit()

    def _discard(self) -> None:
        if self._container is not None:
            with contextlib.suppress(Exception):  # a half-written file may not close cleanly
                self._container.close()
        self._staging.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            self._finish()
        except BaseException:
            self._discard()
            raise
