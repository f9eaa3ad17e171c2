"""Holes painted by the user: a network fills them at its own size, the photo lends the texture.

Source: the hole of any shape is that of "Globally and Locally Consistent Image Completion" (Iizuka
et al. 2017); the network is `revisage.training.models.coarse_to_fine`.

Note [Two sizes]
    What a hole hides must go at every size, or its edges would stay behind. So the delta of a hole
    is as dense as the photo. What the network says is enlarged and smoothed; the same is done with
    the photo around the hole, and what that takes away, its texture, is transferred into the hole.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from revisage.alignment import invert_affine, rescale_square, square_matrix, transform_points
from revisage.edit import Edit
from revisage.errors import OptionError, ShapeError
from revisage.kernels import flow_warp
from revisage.operations import Network
from revisage.operations.region import box_mean, dilate, label_components
from revisage.operations.square import sample_square
from revisage.operations.texture import transfer_texture
from revisage.pixels import host_array, unit_range

if TYPE_CHECKING:
    from revisage.faces import Face
    from revisage.pixels import Pixels
    from revisage.results import Stopwatch

__all__ = ["Inpaint", "open_hole"]

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Matrix = npt.NDArray[np.float64]

_NEAR = 32  # photo pixels: parts of a hole that are nearer are filled together
_LARGEST = 2048  # side of an edit, photo pixels; wider parts of a hole become several
_EDGE = 12  # pixels at the edge of a face's square that are too near what it does not show
_AROUND = 16  # thicknesses of a hole that a square without a face is wide
# How far around a part texture may come from: as far as the part is wide, within this many network
# pixels, and within this many photo pixels.
_LEAST_LOOK, _MOST_LOOK = 10, 64
_LOOK_PIXELS = 48, 384
_TOO_NEAR = 2  # network pixels around the hole in which the fill and the photo are mixed
_FINER = 2  # pixels along one of the network, in what is smoothed


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a network sees some of the hole."""

    face_index: int | None
    matrix: Matrix  # photo -> square
    top: int  # of `region` in the photo
    left: int
    region: BoolArray  # [h, w]: the pixels of the hole that are filled here

    @property
    def pitch(self) -> float:
        """Photo pixels in a network pixel, along a side."""
        return 1 / math.sqrt(abs(float(np.linalg.det(self.matrix[:, :2]))))

    def parts(self) -> Iterator[_Place]:
        """The same place for each group of pixels that are near each other; wide ones in tiles."""
        for top, left, group in _groups(self.region):
            for y, x, region in _tiles(group, *(_even(side) for side in group.shape)):
                yield dataclasses.replace(
                    self, top=self.top + top + y, left=self.left + left + x, region=region
                )


