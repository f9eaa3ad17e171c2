"""Fabrics of worn masks: relief and colour over the flat fabric.

A fabric is drawn flat, with s (-1 to 1) across and v (0 to 1) down; the relief is in eye distances,
the colour is the share of light that is thrown back (linear, 0 to 1).
"""

from __future__ import annotations

import dataclasses

import cv2
import numba
import numpy as np
import numpy.typing as npt

__all__ = ["Fabric", "cloth_fabric", "cup_fabric", "folded_fabric", "surgical_fabric"]

FloatArray = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, eq=False)
class Fabric:
    """relief: [V, U]; colour: [V, U, 3]; band: [3] colour of the bands; band_width: eye distances."""

    relief: FloatArray
    colour: FloatArray
    band: FloatArray
    band_width: float
    gloss: float  # how much smooth plastic fibres shine, 0 to 1


class _Sheet:
    """Coordinates of a flat fabric, in eye distances from its middle."""

    def __init__(self, width: float, height: float, texels: int) -> None:
        self.columns = texels
        self.rows = max(16, round(texels * height / width))
        self.width, self.height = width, height
        self.s = np.linspace(-1, 1, self.columns, dtype=np.float32)[None]
        self.v = np.linspace(0, 1, self.rows, dtype=np.float32)[:, None]
        self.x = self.s * np.float32(width / 2)
        self.y = (self.v - np.float32(0.5)) * np.float32(height)
        self.texel = width / texels

    def noise(self, rng: np.random.Generator, rows: int, columns: int) -> FloatArray:
        """Smooth noise of unit size that changes `rows` times down and `columns` times across."""
        knots = rng.standard_normal((rows + 1, columns + 1), dtype=np.float32)
        size = (self.columns, self.rows)
        return np.asarray(cv2.resize(knots, size, interpolation=cv2.INTER_CUBIC), np.float32)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _add_creases(
    relief: FloatArray, width: float, height: float, creases: npt.NDArray[np.float64]
) -> None:
    """Add folds, rows of (x, y, angle, length, breadth, amplitude, bend), to `relief`."""
    rows, columns = relief.shape
    for k in range(creases.shape[0]):
        x0, y0, angle, length, breadth, amplitude, bend = creases[k]
        c, s = np.cos(angle), np.sin(angle)
        reach = length + 3 * breadth
        low_x = max(0, int((x0 - reach + width / 2) / width * (columns - 1)))
        high_x = min(columns - 1, int((x0 + reach + width / 2) / width * (columns - 1)) + 1)
        low_y = max(0, int((y0 - reach + height / 2) / height * (rows - 1)))
        high_y = min(rows - 1, int((y0 + reach + height / 2) / height * (rows - 1)) + 1)
        for i in range(low_y, high_y + 1):
            y = (i / (rows - 1) - 0.5) * height - y0
            for j in range(low_x, high_x + 1):
                x = (j / (columns - 1) - 0.5) * width - x0
                along = c * x + s * y
                if along < -breadth or along > length:
                    continue
                t = along / length
                across = (-s * x + c * y - bend * along * along) / (breadth * (0.6 + 0.9 * max(t, 0.0)))
                if across * across > 9:
                    continue
                fade = 1.0 - max(t, 0.0)
                if along < 0:
                    fade *= 1.0 + along / breadth
                relief[i, j] += amplitude * fade * np.exp(-0.5 * across * across)


def _tension(sheet: _Sheet, rng: np.random.Generator, relief: FloatArray, strength: float) -> None:
    """Folds that the bands pull from the four corners towards the middle, and loose ones."""
    creases = []
    for side in (-1.0, 1.0):
        for corner in (-1.0, 1.0):
            for _ in range(int(rng.integers(1, 4))):
                angle = rng.normal(-0.35 * corner, 0.35)
                creases.append(
                    (
                        side * sheet.width / 2 * rng.uniform(0.86, 1.0),
                        corner * sheet.height / 2 * rng.uniform(0.45, 0.95),
                        angle if side < 0 else np.pi - angle,
                        sheet.width * rng.uniform(0.15, 0.45),
                        rng.uniform(0.02, 0.055),
                        strength * rng.normal(0.012, 0.008),
                        rng.normal(0, 0.25),
                    )
                )
    for _ in range(int(rng.integers(2, 7))):
        creases.append(
            (
                sheet.width * rng.uniform(-0.45, 0.45),
                sheet.height * rng.uniform(-0.45, 0.45),
                rng.uniform(0, 2 * np.pi),
                rng.uniform(0.2, 0.7),
                rng.uniform(0.02, 0.06),
                strength * rng.normal(0, 0.009),
                rng.normal(0, 0.5),
            )
        )
    _add_creases(relief, sheet.width, sheet.height, np.array(creases))


