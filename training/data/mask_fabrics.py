"""Fabrics of worn masks: relief and colour over the flat fabric.

A fabric is drawn flat, with s (-1 to 1) across and v (0 to 1) down, about as fine as the picture
that shows it. The relief is in eye distances, the colour is the share of light that is thrown back
(linear, 0 to 1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import cv2
import numba
import numpy as np
import numpy.typing as npt

__all__ = ["FABRICS", "Fabric", "grain_tile"]

FloatArray = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, eq=False)
class Fabric:
    """relief: [V, U]. colour: [V, U, 3]. band: [3] colour of the bands. gloss: shine, 0 to 1."""

    relief: FloatArray
    colour: FloatArray
    band: FloatArray
    band_width: float  # eye distances
    gloss: float


_NO_SEAM = 9.0  # outside of every fabric
_GRAIN = 512
_TILE = np.random.default_rng(0).standard_normal((_GRAIN, _GRAIN), dtype=np.float32)


def grain_tile(rng: np.random.Generator) -> tuple[FloatArray, int, int]:
    """White noise of unit size, [512, 512] to be read cyclically, and where to start in it.

    One tile for all, because fresh noise would cost more than the drawing.
    """
    return _TILE, int(rng.integers(_GRAIN)), int(rng.integers(_GRAIN))


def _linear(red: float, green: float, blue: float) -> FloatArray:
    """Colour of an 8-bit sRGB triple as linear reflectance."""
    return np.array([(c / 255) ** 2.2 for c in (red, green, blue)], np.float32)


def _gray(value: float) -> FloatArray:
    return _linear(value, value, value)


def _varied(colour: FloatArray, rng: np.random.Generator, amount: float = 0.06) -> FloatArray:
    return np.clip(colour * np.exp(rng.normal(0, amount, 3)), 0.012, 0.88).astype(np.float32)


def _relief(
    width: float,
    height: float,
    texels: int,
    rng: np.random.Generator,
    noise: tuple[tuple[float, int, int], ...],
) -> FloatArray:
    """Sum of smooth noises (size, changes down, changes across) over a fabric [V, U]."""
    rows = max(16, round(texels * height / width))
    out = np.zeros((rows, texels), np.float32)
    for size, down, across in noise:
        knots = rng.standard_normal((down + 1, across + 1), dtype=np.float32) * np.float32(size)
        out += cv2.resize(knots, (texels, rows), interpolation=cv2.INTER_CUBIC)
    return out


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _add_creases(
    relief: FloatArray, width: float, height: float, creases: npt.NDArray[np.float64]
) -> None:
    """Add folds, rows of (x, y, angle, length, breadth, amplitude, bend), to `relief`."""
    rows, columns = relief.shape
    for k in range(creases.shape[0]):
        x0, y0, angle, length, breadth, amplitude, bend = creases[k]
        c, s = np.cos(angle), np.sin(angle)
        xs = (x0 - breadth * c, x0 + length * c)
        ys = (y0 - breadth * s, y0 + length * s)
        reach = 5 * breadth + abs(bend) * length * length
        low_x = max(0, int((min(xs) - reach + width / 2) / width * (columns - 1)))
        high_x = min(columns - 1, int((max(xs) + reach + width / 2) / width * (columns - 1)) + 1)
        low_y = max(0, int((min(ys) - reach + height / 2) / height * (rows - 1)))
        high_y = min(rows - 1, int((max(ys) + reach + height / 2) / height * (rows - 1)) + 1)
        for i in range(low_y, high_y + 1):
            y = (i / (rows - 1) - 0.5) * height - y0
            for j in range(low_x, high_x + 1):
                x = (j / (columns - 1) - 0.5) * width - x0
                along = c * x + s * y
                if along < -breadth or along > length:
                    continue
                t = max(along / length, 0.0)
                across = (c * y - s * x - bend * along * along) / (breadth * (0.6 + 0.9 * t))
                if across * across > 9:
                    continue
                fade = (1.0 - t) * min(1.0, 1.0 + along / breadth)
                relief[i, j] += amplitude * fade * np.exp(-0.5 * across * across)


def _crumple(
    relief: FloatArray, width: float, height: float, rng: np.random.Generator, strength: float
) -> None:
    """Folds that the bands pull from the corners towards the middle, and loose ones."""
    creases = []
    for side in (-1.0, 1.0):
        for corner in (-1.0, 1.0):
            for _ in range(int(rng.integers(1, 4))):
                angle = rng.normal(-0.35 * corner, 0.35)
                creases.append(
                    (
                        side * width / 2 * rng.uniform(0.86, 1.0),
                        corner * height / 2 * rng.uniform(0.45, 0.95),
                        angle if side < 0 else np.pi - angle,
                        width * rng.uniform(0.15, 0.45),
                        rng.uniform(0.02, 0.055),
                        strength * rng.normal(0.016, 0.010),
                        rng.normal(0, 0.2),
                    )
                )
    for _ in range(int(rng.integers(2, 7))):
        place = (width * rng.uniform(-0.45, 0.45), height * rng.uniform(-0.45, 0.45))
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.7)
        breadth, bend = rng.uniform(0.02, 0.06), rng.normal(0, 0.4)
        creases.append((*place, angle, length, breadth, strength * rng.normal(0, 0.012), bend))
    _add_creases(relief, width, height, np.array(creases))


@numba.njit(cache=True, nogil=True, fastmath=True, inline="always", error_model="numpy")
def _near(distance: float, half: float) -> float:
    """1 within `half` of zero distance, soft to 0 just outside."""
    return min(max(1.5 - abs(distance) / half, 0.0), 1.0)


@numba.njit(cache=True, nogil=True, fastmath=True, inline="always", error_model="numpy")
def _dotted(along: float, distance: float, pitch: float, half: float) -> float:
    """A dotted seam: 1 in a dot, 0 between."""
    near = _near(distance, half)
    if near == 0.0:
        return 0.0
    wave: float = np.sin(along * (2 * np.pi / pitch))
    return near * min(max(2 * wave + 0.6, 0.0), 1.0)


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _weave_surgical(
    relief: FloatArray,
    colour: FloatArray,
    width: float,
    height: float,
    base: FloatArray,
    trim: FloatArray,
    pleats: npt.NDArray[np.float64],
    gap: float,
    grain: FloatArray,
    top: int,
    left: int,
) -> None:
    """pleats: rows of (v, sag, sway, depth)."""
    rows, columns = relief.shape
    count = pleats.shape[0]
    lines = np.empty((columns, count))
    for j in range(columns):
        s = 2.0 * j / (columns - 1) - 1
        for k in range(count):
            lines[j, k] = pleats[k, 0] + pleats[k, 1] * (1 - s * s) + pleats[k, 2] * np.sin(3 * s)
    for i in range(rows):
        v = i / (rows - 1)
        edge = min(v, 1 - v) * height
        for j in range(columns):
            s = 2.0 * j / (columns - 1) - 1
            x, y = s * width / 2, (v - 0.5) * height
            middle = 1 - s * s
            light, rise = 1.0, 0.0
            for k in range(count):
                below = v - lines[j, k]
                deep = pleats[k, 3] * (0.4 + 0.6 * middle)
                # A layer rises slowly to its folded edge, then drops to the layer under it.
                if below < 0:
                    ramp = 1 + below / (0.9 * gap)
                    if ramp > 0:
                        rise += deep * ramp * np.sqrt(ramp)
                    if below > -0.035:
                        light *= 1 + 0.07 * np.exp(-(((below + 0.010) / 0.010) ** 2))
                elif below < 0.10:
                    rise += deep * max(0.0, 1 - below / 0.020)
                    light *= 1 - min(11.0 * deep, 0.45) * np.exp(-below / 0.022)
            wire = _near(v - 0.055, 0.018) * min(max(4.5 - 10 * abs(s), 0.0), 1.0)
            side = (1 - abs(s)) * width / 2
            hem = min(max(3.6 - 30 * min(edge, side), 0.0), 1.0)
            dots = _dotted(x, edge - 0.085, 0.055, 0.012) + _dotted(x, edge - 0.03, 0.055, 0.012)
            dots += _dotted(y, side - 0.05, 0.05, 0.018)
            relief[i, j] += rise + 0.010 * wire + 0.006 * hem - 0.005 * dots
            noise = grain[(top + i) % 512, (left + j) % 512]
            light *= (1 - 0.12 * dots) * (1 + 0.025 * noise)
            for c in range(3):
                colour[i, j, c] = light * (base[c] + hem * (trim[c] - base[c]))


_SURGICAL = (
    ((136, 186, 220), 0.34), ((168, 208, 232), 0.14), ((240, 242, 244), 0.18),
    ((150, 205, 195), 0.10), ((32, 33, 36), 0.10), ((236, 188, 198), 0.05),
    ((196, 182, 216), 0.03), ((150, 155, 162), 0.03), ((70, 110, 170), 0.03),
)  # fmt: skip
_SURGICAL_SHARES = np.cumsum([share for _, share in _SURGICAL])


def _surgical(width: float, height: float, texels: int, rng: np.random.Generator) -> Fabric:
    """Pleats, welded edges with dotted lines, a wire over the nose."""
    pick = int(np.searchsorted(_SURGICAL_SHARES, rng.random() * _SURGICAL_SHARES[-1]))
    base = _varied(_linear(*_SURGICAL[pick][0]), rng)
    trim = base if rng.random() < 0.5 else np.maximum(base, _linear(215, 222, 228))
    relief = _relief(width, height, texels, rng, ((0.014, 4, 5), (0.007, 14, 4)))
    _crumple(relief, width, height, rng, 1.2)
    count = int(rng.choice([2, 3, 3, 3, 4]))
    first, gap = rng.uniform(0.24, 0.32), rng.uniform(0.14, 0.18) * 3 / max(count, 3)
    openness = rng.uniform(0.6, 1.25)
    pleats = np.array(
        [
            (
                first + number * gap,
                rng.normal(0, 0.012),
                rng.normal(0, 0.006),
                0.036 * openness * rng.uniform(0.7, 1.2),
            )
            for number in range(count)
        ]
    )
    colour = np.empty((*relief.shape, 3), np.float32)
    _weave_surgical(relief, colour, width, height, base, trim, pleats, gap, *grain_tile(rng))
    white = base.mean() > 0.1 or rng.random() < 0.3
    return Fabric(
        relief, colour, _gray(236) if white else base, float(rng.uniform(0.03, 0.045)), 0.12
    )


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _print_pattern(
    colour: FloatArray,
    width: float,
    height: float,
    base: FloatArray,
    other: FloatArray,
    kind: int,
    turn: float,
    period: float,
    share: float,
) -> None:
    """Fill with a pattern: 0 plain, 1 stripes, 2 checks, 3 dots."""
    rows, columns = colour.shape[:2]
    c, s = np.cos(turn), np.sin(turn)
    sharp = 0.7 * columns / width
    for i in range(rows):
        y = (i / (rows - 1) - 0.5) * height
        for j in range(columns):
            x = (j / (columns - 1) - 0.5) * width
            along, across = (c * x + s * y) / period, (c * y - s * x) / period
            a, b = abs(along - np.floor(along) - 0.5), abs(across - np.floor(across) - 0.5)
            ink = 0.0
            if kind == 1 or kind == 2:
                ink = min(max((share / 2 - a) * period * sharp + 0.5, 0.0), 1.0)
            if kind == 2:
                ink = 0.5 * ink + 0.5 * min(max((share / 2 - b) * period * sharp + 0.5, 0.0), 1.0)
            if kind == 3:
                odd = along + 0.5 * (np.floor(across) % 2)
                a = abs(odd - np.floor(odd) - 0.5)
                radius = 0.12 + 0.5 * share
                ink = min(max((radius - np.sqrt(a * a + b * b)) * period * sharp + 0.5, 0.0), 1.0)
            for k in range(3):
                colour[i, j, k] = base[k] + ink * (other[k] - base[k])


def _dye(rng: np.random.Generator) -> FloatArray:
    if rng.random() < 0.3:  # black, grey or white
        return _varied(_gray(float(rng.choice([18, 30, 45, 90, 140, 215, 238]))), rng, 0.05)
    hue, rich, value = rng.uniform(0, 6), rng.uniform(0.15, 0.75), rng.uniform(60, 235)
    wheel = [abs((hue + shift) % 6 - 3) - 1 for shift in (0, 4, 2)]
    return _linear(*(value * (1 - rich * (1 - min(max(w, 0.0), 1.0))) for w in wheel))


def _blossoms(
    colour: FloatArray, inks: list[FloatArray], texel: float, rng: np.random.Generator
) -> None:
    """Scatter flowers of three to six petals."""
    rows, columns = colour.shape[:2]
    biggest = rng.uniform(0.06, 0.16)
    for _ in range(int(rng.uniform(0.4, 1.1) / biggest**1.5)):
        x, y = rng.uniform(0, columns), rng.uniform(0, rows)
        radius = biggest * rng.uniform(0.4, 1.0) / texel
        petals, start = int(rng.integers(3, 7)), rng.uniform(0, 2 * np.pi)
        ink, heart = (inks[int(k)].tolist() for k in rng.integers(0, len(inks), 2))
        for angle in start + 2 * np.pi * np.arange(petals) / petals:
            centre = (x + 0.6 * radius * np.cos(angle), y + 0.6 * radius * np.sin(angle))
            where = (round(centre[0] * 8), round(centre[1] * 8))
            axes = (max(1, round(4.6 * radius)), max(1, round(3.0 * radius)))
            cv2.ellipse(
                colour, where, axes, float(np.degrees(angle)), 0, 360, ink, -1, cv2.LINE_8, 3
            )
        middle = (round(x * 8), round(y * 8))
        cv2.circle(colour, middle, max(1, round(2.2 * radius)), heart, -1, cv2.LINE_8, 3)


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _sew(
    relief: FloatArray,
    colour: FloatArray,
    width: float,
    height: float,
    seam: float,
    hem: float,
    rough: float,
    grain: FloatArray,
    top: int,
    left: int,
) -> None:
    """Seam down the middle (where it lies, or _NO_SEAM), hem all round, threads of the weave."""
    rows, columns = relief.shape
    for i in range(rows):
        v = i / (rows - 1)
        y = (v - 0.5) * height
        for j in range(columns):
            s = 2.0 * j / (columns - 1) - 1
            x = s * width / 2
            light = 1 + rough * grain[(top + i) % 512, (left + j) % 512]
            line = x - seam
            if abs(line) < 0.08:
                groove = np.exp(-((line / 0.018) ** 2))
                relief[i, j] -= 0.018 * groove
                light *= 1 - 0.38 * groove
                light *= 1 - 0.14 * _dotted(y, abs(line) - 0.05, 0.045, 0.011)
            edge = min(min(v, 1 - v) * height, (1 - abs(s)) * width / 2)
            relief[i, j] += 0.014 * min(max(1.5 - edge / hem, 0.0), 1.0)
            if abs(edge - 1.4 * hem) < 0.05:
                light *= 1 - 0.25 * np.exp(-(((edge - 1.4 * hem) / 0.018) ** 2))
            for c in range(3):
                colour[i, j, c] *= light


def _cloth(width: float, height: float, texels: int, rng: np.random.Generator) -> Fabric:
    """Two sewn halves or one piece, soft deep folds, a hem, any print."""
    relief = _relief(width, height, texels, rng, ((0.022, 3, 4), (0.009, 8, 7)))
    _crumple(relief, width, height, rng, 1.9)
    kind = int(rng.choice(5, p=[0.45, 0.14, 0.13, 0.13, 0.15]))
    base, other = _dye(rng), _dye(rng)
    turn = float(rng.choice([0.0, np.pi / 2, np.pi / 4])) + float(rng.normal(0, 0.05))
    period, share = float(rng.uniform(0.08, 0.3)), float(rng.uniform(0.15, 0.55))
    colour = np.empty((*relief.shape, 3), np.float32)
    _print_pattern(colour, width, height, base, other, kind, turn, period, share)
    if kind == 4:
        _blossoms(colour, [other, _dye(rng), _dye(rng)], width / texels, rng)
        colour = np.asarray(cv2.blur(colour, (2, 2)), np.float32)
    seam = float(rng.normal(0, 0.01)) if rng.random() < 0.6 else _NO_SEAM
    hem, rough = float(rng.uniform(0.06, 0.11)), float(rng.uniform(0.015, 0.06))
    band = np.asarray(cv2.mean(colour)[:3], np.float32)
    _sew(relief, colour, width, height, seam, hem, rough, *grain_tile(rng))
    choice = rng.random()
    if choice < 0.75:
        band = _gray(28) if choice < 0.4 else _gray(226)
    return Fabric(relief, colour, band, float(rng.uniform(0.03, 0.06)), 0.0)


def _respirator_colour(rng: np.random.Generator) -> FloatArray:
    choice = rng.random()
    if choice < 0.74:
        return _varied(_linear(238, 237, 233), rng, 0.025)
    if choice < 0.86:
        return _varied(_linear(34, 35, 38), rng)
    return _varied(_dye(rng), rng)


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _mould(
    relief: FloatArray,
    colour: FloatArray,
    width: float,
    height: float,
    base: FloatArray,
    seam: float,
    strip: float,
    grain: FloatArray,
    top: int,
    left: int,
) -> None:
    """A pressed cup: rim, seam across (where it lies, or _NO_SEAM), strip over the nose."""
    rows, columns = relief.shape
    metal = 0.31
    for i in range(rows):
        v = i / (rows - 1)
        for j in range(columns):
            s = 2.0 * j / (columns - 1) - 1
            edge = min(min(v, 1 - v) * height, (1 - abs(s)) * width / 2)
            groove = 0.0
            if abs(edge - 0.09) < 0.05:
                groove = np.exp(-(((edge - 0.09) / 0.018) ** 2))
            light = (1 - 0.12 * groove) * (1 + 0.03 * grain[(top + i) % 512, (left + j) % 512])
            relief[i, j] -= 0.016 * groove
            line = v - seam - 0.05 * s * s
            if abs(line) < 0.05:
                relief[i, j] += 0.012 * np.exp(-((line / 0.008) ** 2))
                light *= 1 - 0.14 * np.exp(-(((line - 0.012) / 0.008) ** 2))
            plate = _near(v - 0.085, 0.022) * _near(s, 0.62)
            relief[i, j] += 0.012 * plate
            for c in range(3):
                colour[i, j, c] = light * (base[c] + strip * plate * (metal - base[c]))


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _fold_flat(
    relief: FloatArray,
    colour: FloatArray,
    width: float,
    height: float,
    base: FloatArray,
    levels: npt.NDArray[np.float64],
    slope: float,
    grain: FloatArray,
    top: int,
    left: int,
) -> None:
    """A ridge down the middle, dotted welds along the edges and across each half at `levels`."""
    rows, columns = relief.shape
    for i in range(rows):
        v = i / (rows - 1)
        y = (v - 0.5) * height
        for j in range(columns):
            s = 2.0 * j / (columns - 1) - 1
            x = s * width / 2
            edge, side = min(v, 1 - v) * height, (1 - abs(s)) * width / 2
            dots = _dotted(x, edge - 0.06, 0.05, 0.018) + _dotted(y, side - 0.06, 0.05, 0.018)
            if abs(s) > 0.08:
                for k in range(levels.shape[0]):
                    tilt = slope * abs(x) * np.sign(levels[k])
                    dots += _dotted(x, y - levels[k] - tilt, 0.05, 0.017)
            dots = min(dots, 1.0)
            relief[i, j] -= 0.007 * dots
            light = 1 - 0.15 * dots
            if abs(x) < 0.3:
                relief[i, j] += 0.040 * np.exp(-abs(x) / 0.05)
                light *= 1 + 0.08 * np.exp(-((x / 0.012) ** 2))
            light *= 1 + 0.02 * grain[(top + i) % 512, (left + j) % 512]
            for c in range(3):
                colour[i, j, c] = light * base[c]


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _valve(
    relief: FloatArray,
    colour: FloatArray,
    width: float,
    height: float,
    x0: float,
    y0: float,
    radius: float,
    power: float,
    tint: FloatArray,
) -> None:
    """A plastic disc (power 2) or rounded square (power 4) with slots."""
    rows, columns = relief.shape
    sharp = 0.7 * columns / width
    for i in range(rows):
        dy = abs((i / (rows - 1) - 0.5) * height - y0)
        if dy > 1.2 * radius:
            continue
        for j in range(columns):
            dx = abs((j / (columns - 1) - 0.5) * width - x0)
            distance = (dx**power + dy**power) ** (1 / power)
            inside = min(max((radius - distance) * sharp + 0.5, 0.0), 1.0)
            if inside == 0.0:
                continue
            slot = 0.0
            if distance < 0.66 * radius:
                slot = min(max(2 * np.sin(dy * (2 * np.pi / 0.06)), 0.0), 1.0)
            rim = np.exp(-(((distance - 0.86 * radius) / 0.02) ** 2))
            relief[i, j] += inside * (0.06 + 0.025 * rim - 0.02 * slot)
            for c in range(3):
                plate = tint[c] * (1 - 0.45 * slot - 0.12 * rim)
                colour[i, j, c] += inside * (plate - colour[i, j, c])


def _add_valve(
    relief: FloatArray, colour: FloatArray, width: float, height: float, rng: np.random.Generator
) -> None:
    x0 = float(rng.choice([-1, 1]) * rng.uniform(0.28, 0.42)) if rng.random() < 0.7 else 0.0
    tint = _varied(_gray(float(rng.choice([225, 238, 70, 120]))), rng, 0.04)
    if rng.random() < 0.3:
        tint = _dye(rng)
    y0, radius = float(rng.uniform(0.02, 0.22)), float(rng.uniform(0.17, 0.22))
    power = 4.0 if rng.random() < 0.4 else 2.0
    _valve(relief, colour, width, height, x0, y0, radius, power, tint)


def _cup(width: float, height: float, texels: int, rng: np.random.Generator) -> Fabric:
    """A moulded cup: a pressed rim, a seam or none, a metal strip over the nose, often a valve."""
    base = _respirator_colour(rng)
    relief = _relief(width, height, texels, rng, ((0.008, 5, 5), (0.003, 20, 20)))
    colour = np.empty((*relief.shape, 3), np.float32)
    seam = float(rng.uniform(0.42, 0.58)) if rng.random() < 0.5 else _NO_SEAM
    strip = 0.8 if rng.random() < 0.6 else 0.0
    _mould(relief, colour, width, height, base, seam, strip, *grain_tile(rng))
    if rng.random() < 0.5:
        _add_valve(relief, colour, width, height, rng)
    bands = (_linear(225, 190, 50), _gray(232), _gray(40), _linear(60, 90, 160))
    band = bands[int(rng.choice(4, p=[0.2, 0.6, 0.15, 0.05]))]
    return Fabric(relief, colour, band, float(rng.uniform(0.04, 0.065)), 0.06)


def _folded(width: float, height: float, texels: int, rng: np.random.Generator) -> Fabric:
    """A flat-fold respirator (KN95, FFP2)."""
    base = _respirator_colour(rng)
    relief = _relief(width, height, texels, rng, ((0.012, 3, 4), (0.003, 18, 18)))
    _crumple(relief, width, height, rng, 0.7)
    colour = np.empty((*relief.shape, 3), np.float32)
    levels = np.array([rng.uniform(-0.5, -0.3), rng.uniform(0.25, 0.5)])
    slope = float(rng.uniform(0.15, 0.4))
    _fold_flat(relief, colour, width, height, base, levels, slope, *grain_tile(rng))
    if rng.random() < 0.2:
        _add_valve(relief, colour, width, height, rng)
    band = _gray(235) if base.mean() > 0.1 else _gray(40)
    return Fabric(relief, colour, band, float(rng.uniform(0.035, 0.05)), 0.10)


# Form of the mask -> drawing of its fabric from width and height (eye distances), texels across.
FABRICS: dict[str, Callable[[float, float, int, np.random.Generator], Fabric]] = {
    "surgical": _surgical,
    "cloth": _cloth,
    "cup": _cup,
    "folded": _folded,
}
