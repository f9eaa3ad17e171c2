"""What cameras, light and things in front of a face do to a picture, by chance.

All functions take and return [H, W, 3] uint8 RGB and draw from the given generator. They serve the
synthesis in `faces.py`; none of them moves a pixel, so that landmarks stay valid.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["camera", "cover", "light", "texture"]

Picture = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]


def _tables(rng: np.random.Generator) -> Picture:
    """A tone curve per channel as a [256, 1, 3] look-up table."""
    level = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    kind = rng.random()
    if kind < 0.25:  # dark skin, deep shadows, under-exposure
        gamma, contrast = np.exp(rng.uniform(0.2, 1.2)), rng.uniform(0.6, 1.1)
    elif kind < 0.45:  # over-exposure, pale skin
        gamma, contrast = np.exp(rng.uniform(-0.9, -0.1)), rng.uniform(0.7, 1.2)
    else:
        gamma, contrast = np.exp(rng.normal(0, 0.25)), rng.uniform(0.7, 1.35)
    pivot = rng.uniform(0.3, 0.6)
    curve = (level**gamma - pivot) * contrast + pivot + rng.normal(0, 0.04)
    if rng.random() < 0.1:
        curve = curve * rng.uniform(0.12, 0.5)  # low light
    cast = rng.normal(0, 0.06 if rng.random() < 0.75 else 0.2, 3)
    curve = curve * np.exp(cast - cast.mean() * 0.7)[None]
    table: Picture = (np.clip(curve, 0, 1) * 255 + 0.5).astype(np.uint8)[:, None]
    return table


def light(picture: Picture, rng: np.random.Generator) -> Picture:
    """Tone curve, colour cast, saturation, black and white, and light from one side."""
    out = np.asarray(cv2.LUT(picture, _tables(rng)), dtype=np.uint8)
    choice = rng.random()
    if choice < 0.12:
        out = cv2.cvtColor(cv2.cvtColor(out, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)  # type: ignore[assignment]
    elif choice < 0.4:
        gray = cv2.cvtColor(cv2.cvtColor(out, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        share = float(rng.uniform(0.3, 1.5))
        out = cv2.addWeighted(out, share, gray, 1 - share, 0)  # type: ignore[assignment]
    if rng.random() < 0.25:
        height, width = out.shape[:2]
        angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.8)
        soft = rng.uniform(0.1, 0.6)
        x = np.linspace(-0.5, 0.5, width, dtype=np.float32) * np.float32(np.cos(angle))
        y = np.linspace(-0.5, 0.5, height, dtype=np.float32) * np.float32(np.sin(angle))
        ramp = x[None] + y[:, None] + np.float32(rng.normal(0, 0.15))
        gain = 1 - np.float32(strength) * np.clip(ramp / np.float32(soft) + 0.5, 0, 1)
        out = (out * gain[..., None]).astype(np.uint8)
    return out


def camera(picture: Picture, rng: np.random.Generator, *, detail: float = 1.0) -> Picture:
    """Low resolution, defocus, motion blur, noise and JPEG artefacts.

    Args:
        detail: how much detail may be lost, 0 to 1: less where faces are small.
    """
    out = picture
    height, width = out.shape[:2]
    if rng.random() < 0.35:
        factor = 1 - rng.uniform(0.1, 0.65) * detail
        small = (max(8, round(width * factor)), max(8, round(height * factor)))
        out = cv2.resize(out, small, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        mode = cv2.INTER_LINEAR if rng.random() < 0.7 else cv2.INTER_CUBIC
        out = cv2.resize(out, (width, height), interpolation=mode)  # type: ignore[assignment]
    choice = rng.random()
    if choice < 0.15:
        out = cv2.GaussianBlur(out, (0, 0), 0.4 + float(rng.uniform(0.1, 1.6)) * detail)  # type: ignore[assignment]
    elif choice < 0.22:
        length = 3 + int(rng.integers(0, 5) * detail)
        kernel = np.zeros((length, length), dtype=np.float32)
        middle = (length - 1) / 2
        angle = rng.uniform(0, np.pi)
        step = np.array([np.cos(angle), np.sin(angle)]) * middle
        start, end = np.rint(middle - step).astype(int), np.rint(middle + step).astype(int)
        cv2.line(kernel, start.tolist(), end.tolist(), 1.0)
        out = cv2.filter2D(out, -1, kernel / kernel.sum())  # type: ignore[assignment]
    elif choice < 0.28:
        soft = cv2.GaussianBlur(out, (0, 0), 1.5)
        out = cv2.addWeighted(out, 1.8, soft, -0.8, 0)  # type: ignore[assignment]
    if rng.random() < 0.3:
        sigma = rng.uniform(1, 14)
        noise = rng.standard_normal((height, width, 3), dtype=np.float32)
        if rng.random() < 0.4:
            noise[:] = noise[..., :1]
        out = np.clip(out + noise * np.float32(sigma), 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(18, 90))]
        out = cv2.imdecode(cv2.imencode(".jpg", out, quality)[1], cv2.IMREAD_COLOR)  # type: ignore[assignment]
    return out


def texture(size: tuple[int, int], rng: np.random.Generator) -> Picture:
    """A picture [height, width, 3] of nothing: noise at many scales, stripes, blobs, dots, text."""
    height, width = size
    kind = int(rng.integers(0, 6))
    ends = rng.integers(0, 256, (2, 3))
    if kind <= 1:  # noise of a random roughness, coloured between two ends
        field: npt.NDArray[np.floating] = np.zeros((height, width), dtype=np.float32)
        roughness = rng.uniform(0.4, 1.0)
        for octave in range(6):
            cells = 2 ** (octave + 1)
            grid = rng.standard_normal((cells, cells), dtype=np.float32)
            field += roughness**octave * cv2.resize(
                grid, (width, height), interpolation=cv2.INTER_CUBIC
            )
        field = (field - field.min()) / max(1e-6, float(np.ptp(field)))
    else:
        x = np.linspace(-1, 1, width, dtype=np.float32)[None]
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
        angle = rng.uniform(0, np.pi)
        ramp = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
        if kind == 2:
            field = ramp * 0.5 + 0.5
        else:
            field = np.sin(ramp * np.float32(rng.uniform(3, 60))) * 0.5 + 0.5
            if rng.random() < 0.5:
                other = np.float32(-np.sin(angle)) * x + np.float32(np.cos(angle)) * y
                field = (field + np.sin(other * np.float32(rng.uniform(3, 60))) * 0.5 + 0.5) / 2
            if rng.random() < 0.5:
                field = (field > 0.5).astype(np.float32)
    colours = ends[0] + np.clip(field, 0, 1)[..., None] * (ends[1] - ends[0])
    out = np.ascontiguousarray(colours.astype(np.uint8))
    for _ in range(int(rng.integers(0, 30))):
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        what = rng.random()
        if what < 0.45:
            axes = rng.integers(2, max(3, width // 5), 2).tolist()
            thick = -1 if rng.random() < 0.6 else int(rng.integers(1, 5))
            cv2.ellipse(out, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, thick)
        elif what < 0.7:
            end = (int(rng.integers(0, width)), int(rng.integers(0, height)))
            cv2.line(out, centre, end, colour, int(rng.integers(1, 8)))
        elif what < 0.85:
            end = (centre[0] + int(rng.integers(4, 60)), centre[1] + int(rng.integers(4, 60)))
            cv2.rectangle(out, centre, end, colour, -1)
        else:
            word = "".join(chr(c) for c in rng.integers(33, 123, int(rng.integers(2, 9))))
            cv2.putText(
                out, word, centre, int(rng.integers(0, 8)), float(rng.uniform(0.3, 2.0)), colour, 2
            )
    return out


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    if rng.random() < 0.4:  # cloth and frames are often near black, gray or white
        value = int(rng.integers(0, 256))
        return (value, value, value)
    red, green, blue = (int(v) for v in rng.integers(0, 256, 3))
    return (red, green, blue)


def _blend(
    picture: Picture, shape: Picture, paint: npt.NDArray[np.floating], alpha: float
) -> Picture:
    """Lay `paint` over `picture` where `shape` (0..255) says so."""
    weight = shape.astype(np.float32)[..., None] * np.float32(alpha / 255)
    return (picture + weight * (np.asarray(paint, np.float32) - picture)).astype(np.uint8)


def cover(picture: Picture, landmarks: FloatArray, rng: np.random.Generator) -> Picture:
    """Put something in front of the face: glasses, a hat, a mask, a hand, hair or a patch.

    Args:
        landmarks: [68, 2] points in pixels of `picture`.
    """
    height, width = picture.shape[:2]
    shape = np.zeros((height, width), dtype=np.uint8)
    eyes = (landmarks[36:42].mean(0) + landmarks[42:48].mean(0)) / 2
    across = landmarks[42:48].mean(0) - landmarks[36:42].mean(0)
    reach = float(np.hypot(*across)) + 1e-3
    right = across / reach
    down = np.array([-right[1], right[0]], dtype=np.float32)
    angle = float(np.degrees(np.arctan2(right[1], right[0])))
    colour = np.array(_colour(rng), dtype=np.float32)
    paint: npt.NDArray[np.floating] = colour[None, None]
    alpha = 1.0
    kind = rng.random()
    if kind < 0.3:  # glasses: frames, and dark lenses for some
        size = np.array([rng.uniform(0.32, 0.5), rng.uniform(0.22, 0.45)]) * reach
        dark = rng.random() < 0.5
        thick = -1 if dark else max(1, round(reach * rng.uniform(0.03, 0.12)))
        for side in (-0.5, 0.5):
            centre = eyes + right * side * reach * rng.uniform(1.0, 1.1) + down * 0.05 * reach
            middle, axes = np.rint(centre).astype(int).tolist(), np.rint(size).astype(int).tolist()
            if rng.random() < 0.5:
                cv2.ellipse(shape, middle, axes, angle, 0, 360, 255, thick)
            else:
                corners = cv2.boxPoints((centre.tolist(), (2 * size).tolist(), angle))
                points = np.rint(corners).astype(np.int32)
                if dark:
                    cv2.fillPoly(shape, [points], 255)
                else:
                    cv2.polylines(shape, [points], True, 255, thick)
        for start, end in ((-0.2, 0.2), (-1.1, -0.8), (0.8, 1.1)):
            a, b = (np.rint(eyes + right * s * reach).astype(int).tolist() for s in (start, end))
            cv2.line(shape, a, b, 255, max(1, round(reach * 0.06)))
        alpha = rng.uniform(0.7, 1.0) if dark else 1.0
        if rng.random() < 0.6:
            paint = paint * rng.uniform(0.0, 0.4)
    elif kind < 0.5:  # hat, cap or headscarf: everything above a line over the brows
        lift = rng.uniform(0.45, 1.0) * reach
        tilt, wide = rng.normal(0, 0.12), rng.uniform(1.2, 2.6) * reach
        base = eyes - down * lift
        line = right + down * tilt
        top = rng.uniform(0.8, 2.2) * reach
        dome = rng.uniform(0.5, 1.0)
        hat = [base - line * wide, base + line * wide]
        hat += [base + line * wide * dome - down * top, base - line * wide * dome - down * top]
        cv2.fillConvexPoly(shape, np.rint(hat).astype(np.int32), 255)
        if rng.random() < 0.4:  # long hair or cloth at both sides
            for side in (-1, 1):
                start = np.rint(base + right * side * 1.35 * reach).astype(int).tolist()
                end = np.rint(eyes + right * side * 1.5 * reach + down * 2.5 * reach).astype(int)
                cv2.line(shape, start, end.tolist(), 255, max(1, round(0.6 * reach)))
    elif kind < 0.65:  # face mask: jaw line and nose ridge
        nose = landmarks[28 + int(rng.integers(0, 3))]
        lower = (landmarks[2:15] - nose) * rng.uniform(0.95, 1.08) + nose
        cloth = np.concatenate([lower, nose[None]])
        cv2.fillPoly(shape, [np.rint(cloth).astype(np.int32)], 255)
        if rng.random() < 0.6:
            paint = 255 - (255 - paint) * rng.uniform(0.1, 0.5)
    elif kind < 0.85:  # hand or arm: skin-coloured ellipses from one side
        anchor = landmarks[int(rng.integers(0, 68))]
        around = landmarks[rng.choice([1, 2, 14, 15, 30, 33])]
        x, y = np.clip(np.rint(around).astype(int), 0, [width - 1, height - 1])
        paint = picture[y, x].astype(np.float32)[None, None] * rng.uniform(0.7, 1.2)
        spread = rng.uniform(0, 180)
        for finger in range(int(rng.integers(1, 5))):
            at = anchor + right * reach * 0.28 * finger
            axes = (round(reach * rng.uniform(0.5, 1.4)), round(reach * rng.uniform(0.1, 0.25)))
            middle = np.rint(at).astype(int).tolist()
            cv2.ellipse(shape, middle, axes, spread + rng.normal(0, 6), 0, 360, 255, -1)
    else:  # a patch of anything
        centre = landmarks[int(rng.integers(0, 68))] + rng.normal(0, 0.3 * reach, 2)
        corners = rng.normal(0, 0.55 * reach, (int(rng.integers(3, 7)), 2)) + centre
        hull = cv2.convexHull(np.rint(corners).astype(np.int32))
        cv2.fillConvexPoly(shape, hull, 255)
        paint = texture((height, width), rng).astype(np.float32)
    if rng.random() < 0.5:
        shape = cv2.GaussianBlur(shape, (0, 0), float(rng.uniform(0.5, 1.5)))  # type: ignore[assignment]
    if kind < 0.85 and rng.random() < 0.5:  # folds and weave
        grain = rng.normal(1, 0.12, (8, 8, 1)).astype(np.float32)
        paint = np.asarray(paint, np.float32) * cv2.resize(grain, (width, height))[..., None]
        paint = np.clip(paint, 0, 255)
    return _blend(picture, shape, paint, float(alpha))