def _band(distance: FloatArray, half: float) -> FloatArray:
    """1 within `half` of zero distance, soft to 0 just outside."""
    return np.clip(np.float32(1.5) - np.abs(distance) / np.float32(half), 0, 1)


def _stitches(along: FloatArray, distance: FloatArray, pitch: float, half: float) -> FloatArray:
    """A dotted seam line: 1 in a dot, 0 between."""
    dots = np.clip(np.sin(along * np.float32(2 * np.pi / pitch)) * 2 + 0.6, 0, 1)
    return np.asarray(dots * _band(distance, half), np.float32)


def _shaded(colour: npt.ArrayLike, shape: tuple[int, int]) -> FloatArray:
    out = np.empty((*shape, 3), np.float32)
    out[:] = np.asarray(colour, np.float32)
    return out


def _linear(red: float, green: float, blue: float) -> FloatArray:
    """Colour of an 8-bit sRGB triple as linear reflectance."""
    return np.asarray((np.array([red, green, blue]) / 255) ** 2.2, np.float32)


_SURGICAL = (
    ((136, 186, 220), 0.34), ((168, 208, 232), 0.14), ((240, 242, 244), 0.18), ((150, 205, 195), 0.10),
    ((32, 33, 36), 0.10), ((236, 188, 198), 0.05), ((196, 182, 216), 0.03), ((150, 155, 162), 0.03),
    ((70, 110, 170), 0.03),
)  # fmt: skip


def _varied(colour: FloatArray, rng: np.random.Generator, amount: float = 0.06) -> FloatArray:
    return np.clip(colour * np.exp(rng.normal(0, amount, 3)), 0.012, 0.88).astype(np.float32)


def surgical_fabric(
    width: float, height: float, texels: int, rng: np.random.Generator
) -> Fabric:
    """Three pleats, welded edges with a dotted line, a wire over the nose."""
    sheet = _Sheet(width, height, texels)
    shape = (sheet.rows, sheet.columns)
    weights = np.array([weight for _, weight in _SURGICAL])
    pick = int(rng.choice(len(_SURGICAL), p=weights / weights.sum()))
    base = _varied(_linear(*_SURGICAL[pick][0]), rng)
    trim = base if rng.random() < 0.5 else np.maximum(base, _linear(215, 222, 228))

    relief = 0.010 * sheet.noise(rng, 4, 5)
    relief += 0.006 * sheet.noise(rng, 14, 4)
    _tension(sheet, rng, relief, 1.0)
    light = np.ones(shape, np.float32)
    pleats = int(rng.choice([2, 3, 3, 3, 4]))
    first, gap = rng.uniform(0.24, 0.32), rng.uniform(0.14, 0.18) * 3 / max(pleats, 3)
    openness = rng.uniform(0.55, 1.1)
    for number in range(pleats):
        sag = rng.normal(0, 0.012) * (1 - sheet.s**2) + rng.normal(0, 0.006) * np.sin(3 * sheet.s)
        line = (first + number * gap + sag).astype(np.float32)
        below = sheet.v - line
        deep = np.float32(0.030 * openness * rng.uniform(0.7, 1.2)) * (0.45 + 0.55 * (1 - sheet.s**2))
        # A layer rises slowly to its folded edge, then drops to the layer under it.
        ramp = np.clip(1 + below / np.float32(0.85 * gap), 0, 1) ** 1.5
        drop = np.clip(1 - below / np.float32(0.018), 0, 1)
        relief += deep * np.where(below < 0, ramp, drop)
        shadow = np.exp(-np.clip(below, 0, 1) / np.float32(0.020)) * (below > 0)
        light *= 1 - np.float32(0.30 * openness) * shadow
        light *= 1 + np.float32(0.06) * np.exp(-((below + 0.008) ** 2) / np.float32(0.00012))
    wire = _band(sheet.v - 0.045, 0.016) * np.clip(4.5 - 10 * np.abs(sheet.s), 0, 1)
    relief += np.float32(0.012) * np.asarray(cv2.GaussianBlur(wire, (0, 0), max(0.6, texels / 160)))
    edge = np.minimum(np.minimum(sheet.v, 1 - sheet.v) * sheet.height, 1e3)
    side = (1 - np.abs(sheet.s)) * np.float32(sheet.width / 2)
    hem = np.clip(np.float32(1.2) - np.minimum(edge, side) / np.float32(0.10), 0, 1)
    relief += 0.005 * np.clip(3 * hem, 0, 1)
    dots = _stitches(sheet.x, edge - 0.085, 0.055, 0.011) + _stitches(sheet.x, edge - 0.03, 0.055, 0.011)
    dots = dots + _stitches(sheet.y, side - 0.05, 0.05, 0.016)
    relief -= np.float32(0.004) * dots
    light *= 1 - np.float32(0.10) * dots
    fibre = rng.standard_normal(shape, dtype=np.float32)
    light *= 1 + np.float32(0.018) * fibre + np.float32(0.02) * sheet.noise(rng, 24, 36)
    colour = _shaded(base, shape)
    colour += (trim - base) * np.clip(3 * hem, 0, 1)[..., None]
    colour *= light[..., None]
    white = base.mean() > 0.1 or rng.random() < 0.3
    band = _linear(236, 236, 234) if white else base
    return Fabric(relief, colour, band, float(rng.uniform(0.035, 0.055)), 0.10)


