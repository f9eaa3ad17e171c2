"""Where faces wrinkle: seeded fold lines placed with the 68 landmarks.

A fold is a polyline with a width and a depth at every point. All positions and lengths are in
pixels of the aligned square (revisage.alignment.square_matrix); lengths scale with the eye
distance, so the same code serves any square size.

The zones are those of wrinkle anatomy: forehead lines, glabella (frown) and nasal root lines,
crow's feet, lower-lid lines and bags, nasolabial and marionette folds, perioral lines, chin crease,
cheek and neck lines, and chains of short segments anywhere on the face.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["Fold", "wrinkle_folds"]

Points = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, eq=False)
class Fold:
    """One fold line.

    points: [N, 2] float32, x and y in square pixels, about 2 px apart.
    width: [N] float32, standard deviation of the valley across the line, pixels.
    depth: [N] float32, darkening at the bottom of the valley as a fraction of luminance, 0 to 1.
    sharpness: exponent of the profile exp(-0.5 |d / width| ** sharpness); 2 is a Gaussian, lower
        values are creases with a sharp bottom, higher values flat-bottomed grooves.
    shoulder: brightness of the skin beside the valley, as a share of the depth.
    """

    points: FloatArray
    width: FloatArray
    depth: FloatArray
    sharpness: float
    shoulder: float


class _Face:
    """Landmarks with the lengths and directions that the zones are measured in."""

    def __init__(self, landmarks: npt.ArrayLike) -> None:
        self.points: Points = np.asarray(landmarks, dtype=np.float64)
        left, right = self.points[36:42].mean(axis=0), self.points[42:48].mean(axis=0)
        self.eyes = (left + right) / 2
        self.unit = float(np.hypot(*(right - left)))  # eye distance
        self.across = (right - left) / max(self.unit, 1e-6)  # towards the right of the picture
        down = self.points[57] - self.points[27]
        self.down = down / max(float(np.hypot(*down)), 1e-6)
        self.scale = self.unit / 122.0  # 1.0 in the 512 px square of a frontal face

    def at(self, x: float, y: float) -> Points:
        """The point x eye distances to the right of and y below the middle of the eyes."""
        return np.asarray(
            self.eyes + self.unit * (x * self.across + y * self.down), dtype=np.float64
        )


_SPLINE_STEPS = np.linspace(0, 1, 12, endpoint=False)[:, None]


def _spline(control: Points, spacing: float = 2.0) -> Points:
    """Catmull-Rom curve through the control points [K, 2], resampled to equal spacing."""
    t = _SPLINE_STEPS
    before, after = 2 * control[:1] - control[1:2], 2 * control[-1:] - control[-2:-1]
    padded = np.concatenate([before, control, after])
    p0, p1, p2, p3 = (padded[i : len(padded) - 3 + i, None] for i in range(4))
    curve = 0.5 * (
        2 * p1
        + (p2 - p0) * t
        + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
        + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )
    return _resampled(np.concatenate([curve.reshape(-1, 2), control[-1:]]), spacing)


def _resampled(line: Points, spacing: float) -> Points:
    step = np.hypot(*np.diff(line, axis=0).T)
    length = np.concatenate([[0.0], np.cumsum(step)])
    count = max(2, int(length[-1] / spacing) + 1)
    where = np.linspace(0, length[-1], count)
    return np.stack([np.interp(where, length, line[:, 0]), np.interp(where, length, line[:, 1])], 1)


def _smooth_noise(count: int, period: float, rng: np.random.Generator) -> Points:
    """[count] noise of about unit size that changes over `period` samples."""
    knots = rng.normal(0, 1, int(count / period) + 3)
    where = np.arange(count) / period + rng.random()
    return np.asarray(np.interp(where, np.arange(len(knots)), knots), dtype=np.float64)


def _wobbled(line: Points, amount: float, rng: np.random.Generator) -> Points:
    """The line moved sideways by smooth noise of `amount` pixels."""
    along = np.empty_like(line)  # central differences: a numpy.gradient without its overhead
    along[1:-1] = (line[2:] - line[:-2]) / 2
    along[0], along[-1] = line[1] - line[0], line[-1] - line[-2]
    length = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-6)
    normal = np.stack([-along[:, 1], along[:, 0]], 1) / length[:, None]
    offset = _smooth_noise(len(line), 12, rng) + 0.35 * _smooth_noise(len(line), 4, rng)
    return line + amount * offset[:, None] * normal


@dataclasses.dataclass(frozen=True)
class _Look:
    """What the folds of one face share: how deep and wide its wrinkles are, and how soft."""

    depth: float
    width: float
    sharpness: float
    shoulder: float
    wobble: float
    breaks: float

    @staticmethod
    def drawn(rng: np.random.Generator) -> _Look:
        return _Look(
            depth=float(np.exp(rng.uniform(np.log(0.07), np.log(0.42)))),
            width=float(np.exp(rng.uniform(np.log(0.8), np.log(2.4)))),
            sharpness=float(rng.choice([1.2, 1.6, 2.0, 2.0, 3.0, 4.0])),
            shoulder=float(rng.choice([0.0, 0.1, 0.2, 0.35])),
            wobble=float(rng.uniform(0.3, 1.6)),
            breaks=float(rng.choice([0.0, 0.1, 0.3])),
        )


def _fold(
    line: Points,
    face: _Face,
    look: _Look,
    rng: np.random.Generator,
    *,
    width: float = 1.0,
    depth: float = 1.0,
) -> Fold:
    """A fold along a line: wobble, tapered ends, uneven width and depth, now and then a gap."""
    line = _wobbled(line, look.wobble * face.scale, rng)
    count = len(line)
    t = np.linspace(0, 1, count)
    start, end = rng.uniform(0.05, 0.4, 2)
    taper = np.clip(t / start, 0, 1) * np.clip((1 - t) / end, 0, 1)
    taper = taper * (2 - taper)
    widths = face.scale * look.width * width * float(np.exp(rng.normal(0, 0.25)))
    depths = look.depth * depth * float(np.exp(rng.normal(0, 0.35)))
    along_width = widths * (0.45 + 0.55 * taper) * np.exp(0.18 * _smooth_noise(count, 8, rng))
    # Wide folds are soft; narrow ones can be deep.
    depths *= min(1.0, (1.8 * face.scale / widths) ** 0.7)
    along_depth = depths * taper * np.exp(0.22 * _smooth_noise(count, 7, rng))
    if rng.random() < look.breaks and count > 14:
        gap = np.abs(np.arange(count) - rng.uniform(0.2, 0.8) * count) / rng.uniform(2, 5)
        along_depth = along_depth * (1 - np.exp(-0.5 * gap**2))
    return Fold(
        points=line.astype(np.float32),
        width=np.clip(along_width, 0.55, 3.6 * max(face.scale, 0.5)).astype(np.float32),
        depth=np.clip(along_depth, 0.0, 0.65).astype(np.float32),
        sharpness=look.sharpness,
        shoulder=look.shoulder,
    )


def _branch(fold: Fold, face: _Face, look: _Look, rng: np.random.Generator) -> Fold:
    """A thinner line that leaves a fold at a narrow angle."""
    count = len(fold.points)
    index = int(rng.integers(count // 4, max(count // 4 + 1, 3 * count // 4)))
    origin = fold.points[index].astype(np.float64)
    along = fold.points[min(index + 2, count - 1)] - fold.points[max(index - 2, 0)]
    angle = np.arctan2(along[1], along[0]) + rng.choice([-1, 1]) * rng.uniform(0.25, 0.7)
    angle += np.pi * (rng.random() < 0.5)
    length = face.unit * rng.uniform(0.06, 0.2)
    direction = np.array([np.cos(angle), np.sin(angle)])
    bend = np.array([-direction[1], direction[0]]) * rng.normal(0, 0.1) * length
    steps = np.array([[0.0], [0.5], [1.0]])
    control = origin + steps * length * direction + 4 * steps * (1 - steps) * bend
    return _fold(_spline(control), face, look, rng, width=0.7, depth=0.7)


def _forehead(face: _Face, look: _Look, rng: np.random.Generator) -> list[Fold]:
    brow = face.points[17:27]
    heights = (brow - face.eyes) @ face.down
    top = float(heights.min())
    arch = float(rng.uniform(0.0, 0.9))
    first, gap = rng.uniform(0.1, 0.3) * face.unit, rng.uniform(0.08, 0.2) * face.unit
    sides = (brow - face.eyes) @ face.across
    folds = []
    for row in range(int(rng.integers(1, 7))):
        up = first + row * gap * rng.uniform(0.8, 1.2)
        if up > 0.95 * face.unit:
            break
        # Lines are whole, or broken into a few runs side by side.
        runs = 1 if rng.random() < 0.6 else int(rng.integers(2, 4))
        whole = np.sort(rng.uniform(-0.85, 0.85, 2))
        if whole[1] - whole[0] < 0.5:
            whole = np.array([-0.6, 0.6]) + rng.normal(0, 0.1, 2)
        edges = np.linspace(whole[0], whole[1], runs + 1)
        for a, b in itertools.pairwise(edges):
            x = np.linspace(a, b - 0.06 * (runs > 1), 5) * face.unit
            brow_height = np.interp(x, sides, heights)
            y = top + arch * (brow_height - top) * np.exp(-up / (0.5 * face.unit)) - up
            sag = rng.normal(0, 0.03) * face.unit * (x / face.unit) ** 2
            y = y + sag + rng.normal(0, 0.008, 5) * face.unit
            control = face.eyes + x[:, None] * face.across + y[:, None] * face.down
            folds.append(_fold(_spline(control), face, look, rng))
    return folds


def _glabella(face: _Face, look: _Look, rng: np.random.Generator) -> list[Fold]:
    middle = (face.points[21] + face.points[22]) / 2
    half = 0.5 * float(np.hypot(*(face.points[22] - face.points[21])))
    folds = []
    sides = rng.permutation([-1.0, 1.0, -0.35, 0.35, 0.0])[: int(rng.integers(1, 5))]
    for side in sides:
        foot = middle + side * half * rng.uniform(0.35, 0.8) * face.across
        foot = foot + rng.uniform(-0.02, 0.12) * face.unit * face.down
        rise = rng.uniform(0.14, 0.42) * face.unit
        lean = side * rng.uniform(-0.05, 0.18) * rise
        t = np.linspace(0, 1, 4)[:, None]
        control = foot - t * rise * face.down + lean * t**2 * face.across
        folds.append(_fold(_spline(control), face, look, rng, width=1.1, depth=1.1))
    if rng.random() < 0.4:  # across the root of the nose
        for row in range(int(rng.integers(1, 4))):
            centre = face.points[27] + (0.02 + 0.07 * row) * face.unit * face.down
            half_width = rng.uniform(0.08, 0.16) * face.unit
            x = np.linspace(-1, 1, 5)[:, None]
            bow = rng.uniform(-0.03, 0.04) * face.unit
            control = centre + x * half_width * face.across + bow * x**2 * face.down
            folds.append(_fold(_spline(control), face, look, rng, width=0.8))
    return folds


def _crows_feet(face: _Face, look: _Look, rng: np.random.Generator) -> list[Fold]:
    folds = []
    count = int(rng.integers(2, 7))
    spread = rng.uniform(0.7, 1.5)
    for corner, side in ((36, -1.0), (45, 1.0)):
        if rng.random() < 0.15:
            continue
        for line in range(count):
            angle = spread * ((line + 0.5) / count - 0.5) + rng.normal(0.12, 0.08)
            outward = side * np.cos(angle) * face.across + np.sin(angle) * face.down
            origin = face.points[corner] + rng.uniform(0.08, 0.2) * face.unit * outward
            length = rng.uniform(0.12, 0.42) * face.unit
            sag = rng.normal(0.06 * np.sign(angle), 0.06) * length
            t = np.linspace(0, 1, 4)[:, None]
            control = origin + t * length * outward + 4 * sag * t * (1 - t) * face.down
            folds.append(_fold(_spline(control), face, look, rng, width=0.85))
    return folds


def _under_eye(face: _Face, look: _Look, rng: np.random.Generator) -> list[Fold]:
    folds = []
    count = int(rng.integers(1, 5))
    first, gap = rng.uniform(0.07, 0.2), rng.uniform(0.035, 0.09)
    for lid in ((36, 41, 40, 39), (45, 46, 47, 42)):
        curve = face.points[list(lid)]
        for row in range(count):
            drop = (first + row * gap) * face.unit
            bulge = np.array([0.5, 0.95, 1.0, 0.75]) * drop
            control = curve + bulge[:, None] * face.down
            side = np.sign((curve[0] - curve[3]) @ face.across)
            control = control + side * rng.uniform(-0.02, 0.06) * face.unit * face.across
            line = _spline(control)
            a, b = np.sort(rng.uniform(0, 1, 2))
            if b - a < 0.35:
                a, b = 0.1, 0.95
            line = line[int(a * len(line)) : int(b * len(line)) + 2]
            if len(line) >= 4:
                folds.append(
                    _fold(line, face, look, rng, width=1.2 if row == 0 else 0.75, depth=0.8)
                )
    return folds


def _nasolabial(face: _Face, look: _Look, rng: np.random.Generator) -> list[Fold]:
    folds = []
    for wing, corner, side in ((31, 48, -1.0), (35, 54, 1.0)):
        if rng.random() < 0.1:
            continue
        p = face.points
        start = p[wing] + rng.uniform(0.06, 0.16) * side * face.unit * face.across
        start = start - rng.uniform(0.0, 0.12) * face.unit * face.down
        end = p[corner] + rng.uniform(0.1, 0.24) * side * face.unit * face.across
        end = end + rng.uniform(-0.12, 0.16) * face.unit * face.down
        bow = rng.uniform(-0.02, 0.07) * side * face.unit * face.across
        middle = (start + end) / 2 + bow - 0.02 * face.unit * face.down
        line = _spline(np.stack([start, middle, end]))
        folds.append(_fold(line, face, look, rng, width=1.6, depth=1.1))
        if rng.random() < 0.3:  # a second line outside the first
            shift = rng.uniform(0.06, 0.13) * side * face.unit * face.across
            folds.append(_fold(line[len(line) // 4 :] + shift, face, look, rng, depth=0.7))
    return folds


def _marionette(face: _Face, look: _Look, rng: np.random.Generator) -> list[Fold]:
    folds = []
    for corner, side in ((48, -1.0), (54, 1.0)):
        start = face.points[corner] + rng.uniform(0.01, 0.07) * side * face.unit * face.across
        start = start + rng.uniform(0.03, 0.1) * face.unit * face.down
        drop = rng.uniform(0.15, 0.45) * face.unit
        lean = rng.uniform(-0.05, 0.3) * side * drop
        t = np.linspace(0, 1, 4)[:, None]
        control = start + t * drop * face.down + t**1.5 * lean * face.across
        folds.append(_fold(_spline(control), face, look, rng, width=1.2))
    return folds


def _perioral(face: _Face, look: _Look, rng: np.random.Generator) -> list[Fold]:
    folds = []
    for _ in range(int(rng.integers(3, 10))):
        upper = rng.random() < 0.7
        row = face.points[48:55] if upper else face.points[[54, 55, 56, 57, 58, 59, 48]]
        where = rng.uniform(0.5, 5.5)
        i = int(where)
        lip = row[i] + (where - i) * (row[min(i + 1, 6)] - row[i])
        away = -face.down if upper else face.down
        start = lip + rng.uniform(0.03, 0.06) * face.unit * away
        length = rng.uniform(0.06, 0.17) * face.unit
        lean = 0.3 * ((lip - face.points[51]) @ face.across) / face.unit + rng.normal(0, 0.08)
        control = start + np.linspace(0, 1, 3)[:, None] * length * (away + lean * face.across)
        folds.append(_fold(_spline(control), face, look, rng, width=0.7, depth=0.8))
    if rng.random() < 0.4:  # the crease between lip and chin
        centre = 0.6 * face.points[57] + 0.4 * face.points[8]
        x = np.linspace(-1, 1, 5)[:, None]
        bow = rng.uniform(-0.02, 0.08) * face.unit
        half = rng.uniform(0.12, 0.3) * face.unit
        control = centre + x * half * face.across + bow * x**2 * face.down
        folds.append(_fold(_spline(control), face, look, rng, width=1.5, depth=0.9))
    return folds


def _cheek(face: _Face, look: _Look, rng: np.random.Generator) -> list[Fold]:
    folds = []
    for jaw, mouth, eye in ((3, 48, 36), (13, 54, 45)):
        if rng.random() < 0.4:
            continue
        slope = rng.uniform(-0.1, 0.1)
        for line in range(int(rng.integers(1, 5))):
            share = 0.25 + 0.16 * line + rng.normal(0, 0.03)
            top = (1 - share) * face.points[jaw] + share * face.points[mouth]
            top = 0.65 * top + 0.35 * face.points[eye]
            bottom = top + rng.uniform(0.2, 0.5) * face.unit * face.down
            inwards = np.sign((face.points[mouth] - face.points[jaw]) @ face.across)
            bow = (slope + rng.normal(0, 0.02)) * face.unit * inwards * face.across
            control = np.stack([top, (top + bottom) / 2 - bow, bottom + bow])
            folds.append(_fold(_spline(control), face, look, rng, width=1.1, depth=0.8))
    return folds


def _neck(face: _Face, look: _Look, rng: np.random.Generator) -> list[Fold]:
    folds = []
    chin = face.points[8]
    for row in range(int(rng.integers(1, 4))):
        centre = chin + (0.15 + 0.16 * row + rng.normal(0, 0.03)) * face.unit * face.down
        half = rng.uniform(0.25, 0.6) * face.unit
        x = np.linspace(-1, 1, 5)[:, None]
        bow = rng.uniform(-0.18, 0.02) * face.unit
        control = centre + x * half * face.across + bow * x**2 * face.down
        folds.append(_fold(_spline(control), face, look, rng, width=1.4))
    return folds


def _anywhere(face: _Face, look: _Look, rng: np.random.Generator) -> list[Fold]:
    """Chains of straight segments, curves and bundles of parallel lines at random places."""
    folds = []
    for _ in range(int(rng.integers(1, 7))):
        start = face.at(rng.uniform(-1.05, 1.05), rng.uniform(-0.95, 1.6))
        angle, turn = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.25)
        steps = int(rng.integers(2, 6))
        step = rng.uniform(0.06, 0.2) * face.unit
        chain = [start]
        for _ in range(steps):
            angle += turn + rng.normal(0, 0.3)
            chain.append(chain[-1] + step * np.array([np.cos(angle), np.sin(angle)]))
        control = np.stack(chain)
        line = _resampled(control, 2.0) if rng.random() < 0.4 else _spline(control)
        across = np.array([-(line[-1] - line[0])[1], (line[-1] - line[0])[0]])
        across = across / max(float(np.hypot(*across)), 1e-6)
        copies = 1 if rng.random() < 0.7 else int(rng.integers(2, 5))
        gap = rng.uniform(0.04, 0.1) * face.unit
        for copy in range(copies):
            first = int(rng.uniform(0, 0.25) * len(line))
            part = line[first : len(line) - int(rng.uniform(0, 0.25) * len(line))]
            if len(part) >= 4:
                folds.append(_fold(part + copy * gap * across, face, look, rng))
    return folds


_ZONES: tuple[tuple[Callable[[_Face, _Look, np.random.Generator], list[Fold]], float], ...] = (
    (_forehead, 0.7),
    (_glabella, 0.5),
    (_crows_feet, 0.6),
    (_under_eye, 0.55),
    (_nasolabial, 0.6),
    (_marionette, 0.35),
    (_perioral, 0.3),
    (_cheek, 0.35),
    (_neck, 0.3),
    (_anywhere, 0.5),
)


def wrinkle_folds(
    landmarks: npt.ArrayLike, rng: np.random.Generator, *, amount: float = 1.0
) -> list[Fold]:
    """Fold lines of one face.

    Args:
        landmarks: [68, 2] points (x, y) in square pixels, iBUG 300-W order.
        amount: how many of the zones wrinkle; 1 is about half of them, 0 none.

    Returns:
        Folds in drawing order. All random numbers come from `rng`.
    """
    face = _Face(landmarks)
    shared = _Look.drawn(rng)
    folds: list[Fold] = []
    for zone, chance in _ZONES:
        if rng.random() >= min(1.0, chance * amount):
            continue
        # Zones of one face resemble each other, but are not alike.
        own = _Look.drawn(rng)
        mix = rng.uniform(0.0, 0.6)
        look = dataclasses.replace(
            shared,
            depth=shared.depth ** (1 - mix) * own.depth**mix,
            width=shared.width ** (1 - mix) * own.width**mix,
            sharpness=own.sharpness,
            wobble=own.wobble,
        )
        drawn = zone(face, look, rng)
        for fold in list(drawn):
            if len(fold.points) > 16 and rng.random() < 0.12:
                drawn.append(_branch(fold, face, look, rng))
        folds.extend(drawn)
    return folds
