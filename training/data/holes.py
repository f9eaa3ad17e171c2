"""Holes to learn filling: strokes, polygon chains, brush strokes, rectangles; all seeded.

Wrinkle-shaped strokes (`stroke_holes`) are dense: a training crop holds as many as fit in the
wanted share of its area, because only pixels in holes teach the filler anything. The others are the
holes of the inpainting papers: a centre square (Pathak et al. 2016, "Context Encoders"), a
rectangle anywhere, brush strokes (Yu et al. 2019, "Free-Form Image Inpainting with Gated
Convolution", algorithm 1), and chains of random polygons, which cover what a hand, hair or a face
mask would.

Every hole is a [size, size] uint8 array, 1 = hole, and a function of its generator alone.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

__all__ = [
    "centre_hole",
    "free_form_hole",
    "polygon_chain_hole",
    "rectangle_hole",
    "stroke_holes",
]

Mask = npt.NDArray[np.uint8]


def _walk(size: int, rng: np.random.Generator, length: float) -> npt.NDArray[np.float64]:
    """A smooth curve as points [N, 2] about 3 px apart: curvature drifts, direction follows."""
    steps = max(2, int(length / 3))
    bend = rng.normal(0, 0.02) + np.cumsum(rng.normal(0, 0.006, steps))
    angle = rng.uniform(0, 2 * np.pi) + np.cumsum(3 * bend)
    start = rng.uniform(-0.1 * size, 1.1 * size, 2)
    steps_taken = 3 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.asarray(start + np.cumsum(steps_taken, axis=0), dtype=np.float64)


def stroke_holes(
    size: int,
    rng: np.random.Generator,
    *,
    coverage: tuple[float, float] = (0.08, 0.3),
    width: tuple[float, float] = (2.0, 13.0),
    blobs: float = 0.1,
) -> Mask:
    """Draw strokes until a share of the crop is covered.

    Args:
        size: side in pixels.
        coverage: range of the share of pixels in holes.
        width: range of stroke widths in pixels, log-uniform.
        blobs: probability that a stroke is a filled ellipse instead.

    Returns:
        [size, size] uint8, 1 = hole.
    """
    mask = np.zeros((size, size), np.uint8)
    wanted = rng.uniform(*coverage) * size * size
    low, high = np.log(width[0]), np.log(width[1])
    for _ in range(64):
        if float(mask.sum()) >= wanted:
            break
        thick = float(np.exp(rng.uniform(low, high)))
        if rng.random() < blobs:
            x, y = (int(v) for v in rng.uniform(0, size, 2))
            long, short = (max(1, int(thick * v)) for v in rng.uniform(0.4, 1.6, 2))
            angle = float(rng.uniform(0, 180))
            cv2.ellipse(mask, (x, y), (long, short), angle, 0, 360, 1, -1)
            continue
        line = _walk(size, rng, rng.uniform(20, 180))
        # Wrinkles come in bundles of neighbours that run in parallel.
        for offset in range(int(rng.choice([1, 1, 1, 2, 3]))):
            shift = offset * thick * rng.uniform(2.0, 4.0) * np.array([0.6, 0.8])
            points = np.round((line + shift) * 8).astype(np.int32)
            tapered = max(1, round(thick * rng.uniform(0.7, 1.0)))
            cv2.polylines(mask, [points], False, 1, tapered, cv2.LINE_8, 3)
    return mask


# How often a hole is drawn anew to meet its coverage before the nearest is taken.
_TRIES = 16


def _checked(size: int, coverage: tuple[float, float]) -> tuple[float, float]:
    low, high = coverage
    if size < 8:
        raise ValueError(f"size must be at least 8 pixels, got {size}")
    if not 0 < low < high < 1:
        raise ValueError(f"coverage must be a range (low, high) within 0 to 1, got {coverage}")
    return low, high


def centre_hole(size: int, side: int | None = None) -> Mask:
    """A square in the middle.

    Args:
        side: of the hole in pixels; None for half of `size`, as in Context Encoders.
    """
    side = size // 2 if side is None else side
    if not 0 < side < size:
        raise ValueError(f"side must lie between 0 and {size}, got {side}")
    mask = np.zeros((size, size), np.uint8)
    corner = (size - side) // 2
    mask[corner : corner + side, corner : corner + side] = 1
    return mask


def rectangle_hole(
    size: int,
    rng: np.random.Generator,
    *,
    coverage: tuple[float, float] = (0.06, 0.3),
    aspect: tuple[float, float] = (0.5, 2.0),
    margin: int = 0,
) -> Mask:
    """One rectangle anywhere inside.

    Args:
        coverage: range of the share of pixels in the hole.
        aspect: range of width over height, log-uniform; given up where the picture is too small.
        margin: pixels along the border that stay free.

    Raises:
        ValueError: a margin that leaves no room for the wanted coverage.
    """
    low, high = _checked(size, coverage)
    room = size - 2 * margin
    if room <= 0 or high * size * size > room * room:
        raise ValueError(f"a margin of {margin} leaves no room for coverage up to {high}")
    area = rng.uniform(low, high) * size * size
    ratio = float(np.exp(rng.uniform(*np.log(aspect))))
    width = min(float(np.sqrt(area * ratio)), room)
    height = min(area / width, room)
    width = min(area / height, room)
    wide, tall = max(1, round(width)), max(1, round(height))
    left = margin + int(rng.integers(0, room - wide + 1))
    top = margin + int(rng.integers(0, room - tall + 1))
    mask = np.zeros((size, size), np.uint8)
    mask[top : top + tall, left : left + wide] = 1
    return mask


def _polygon(
    centre: npt.NDArray[np.float64], radius: float, rng: np.random.Generator
) -> npt.NDArray[np.int32]:
    """A star-shaped polygon of 3 to 8 corners around a point, in eighths of a pixel."""
    corners = int(rng.integers(3, 9))
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
    reach = radius * rng.uniform(0.5, 1.4, corners)
    points = centre + np.stack([reach * np.cos(angle), reach * np.sin(angle)], axis=1)
    return np.round(points * 8).astype(np.int32)


def polygon_chain_hole(
    size: int,
    rng: np.random.Generator,
    *,
    coverage: tuple[float, float] = (0.1, 0.4),
    radius: tuple[float, float] = (0.04, 0.14),
    chains: tuple[int, int] = (1, 4),
) -> Mask:
    """Chains of random polygons, each overlapping the one before.

    A chain walks from a random point, turning a little at every step, and leaves a polygon where it
    stands. Chains are continued in turn until the wanted share is covered.

    Args:
        coverage: range of the share of pixels in holes; exceeded by less than one polygon.
        radius: range of the mean radius of polygons, as a share of `size`.
        chains: range of how many chains there are, both ends included.
    """
    low, high = _checked(size, coverage)
    mask = np.zeros((size, size), np.uint8)
    wanted = rng.uniform(low, high) * size * size
    count = int(rng.integers(chains[0], chains[1] + 1))
    places = rng.uniform(0.1 * size, 0.9 * size, (count, 2))
    headings = rng.uniform(0, 2 * np.pi, count)
    scale = size * rng.uniform(*radius, count)
    step = 0
    while cv2.countNonZero(mask) < wanted:
        k = step % count
        cv2.fillPoly(mask, [_polygon(places[k], scale[k], rng)], 1, cv2.LINE_8, 3)
        headings[k] += rng.normal(0, 0.7)
        move = scale[k] * rng.uniform(0.6, 1.3)
        places[k] += move * np.array([np.cos(headings[k]), np.sin(headings[k])])
        if (places[k] < 0).any() or (places[k] >= size).any():
            places[k] = rng.uniform(0, size, 2)  # the chain left the picture: start another
        step += 1
    return mask


def free_form_hole(
    size: int,
    rng: np.random.Generator,
    *,
    coverage: tuple[float, float] = (0.05, 0.5),
    strokes: tuple[int, int] = (1, 4),
    vertices: tuple[int, int] = (4, 12),
    length: float = 40 / 256,
    width: tuple[float, float] = (12 / 256, 40 / 256),
    angle: tuple[float, float] = (2 * np.pi / 5, 2 * np.pi / 15),
) -> Mask:
    """Brush strokes with round joints, as the free-form masks of DeepFill v2.

    A stroke is a line of random vertices whose direction swings back and forth: every second angle
    is turned back by half a circle. The mask is mirrored left to right and upside down by chance.

    Args:
        coverage: range of the share of pixels in holes. A hole outside of it is drawn anew, at most
            16 times; then the nearest one is taken.
        strokes, vertices: ranges of counts, both ends included.
        length: mean length of a step between vertices, as a share of `size`.
        width: range of the brush width, as a share of `size`.
        angle: mean turn at a vertex, and half of the range around it, in radians.
    """
    low, high = _checked(size, coverage)
    best, least = np.zeros((size, size), np.uint8), np.inf
    for _ in range(_TRIES):
        mask = np.zeros((size, size), np.uint8)
        for _ in range(int(rng.integers(strokes[0], strokes[1] + 1))):
            count = int(rng.integers(vertices[0], vertices[1] + 1))
            turns = rng.uniform(angle[0] - angle[1], angle[0] + angle[1], count)
            turns[::2] = 2 * np.pi - turns[::2]
            steps = np.clip(rng.normal(length, length / 2, count), 0, 2 * length) * size
            brush = max(1, round(size * rng.uniform(*width)))
            moves = steps[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1)
            start = rng.uniform(0, size, 2)
            line = np.clip(start + np.concatenate([[[0, 0]], np.cumsum(moves, axis=0)]), 0, size)
            points = np.round(line).astype(np.int32)
            cv2.polylines(mask, [points], False, 1, brush)
            for x, y in points:
                cv2.circle(mask, (int(x), int(y)), brush // 2, 1, -1)
        share = cv2.countNonZero(mask) / mask.size
        miss = max(low - share, share - high, 0.0)
        if miss < least:
            best, least = mask, miss
        if miss == 0:
            break
    if rng.random() < 0.5:
        best = best[:, ::-1]
    if rng.random() < 0.5:
        best = best[::-1]
    return np.ascontiguousarray(best)