def _pattern(sheet: _Sheet, rng: np.random.Generator) -> FloatArray:
    """Colour of a printed or woven cloth."""
    shape = (sheet.rows, sheet.columns)

    def dye() -> FloatArray:
        if rng.random() < 0.3:  # black, grey or white
            value = float(rng.choice([18, 30, 45, 90, 140, 215, 238]))
            return _varied(_linear(value, value, value), rng, 0.05)
        hue, rich = rng.uniform(0, 180), rng.uniform(40, 190)
        value = rng.uniform(60, 235)
        pixel = np.array([[[hue, rich, value]]], np.uint8)
        return _linear(*(float(c) for c in cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0]))

    base, other = dye(), dye()
    colour = _shaded(base, shape)
    kind = rng.choice(["plain", "stripes", "checks", "dots", "flowers"], p=[0.45, 0.14, 0.13, 0.13, 0.15])
    turn = float(rng.choice([0.0, np.pi / 2, np.pi / 4])) + rng.normal(0, 0.05)
    along = sheet.x * np.float32(np.cos(turn)) + sheet.y * np.float32(np.sin(turn))
    across = sheet.y * np.float32(np.cos(turn)) - sheet.x * np.float32(np.sin(turn))
    sharp = np.float32(1 / max(2.0 * sheet.texel, 0.01))
    if kind == "stripes":
        period, share = rng.uniform(0.07, 0.3), rng.uniform(0.15, 0.5)
        place = np.abs((along / period) % 1 - 0.5) * period
        ink = np.clip((share * period / 2 - place) * sharp + 0.5, 0, 1)
        colour += ink[..., None] * (other - base)
    elif kind == "checks":
        period = rng.uniform(0.09, 0.35)
        share = 0.5 if rng.random() < 0.5 else rng.uniform(0.1, 0.4)
        for line in (along, across):
            place = np.abs((line / period) % 1 - 0.5) * period
            ink = np.clip((share * period / 2 - place) * sharp + 0.5, 0, 1)
            colour += (np.float32(0.5) * ink)[..., None] * (other - base)
    elif kind == "dots":
        period = rng.uniform(0.09, 0.26)
        radius = period * rng.uniform(0.16, 0.36)
        row = np.floor(across / period)
        gap_x = ((along / period + 0.5 * (row % 2)) % 1 - 0.5) * period
        gap_y = ((across / period) % 1 - 0.5) * period
        ink = np.clip((radius - np.sqrt(gap_x**2 + gap_y**2)) * sharp + 0.5, 0, 1)
        colour += ink[..., None] * (other - base)
    elif kind == "flowers":
        inks = [other, dye(), dye()]
        count = int(rng.integers(14, 60))
        biggest = rng.uniform(0.05, 0.16)
        for _ in range(count):
            x, y = rng.uniform(0, sheet.columns), rng.uniform(0, sheet.rows)
            radius = biggest * rng.uniform(0.4, 1.0) / sheet.texel
            petals, start = int(rng.integers(3, 7)), rng.uniform(0, 2 * np.pi)
            ink = inks[int(rng.integers(3))].tolist()
            for petal in range(petals):
                angle = start + 2 * np.pi * petal / petals
                centre = (x + 0.6 * radius * np.cos(angle), y + 0.6 * radius * np.sin(angle))
                where = (round(centre[0] * 8), round(centre[1] * 8))
                axes = (round(4.6 * radius), round(3.0 * radius))
                degrees = float(np.degrees(angle))
                cv2.ellipse(colour, where, axes, degrees, 0, 360, ink, -1, cv2.LINE_AA, 3)
            heart = inks[int(rng.integers(3))].tolist()
            cv2.circle(colour, (round(x * 8), round(y * 8)), round(2.2 * radius), heart, -1, cv2.LINE_AA, 3)
    return colour


