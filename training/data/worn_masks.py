"""Face masks put on aligned faces: surgical, cloth and respirator, drawn by the 68 landmarks.

A mask is a surface in front of a mean head (mask_shapes) that carries a fabric (mask_fabrics). It is
posed by the landmarks, lit as the face is (photo_light), drawn at twice the resolution, blurred and
grained as the photo, and laid over the face with its bands and a contact shadow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import numba
import numpy as np
import numpy.typing as npt

from revisage.training.data.mask_fabrics import (
    Fabric,
    cloth_fabric,
    cup_fabric,
    folded_fabric,
    surgical_fabric,
)
from revisage.training.data.mask_shapes import (
    Camera,
    MaskShape,
    fit_camera,
    mask_shape,
    place,
    visible_side,
)
from revisage.training.data.photo_light import PhotoLight, estimate_light, from_linear, to_linear

if TYPE_CHECKING:
    from revisage.training.data.mask_templates import MaskTemplates

__all__ = ["STYLES", "WEARS", "WornMask", "wear_mask"]

FloatArray = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]

STYLES = ("surgical", "cloth", "respirator")
WEARS = ("nose_out", "chin_out")
_STYLE_SHARES = (0.5, 0.3, 0.2)
_WEAR_SHARE = 0.03  # of each wrong way of wearing
_FINE = 2  # drawn at this many times the resolution
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


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


@numba.njit(cache=True, nogil=True, fastmath=True)
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


@numba.njit(cache=True, nogil=True, fastmath=True)
def _shade(
    depth: FloatArray,
    where: FloatArray,
    frames: FloatArray,
    colour: FloatArray,
    slopes: FloatArray,
    white: FloatArray,
    light: FloatArray,
    gloss: float,
    out: FloatArray,
) -> None:
    """Light the drawn fabric.

    frames: [V, U, 9] normal, and the gradients of the grid coordinates u and v on the surface.
    colour: [TV, TU, 3]. slopes: [TV, TU, 2] relief in pixels per grid step along u and v.
    light: [4] tilt in x and y, fall-off towards the edges, least light.
    out: [H, W, 4] linear RGB and coverage.
    """
    height, width = depth.shape
    rows, columns = frames.shape[:2]
    tall, wide = colour.shape[:2]
    frame = np.empty(9, np.float32)
    for y in range(height):
        for x in range(width):
            if depth[y, x] < -1e8:
                continue
            u, v = where[y, x, 0], where[y, x, 1]
            j, i = min(max(int(u), 0), columns - 2), min(max(int(v), 0), rows - 2)
            p, q = u - j, v - i
            for k in range(9):
                top = frames[i, j, k] + p * (frames[i, j + 1, k] - frames[i, j, k])
                low = frames[i + 1, j, k] + p * (frames[i + 1, j + 1, k] - frames[i + 1, j, k])
                frame[k] = top + q * (low - top)
            tu, tv = u / (columns - 1) * (wide - 1), v / (rows - 1) * (tall - 1)
            b, a = min(max(int(tu), 0), wide - 2), min(max(int(tv), 0), tall - 2)
            p, q = tu - b, tv - a
            w00, w01, w10, w11 = (1 - p) * (1 - q), p * (1 - q), (1 - p) * q, p * q
            su = (
                w00 * slopes[a, b, 0] + w01 * slopes[a, b + 1, 0]
                + w10 * slopes[a + 1, b, 0] + w11 * slopes[a + 1, b + 1, 0]
            )  # fmt: skip
            sv = (
                w00 * slopes[a, b, 1] + w01 * slopes[a, b + 1, 1]
                + w10 * slopes[a + 1, b, 1] + w11 * slopes[a + 1, b + 1, 1]
            )  # fmt: skip
            nx = frame[0] - su * frame[3] - sv * frame[6]
            ny = frame[1] - su * frame[4] - sv * frame[7]
            nz = frame[2] - su * frame[5] - sv * frame[8]
            length = np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-6
            nx, ny, nz = nx / length, ny / length, nz / length
            lit = max(1.0 + light[0] * nx + light[1] * ny + light[2] * (nz - 0.9), light[3])
            shine = gloss * max(nz, 0.0) ** 12 * lit
            for k in range(3):
                c = (
                    w00 * colour[a, b, k] + w01 * colour[a, b + 1, k]
                    + w10 * colour[a + 1, b, k] + w11 * colour[a + 1, b + 1, k]
                )  # fmt: skip
                out[y, x, k] = white[k] * lit * (c + shine * 0.25 * (1 - c))
            out[y, x, 3] = 1.0


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


_FABRICS: dict[str, Callable[[float, float, int, np.random.Generator], Fabric]] = {
    "surgical": surgical_fabric,
    "cloth": cloth_fabric,
    "cup": cup_fabric,
    "folded": folded_fabric,
}


def _band_lines(
    shape: MaskShape, anchors: Points, camera: Camera, linear: FloatArray, light: PhotoLight
) -> list[Points]:
    """Where the bands are seen: lines [N, 2] in picture pixels, from the mask outwards.

    A band ends where it goes round the head, and where hair lies over it.
    """
    size = linear.shape[0]
    ends = camera.project(shape.ends)
    t = np.linspace(0, 1, 24)[:, None]
    skin = np.log(np.maximum(light.skin, 1e-4))
    lines = []
    for number in range(4):
        side = -1.0 if number < 2 else 1.0
        facing = visible_side(camera, side)
        start, end = anchors[number, :2], ends[number, :2]
        sag = 0.10 if number % 2 == 0 else 0.06
        bend = (start + end) / 2 + sag * camera.unit * np.array([side * 0.25, 0.5])
        line = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
        # Its normal turns from the cheek's, which is seen, to the ear's.
        seen = 0.6 + t[:, 0] * (facing - 0.45) > 0
        at = np.clip(np.rint(line).astype(int), 0, size - 1)
        colours = np.log(np.maximum(linear[at[:, 1], at[:, 0]], 1e-4))
        # Light on the side of the face differs, so compare with the lighter of skin and shadow.
        strange = np.abs(colours - skin).max(axis=1) > 1.5
        hidden = ~seen | (strange & np.roll(strange, -1) & (t[:, 0] > 0.15))
        count = int(np.argmax(hidden)) if hidden.any() else len(line)
        if count >= 3:
            lines.append(line[:count])
    return lines


def _draw_bands(
    out: FloatArray,
    lines: list[Points],
    corner: npt.NDArray[np.int64],
    width: float,
    colour: FloatArray,
) -> None:
    """Lay bands under what `out` [H, W, 4] shows already."""
    under = np.zeros_like(out)
    for line in lines:
        fine = (line - corner + 0.5) * _FINE - 0.5
        points = [np.rint(fine * 16).astype(np.int32)]
        # A rounded band: dark rims, a lighter back.
        for share, gain in ((1.0, 0.72), (0.62, 0.95), (0.3, 1.06)):
            rgba = (*(float(c) * gain for c in colour), 1.0)
            thick = max(1, round(width * share * _FINE))
            cv2.polylines(under, points, False, rgba, thick, cv2.LINE_AA, 4)
    out += under * (1 - out[..., 3:])


def _face_region(camera: Camera, landmarks: Points, corner: npt.NDArray[np.int64], shape: tuple[int, int]) -> FloatArray:
    """Where a shadow can fall, [H, W] 0 to 1: the face and the neck under it."""
    region = np.zeros(shape, np.uint8)
    jaw = landmarks[0:17]
    middle = landmarks[27]
    outline = np.concatenate([jaw, middle + (landmarks[[26, 17]] - middle) * 1.1])
    neck = np.concatenate([landmarks[4:13], landmarks[[12, 4]] + [0, 0.9 * camera.unit]])
    for part in (outline, neck):
        cv2.fillPoly(region, [np.rint((part - corner) * 16).astype(np.int32)], 255, cv2.LINE_8, 4)
    soft = cv2.GaussianBlur(region, (0, 0), max(0.05 * camera.unit, 0.8))
    return soft.astype(np.float32) / 255


def _blurred(image: FloatArray, sigma: float) -> FloatArray:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32) if sigma > 0.25 else image


def _lay_over(
    image: Image,
    layer: FloatArray,
    corner: npt.NDArray[np.int64],
    landmarks: Points,
    camera: Camera,
    light: PhotoLight,
    rng: np.random.Generator,
) -> tuple[Image, FloatArray]:
    """Lay a drawn object [h, w, 4] (linear RGB times coverage, coverage) over the photo."""
    height, width = layer.shape[:2]
    left, top = (int(c) for c in corner)
    # The photo's blur holds the pixel's own, which the drawing has too.
    layer = _blurred(layer, float(np.sqrt(max(light.blur**2 - 0.55**2, 0.0))))
    cover = layer[..., 3]
    under = image[top : top + height, left : left + width]

    near, far = 0.022 * camera.unit, 0.085 * camera.unit
    away = -light.tilt - np.array([0.0, -0.35])  # most light comes from above
    shift = 0.05 * camera.unit * away
    move = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
    moved = cv2.warpAffine(cover, move, (width, height), borderMode=cv2.BORDER_REPLICATE)
    shadow = 0.30 * _blurred(cover, near) + np.float32(rng.uniform(0.22, 0.40)) * _blurred(moved, far)
    shadow *= _face_region(camera, landmarks, corner, (height, width))
    base = to_linear(under) * (1 - np.clip(shadow, 0, 0.7))[..., None]
    mixed = base * (1 - layer[..., 3:]) + layer[..., :3]
    values = from_linear(mixed)
    sigma = light.noise
    grain = rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(sigma)
    values += _blurred(grain, min(light.blur, 1.0) * 0.6).reshape(height, width, 1) * cover[..., None]
    out = image.copy()
    changed = (cover > 0.002) | (shadow > 0.002)
    values = np.where(changed[..., None], values + 0.5, under.astype(np.float32) + 0.25)
    out[top : top + height, left : left + width] = np.clip(values, 0, 255).astype(np.uint8)
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
    form = style if style != "respirator" else str(rng.choice(["cup", "folded"], p=[0.5, 0.5]))
    shape = mask_shape(form, wear, rng)
    points, anchors = place(shape, camera)
    texels = int(np.clip(2.2 * shape.width * camera.unit, 48, 420))
    fabric = _FABRICS[form](shape.width, shape.height, texels, rng)

    linear_small = to_linear(image) if size <= 128 else None
    lines = _band_lines(
        shape, anchors, camera, linear_small if linear_small is not None else to_linear(image), light
    )
    everything = np.concatenate([points[..., :2].reshape(-1, 2), *lines])
    margin = 0.25 * camera.unit + 2
    low = np.clip(np.floor(everything.min(axis=0) - margin).astype(int), 0, size - 2)
    high = np.clip(np.ceil(everything.max(axis=0) + margin).astype(int), low + 2, size)
    width, height = (int(v) for v in high - low)

    fine = points.copy()
    fine[..., :2] = (fine[..., :2] - low + 0.5) * _FINE - 0.5
    fine[..., 2] *= _FINE
    depth = np.full((height * _FINE, width * _FINE), -1e9, np.float32)
    where = np.zeros((height * _FINE, width * _FINE, 2), np.float32)
    _rasterise(fine.astype(np.float32), depth, where)

    rows, columns = points.shape[:2]
    relief = fabric.relief * np.float32(camera.unit * _FINE)
    tall, wide = relief.shape
    slopes = np.empty((tall, wide, 2), np.float32)
    slopes[..., 0] = np.gradient(relief, axis=1) * np.float32((wide - 1) / (columns - 1))
    slopes[..., 1] = np.gradient(relief, axis=0) * np.float32((tall - 1) / (rows - 1))
    # Hollows get less light from around.
    hollow = (fabric.relief - cv2.blur(fabric.relief, (max(3, texels // 12),) * 2)) / 0.012
    colour = fabric.colour * np.clip(1 + 0.16 * hollow, 0.6, 1.12)[..., None]
    if light.gray:
        colour = np.repeat((colour @ _LUMA)[..., None], 3, axis=2)
    tilt = 0.75 * light.tilt + np.array([0.0, -0.20])
    lamp = np.array([tilt[0], tilt[1], rng.uniform(0.25, 0.45), 0.18], np.float32)
    layer = np.zeros((height * _FINE, width * _FINE, 4), np.float32)
    _shade(
        depth, where, _frames(fine), np.ascontiguousarray(colour, np.float32), slopes,
        light.white, lamp, fabric.gloss, layer,
    )  # fmt: skip
    band = fabric.band if not light.gray else np.repeat(fabric.band @ _LUMA, 3)
    _draw_bands(layer, lines, low, fabric.band_width * camera.unit, 0.8 * light.white * band)
    small = cv2.resize(layer, (width, height), interpolation=cv2.INTER_AREA)
    return _lay_over(image, np.asarray(small, np.float32), low, landmarks, camera, light, rng)


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
        ValueError: an unknown kind, "template" without templates, or a picture that is not a square.
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