class Inpaint:
    """The operation with its network."""

    def __init__(self, networks: Mapping[str, Network]) -> None:
        self._network = networks["inpainting"]
        self.size = int(self._network.manifest.working_size)

    def edits(
        self,
        pixels: Pixels,
        hole: npt.NDArray[Any],
        faces: Sequence[Face],
        strength: float,
        *,
        stopwatch: Stopwatch,
        threads: int | None,
    ) -> list[Edit]:
        """An edit for each part of a hole.

        Args:
            pixels: Note [Photos] in `revisage.pixels`.
            hole: [H, W] as `open_hole` gives it.
            faces: of the photo. What lies in a face's aligned square is filled there, the rest in
                upright squares as wide as the hole's thickness asks for.
        """
        edits: list[Edit] = []
        with stopwatch.stage("mask"):
            solid = np.where(hole > 0, np.uint8(255), np.uint8(0))
            places = [*self._places(hole, faces)]
        for place in places:
            with stopwatch.stage("fill"):
                filled = self._fill(pixels, solid, place.matrix, threads)
            face = None if place.face_index is None else faces[place.face_index]
            for part in place.parts():
                with stopwatch.stage("texture"):
                    edit = _textured(pixels, hole, part, filled, threads)
                edits.append(
                    Edit("inpaint", face, *edit, strength, place.face_index or 0, len(edits))
                )
        return edits

    def _places(self, hole: npt.NDArray[Any], faces: Sequence[Face]) -> Iterator[_Place]:
        """Every pixel of the hole in one place."""
        rest = hole > 0
        for index, face in enumerate(faces):
            matrix = square_matrix(face.landmarks, self.size)
            inside = (_EDGE - 0.5, self.size - _EDGE - 0.5)
            ends = np.array([(x, y) for x in inside for y in inside])
            corners = transform_points(invert_affine(matrix), ends)
            left, top = np.clip(np.floor(corners.min(axis=0)), 0, hole.shape[::-1]).astype(int)
            right, bottom = np.clip(np.ceil(corners.max(axis=0)) + 1, 0, hole.shape[::-1]).astype(
                int
            )
            here = rest[top:bottom, left:right]
            region = here & _covered(_moved(matrix, left, top), here.shape, inside, inside)
            if region.any():
                rest[top:bottom, left:right] &= ~region
                yield _Place(index, matrix, int(top), int(left), region)
        for top, left, group in _groups(rest):
            side = max(self.size, round(_AROUND * _thickness(group)))
            tile = side // 2
            for y, x, region in _tiles(group, tile, tile):
                middle = (left + x + (tile - 1) / 2, top + y + (tile - 1) / 2)
                matrix = _upright(middle, side, self.size)
                yield _Place(None, matrix, top + y, left + x, region)

    def _fill(
        self, pixels: Pixels, solid: npt.NDArray[np.uint8], matrix: Matrix, threads: int | None
    ) -> FloatArray:
        """[F * S, F * S, 4], F = _FINER: the square with its hole filled by the network, smoothed,
        and what is too near the hole to lend texture (0: nothing).
        """
        square = sample_square(pixels, matrix, self.size, threads=threads)
        # A pixel that has anything of the hole in it is hole.
        mask = sample_square(solid, matrix, self.size, threads=threads)[:, :, 0] > 0
        if mask.all():
            raise OptionError(
                "the hole leaves nothing of the photo to fill it from; paint a smaller one"
            )
        filled = self._network.infer(
            {
                "image": np.ascontiguousarray(square.transpose(2, 0, 1)[None]),
                "mask": mask.astype(np.float32)[None, None],
            }
        )["filled"][0]
        painted = np.clip(np.asarray(filled, dtype=np.float32).transpose(1, 2, 0), 0.0, 1.0)
        picture = np.where(mask[:, :, None], painted, square)
        side = _FINER * self.size
        finer = rescale_square(np.eye(2, 3), _FINER, 1)  # finer pixel -> pixel
        fine = flow_warp(picture, matrix=finer, size=(side, side), threads=threads)
        out = np.empty((side, side, 4), dtype=np.float32)
        out[:, :, :3] = box_mean(fine, np.ones((side, side), dtype=np.bool_), _FINER // 2)
        out[:, :, 3] = dilate(mask, _TOO_NEAR).repeat(_FINER, 0).repeat(_FINER, 1)
        return out


def open_hole(hole: Any, height: int, width: int) -> npt.NDArray[Any]:
    """What to fill, checked against the photo.

    Args:
        hole: [H, W] bool, uint8, uint16 or float (1.0 is the whole), or a PIL image of mode 1, L,
            P, I;16 or F; on the CPU or a GPU. 0 is kept; beyond, how much of the fill is
            mixed in.

    Returns:
        The array itself; floats as float32.

    Raises:
        ShapeError: another shape, dtype or size than the photo's.
        OptionError: nothing is to be filled, or values are not finite and within 0..1.
    """
    if getattr(hole, "mode", None) == "P":  # its samples are places in a palette
        hole = hole.convert("L")
    samples = host_array(hole, "hole")
    try:
        mask = np.asarray(samples)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ShapeError(f"the hole must be an array ({str(error).splitlines()[0]})") from error
    if mask.dtype.name not in ("bool", "uint8", "uint16", "float16", "float32", "float64"):
        raise ShapeError(
            f"a hole of dtype {mask.dtype.name} is not understood; give bool, uint8, uint16 or "
            "float, 0 where the photo is kept"
        )
    if mask.shape != (height, width):
        raise ShapeError(
            f"the hole must be [{height}, {width}] as the photo is, got {list(mask.shape)}"
        )
    if mask.dtype.kind == "f":
        if not (np.isfinite(mask).all() and mask.min() >= 0 and mask.max() <= 1):
            raise OptionError("a hole of floats must be within 0..1, where 1 is filled")
        mask = mask.astype(np.float32, copy=False)
    if not mask.any():
        raise OptionError("the hole is empty: paint what is to be filled in white")
    return mask


def _opacity(mask: npt.NDArray[Any]) -> FloatArray:
    return mask.astype(np.float32) if mask.dtype == np.bool_ else unit_range(mask)


def _groups(region: BoolArray) -> Iterator[tuple[int, int, BoolArray]]:
    """Parts of a region that are not near each other: row and column of each, and the part."""
    height, width = region.shape
    padded = np.pad(region, ((0, -height % _NEAR), (0, -width % _NEAR)))
    rows, columns = padded.shape[0] // _NEAR, padded.shape[1] // _NEAR
    cells = np.asarray(padded.reshape(rows, _NEAR, columns, _NEAR).any(axis=(1, 3)))
    labels, count = label_components(cells)
    for label in range(1, count + 1):
        mine = labels == label
        (top, bottom), (left, right) = _extent(mine, 1), _extent(mine, 0)
        here = np.kron(mine[top:bottom, left:right], np.ones((_NEAR, _NEAR), dtype=np.bool_))
        top, left = top * _NEAR, left * _NEAR
        part = padded[top : top + here.shape[0], left : left + here.shape[1]] & here
        (up, down), (first, last) = _extent(part, 1), _extent(part, 0)
        yield top + up, left + first, part[up:down, first:last]


def _tiles(region: BoolArray, height: int, width: int) -> Iterator[tuple[int, int, BoolArray]]:
    """A region cut into tiles that are not empty: row and column of each, and the tile."""
    for y in range(0, region.shape[0], height):
        for x in range(0, region.shape[1], width):
            tile = region[y : y + height, x : x + width]
            if tile.any():
                yield y, x, tile


def _even(side: int) -> int:
    """The side of equal tiles, none of them larger than `_LARGEST`."""
    return -(-side // -(-side // _LARGEST))


def _extent(region: BoolArray, axis: int) -> tuple[int, int]:
    """First index that a region has across `axis`, and one past its last."""
    used = np.flatnonzero(region.any(axis=axis))
    return int(used[0]), int(used[-1]) + 1


def _thickness(region: BoolArray) -> float:
    """Pixels across a stroke; half the diameter of a disc: twice the area over the outline."""
    padded = np.pad(region, 1)
    outline = (padded[1:] != padded[:-1]).sum() + (padded[:, 1:] != padded[:, :-1]).sum()
    return float(2 * region.sum() / outline)


def _upright(middle: tuple[float, float], side: int, size: int) -> Matrix:
    """Photo -> an upright square of `size` pixels that is `side` photo pixels wide."""
    scale = size / side
    across, down = ((size - 1) / 2 - scale * at for at in middle)
    return np.array([[scale, 0.0, across], [0.0, scale, down]])


def _textured(
    pixels: Pixels,
    hole: npt.NDArray[Any],
    place: _Place,
    filled: FloatArray,
    threads: int | None,
) -> tuple[FloatArray, FloatArray, Matrix]:
    """Delta [s, s, 3], mask [s, s] and matrix (photo -> them) of one part; Note [Two sizes].

    Args:
        filled: the square of the place, of `Inpaint._fill`.
    """
    height, width = place.region.shape
    size, pitch = max(height, width), place.pitch
    wide = np.clip(size, _LEAST_LOOK * pitch, _MOST_LOOK * pitch)
    around = round(float(np.clip(wide, *_LOOK_PIXELS)))
    window = (size + 2 * around,) * 2
    left, top = place.left - around, place.top - around
    picture = sample_square(pixels, _shift(-left, -top), window[0], threads=threads)
    mask = np.zeros((size, size), dtype=np.float32)
    opacity = _opacity(hole[place.top : place.top + height, place.left : place.left + width])
    mask[:height, :width] = opacity * place.region
    inner = slice(around, around + size), slice(around, around + size)
    wanted = np.zeros(window, dtype=np.bool_)
    wanted[inner] = mask > 0

    finer = rescale_square(_moved(place.matrix, left, top), 1, _FINER)
    enlarged = flow_warp(filled, matrix=finer, size=window, padding="border", threads=threads)
    smooth = np.ascontiguousarray(enlarged[:, :, :3])
    inside, (rows, columns) = (0, filled.shape[0] - 1), pixels.shape[:2]
    source = enlarged[:, :, 3] == 0
    source &= _covered(finer, window, inside, inside)
    source &= _covered(_shift(left, top), window, (0, columns - 1), (0, rows - 1))
    detail = transfer_texture(
        picture,
        smooth,
        wanted,
        source,
        spacing=max(2, round(1.5 * pitch)),
        cell=max(1, round(pitch / 2)),
    )
    delta = np.where(wanted[:, :, None], smooth + detail - picture, np.float32(0))[inner]
    return delta, mask, _shift(-place.left, -place.top)


def _shift(right: float, down: float) -> Matrix:
    return np.array([[1.0, 0.0, right], [0.0, 1.0, down]])


def _moved(matrix: Matrix, left: float, top: float) -> Matrix:
    """`matrix` for a photo that begins at (left, top)."""
    offset = matrix[:, :2] @ np.array([[left], [top]]) + matrix[:, 2:]
    return np.concatenate([matrix[:, :2], offset], axis=1)


def _covered(
    matrix: Matrix,
    shape: tuple[int, ...],
    across: tuple[float, float],
    down: tuple[float, float],
) -> BoolArray:
    """[H, W]: the pixels that `matrix` puts into a box (from, to), in each direction."""
    columns, rows = np.arange(shape[1]), np.arange(shape[0])[:, None]
    x = matrix[0, 0] * columns + matrix[0, 1] * rows + matrix[0, 2]
    y = matrix[1, 0] * columns + matrix[1, 1] * rows + matrix[1, 2]
    inside = (x >= across[0]) & (x <= across[1]) & (y >= down[0]) & (y <= down[1])
    return np.asarray(inside)