def cloth_fabric(width: float, height: float, texels: int, rng: np.random.Generator) -> Fabric:
    """Two sewn halves or one piece, soft deep folds, a hem, any print."""
    sheet = _Sheet(width, height, texels)
    shape = (sheet.rows, sheet.columns)
    relief = 0.016 * sheet.noise(rng, 3, 4) + 0.006 * sheet.noise(rng, 8, 7)
    _tension(sheet, rng, relief, 1.6)
    light = np.ones(shape, np.float32)
    if rng.random() < 0.6:  # a seam down the middle
        line = sheet.x - np.float32(rng.normal(0, 0.01))
        groove = np.exp(-((line / 0.016) ** 2)).astype(np.float32)
        relief = relief - np.float32(0.014) * groove
        light = light * (1 - np.float32(0.35) * groove)
        dots = _stitches(sheet.y, np.abs(line) - 0.05, 0.045, 0.010)
        light = light * (1 - np.float32(0.12) * dots)
    edge = np.minimum(sheet.v, 1 - sheet.v) * np.float32(sheet.height)
    side = (1 - np.abs(sheet.s)) * np.float32(sheet.width / 2)
    hem = np.minimum(edge, side)
    relief = relief + np.float32(0.012) * np.clip(1.5 - hem / 0.09, 0, 1) ** 0.5
    light = light * (1 - np.float32(0.22) * np.exp(-((hem - 0.13) ** 2) / np.float32(0.00025)))
    grain = rng.standard_normal(shape, dtype=np.float32)
    light = light * (1 + np.float32(rng.uniform(0.01, 0.05)) * grain)
    light = light * (1 + np.float32(0.03) * sheet.noise(rng, 10, 14))
    colour = _pattern(sheet, rng) * light[..., None]
    choice = rng.random()
    if choice < 0.4:
        band = _linear(28, 28, 30)
    elif choice < 0.75:
        band = _linear(228, 226, 222)
    else:
        band = np.asarray(colour.mean(axis=(0, 1)), np.float32)
    return Fabric(np.asarray(relief, np.float32), colour, band, float(rng.uniform(0.04, 0.10)), 0.0)


def _valve(sheet: _Sheet, rng: np.random.Generator, relief: FloatArray, colour: FloatArray) -> None:
    """A plastic disc with slots, beside or under the middle."""
    x0 = float(rng.choice([-1, 1]) * rng.uniform(0.28, 0.42)) if rng.random() < 0.7 else 0.0
    y0 = float(rng.uniform(0.02, 0.22))
    radius = float(rng.uniform(0.17, 0.22))
    dx, dy = sheet.x - np.float32(x0), sheet.y - np.float32(y0)
    distance = np.sqrt(dx**2 + dy**2)
    if rng.random() < 0.4:  # a rounded square
        distance = (dx**4 + dy**4) ** np.float32(0.25)
    inside = np.clip((radius - distance) / np.float32(1.5 * sheet.texel) + 0.5, 0, 1)
    value = float(rng.choice([225, 238, 70, 120]))
    tint = _varied(_linear(value, value, value), rng, 0.04)
    if rng.random() < 0.3:
        tint = _linear(*(float(c) for c in rng.uniform(40, 230, 3)))
    slots = np.clip(np.sin(dy * np.float32(2 * np.pi / 0.055)) * 2, 0, 1) * (distance < 0.66 * radius)
    rim = np.exp(-(((distance - 0.86 * radius) / 0.02) ** 2))
    relief += np.asarray(inside * (0.05 + 0.02 * rim - 0.018 * slots), np.float32)
    plate = tint * (1 - 0.45 * slots - 0.12 * rim)[..., None]
    colour += inside[..., None] * (plate - colour)


def _respirator_colour(rng: np.random.Generator) -> FloatArray:
    choice = rng.random()
    if choice < 0.72:
        return _varied(_linear(236, 235, 230), rng, 0.03)
    if choice < 0.85:
        return _varied(_linear(34, 35, 38), rng)
    return _varied(_linear(*(float(c) for c in rng.uniform(90, 220, 3))), rng)


