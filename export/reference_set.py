"""The stored reference set of the parity gate: pictures that the project makes, from seeds.

An error that only shows on pictures (and not on noise) is the one that a user sees, so the set
holds what portraits hold: smooth shaded skin, dark thin folds, hair-like texture, hard edges, flat
black and white. No photo is needed, and every machine makes the same set.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from revisage.errors import OptionError
from revisage.kernels import flow_warp
from revisage.manifest import TensorSpec

__all__ = [
    "REFERENCE",
    "degraded",
    "reference_faces",
    "reference_flows",
    "reference_guides",
    "reference_holes",
    "reference_inputs",
    "reference_masks",
    "reference_pictures",
    "with_worn_masks",
]

REFERENCE = "seeded pictures of revisage.export.reference_set, version 1"

Planes = NDArray[np.float32]


def _shaded_skin(random: np.random.RandomState, size: int) -> NDArray[np.float64]:
    """[size, size, 3]: a lit ellipse of skin before a plain background."""
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    height, width = random.uniform(0.35, 0.5), random.uniform(0.28, 0.42)
    inside = 1 / (1 + np.exp(40 * (np.hypot(y / height, x / width) - 1)))
    tone = np.array([0.82, 0.62, 0.5]) * random.uniform(0.35, 1.1)
    light = 0.8 + random.uniform(-0.5, 0.5) * x + random.uniform(-0.5, 0.5) * y
    back = random.uniform(0, 1, 3)
    skin = tone * light[..., None]
    return np.asarray(inside[..., None] * skin + (1 - inside[..., None]) * back)


def _folds(random: np.random.RandomState, size: int, count: int) -> NDArray[np.float64]:
    """[size, size] in [0, 1]: thin curved lines."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float64) / size
    lines = np.zeros((size, size))
    for _ in range(count):
        angle, bend = random.uniform(-0.6, 0.6), random.uniform(-2, 2)
        cx, cy, length = (
            random.uniform(0.2, 0.8),
            random.uniform(0.2, 0.8),
            random.uniform(0.1, 0.3),
        )
        along = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        across = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle) - bend * along**2
        width = random.uniform(0.6, 2.5) / size
        line = np.exp(-((across / width) ** 2)) * (np.abs(along) < length)
        lines = np.maximum(lines, line)
    return lines


def reference_pictures(count: int, size: int, *, seed: int = 0) -> Planes:
    """[count, 3, size, size] float32 RGB in [0, 1]."""
    pictures = []
    for index in range(count):
        random = np.random.RandomState(1000 * seed + index)  # frozen by numpy for ever
        picture = _shaded_skin(random, size)
        picture *= 1 - random.uniform(0.1, 0.5) * _folds(random, size, 8)[..., None]
        picture += random.normal(0, random.uniform(0, 0.05), picture.shape)
        if index % 4 == 3:  # hard edges and clipped ends
            block = size // 4
            picture[:block, :block] = 0
            picture[-block:, :block] = 1
            picture[:block, -block::2] = 1
        pictures.append(np.clip(picture, 0, 1).transpose(2, 0, 1))
    return np.stack(pictures).astype(np.float32)


def reference_faces(count: int, size: int, *, seed: int = 0) -> Planes:
    """[count, 3, size, size] float32 RGB in [0, 1]: drawn faces in upright crops.

    For networks that look for a face: what they give for other pictures is ill conditioned, so that
    an error there says little about the error on a photo.
    """
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    faces = []
    for index, ground in enumerate(reference_pictures(count, size, seed=seed)):
        random = np.random.RandomState(1000 * seed + 700 + index)
        scale = random.uniform(0.85, 1.1)
        across = (x - random.uniform(-0.04, 0.04)) / scale
        down = (y - random.uniform(-0.04, 0.04)) / scale

        def spot(
            left: float,
            top: float,
            width: float,
            height: float,
            at: tuple[NDArray[np.float64], NDArray[np.float64]] = (across, down),
        ) -> NDArray[np.float64]:
            reach = ((at[0] - left) / width) ** 2 + ((at[1] - top) / height) ** 2
            return np.asarray(np.exp(-(reach**2)))

        head = 1 / (1 + np.exp(60 * (np.hypot(across / 0.34, down / 0.43) - 1)))
        skin = np.array([0.82, 0.62, 0.5]) * random.uniform(0.6, 1.1)
        light = 1 - 0.5 * random.uniform(-1, 1) * x
        shade = 0.2 * spot(0, -0.02, 0.02, 0.1)  # ridge of the nose
        for side in (-1, 1):
            shade += 0.75 * spot(side * 0.155, -0.12, 0.035, 0.03)  # iris
            shade += 0.45 * spot(side * 0.155, -0.12, 0.07, 0.025)  # lids
            shade += 0.6 * spot(side * 0.16, -0.22, 0.09, 0.018)  # brow
            shade += 0.4 * spot(side * 0.04, 0.1, 0.02, 0.015)  # nostril
        lips = spot(0, 0.23, 0.11, 0.03)[..., None] * [0.18, 0.42, 0.39]
        picture = 0.7 * ground.transpose(1, 2, 0) * (1 - head[..., None])
        picture += skin * (light * head)[..., None]
        picture *= (1 - np.clip(shade, 0, 0.95))[..., None] * (1 - lips)
        picture += random.normal(0, 0.015, picture.shape)
        faces.append(np.clip(picture, 0, 1).transpose(2, 0, 1))
    return np.stack(faces).astype(np.float32)


