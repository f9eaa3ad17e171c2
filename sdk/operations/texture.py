"""Texture for a smooth fill: pores, grain and hair taken from where the photo looks alike.

A network that fills a hole at its own size leaves out what is finer, and what it cannot know: a
wide hole shows as a patch without grain. So the finest detail comes from the photo itself. Every
cell of the hole looks for a place outside it whose smooth version looks like the fill around the
cell, and takes what that place adds to its smooth version.

Sources: filling from similar patches is Efros & Leung 1999, "Texture Synthesis by Non-parametric
Sampling"; adding a band of detail that a smooth version leads to is Hertzmann et al. 2001, "Image
Analogies"; the search is Barnes et al. 2009, "PatchMatch", sections 3.2 and 3.3, with all cells at
once and jumps (Rong & Tan 2006, "Jump flooding") in place of scans.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["transfer_texture"]

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]

_ROUNDS = 5
_FIRST_GUESSES = 8
_JUMPS = (4, 2, 1)  # cells
# A place must be this much better than one that continues a neighbour's: whole pieces of texture
# look more natural than the best match of every cell.
_BETTER = 0.9
# Squared colour difference that the farthest place costs: what is near has the same light.
_DISTANCE = 1e-3


def transfer_texture(
    picture: FloatArray,
    smooth: FloatArray,
    hole: BoolArray,
    source: BoolArray,
    *,
    spacing: int,
    cell: int,
) -> FloatArray:
    """The detail that belongs on a smooth fill.

    Args:
        picture: [H, W, 3]; what it holds in the hole is not looked at.
        smooth: [H, W, 3], the same picture without its detail, filled in the hole.
        hole: [H, W], the pixels to find detail for.
        source: [H, W], the pixels that detail may come from; those in the hole do not count.
        spacing: pixels between the 3 x 3 points of `smooth` that are compared.
        cell: pixels that are taken together, as squares of this side.

    Returns:
        [H, W, 3], to be added to `smooth`: 0 outside the hole, and everywhere when no square of the
        source lies `spacing + cell` pixels inside the picture. The same input gives the same bytes.
    """
    detail = np.zeros_like(picture)
    places = _Places(smooth, source & ~hole, spacing, cell)
    used = np.asarray(_blocks(hole, cell).any(axis=(1, 3)))
    if not places.count or not used.any():
        return detail
    moves = np.zeros((*used.shape, 2), dtype=np.intp)
    moves[used] = _search(places, used, cell)
    rows, columns = np.nonzero(hole)
    down, right = moves[rows // cell, columns // cell].T
    taken = rows + down, columns + right
    detail[rows, columns] = picture[taken] - smooth[taken]
    return detail


def _blocks(region: BoolArray, side: int) -> BoolArray:
    """[H, W] as [rows, side, columns, side], with False beyond its end."""
    height, width = region.shape
    padded = np.pad(region, ((0, -height % side), (0, -width % side)))
    return padded.reshape(padded.shape[0] // side, side, padded.shape[1] // side, side)


class _Places:
    """Where detail may come from, by the upper left pixel of a cell, and how well it fits."""

    def __init__(self, smooth: FloatArray, source: BoolArray, spacing: int, cell: int) -> None:
        self.shape = height, width = source.shape
        self._smooth = smooth.reshape(-1, 3)
        # Cells that lie in the source as a whole, with the points around them in the picture.
        first, last = spacing, spacing + 2 * cell
        self._usable = np.zeros_like(source)
        if min(height, width) > first + last:
            squares = np.lib.stride_tricks.sliding_window_view(source, (cell, cell))
            within = slice(first, height - last), slice(first, width - last)
            self._usable[within] = squares[within].all(axis=(2, 3))
        self._all = np.argwhere(self._usable)
        self.count = len(self._all)
        around = cell // 2 + np.array((-spacing, 0, spacing))
        self._points = (around[:, None] * width + around).ravel()

    def look(self, corners: Indices) -> FloatArray:
        """[n, 9, 3]: the smooth picture around cells."""
        at = corners[:, :1] * self.shape[1] + corners[:, 1:] + self._points
        around: FloatArray = self._smooth[np.clip(at, 0, len(self._smooth) - 1)]
        return around

    def random(self, cells: Indices, rng: np.random.Generator) -> Indices:
        """[n, 2]: a move from each cell to any place."""
        return self._all[rng.integers(self.count, size=len(cells))] - cells

    def costs(self, wanted: FloatArray, cells: Indices, moves: Indices) -> FloatArray:
        """[n]: how unlike the places at `cells + moves` are; infinite where none may be taken."""
        corners = cells + moves
        inside = ((corners >= 0) & (corners < self.shape)).all(axis=1)
        corners[~inside] = 0
        found = np.flatnonzero(inside & self._usable[corners[:, 0], corners[:, 1]])
        difference = self.look(corners[found]) - wanted[found]
        distance = np.hypot(*moves[found].T) / max(self.shape)
        costs = np.full(len(cells), np.inf)
        costs[found] = np.einsum("npc,npc->n", difference, difference) + _DISTANCE * distance
        return costs


def _search(places: _Places, used: BoolArray, cell: int) -> Indices:
    """[n, 2]: moves (rows, columns) from the used cells of a grid to their places."""
    rows, columns = np.nonzero(used)
    cells = np.stack([rows, columns], axis=1) * cell
    numbers = np.full(used.shape, -1)
    numbers[rows, columns] = np.arange(len(cells))
    wanted = places.look(cells)
    rng = np.random.default_rng(0)
    moves = places.random(cells, rng)
    costs = places.costs(wanted, cells, moves)

    def offer(others: Indices, better: float = 1.0) -> None:
        offered = places.costs(wanted, cells, others)
        won = offered < better * costs
        moves[won], costs[won] = others[won], offered[won]

    for _ in range(_FIRST_GUESSES):
        offer(places.random(cells, rng))
    last_row, last_column = used.shape[0] - 1, used.shape[1] - 1
    for _ in range(_ROUNDS):
        for jump in _JUMPS:
            for down, right in ((jump, 0), (-jump, 0), (0, jump), (0, -jump)):
                beside = numbers[
                    np.clip(rows + down, 0, last_row), np.clip(columns + right, 0, last_column)
                ]
                offer(np.where(beside[:, None] >= 0, moves[beside], moves))
        radius = max(places.shape) // 2
        while radius:
            offer(moves + rng.integers(-radius, radius + 1, size=moves.shape), _BETTER)
            radius //= 3
    return moves
