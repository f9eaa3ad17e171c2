"""Face masks put on aligned faces: surgical, cloth and respirator, drawn by the 68 landmarks.

A mask is a surface in front of a mean head (mask_shapes) that carries a fabric (mask_fabrics). It
is posed by the landmarks, lit as the face is (photo_light), blurred and grained as the photo, and
laid over the face with its bands and a contact shadow.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import cv2
import numba
import numpy as np
import numpy.typing as npt

from revisage.training.data.mask_fabrics import FABRICS, grain_tile
from revisage.training.data.mask_shapes import Camera, MaskShape, fit_camera, mask_shape, place
from revisage.training.data.photo_light import (
    FROM_LINEAR,
    LUMA,
    TO_LINEAR,
    PhotoLight,
    estimate_light,
    to_linear,
)

if TYPE_CHECKING:
    from revisage.training.data.mask_templates import MaskTemplates

__all__ = ["STYLES", "WEARS", "WornMask", "lay_over", "wear_mask"]

FloatArray = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]

STYLES = ("surgical", "cloth", "respirator")
WEARS = ("nose_out", "chin_out")
_STYLE_SHARES = (0.5, 0.3, 0.2)
_WEAR_SHARE = 0.03  # of each wrong way of wearing
_FINE = 2  # samples per pixel and axis of what a mask covers


@dataclasses.dataclass
class WornMask:
    """A face that wears a mask.

    image: [S, S, 3] uint8 RGB.
    mask: [S, S] float32, share of each pixel that the mask and its bands cover, 0 to 1. Just
        outside of it the skin is darker than before (contact shadow).
    kind: "surgical", "cloth", "respirator" or "template:NAME", with "/nose_out" or "/chin_out" when
        it is not worn as it should be.
    """

    image: Image
    mask: FloatArray
    kind: str


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _rasterise(points: FloatArray, depth: FloatArray, where: FloatArray) -> None:
    """Draw a grid of points into a depth buffer; only cells that face the viewer.

    points: [V, U, 3] pixels x, y and depth. depth: [H, W], -inf where empty.
    where: [H, W, 2] out, grid coordinates u and v of what is seen.
    """
    rows, columns = points.shape[:2]
    height, width = depth.shape
    for i in range(rows - 1):
        for j in range(columns - 1):
            for half in range(2):
                # Corners of a triangle as offsets in the cell, clockwise on the screen.
                ai, aj = half, half
                bi, bj = 0, 1
                ci, cj = 1, 0
                if half == 1:
                    bi, bj, ci, cj = 1, 0, 0, 1
                ax, ay, az = points[i + ai, j + aj]
                bx, by, bz = points[i + bi, j + bj]
                cx, cy, cz = points[i + ci, j + cj]
                area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
                if area <= 1e-6:
                    continue
                x0 = max(0, int(np.ceil(min(ax, bx, cx))))
                x1 = min(width - 1, int(np.floor(max(ax, bx, cx))))
                y0 = max(0, int(np.ceil(min(ay, by, cy))))
                y1 = min(height - 1, int(np.floor(max(ay, by, cy))))
                for y in range(y0, y1 + 1):
                    for x in range(x0, x1 + 1):
                        wb = ((x - ax) * (cy - ay) - (y - ay) * (cx - ax)) / area
                        wc = ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / area
                        wa = 1.0 - wb - wc
                        if wa < -1e-5 or wb < -1e-5 or wc < -1e-5:
                            continue
                        z = wa * az + wb * bz + wc * cz
                        if z > depth[y, x]:
                            depth[y, x] = z
                            where[y, x, 0] = j + wa * aj + wb * bj + wc * cj
                            where[y, x, 1] = i + wa * ai + wb * bi + wc * ci


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _shade(
    depth: FloatArray,
    where: FloatArray,
    frames: FloatArray,
    colour: FloatArray,
    relief: FloatArray,
    white: FloatArray,
    light: FloatArray,
    gloss: float,
    out: FloatArray,
) -> None:
    """Light the drawn fabric, once for each pixel, from the mean of its seen samples.

    frames: [V, U, 9] normal, and the gradients of the grid coordinates u and v on the surface.
    colour: [TV, TU, 3]. relief: [TV, TU] in samples.
    light: [4] tilt in x and y, fall-off towards the edges, least light.
    out: [H, W, 4] linear RGB times coverage, and coverage.
    """
    height, width = out.shape[:2]
    rows, columns = frames.shape[:2]
    tall, wide = relief.shape
    step_u, step_v = (wide - 1) / (columns - 1), (tall - 1) / (rows - 1)
    n = np.empty(3, np.float32)
    for y in range(height):
        for x in range(width):
            u, v, count = 0.0, 0.0, 0
            for fy in range(_FINE * y, _FINE * y + _FINE):
                for fx in range(_FINE * x, _FINE * x + _FINE):
                    if depth[fy, fx] > -1e8:
                        u += where[fy, fx, 0]
                        v += where[fy, fx, 1]
                        count += 1
            if count == 0:
                continue
            u, v = u / count, v / count
            b, a = min(int(u * step_u), wide - 2), min(int(v * step_v), tall - 2)
            p, q = u * step_u - b, v * step_v - a
            w00, w01, w10, w11 = (1 - p) * (1 - q), p * (1 - q), (1 - p) * q, p * q
            # Slope of the relief per grid step: differences across the texel and its neighbours.
            e, d = min(b + 2, wide - 1), min(a + 2, tall - 1)
            c, f = max(b - 1, 0), max(a - 1, 0)
            here, next_x = relief[a, b], relief[a, b + 1]
            next_y, next_xy = relief[a + 1, b], relief[a + 1, b + 1]
            upper = relief[a, e] + next_x - here - relief[a, c]
            lower = relief[a + 1, e] + next_xy - next_y - relief[a + 1, c]
            su = step_u * ((1 - q) * upper + q * lower) / (e + 1 - c)
            upper = relief[d, b] + next_y - here - relief[f, b]
            lower = relief[d, b + 1] + next_xy - next_x - relief[f, b + 1]
            sv = step_v * ((1 - p) * upper + p * lower) / (d + 1 - f)
            j, i = min(int(u), columns - 2), min(int(v), rows - 2)
            g, h = u - j, v - i
            for k in range(3):
                n[k] = 0.0
                for part, by in ((0, 1.0), (3, -su), (6, -sv)):
                    top = frames[i, j, k + part] * (1 - g) + frames[i, j + 1, k + part] * g
                    low = frames[i + 1, j, k + part] * (1 - g) + frames[i + 1, j + 1, k + part] * g
                    n[k] += by * (top * (1 - h) + low * h)
            length = np.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]) + 1e-6
            facing = n[2] / length
            lit = 1.0 + (light[0] * n[0] + light[1] * n[1]) / length + light[2] * (facing - 0.9)
            lit = max(lit, light[3])
            shine = gloss * max(facing, 0.0) ** 12
            cover = count / (_FINE * _FINE)
            for k in range(3):
                c3 = (
                    w00 * colour[a, b, k] + w01 * colour[a, b + 1, k]
                    + w10 * colour[a + 1, b, k] + w11 * colour[a + 1, b + 1, k]
                )  # fmt: skip
                out[y, x, k] = cover * white[k] * lit * (c3 + shine * 0.25 * (1 - c3))
            out[y, x, 3] = cover


def _frames(points: Points) -> FloatArray:
    """Normal and coordinate gradients [V, U, 9] of a grid of points [V, U, 3]."""
    along, down = np.gradient(points, axis=1), np.gradient(points, axis=0)
    normal = np.cross(along, down)
    normal /= np.linalg.norm(normal, axis=2, keepdims=True) + 1e-9
    across = np.cross(down, normal)
    across /= (across * along).sum(axis=2, keepdims=True) + 1e-9
    below = np.cross(normal, along)
    below /= (below * down).sum(axis=2, keepdims=True) + 1e-9
    return np.concatenate([normal, across, below], axis=2).astype(np.float32)


# An ellipsoid inside the head: the bands lie on it where they would cut through.
_SKULL = np.array([0.0, 0.40, -1.00])
_RADII = np.array([1.10, 1.60, 1.30])


def _band_lines(
    shape: MaskShape, anchors: Points, camera: Camera, image: Image, light: PhotoLight
) -> list[Points]:
    """Where the bands are seen: lines [N, 2] in picture pixels, from the mask outwards.

    A band ends where it goes round the head, and where hair lies over it.
    """
    t = np.linspace(0, 1, 20)[:, None]
    path = shape.anchors[:, None] * (1 - t) + shape.ends[:, None] * t  # [4, N, 3]
    sag = np.array([0.03, 0.02, 0.03, 0.02])[:, None, None]
    path = path + 4 * sag * t * (1 - t) * np.array([0.0, 1.0, 0.0])
    radial = (path - _SKULL) / _RADII
    reach = np.sqrt((radial**2).sum(axis=2, keepdims=True))
    path = np.where(reach < 1, _SKULL + (path - _SKULL) / np.maximum(reach, 0.2), path)
    facing = (radial / _RADII) @ camera.matrix[2]  # [4, N]
    flat = camera.project(path)[..., :2]
    lines_all = flat + (anchors[:, None, :2] - flat[:, :1]) * (1 - t)

    height, width = image.shape[:2]
    skin = np.log(np.maximum(light.skin, 1e-4))
    lines = []
    for line, outward in zip(lines_all, facing, strict=True):
        at = np.clip(np.rint(line).astype(int), 0, [width - 1, height - 1])
        strange = (
            np.abs(np.log(to_linear(image[at[:, 1], at[:, 0]]) + 1e-4) - skin).max(axis=1) > 1.5
        )
        covered = strange & np.roll(strange, -1) & (t[:, 0] > 0.15)
        hidden = (outward < 0) | covered
        count = int(np.argmax(hidden)) if hidden.any() else len(line)
        if count >= 3:
            lines.append(line[:count])
    return lines


def _draw_bands(
    layer: FloatArray,
    lines: list[Points],
    corner: npt.NDArray[np.int64],
    thickness: float,
    colour: FloatArray,
) -> None:
    """Lay bands `thickness` pixels wide under what `layer` [H, W, 4] shows already."""
    height, width = layer.shape[:2]
    shape = (height * _FINE, width * _FINE)
    rim, back = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for line in lines:
        fine = (line - corner + 0.5) * _FINE - 0.5
        points = [np.rint(fine * 16).astype(np.int32)]
        for canvas, share in ((rim, 1.0), (back, 0.55)):
            thick = max(1, round(thickness * share * _FINE))
            cv2.polylines(canvas, points, False, 255, thick, cv2.LINE_AA, 4)
    size = (width, height)
    cover = cv2.resize(rim, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    light = cv2.resize(back, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    free = cover * (1 - layer[..., 3])
    # A rounded band: darker rims, a lighter back.
    layer[..., :3] += (free * (0.70 + 0.35 * light))[..., None] * colour
    layer[..., 3] += free


def _face_region(
    camera: Camera, landmarks: Points, corner: npt.NDArray[np.int64], shape: tuple[int, int]
) -> FloatArray:
    """Where a shadow can fall, [H, W] 0 to 1: the face and the neck under it."""
    region = np.zeros(shape, np.uint8)
    brows = landmarks[27] + (landmarks[[26, 17]] - landmarks[27]) * 1.1
    outline = np.concatenate([landmarks[0:17], brows])
    neck = np.concatenate([landmarks[4:13], landmarks[[12, 4]] + [0, 0.9 * camera.unit]])
    for part in (outline, neck):
        cv2.fillPoly(region, [np.rint((part - corner) * 16).astype(np.int32)], 255, cv2.LINE_8, 4)
    return _blurred(np.asarray(region, np.float32) / np.float32(255), max(0.05 * camera.unit, 0.8))


def _blurred(image: FloatArray, sigma: float) -> FloatArray:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _mix(
    under: Image,
    layer: FloatArray,
    shadow: FloatArray,
    decode: FloatArray,
    encode: FloatArray,
    noise: float,
    grain: FloatArray,
    top: int,
    left: int,
) -> None:
    """Lay `layer` [H, W, 4] over `under` [H, W, 3], in place, in linear light."""
    steps = encode.shape[0] - 1
    for y in range(under.shape[0]):
        for x in range(under.shape[1]):
            cover = min(max(layer[y, x, 3], 0.0), 1.0)
            dark = shadow[y, x]
            if cover < 0.002 and dark < 0.004:
                continue
            speck = grain[(top + y) % 512, (left + x) % 512] * noise * cover
            keep = (1 - cover) * (1 - dark)
            for c in range(3):
                lit = keep * decode[under[y, x, c]] + layer[y, x, c]
                value = encode[int(min(max(lit, 0.0), 1.0) * steps + 0.5)] + speck
                under[y, x, c] = np.uint8(min(max(value + 0.5, 0.0), 255.0))


def lay_over(
    image: Image,
    layer: FloatArray,
    corner: npt.NDArray[np.int64],
    landmarks: Points,
    camera: Camera,
    light: PhotoLight,
    rng: np.random.Generator,
) -> tuple[Image, FloatArray]:
    """Lay a drawn object over the photo, with the photo's blur and grain and a contact shadow.

    Args:
        layer: [h, w, 4] linear RGB times coverage, and coverage.
        corner: [2] x and y of the layer's first pixel in the picture.

    Returns:
        The picture [S, S, 3] uint8 and the coverage [S, S] float32.
    """
    height, width = layer.shape[:2]
    left, top = (int(c) for c in corner)
    # The photo's blur holds the pixel's own, which the drawing has too.
    layer = _blurred(layer, float(np.sqrt(max(light.blur**2 - 0.5**2, 0.4**2))))
    cover = np.ascontiguousarray(layer[..., 3])
    above = np.array([0.0, -0.35])  # where most light comes from
    shift = -0.05 * camera.unit * (light.tilt + above)
    move = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
    moved = cv2.warpAffine(cover, move, (width, height), borderMode=cv2.BORDER_REPLICATE)
    deep = np.float32(rng.uniform(0.22, 0.40))
    shadow = np.float32(0.30) * _blurred(cover, 0.022 * camera.unit)
    shadow = shadow + deep * _blurred(np.asarray(moved, np.float32), 0.085 * camera.unit)
    shadow = shadow * _face_region(camera, landmarks, corner, (height, width))
    out = image.copy()
    _mix(
        out[top : top + height, left : left + width], layer, shadow.astype(np.float32),
        TO_LINEAR, FROM_LINEAR, light.noise, *grain_tile(rng),
    )  # fmt: skip
    mask = np.zeros(image.shape[:2], np.float32)
    mask[top : top + height, left : left + width] = np.clip(cover, 0, 1)
    return out, mask


def _drawn(
    image: Image, landmarks: Points, rng: np.random.Generator, style: str, wear: str
) -> tuple[Image, FloatArray]:
    """Draw a mask of a style over a face: the picture and the coverage."""
    size = image.shape[0]
    camera = fit_camera(landmarks)
    light = estimate_light(image, landmarks, camera)
    form = style if style != "respirator" else str(rng.choice(["cup", "folded"]))
    shape = mask_shape(form, wear, rng)
    points, anchors = place(shape, camera)
    texels = int(np.clip(1.2 * shape.width * camera.unit, 48, 480))
    fabric = FABRICS[form](shape.width, shape.height, texels, rng)
    lines = _band_lines(shape, anchors, camera, image, light)

    everything = np.concatenate([points[..., :2].reshape(-1, 2), *lines])
    margin = 0.2 * camera.unit + 2
    low = np.clip(np.floor(everything.min(axis=0) - margin).astype(int), 0, size - 2)
    high = np.clip(np.ceil(everything.max(axis=0) + margin).astype(int), low + 2, size)
    width, height = (int(v) for v in high - low)
    samples = points * _FINE
    samples[..., :2] += (0.5 - low) * _FINE - 0.5
    depth = np.full((height * _FINE, width * _FINE), -1e9, np.float32)
    where = np.empty((height * _FINE, width * _FINE, 2), np.float32)
    _rasterise(samples.astype(np.float32), depth, where)

    # Hollows get less light from around.
    hollow = cv2.blur(fabric.relief, (max(3, texels // 12),) * 2)
    hollow = np.clip(1 + 20 * (fabric.relief - hollow), 0.6, 1.15)
    colour = fabric.colour * hollow[..., None]
    band = fabric.band
    if light.gray:
        colour[:] = (colour @ LUMA)[..., None]
        band = np.repeat(band @ LUMA, 3)
    tilt = 0.8 * light.tilt + [0.0, -0.25]
    lamp = np.array([tilt[0], tilt[1], rng.uniform(0.25, 0.45), 0.18], np.float32)
    layer = np.zeros((height, width, 4), np.float32)
    _shade(
        depth, where, _frames(samples), colour, fabric.relief * np.float32(camera.unit * _FINE),
        light.white, lamp, fabric.gloss, layer,
    )  # fmt: skip
    _draw_bands(layer, lines, low, fabric.band_width * camera.unit, 0.85 * light.white * band)
    return lay_over(image, layer, low, landmarks, camera, light, rng)


def wear_mask(
    image: npt.NDArray[np.uint8],
    landmarks: npt.ArrayLike,
    rng: np.random.Generator,
    *,
    kind: str | None = None,
    templates: MaskTemplates | None = None,
) -> WornMask:
    """Put a mask on an aligned face.

    Args:
        image: [S, S, 3] uint8 RGB, the aligned square.
        landmarks: [68, 2] in its pixels, iBUG 300-W order.
        rng: source of everything random.
        kind: "surgical", "cloth", "respirator" or "template", with or without "/nose_out" or
            "/chin_out" (drawn masks only); None chooses, templates in half of the cases if given.
        templates: RGBA pictures of masks.

    Raises:
        ValueError: an unknown kind, "template" without templates, or a picture that is no square.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if image.ndim != 3 or image.shape[0] != image.shape[1] or image.shape[2] != 3:
        raise ValueError(f"image must be a square [S, S, 3], got {list(image.shape)}")
    if kind is None:
        style = str(rng.choice(STYLES, p=_STYLE_SHARES))
        draw = rng.random()
        wear = WEARS[int(draw / _WEAR_SHARE)] if draw < _WEAR_SHARE * len(WEARS) else ""
        if templates is not None and rng.random() < 0.5:
            style, wear = "template", ""
    else:
        style, _, wear = kind.partition("/")
        known = style in STYLES or (style == "template" and not wear)
        if not known or wear not in ("", *WEARS):
            raise ValueError(
                f"unknown kind {kind!r}: name one of {', '.join(STYLES)} or template, and after a "
                f"slash one of {', '.join(WEARS)} or nothing"
            )
    if style == "template":
        if templates is None:
            raise ValueError("kind 'template' needs templates: pass MaskTemplates(folder)")
        return templates.wear(image, points, rng)
    picture, mask = _drawn(image, points, rng, style, wear)
    return WornMask(picture, mask, f"{style}/{wear}" if wear else style)