def reference_masks(count: int, size: int, *, seed: int = 0) -> Planes:
    """[count, 1, size, size] float32 of exact 0 and 1: strokes, a block, everything, nothing."""
    masks = []
    for index in range(count):
        random = np.random.RandomState(1000 * seed + 500 + index)
        mask = (_folds(random, size, 10) > 0.3).astype(np.float32)
        if index % 8 == 5:
            mask[size // 4 : size // 2, size // 3 : size // 2] = 1
        elif index % 8 == 6:
            mask[:] = 0
        elif index % 8 == 7:
            mask[:] = 1
        masks.append(mask[None])
    return np.stack(masks)


def reference_holes(count: int, size: int, *, seed: int = 0) -> Planes:
    """[count, 1, size, size] float32 of exact 0 and 1: a square in the middle, boxes, strokes."""
    y, x = np.mgrid[0:size, 0:size] / size
    holes = []
    for index in range(count):
        random = np.random.RandomState(1000 * seed + 600 + index)
        if index % 3 == 0:
            hole = np.maximum(np.abs(x - 0.5), np.abs(y - 0.5)) < 0.25
        elif index % 3 == 1:
            left, top = random.uniform(0, 0.6, 2)
            across, down = random.uniform(0.1, 0.4, 2)
            hole = (x >= left) & (x < left + across) & (y >= top) & (y < top + down)
        else:
            hole = _near_lines(x, y, random.uniform(0, 1, (5, 2)), random.uniform(0.02, 0.06))
        holes.append(hole[None].astype(np.float32))
    return np.stack(holes)


def _near_lines(
    x: NDArray[np.float64], y: NDArray[np.float64], corners: NDArray[np.float64], reach: float
) -> NDArray[np.bool_]:
    """Pixels within `reach` of a chain of lines."""
    near = np.zeros(x.shape, dtype=np.bool_)
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        length = (x1 - x0) ** 2 + (y1 - y0) ** 2 + 1e-9
        along = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length, 0, 1)
        near |= np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0)) < reach
    return near


def with_worn_masks(pictures: Planes, *, seed: int = 0) -> Planes:
    """Pictures [count, 3, size, size] with a pleated cloth over the lower half of the face."""
    size = pictures.shape[-1]
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    worn = []
    for index, picture in enumerate(pictures):
        random = np.random.RandomState(1000 * seed + 700 + index)
        half, top = random.uniform(0.2, 0.3), random.uniform(0.0, 0.1)
        cover = (y > top + 0.3 * x**2) & (np.abs(x) < half * (1.3 - 1.2 * y)) & (y < 0.42)
        pleats = 0.92 + 0.08 * np.cos(2 * np.pi * random.uniform(8, 16) * y)
        cloth = random.uniform(0.2, 1, (3, 1, 1)) * pleats
        worn.append(np.where(cover, cloth, picture))
    return np.asarray(np.clip(np.stack(worn), 0, 1), np.float32)


def reference_flows(count: int, size: int, *, seed: int = 0) -> Planes:
    """[count, size, size, 2]: smooth offsets (x, y) of up to a twentieth of the size, in pixels."""
    y, x = np.mgrid[0:size, 0:size] / size
    flows = []
    for index in range(count):
        random = np.random.RandomState(1000 * seed + 800 + index)
        parts = []
        for _ in range(2):
            across, down = random.uniform(-1, 1, 2)
            wave = np.sin(2 * np.pi * (across * x + down * y + random.uniform()))
            parts.append(random.uniform(0.02, 0.05) * size * wave)
        flows.append(np.stack(parts, axis=-1))
    return np.asarray(np.stack(flows), np.float32)


def reference_guides(pictures: Planes, *, seed: int = 0) -> Planes:
    """The same faces moved by `reference_flows` and under another light."""
    flows = reference_flows(len(pictures), pictures.shape[-1], seed=seed)
    guides = []
    for index, (picture, flow) in enumerate(zip(pictures, flows, strict=True)):
        random = np.random.RandomState(1000 * seed + 900 + index)
        moved = flow_warp(picture, flow, layout="chw", impl="reference")
        guides.append(moved * random.uniform(0.8, 1.1, (3, 1, 1)))
    return np.asarray(np.clip(np.stack(guides), 0, 1), np.float32)


def degraded(pictures: Planes, *, seed: int = 0) -> Planes:
    """Pictures [count, 3, size, size] at a quarter of their detail, with noise."""
    random = np.random.RandomState(1000 * seed + 950)
    count, channels, size, _ = pictures.shape
    blocks = pictures.reshape(count, channels, size // 4, 4, size // 4, 4).mean(axis=(3, 5))
    coarse = blocks.repeat(4, axis=2).repeat(4, axis=3)
    noisy = coarse + random.normal(0, 0.03, coarse.shape)
    return np.asarray(np.clip(noisy, 0, 1), np.float32)


def reference_inputs(
    specs: Sequence[TensorSpec], size: int, count: int = 1
) -> list[dict[str, NDArray[np.float32]]]:
    """Inputs of any bundle whose inputs are pictures and masks, at `size`.

    Raises:
        OptionError: an input is neither.
    """
    made = {"RGB": reference_pictures, "mask": reference_masks}
    unknown = [spec.name for spec in specs if spec.colour not in made]
    if unknown:
        raise OptionError(f"no reference inputs for {', '.join(unknown)}: neither picture nor mask")
    arrays = {spec.name: made[spec.colour](count, size) for spec in specs}
    return [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(count)]
