"""Where on an aligned face an operation may work: polygons, discs and soft edges in NumPy.

All sizes are fractions of the distance between the eye centres, so they fit every square.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "box_mean",
    "convex_hull",
    "dilate",
    "erode",
    "fill_polygon",
    "label_components",
    "lengths_and_widths",
    "skin_region",
    "soften_inside",
]

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]


def fill_polygon(points: npt.ArrayLike, size: int) -> BoolArray:
    """Pixels of a [size, size] square whose centres lie in a polygon (even-odd rule).

    Args:
        points: [K, 2] corners (x, y) in pixels; may lie outside the square.
    """
    corners = np.asarray(points, dtype=np.float64)
    toggles = np.zeros((size, size + 1), dtype=np.int32)
    following = np.roll(corners, -1, axis=0)
    for (x0, y0), (x1, y1) in zip(corners, following, strict=True):
        low, high = min(y0, y1), max(y0, y1)
        rows = np.arange(max(0, math.ceil(low)), min(size, math.ceil(high)))
        if rows.size:
            crossing = x0 + (rows - y0) * ((x1 - x0) / (y1 - y0))
            columns = np.clip(np.ceil(crossing), 0, size).astype(np.int64)
            toggles[rows, columns] += 1
    return np.asarray(np.cumsum(toggles, axis=1)[:, :size] % 2 == 1)


def convex_hull(points: npt.ArrayLike) -> Points:
    """Corners of the convex hull, in order (Andrew's monotone chain)."""
    ordered = sorted({(float(x), float(y)) for x, y in np.asarray(points, dtype=np.float64)})

    def chain(sequence: list[tuple[float, float]]) -> list[tuple[float, float]]:
        kept: list[tuple[float, float]] = []
        for x, y in sequence:
            while len(kept) >= 2:
                (ax, ay), (bx, by) = kept[-2], kept[-1]
                if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                    break
                kept.pop()
            kept.append((x, y))
        return kept[:-1]

    return np.array(chain(ordered) + chain(ordered[::-1]), dtype=np.float64).reshape(-1, 2)


def dilate(region: BoolArray, radius: float) -> BoolArray:
    """Every pixel within `radius` pixels (a disc) of the region."""
    reach = int(radius)
    if reach < 1:
        return region.copy()
    height, width = region.shape
    out = np.zeros_like(region)
    # counts[y, x] = region pixels left of x: a run is hit where the count differs at its ends
    counts = np.zeros((height, width + 1), dtype=np.int32)
    np.cumsum(region, axis=1, out=counts[:, 1:])
    for dy in range(-reach, reach + 1):
        half = int(math.sqrt(radius * radius - dy * dy))
        right = counts[:, np.minimum(np.arange(width) + half + 1, width)]
        run = right > counts[:, np.maximum(np.arange(width) - half, 0)]
        if dy >= 0:
            out[dy:] |= run[: height - dy]
        else:
            out[:dy] |= run[-dy:]
    return out


def erode(region: BoolArray, radius: float) -> BoolArray:
    """Every pixel of the region further than `radius` from its outside."""
    return ~dilate(~region, radius)


def soften_inside(region: BoolArray, width: int) -> FloatArray:
    """A soft version that is 0 outside the region and rises to 1 within `width` pixels inside.

    Two box blurs of the region eroded by `width`, in whole numbers, so the result is exact.
    """
    if width < 1:
        return region.astype(np.float32)
    first, second = width - width // 2, width // 2
    total = erode(region, width).astype(np.int64)
    scale = 1
    for radius in (first, second):
        for axis in (0, 1):
            total = _box_sum(total, radius, axis)
        scale *= (2 * radius + 1) ** 2
    soft = (total / scale).astype(np.float32)
    soft[~region] = 0.0  # the corners of a box reach further than a disc
    return soft


def _box_sum(values: npt.NDArray[np.int64], radius: int, axis: int) -> npt.NDArray[np.int64]:
    pad = [(0, 0), (0, 0)]
    pad[axis] = (radius + 1, radius)
    sums = np.cumsum(np.pad(values, pad), axis=axis)
    length = values.shape[axis]
    window = 2 * radius + 1
    ahead = np.take(sums, np.arange(window, window + length), axis=axis)
    behind = np.take(sums, np.arange(length), axis=axis)
    return np.asarray(ahead - behind)


def label_components(region: BoolArray) -> tuple[npt.NDArray[np.int32], int]:
    """Number the 8-connected parts of a region.

    Runs of pixels in a row are joined to those they touch in the row above (union-find on runs:
    He et al. 2008, "A run-based two-scan labeling algorithm").

    Returns:
        [H, W] with 0 outside and 1..count inside, and count.
    """
    height, width = region.shape
    edges = np.diff(np.pad(region, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]  # one past the last pixel; as many, in the same order
    first_of_row = np.searchsorted(rows, np.arange(height + 1))
    parents = list(range(len(rows)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    for row in range(1, height):
        above, above_end = int(first_of_row[row - 1]), int(first_of_row[row])
        for run in range(above_end, int(first_of_row[row + 1])):
            while above < above_end and ends[above] < starts[run]:
                above += 1
            touching = above
            while touching < above_end and starts[touching] <= ends[run]:
                parents[root(run)] = root(touching)
                touching += 1
            above = max(above, touching - 1)  # the last one may touch the next run, too
    roots = np.array([root(run) for run in range(len(rows))], dtype=np.int64)
    found, numbers = np.unique(roots, return_inverse=True)
    labels = np.zeros((height, width + 1), dtype=np.int32)
    labels[rows, starts] = numbers + 1
    np.subtract.at(labels, (rows, ends), (numbers + 1).astype(np.int32))
    return np.cumsum(labels, axis=1, dtype=np.int32)[:, :width], len(found)


def lengths_and_widths(
    labels: npt.NDArray[np.int32], count: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Length and width of each part in pixels: of the ellipse-like bar with its second moments.

    Returns:
        Two arrays [count]; part n of `label_components` is at n - 1.
    """
    rows, columns = np.nonzero(labels)
    which = labels[rows, columns]

    def mean(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        sums = np.bincount(which, weights=values, minlength=count + 1)[1:]
        return np.asarray(sums / np.maximum(np.bincount(which, minlength=count + 1)[1:], 1))

    x, y = columns.astype(np.float64), rows.astype(np.float64)
    # A pixel is a square of side 1: it has a second moment of 1/12 itself.
    xx = mean(x * x) - mean(x) ** 2 + 1 / 12
    yy = mean(y * y) - mean(y) ** 2 + 1 / 12
    xy = mean(x * y) - mean(x) * mean(y)
    middle, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    # A bar of length L has the second moment L * L / 12 along itself.
    return np.sqrt(12 * (middle + spread)), np.sqrt(12 * np.maximum(middle - spread, 0.0))


def box_mean(values: npt.NDArray[Any], weights: BoolArray, radius: int) -> FloatArray:
    """Mean of [H, W, C] over the weighted pixels of a square window; 0 where it has none."""
    share = _box_blur(weights[:, :, None].astype(np.float64), radius)
    total = _box_blur(np.where(weights[:, :, None], values, 0.0).astype(np.float64), radius)
    return np.where(share > 0.5, total / np.maximum(share, 0.5), 0.0).astype(np.float32)


def _box_blur(values: npt.NDArray[np.float64], radius: int) -> npt.NDArray[np.float64]:
    """Sums over a (2 radius + 1)^2 window of [H, W, C]; nothing lies beyond the border."""
    for axis in (0, 1):
        pad = [(0, 0)] * values.ndim
        pad[axis] = (radius + 1, radius)
        sums = np.cumsum(np.pad(values, pad), axis=axis)
        length = values.shape[axis]
        ahead = np.take(sums, np.arange(2 * radius + 1, 2 * radius + 1 + length), axis=axis)
        values = ahead - np.take(sums, np.arange(length), axis=axis)
    return values


def skin_region(landmarks: npt.ArrayLike, size: int) -> BoolArray:
    """Skin of an upright face in its square: the face and forehead, less what is not skin.

    Left out, each with a little around it: eyes with their lids, brows, lips, nostrils and nose
    wings. The forehead reaches above the brows by about as much as the nose is long, as in the
    rule of thirds that portrait painters use, and is rounded like a skull.

    Args:
        landmarks: [68, 2] in pixels of the square, iBUG 300-W order.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    left_eye, right_eye = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
    unit = float(np.hypot(*(right_eye - left_eye)))  # the distance that everything scales with

    allowed = fill_polygon(_outline(points), size)
    by_margin: dict[float, BoolArray] = {}
    for polygon, margin in _features(points, unit):
        filled = fill_polygon(polygon, size)
        by_margin[margin] = by_margin[margin] | filled if margin in by_margin else filled
    kept_out = np.zeros((size, size), dtype=np.bool_)
    for margin, filled in by_margin.items():
        kept_out |= dilate(filled, margin * unit)
    return np.asarray(erode(allowed, 0.04 * unit) & ~kept_out)


def _outline(points: Points) -> Points:
    """Jaw from ear to ear, closed above by half an ellipse over the forehead."""
    brows = points[17:27].mean(axis=0)
    nose_base = points[33]
    ears = (points[0] + points[16]) / 2
    top = brows - 0.85 * (nose_base - brows)
    across = (points[16] - points[0]) / 2
    # The hairline at the temples lies well inside the line from ear to ear.
    angles = np.linspace(0.0, math.pi, 25)[1:-1]
    ellipse = [
        ears + 0.94 * math.cos(angle) * across + math.sin(angle) ** 0.8 * (top - ears)
        for angle in angles
    ]
    return np.concatenate([points[:17], np.array(ellipse)])


def _features(points: Points, unit: float) -> list[tuple[Points, float]]:
    """Polygons that are not skin, each with its margin as a fraction of the eye distance."""
    features: list[tuple[Points, float]] = []
    for brow, eye in ((points[17:22], points[36:42]), (points[22:27], points[42:48])):
        # A brow is about as thick as a tenth of the eye distance; the lid lies between it and the
        # eye, and its crease is no wrinkle.
        features.append((convex_hull(np.concatenate([brow, eye])), 0.06))
        features.append(
            (convex_hull(np.concatenate([brow, brow - np.array([0.0, 0.06 * unit])])), 0.06)
        )
        features.append((eye, 0.08))
    features.append((points[48:60], 0.06))
    # The wings of the nose reach well beyond the nostrils, up to the tip of the nose;
    # the crease around them is the nose's own.
    tip, base = points[30], points[31:36]
    wings = base[2] + (base - base[2]) * np.array([1.75, 1.0])
    above = wings[[0, 4]] * np.array([1.0, 0.0]) + tip * np.array([0.0, 1.0])
    features.append((convex_hull(np.concatenate([points[30:36], wings, above])), 0.06))
    return features