def cup_fabric(width: float, height: float, texels: int, rng: np.random.Generator) -> Fabric:
    """A moulded cup: a pressed rim, a seam or none, a metal strip over the nose, often a valve."""
    sheet = _Sheet(width, height, texels)
    shape = (sheet.rows, sheet.columns)
    base = _respirator_colour(rng)
    relief = 0.005 * sheet.noise(rng, 5, 5) + 0.002 * sheet.noise(rng, 20, 20)
    light = np.ones(shape, np.float32)
    edge = np.minimum(sheet.v, 1 - sheet.v) * np.float32(sheet.height)
    rim = np.minimum(edge, (1 - np.abs(sheet.s)) * np.float32(sheet.width / 2))
    groove = np.exp(-(((rim - 0.09) / 0.018) ** 2))
    relief = relief - np.float32(0.014) * groove
    light = light * (1 - np.float32(0.10) * groove)
    if rng.random() < 0.5:
        line = sheet.v - np.float32(rng.uniform(0.42, 0.58)) - np.float32(0.05) * sheet.s**2
        seam = np.exp(-((line / 0.008) ** 2))
        relief = relief + np.float32(0.010) * seam
        light = light * (1 - np.float32(0.10) * np.exp(-(((line - 0.012) / 0.008) ** 2)))
    colour = _shaded(base, shape)
    strip = _band(sheet.v - 0.075, 0.022) * _band(sheet.s, 0.62)
    relief = np.asarray(relief + np.float32(0.012) * strip, np.float32)
    if rng.random() < 0.6:
        metal = _linear(150, 152, 156)
        colour += (0.8 * strip)[..., None] * (metal - colour)
    grain = rng.standard_normal(shape, dtype=np.float32)
    light = light * (1 + np.float32(0.02) * grain + np.float32(0.015) * sheet.noise(rng, 30, 30))
    colour *= np.asarray(light, np.float32)[..., None]
    if rng.random() < 0.5:
        _valve(sheet, rng, relief, colour)
    bands = (_linear(225, 190, 50), _linear(232, 230, 224), _linear(40, 40, 42), _linear(60, 90, 160))
    band = bands[int(rng.choice(4, p=[0.25, 0.5, 0.15, 0.1]))]
    return Fabric(relief, colour, band, float(rng.uniform(0.06, 0.10)), 0.05)


def folded_fabric(width: float, height: float, texels: int, rng: np.random.Generator) -> Fabric:
    """A flat-fold respirator (KN95, FFP2): a ridge down the middle, welded dotted lines."""
    sheet = _Sheet(width, height, texels)
    shape = (sheet.rows, sheet.columns)
    base = _respirator_colour(rng)
    relief = 0.008 * sheet.noise(rng, 3, 4) + 0.002 * sheet.noise(rng, 18, 18)
    _tension(sheet, rng, relief, 0.6)
    ridge = np.exp(-np.abs(sheet.x) / np.float32(0.05))
    relief = np.asarray(relief + np.float32(0.035) * ridge, np.float32)
    light = np.ones(shape, np.float32) * (1 + np.float32(0.10) * np.exp(-((sheet.x / 0.012) ** 2)))
    edge = np.minimum(sheet.v, 1 - sheet.v) * np.float32(sheet.height)
    side = (1 - np.abs(sheet.s)) * np.float32(sheet.width / 2)
    dots = _stitches(sheet.x, edge - 0.06, 0.05, 0.018) + _stitches(sheet.y, side - 0.06, 0.05, 0.018)
    slope = np.abs(sheet.x) * np.float32(rng.uniform(0.15, 0.4))
    for level in (rng.uniform(-0.5, -0.3), rng.uniform(0.25, 0.5)):
        line = sheet.y - np.float32(level) - slope * np.float32(np.sign(level))
        dots = dots + _stitches(sheet.x, line, 0.05, 0.016) * (np.abs(sheet.s) > 0.08)
    relief -= np.asarray(np.float32(0.006) * dots, np.float32)
    light = light * (1 - np.float32(0.13) * np.clip(dots, 0, 1))
    grain = rng.standard_normal(shape, dtype=np.float32)
    light = light * (1 + np.float32(0.015) * grain)
    colour = _shaded(base, shape) * np.asarray(light, np.float32)[..., None]
    if rng.random() < 0.2:
        _valve(sheet, rng, relief, colour)
    band = _linear(235, 234, 230) if base.mean() > 0.1 else _linear(40, 40, 42)
    return Fabric(relief, colour, band, float(rng.uniform(0.045, 0.07)), 0.08)
