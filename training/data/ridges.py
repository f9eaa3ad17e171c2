"""A ridge-filter teacher: where real wrinkles lie in an aligned face, without any training.

Dark lines are found with a bank of elongated filters on the logarithm of the luminance, so that a
response is a relative contrast (multi-scale line measures: Lindeberg 1998, "Edge detection and
ridge detection with automatic scale selection"; elongated filters for wrinkles: Ng et al. 2014,
"Automatic wrinkle detection using hybrid Hessian filter"; Batool and Chellappa 2014, "Detection and
inpainting of facial wrinkles using texture orientation fields and Markov random field modeling").
Lines are kept where they are long, on skin, and away from eyes, brows, lips, nostrils and the
outline of the face, which are dark lines too.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["IGNORE", "line_response", "log_luminance", "skin_mask", "teacher_labels"]

FloatArray = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]

IGNORE = 255  # label of pixels that teach nothing: too faint to tell

_ORIENTATIONS = 12
_SCALES = (1.3, 2.0, 3.0)  # standard deviation across the line, pixels of a 512 px square


def log_luminance(image: npt.NDArray[np.generic]) -> FloatArray:
    """[H, W, 3] RGB uint8, or float in [0, 1] -> [H, W] natural log of Rec. 601 luma.

    Samples are offset by 6 % of full range, so that noise in shadows does not count as contrast.
    """
    values: FloatArray = image.astype(np.float32)
    if np.issubdtype(image.dtype, np.integer):
        values /= float(np.iinfo(image.dtype.name).max)
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    return np.asarray(np.log(np.maximum(values @ weights, 0) + np.float32(0.06)), dtype=np.float32)


@functools.cache
def _smoothers(scale: float) -> tuple[tuple[FloatArray, FloatArray], ...]:
    """Per orientation: an elongated averaging kernel, and the step (x, y) across the line."""
    along, across = 3.0 * scale, 0.6 * scale
    radius = int(np.ceil(2.5 * along))
    grid = np.arange(-radius, radius + 1, dtype=np.float64)
    x, y = np.meshgrid(grid, grid)
    found = []
    for index in range(_ORIENTATIONS):
        angle = np.pi * index / _ORIENTATIONS
        u = np.cos(angle) * x + np.sin(angle) * y
        v = -np.sin(angle) * x + np.cos(angle) * y
        bell = np.exp(-0.5 * (v / across) ** 2 - 0.5 * (u / along) ** 2)
        step = 2.2 * scale * np.array([-np.sin(angle), np.cos(angle)])
        found.append(((bell / bell.sum()).astype(np.float32), step.astype(np.float32)))
    return tuple(found)


def _shifted(field: FloatArray, step: FloatArray) -> FloatArray:
    matrix = np.array([[1, 0, step[0]], [0, 1, step[1]]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (field.shape[1], field.shape[0])
    out = cv2.warpAffine(field, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(out, dtype=np.float32)


def line_response(log_light: FloatArray) -> FloatArray:
    """Depth of dark lines: [H, W] log luminance -> [H, W], 0 or more, as a share of luminance.

    A line is darker than the darker of its two sides: min(left, right) - middle, each averaged
    along the line. A step edge, which has one dark side, gives no answer.
    """
    best = np.zeros_like(log_light)
    for scale in _SCALES:
        light, factor = log_light, 1.0
        if scale >= 2.0:  # coarse lines at half the size: a quarter of the cost
            factor = 2.0
            light = cv2.resize(log_light, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        strongest = np.zeros_like(light)
        for kernel, step in _smoothers(scale / factor):
            smooth = cv2.filter2D(light, cv2.CV_32F, kernel, borderType=cv2.BORDER_REPLICATE)
            side = np.minimum(_shifted(smooth, step), _shifted(smooth, -step))  # type: ignore[arg-type]
            np.maximum(strongest, side - smooth, out=strongest)
        if factor != 1.0:
            size = (log_light.shape[1], log_light.shape[0])
            strongest = cv2.resize(strongest, size, interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
        np.maximum(best, strongest, out=best)
    return best


def _polygon(mask: Mask, points: npt.NDArray[np.float64], value: int, grow: float = 0.0) -> None:
    hull = cv2.convexHull(np.rint(points).astype(np.int32))
    cv2.fillConvexPoly(mask, hull, value)
    if grow >= 0.5:
        cv2.polylines(mask, [hull], True, value, round(2 * grow))


def _face_area(landmarks: npt.NDArray[np.float64], size: int) -> tuple[Mask, Mask]:
    """The face with its forehead, and the parts of it that are no skin or have dark edges."""
    points = landmarks
    eyes = (points[36:42].mean(axis=0) + points[42:48].mean(axis=0)) / 2
    unit = float(np.hypot(*(points[42:48].mean(axis=0) - points[36:42].mean(axis=0))))
    up = eyes - points[57]
    up = up / max(float(np.hypot(*up)), 1e-6)
    across = np.array([-up[1], up[0]])
    face: Mask = np.zeros((size, size), np.uint8)
    brows = points[17:27]
    # The forehead: the brows moved up, narrowing towards the hairline.
    middle = brows.mean(axis=0)
    raised = [brows + 0.35 * unit * up, middle + 0.8 * (brows - middle) + 0.8 * unit * up]
    # The jaw line is an edge itself: stay inside it.
    jaw = points[:17] + 0.06 * (points[30] - points[:17])
    _polygon(face, np.concatenate([jaw, *raised]), 1)
    barred: Mask = np.zeros((size, size), np.uint8)
    for eye in (points[36:42], points[42:48]):
        _polygon(barred, eye, 1, 0.085 * unit)
        centre = eye.mean(axis=0)
        _polygon(barred, centre + 1.12 * (eye - centre), 1, 0.05 * unit)
    for brow, eye in ((points[17:22], points[36:40]), (points[22:27], points[42:46])):
        lid = np.concatenate([brow, eye])
        _polygon(barred, lid, 1)  # upper lid: the fold of the lid is no wrinkle
        _polygon(barred, brow, 1, 0.1 * unit)
    _polygon(barred, points[48:60], 1, 0.045 * unit)
    # Ridge, wings and lower edge of the nose, and the nostrils.
    base = points[33]
    nose = np.concatenate([points[31:36], points[31:36] + 0.22 * unit * up])
    sideways = ((nose - base) @ across)[:, None] * across
    _polygon(barred, nose + 0.6 * sideways, 1, 0.05 * unit)
    bridge = 0.11 * unit * across
    _polygon(barred, np.stack([p for q in points[28:31] for p in (q - bridge, q + bridge)]), 1)
    # The root of the nose, where glasses sit and lids end.
    inner, outer = points[[39, 42]], (points[[21, 22]] + points[[39, 42]]) / 2
    _polygon(barred, np.concatenate([inner, outer, points[27:29]]), 1, 0.03 * unit)
    return face, barred


def skin_mask(image: npt.NDArray[np.uint8], landmarks: npt.ArrayLike) -> Mask:
    """Where skin can be seen: the face without features, hair, beard, glasses and background.

    The colour of skin is learnt from the cheeks, the nose and the middle of the forehead of this
    very face, from a picture smoothed well above the width of a wrinkle.

    Args:
        image: [S, S, 3] uint8 RGB aligned square.
        landmarks: [68, 2] in pixels of the square.

    Returns:
        [S, S] uint8, 1 = skin.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    size = image.shape[0]
    face, barred = _face_area(points, size)
    unit = float(np.hypot(*(points[42:48].mean(axis=0) - points[36:42].mean(axis=0))))
    soft = cv2.medianBlur(image, 2 * max(1, round(0.035 * unit)) + 1)
    lab = cv2.cvtColor(soft, cv2.COLOR_RGB2LAB).astype(np.float32)
    seeds: Mask = np.zeros((size, size), np.uint8)
    between = (points[21] + points[22]) / 2
    forehead = between + 0.7 * (between - points[28])
    places = [points[30], forehead]
    places += [0.5 * points[36] + 0.5 * points[48], 0.5 * points[45] + 0.5 * points[54]]
    places += [0.4 * points[2] + 0.6 * points[31], 0.4 * points[14] + 0.6 * points[35]]
    for place in places:
        centre = (round(float(place[0])), round(float(place[1])))
        cv2.circle(seeds, centre, max(2, round(0.11 * unit)), 1, -1)
    sample = lab[(seeds > 0) & (face > 0) & (barred == 0)]
    if len(sample) < 50:
        return np.zeros((size, size), np.uint8)
    middle = np.median(sample, axis=0)
    spread = 1.4826 * np.median(np.abs(sample - middle), axis=0)
    low = middle[0] - np.clip(3.0 * spread[0], 30.0, 50.0)
    high = middle[0] + np.maximum(4.0 * spread[0], 70.0)
    tolerance = np.maximum(4.0 * spread[1:], 11.0)
    colour = (np.abs(lab[..., 1:] - middle[1:]) < tolerance).all(axis=2)
    likely = (colour & (lab[..., 0] > low) & (lab[..., 0] < high)).astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * max(1, round(0.04 * unit)) + 1,) * 2)
    likely = np.asarray(cv2.morphologyEx(likely, cv2.MORPH_OPEN, disc), dtype=np.uint8)
    likely = np.asarray(cv2.morphologyEx(likely, cv2.MORPH_CLOSE, disc), dtype=np.uint8)
    likely = np.asarray(cv2.erode(likely, disc), dtype=np.uint8)
    return np.asarray((face > 0) & (barred == 0) & (likely > 0), dtype=np.uint8)


