"""`Edit`: one operation's change to one face, as a delta and a soft mask in an aligned square.

Note [16-bit edits]
    Delta and mask are rounded to 16 bits when an Edit is made, so that the layer files (16-bit
    TIFF) hold exactly what was applied. Delta codes are 1..65535 with 32768 as no change,
    delta = (code - 32768) / 32767; mask codes are 0..65535, mask = code / 65535.

Note [Dense squares]
    A small face has several square pixels for one photo pixel. Bilinear sampling would then skip
    most of them, so the square is first averaged over k x k blocks, k the whole number of square
    pixels in a photo pixel. The mask is averaged as it is; the delta weighted by the mask, so that
    what lies outside the mask never leaks in.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from revisage.errors import OptionError, ShapeError
from revisage.pixels import Pixels, colour_channels, open_pixels

if TYPE_CHECKING:
    from pathlib import Path

    from revisage.faces import Face

__all__ = [
    "Edit",
    "apply_edits",
    "apply_to_pixels",
    "delta_codes",
    "delta_from_codes",
    "mask_codes",
    "mask_from_codes",
    "placed_square",
]

FloatArray = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint16]

# Rec. 601 luma: what gray becomes of an RGB delta.
_LUMA = (0.299, 0.587, 0.114)


def delta_codes(delta: npt.ArrayLike) -> Codes:
    """Delta in -1..1 as 16-bit codes (Note [16-bit edits]); values beyond are clamped."""
    scaled = np.rint(np.clip(np.asarray(delta, dtype=np.float64), -1.0, 1.0) * 32767.0)
    return (scaled + 32768.0).astype(np.uint16)


def delta_from_codes(codes: npt.ArrayLike) -> FloatArray:
    """The float32 delta that codes stand for; code 0 reads as 1."""
    signed = np.maximum(np.asarray(codes).astype(np.int32), 1) - 32768
    return (signed / 32767.0).astype(np.float32)


def mask_codes(mask: npt.ArrayLike) -> Codes:
    """Mask in 0..1 as 16-bit codes (Note [16-bit edits]); values beyond are clamped."""
    scaled = np.rint(np.clip(np.asarray(mask, dtype=np.float64), 0.0, 1.0) * 65535.0)
    return scaled.astype(np.uint16)


def mask_from_codes(codes: npt.ArrayLike) -> FloatArray:
    """The float32 mask that codes stand for."""
    return (np.asarray(codes).astype(np.float64) / 65535.0).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Edit:
    """What one operation does to one face; immutable.

    Delta and mask are rounded to 16 bits on creation (Note [16-bit edits]) and read-only.

    Raises:
        ShapeError: delta is not [S, S, 3], mask not [S, S], or the matrix not [2, 3].
        OptionError: a value is not finite, the matrix has no inverse, or strength is not in 0..1.
    """

    operation: str  # "wrinkles"
    face: Face | None  # None for an edit that belongs to no face
    delta: FloatArray  # [S, S, 3], RGB, in units of the full range (1.0 is 255 in uint8)
    mask: FloatArray  # [S, S], 0 (keep every bit) to 1
    matrix: npt.NDArray[np.float64]  # [2, 3], photo pixel (x, y, 1) -> square pixel
    strength: float  # 0..1
    face_index: int = 0  # position of the face in Result.faces
    part: int = 0  # which of several edits that an operation made in one photo

    def __post_init__(self) -> None:
        """Check, round and freeze."""
        delta, mask = np.asarray(self.delta), np.asarray(self.mask)
        matrix = np.array(self.matrix, dtype=np.float64)
        if delta.ndim != 3 or delta.shape[0] != delta.shape[1] or delta.shape[2] != 3:
            raise ShapeError(f"delta must be [S, S, 3], got {list(delta.shape)}")
        if mask.shape != delta.shape[:2] or mask.size == 0:
            raise ShapeError(f"mask must be {list(delta.shape[:2])}, got {list(mask.shape)}")
        if matrix.shape != (2, 3):
            raise ShapeError(f"matrix must be [2, 3], got {list(matrix.shape)}")
        if not (np.isfinite(delta).all() and np.isfinite(mask).all() and np.isfinite(matrix).all()):
            raise OptionError("delta, mask and matrix of an edit must be finite")
        if abs(np.linalg.det(matrix[:, :2])) < 1e-12:
            raise OptionError("the matrix of an edit has no inverse, it cannot place the square")
        if not (math.isfinite(self.strength) and 0.0 <= self.strength <= 1.0):
            raise OptionError(f"strength {self.strength!r} of an edit is not within 0..1")
        frozen: dict[str, npt.NDArray[Any]] = {
            "delta": delta_from_codes(delta_codes(delta)),
            "mask": mask_from_codes(mask_codes(mask)),
            "matrix": matrix,
        }
        for name, array in frozen.items():
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    @property
    def size(self) -> int:
        """Side of the square in pixels."""
        return int(self.mask.shape[0])

    @property
    def name(self) -> str:
        """A name for files, unique within one result: `wrinkles_face1`, `inpaint_face1_part2`."""
        part = f"_part{self.part + 1}" if self.part else ""
        return f"{self.operation}_face{self.face_index + 1}{part}"

    def with_strength(self, strength: float) -> Edit:
        """The same edit with another strength, 0..1."""
        return dataclasses.replace(self, strength=strength)

    def mask_on(self, height: int, width: int) -> FloatArray:
        """The mask as it lies on a photo of that size: [height, width] float32, 0..1.

        Where it is 0, applying the edit keeps every bit.
        """
        from revisage.kernels import flow_warp

        _, mask, matrix = self.placed()
        return flow_warp(mask, matrix=matrix, size=(height, width), padding="zero")

    def placed(self) -> tuple[FloatArray, FloatArray, npt.NDArray[np.float64]]:
        """Delta, mask and matrix as the compositor takes them (Note [Dense squares])."""
        return placed_square(self.delta, self.mask, self.matrix)

    def apply(self, photo: Any, *, threads: int | None = None) -> Any:
        """The photo with this edit; the photo itself is not changed. See `apply_edits`."""
        return apply_edits(photo, [self], threads=threads)

    def write_layers(self, folder: str | Path, *, force: bool = False) -> list[Path]:
        """Write delta, mask and placement as files; see `revisage.layers.write_layers`."""
        from revisage.layers import write_layers

        return write_layers([self], folder, force=force)

    @staticmethod
    def read_layers(folder: str | Path) -> list[Edit]:
        """The edits in a folder of layers; see `revisage.layers.read_layers`."""
        from revisage.layers import read_layers

        return read_layers(folder)

    def __repr__(self) -> str:
        covered = float(np.mean(self.mask > 0)) * 100
        return (
            f"Edit({self.operation}, face {self.face_index + 1}, {self.size} px square, "
            f"mask covers {covered:.1f} %, strength {self.strength:g})"
        )


def placed_square(
    delta: FloatArray, mask: FloatArray, matrix: npt.NDArray[np.float64]
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.float64]]:
    """A square averaged until it is no denser than the photo (Note [Dense squares]).

    Args:
        delta: [S, S, D]; mask: [S, S]; matrix: [2, 3] photo -> square.

    Returns:
        The same three; unchanged where the square is not twice as dense as the photo.
    """
    size, channels = mask.shape[0], delta.shape[2]
    density = math.sqrt(abs(float(np.linalg.det(matrix[:, :2]))))
    block = min(int(density + 1e-9), size)
    if block < 2:
        return delta, mask, matrix
    pad = -size % block
    count = (size + pad) // block
    blocks = (count, block, count, block)
    weights = np.pad(mask.astype(np.float64), ((0, pad), (0, pad)))
    changes = np.pad(delta.astype(np.float64), ((0, pad), (0, pad), (0, 0))) * weights[:, :, None]
    weight = weights.reshape(blocks).sum(axis=(1, 3))  # [count, count]
    change = changes.reshape(*blocks, channels).sum(axis=(1, 3))
    mean = np.where(weight[..., None] > 0, change / np.maximum(weight, 1e-30)[..., None], 0.0)
    coarse = matrix / block
    coarse[:, 2] += (1 / block - 1) / 2  # pixel centres, see revisage.alignment
    return mean.astype(np.float32), (weight / block**2).astype(np.float32), coarse


def apply_edits(photo: Any, edits: Iterable[Edit], *, threads: int | None = None) -> Any:
    """The photo with edits applied one after the other.

    Samples where every mask is 0, and all samples at strength 0, keep their bits; alpha is never
    touched. The same edits give the same bytes, whatever the number of threads.

    Args:
        photo: see Note [Photos] in `revisage.pixels`; it is not changed.
        threads: CPU threads of the compositor; None for all cores.

    Returns:
        What `photo` is, as new memory.

    Raises:
        ShapeError, DeviceError: the photo cannot be used.
    """
    pixels, give_back = open_pixels(photo)
    out = pixels.copy()
    apply_to_pixels(out, edits, threads=threads)
    return give_back(out)


def apply_to_pixels(out: Pixels, edits: Iterable[Edit], *, threads: int | None = None) -> None:
    """Apply edits in place to a C-contiguous, writable array (Note [Photos])."""
    from revisage.kernels import composite_into

    for edit in edits:
        if edit.strength == 0.0:
            continue
        delta, mask, matrix = edit.placed()
        if colour_channels(out) == 1:
            delta = gray_delta(delta)
        composite_into(out, out, delta, mask, matrix, edit.strength, threads=threads)


def gray_delta(delta: FloatArray) -> FloatArray:
    """An RGB delta [S, S, 3] as the delta [S, S, 1] of a gray photo: its luma."""
    red, green, blue = (delta[:, :, channel].astype(np.float64) for channel in range(3))
    luma = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    return luma[:, :, None].astype(np.float32)
