"""One decoded frame, and edits applied to its own planes.

Note [Edits on planes]
    A frame keeps its Y, Cb and Cr planes. An edit's RGB delta is turned into deltas of the planes
    (the conversion is linear), and composited into each plane where the mask lies. Nothing is
    converted to RGB and back, so samples outside the mask reach the encoder bit for bit as they
    were decoded. Constants per colour space: ITU-T H.273, table 4.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from revisage.edit import Edit
from revisage.errors import MediaError

if TYPE_CHECKING:
    from revisage.faces import Face

__all__ = ["FrameBatch", "VideoFrame", "plane_layout", "supported_format"]

FloatArray = npt.NDArray[np.float32]

# H.273 matrix coefficients -> Kr, Kb.
_COEFFICIENTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087)}
_COEFFICIENTS |= dict.fromkeys((5, 6), (0.299, 0.114)) | dict.fromkeys((9, 10), (0.2627, 0.0593))
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG

# Format -> horizontal and vertical steps of chroma (0: no chroma), bits.
_LAYOUTS: dict[str, tuple[int, int, int]] = {
    "gray": (0, 0, 8),
    "gray10le": (0, 0, 10),
    "gray12le": (0, 0, 12),
}
for _name, _steps in {"420": (2, 2), "422": (2, 1), "444": (1, 1)}.items():
    _LAYOUTS[f"yuv{_name}p"] = _LAYOUTS[f"yuvj{_name}p"] = (*_steps, 8)
    for _bits in (10, 12):
        _LAYOUTS[f"yuv{_name}p{_bits}le"] = (*_steps, _bits)
# Formats that hold the same samples in another order, without loss.
_REPACKED = {"nv12": "yuv420p", "nv16": "yuv422p", "nv24": "yuv444p", "p010le": "yuv420p10le"}


def plane_layout(name: str) -> tuple[int, int, int]:
    """Chroma steps (x, y; 0 where there is no chroma) and bits of a pixel format."""
    return _LAYOUTS[name]


def supported_format(name: str | None, where: str) -> str:
    """The format in which frames of format `name` are edited.

    Raises:
        MediaError: one that would have to be converted with a loss.
    """
    if name in _LAYOUTS:
        return str(name)
    if name in _REPACKED:
        return _REPACKED[str(name)]
    raise MediaError(
        f"{where}: pixels of format {name} are not supported yet; convert the video first, e.g. "
        "ffmpeg -i IN -pix_fmt yuv420p OUT"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class VideoFrame:
    """One frame: its time, its pixels on demand, and what was done to it."""

    index: int  # in decoding order, from 0
    native: Any  # av.VideoFrame in a supported format; owned by this frame
    turn: int  # degrees counter-clockwise that a player turns it: 0, 90, 180, 270
    faces: tuple[Face, ...] = ()  # in upright pixels, as `rgb` gives them
    edits: tuple[Edit, ...] = ()  # applied already

    @property
    def time(self) -> Fraction | None:
        """Presentation time in seconds, exact; None where the file states none."""
        if self.native.pts is None or self.native.time_base is None:
            return None
        return Fraction(self.native.pts * self.native.time_base)

    def rgb(self) -> npt.NDArray[np.uint8]:
        """The frame upright as [H, W, 3] uint8 RGB, for networks and for looking at."""
        matrix = _colour_space(self.native)
        source = {1: "ITU709", 4: "FCC", 7: "SMPTE240M", 9: "BT2020", 10: "BT2020"}
        reformatted = self.native.reformat(
            format="rgb24", src_colorspace=source.get(matrix, "ITU601")
        )
        upright = np.rot90(reformatted.to_ndarray(), self.turn // 90)
        return np.ascontiguousarray(upright)

    def with_edits(
        self, edits: Sequence[Edit], faces: Iterable[Face], *, threads: int | None = None
    ) -> VideoFrame:
        """The frame with edits applied to its planes (Note [Edits on planes]).

        Args:
            edits: placed on the upright frame, as `rgb` gives it.
        """
        active = [edit for edit in edits if edit.strength > 0.0]
        if active:
            self.native.make_writable()  # the decoder may still refer to these samples
            to_upright = _to_upright(self.native.width, self.native.height, self.turn)
            for edit in active:
                _apply(self.native, edit, to_upright, threads)
        return dataclasses.replace(self, edits=(*self.edits, *edits), faces=tuple(faces))


@dataclasses.dataclass(frozen=True, eq=False)
class FrameBatch:
    """Frames in presentation order, and the packets of other streams that came before them."""

    frames: tuple[VideoFrame, ...]
    packets: tuple[Any, ...] = ()  # av.Packet


def _to_upright(width: int, height: int, turn: int) -> npt.NDArray[np.float64]:
    """[3, 3] stored pixel -> upright pixel for a counter-clockwise turn (np.rot90)."""
    return np.array(
        {
            0: [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
            90: [[0, 1, 0], [-1, 0, width - 1], [0, 0, 1]],
            180: [[-1, 0, width - 1], [0, -1, height - 1], [0, 0, 1]],
            270: [[0, -1, height - 1], [1, 0, 0], [0, 0, 1]],
        }[turn],
        dtype=np.float64,
    )


def _colour_space(frame: Any) -> int:
    """H.273 matrix coefficients; where none are stated, by size, as players do."""
    stated = int(frame.colorspace)
    if stated in _COEFFICIENTS:
        return stated
    return 1 if max(frame.width, frame.height) >= 1280 or frame.height >= 720 else 5


def _plane_deltas(delta: FloatArray, frame: Any, bits: int) -> list[FloatArray]:
    """RGB delta [S, S, 3] as deltas [S, S, 1] of Y, Cb and Cr in units of the sample type."""
    kr, kb = _COEFFICIENTS[_colour_space(frame)]
    red, green, blue = (delta[:, :, channel].astype(np.float64) for channel in range(3))
    luma = kr * red + (1.0 - kr - kb) * green + kb * blue
    chroma = [(blue - luma) / (2.0 * (1.0 - kb)), (red - luma) / (2.0 * (1.0 - kr))]
    full = int(frame.color_range) == _FULL_RANGE or frame.format.name.startswith("yuvj")
    top = (1 << bits) - 1
    type_range = 255.0 if bits == 8 else 65535.0
    scales = (top, top) if full else (219 << (bits - 8), 224 << (bits - 8))
    parts = [luma * (scales[0] / type_range)]
    parts += [part * (scales[1] / type_range) for part in chroma]
    return [part[:, :, None].astype(np.float32) for part in parts]


def _apply(frame: Any, edit: Edit, to_upright: Any, threads: int | None) -> None:
    from revisage.edit import placed_square
    from revisage.kernels import composite_into

    step_x, step_y, bits = plane_layout(frame.format.name)
    onto_frame = np.vstack([edit.matrix, [0, 0, 1]]) @ to_upright
    deltas = _plane_deltas(edit.delta, frame, bits)
    for index, plane in enumerate(frame.planes[: 3 if step_x else 1]):
        # Chroma lies left in its pair of columns and in the middle of its pair of rows, as H.264
        # and HEVC have it where nothing else is stated.
        x, y = (step_x, step_y) if index else (1, 1)
        to_luma = np.array([[x, 0, 0], [0, y, (y - 1) / 2], [0, 0, 1]], dtype=np.float64)
        matrix = (onto_frame @ to_luma)[:2]
        delta, mask, matrix = placed_square(deltas[index], edit.mask, matrix)
        samples = _samples(plane, bits)
        edited = np.ascontiguousarray(samples)
        composite_into(edited, edited, delta, mask, matrix, edit.strength, threads=threads)
        if bits > 8:  # the compositor knows the range of the type, not of 10 bits
            np.minimum(edited, (1 << bits) - 1, out=edited)
        samples[...] = edited


def _samples(plane: Any, bits: int) -> npt.NDArray[Any]:
    """A plane's samples [H, W] as a view into the frame."""
    dtype = np.dtype(np.uint8 if bits == 8 else "<u2")
    rows = np.frombuffer(plane, dtype=dtype).reshape(-1, plane.line_size // dtype.itemsize)
    return rows[: plane.height, : plane.width]


def turn_of(frame: Any, where: str) -> int:
    """Degrees counter-clockwise that a player turns a frame: 0, 90, 180 or 270.

    Raises:
        MediaError: it is turned by something else.
    """
    degrees = int(frame.rotation) % 360
    if degrees % 90 or math.isnan(degrees):
        raise MediaError(f"{where}: is turned by {degrees} degrees; turn it by a multiple of 90")
    return degrees