def teacher_labels(
    image: npt.NDArray[np.uint8],
    landmarks: npt.ArrayLike,
    *,
    skin: Mask | None = None,
    strong: float = 0.06,
    weak: float = 0.03,
    shortest: float = 22.0,
) -> Mask:
    """Labels of the real wrinkles in an aligned square of about 512 px.

    A line is a wrinkle where its response reaches `strong` somewhere and `weak` everywhere
    (hysteresis), and its extent reaches `shortest` pixels. What is weaker or shorter, but still a
    line on skin, is `IGNORE`: it may be a wrinkle. Where lines lie as dense as hairs, nothing is.

    Returns:
        [S, S] uint8: 0 no wrinkle, 1 wrinkle, `IGNORE`.
    """
    if skin is None:
        skin = skin_mask(image, landmarks)
    response = np.zeros(skin.shape, np.float32)
    if not skin.any():
        return np.zeros(skin.shape, np.uint8)
    # The filters see 24 px around the skin, and need no more of the picture.
    left, top, width, height = cv2.boundingRect(skin)
    window = (
        slice(max(0, top - 24), top + height + 24),
        slice(max(0, left - 24), left + width + 24),
    )
    response[window] = line_response(log_luminance(image[window]))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    crest = cv2.dilate(response, disc)
    lines = (response >= weak) & (response >= 0.5 * crest)
    dense = cv2.blur((response >= 0.8 * weak).astype(np.float32), (41, 41)) > 0.42
    candidates = (lines & (skin > 0) & ~dense).astype(np.uint8)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(candidates, connectivity=8)
    peak = np.zeros(count, np.float32)
    np.maximum.at(peak, parts.ravel().astype(np.intp), response.ravel())
    extent = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    # A line is much longer than wide.
    slender = stats[:, cv2.CC_STAT_AREA] < 7.0 * extent
    # Glasses, hair and lashes are darker than any wrinkle.
    total = np.bincount(parts.ravel(), weights=response.ravel(), minlength=count)
    mean = total / np.maximum(stats[:, cv2.CC_STAT_AREA], 1)
    black = (mean > 0.32) | (peak > 0.65)
    kept = (peak >= strong) & (extent >= shortest) & slender & ~black
    kept[0] = False
    labels: Mask = np.zeros(skin.shape, np.uint8)
    labels[(candidates > 0) & ~black[parts]] = IGNORE
    labels[kept[parts]] = 1
    return labels
