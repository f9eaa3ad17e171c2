"""Which of the lines that a segmenter found are folds of skin, and which only look like lines.

Note [What a fold looks like]
    A fold is a shading of skin: a line, never a spot (moles stay); darker than the skin around it,
    but seldom by more than a third (what is darker is hair, a spectacle frame or a cast shadow);
    and light that comes out of a fold has gone through skin, so it keeps its red (what loses red
    faster than blue is something on the skin). And it lies in skin: beard and fringe are many
    times rougher around a line than the rest of the face is. Measured in the log of the colours,
    where shading is a constant that depends neither on exposure nor on the tone of the skin. The
    limits were read off the held-out portraits, where folds and what is none are told apart by eye.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from revisage.operations.region import (
    box_mean,
    dilate,
    fill_polygon,
    label_components,
    lengths_and_widths,
)

__all__ = ["grow_through", "keep_folds", "spectacle_region", "wears_spectacles"]

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]

# Lengths in pixels of a 512 px square.
_LEAST_LENGTH = 10.0
_LONG = 24.0  # a line this long may be as broad as it likes
_SLENDER = 1.8  # length per width of a shorter one
_SURROUNDINGS = 12  # half side of the window that a line is compared with
_CLEARANCE = 4.0  # pixels next to a line that belong to its shading

_DARKEST = 0.45  # log units: 36 % darker
_LOSS_OF_RED = 0.05  # log red minus log blue
_ROUGHEST = 3.2  # times the smoothest quarter of the face, which a beard leaves free
_SMOOTH = 0.006  # log units: skin without grain, as in a soft or much reduced photo
_BLACK = 0.03  # added before the log: sensor noise in the dark

_BRIDGE = 0.05  # log units per pixel of a 512 px square: the edge of a spectacle bridge
_STEPS = 60  # of the profile of a nose
_LUMA = np.array([0.299, 0.587, 0.114])


def grow_through(sure: BoolArray, likely: BoolArray) -> BoolArray:
    """The parts of `likely` (and `sure`) that hold something sure."""
    labels, count = label_components(likely | sure)
    keep = np.zeros(count + 1, dtype=np.bool_)
    keep[labels[sure]] = True
    return np.asarray(keep[labels])


def keep_folds(
    found: BoolArray, square: FloatArray, skin: BoolArray, *, scale: float = 1.0
) -> BoolArray:
    """The parts of a region that look like folds (Note [What a fold looks like]).

    Args:
        found: [H, W], what a segmenter found, on skin; a part of an aligned square.
        square: [H, W, 3] RGB in [0, 1].
        skin: [H, W], where the face is skin (beard and fringe may be in it).
        scale: side of the whole square / 512.
    """
    labels, count = label_components(found)
    if count == 0:
        return found
    lengths, widths = lengths_and_widths(labels, count)
    least, long = max(2.0, _LEAST_LENGTH * scale), _LONG * scale
    slender = (lengths >= long) | (lengths >= _SLENDER * widths)
    free = ~dilate(found, _CLEARANCE * scale)
    reach = max(2, round(_SURROUNDINGS * scale))
    light = np.log(square @ _LUMA + _BLACK)[:, :, None].astype(np.float32)
    around = box_mean(np.concatenate([square, _roughness(light)], axis=2), free & skin, reach)
    inside = found & (around[:, :, :3].max(axis=2) > 0)
    which = labels[inside]
    pixels = np.maximum(np.bincount(which, minlength=count + 1)[1:], 1)

    def mean(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        return np.asarray(np.bincount(which, weights=values, minlength=count + 1)[1:] / pixels)

    shade = np.log((around[inside][:, :3] + _BLACK) / (square[inside] + _BLACK))  # [P, 3]
    depth = mean(shade @ _LUMA)
    loss_of_red = mean(shade[:, 0] - shade[:, 2])
    plain = around[:, :, 3][skin & (around[:, :, 3] > 0)]
    usual = max(float(np.quantile(plain, 0.25)), _SMOOTH) if plain.size else _SMOOTH
    rough = mean(around[inside][:, 3]) / usual
    skin_like = (depth <= _DARKEST) & (loss_of_red <= _LOSS_OF_RED) & (rough <= _ROUGHEST)
    keep = np.concatenate([[False], (lengths >= least) & slender & skin_like])
    return np.asarray(keep[labels])


def _roughness(light: FloatArray) -> FloatArray:
    """How far each pixel of [S, S, 1] is from the mean of the 5 x 5 around it."""
    everywhere = np.ones(light.shape[:2], dtype=np.bool_)
    return np.asarray(np.abs(light - box_mean(light, everywhere, 2)))


def wears_spectacles(square: FloatArray, landmarks: Points) -> bool:
    """Whether something crosses the bridge of the nose, as spectacles do.

    Down the ridge of the nose, from a little above its root (point 27) to its lower third (29), the
    light on skin changes slowly, and a bridge is a sharp edge. Of 255 training portraits about 45
    wear spectacles: nearly all of those are found, and five bare noses are taken for one (profiles
    and strong shine). Then the skin around the eyes is left as it is, which is the safe side.

    Args:
        square: [S, S, 3] RGB in [0, 1].
        landmarks: [68, 2] in pixels of the square.
    """
    size = square.shape[0]
    scale = size / 512
    top = landmarks[27] - np.array([0.0, 0.12 * _eye_distance(landmarks)])
    line = top + (landmarks[29] - top) * np.linspace(0.0, 1.0, _STEPS)[:, None]
    half = max(1, round(12 * scale))
    rows = np.clip(np.rint(line[:, 1]).astype(int), 0, size - 1)
    columns = np.clip(np.rint(line[:, :1] + np.arange(-half, half + 1)).astype(int), 0, size - 1)
    light = np.log(square[rows[:, None], columns] @ _LUMA + _BLACK)  # [steps, 2 half + 1]
    # The median across the nose: grain, pores and a shine off the ridge do not count.
    profile = np.pad(np.median(light, axis=1), 2, mode="edge")
    smooth = np.convolve(profile, np.full(5, 0.2), "valid")
    step = max(float(np.hypot(*(landmarks[29] - top))) / _STEPS, 1e-6)
    return bool(np.abs(np.diff(smooth)).max() / step * scale > _BRIDGE)


def spectacle_region(landmarks: Points, size: int) -> BoolArray:
    """The band across the face that spectacles and their shadows may cover."""
    unit = _eye_distance(landmarks)
    eyes = (landmarks[36:42].mean(axis=0) + landmarks[42:48].mean(axis=0)) / 2
    top = landmarks[17:27, 1].min() - 0.1 * unit
    bottom = eyes[1] + 0.62 * unit
    left, right = eyes[0] - 1.5 * unit, eyes[0] + 1.5 * unit
    return fill_polygon([(left, top), (right, top), (right, bottom), (left, bottom)], size)


def _eye_distance(landmarks: Points) -> float:
    return float(np.hypot(*(landmarks[42:48].mean(axis=0) - landmarks[36:42].mean(axis=0))))
