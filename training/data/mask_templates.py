"""Photographed face masks (RGBA) laid over aligned faces, as MaskTheFace does.

The six anchor points of a template go to six points of the face (Anwar and Raychowdhury 2020,
"Masked Face Recognition for Secure Authentication", and the code of aqeelanwar/MaskTheFace): the
middle of the nose ridge, the crossings of the jaw with two lines parallel to the eyes, at the
height of the nose tip and of the lower lip, and the chin. A homography in the least-squares sense
carries the picture there. The variant seen from the left or the right is taken beyond 13 degrees of
yaw.

Unlike there, the brightness is not scaled to the face under the mask, which would turn a white mask
grey on dark skin, but to the light that falls on it; the edge is soft, and the photo's blur, grain
and a contact shadow are added as for drawn masks.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from revisage.errors import MediaError, RecipeError
from revisage.training.data.mask_shapes import Camera, fit_camera
from revisage.training.data.photo_light import LUMA, estimate_light, to_linear
from revisage.training.data.worn_masks import WornMask, lay_over

__all__ = ["MaskTemplates", "face_anchors"]

Points = npt.NDArray[np.float64]

_TURNED = 13.0  # degrees of yaw from which the side views are taken
_LARGEST = 320  # pixels across a template in memory
_NAMES = ("a", "b", "c", "d", "e", "f")


@dataclasses.dataclass(frozen=True, eq=False)
class _Template:
    pixels: npt.NDArray[np.float32]  # [H, W, 4] linear RGB times alpha, alpha
    anchors: npt.NDArray[np.float32]  # [6, 2] in its pixels


def _crossing(line: Points, height: float) -> Points:
    """Point of a jaw half (top to bottom) at a height, both in face axes; clipped to its ends."""
    y = np.maximum.accumulate(line[:, 1])
    return np.array([np.interp(height, y, line[:, 0]), height])


def face_anchors(landmarks: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Where the anchors a to f of a template belong on a face.

    Args:
        landmarks: [68, 2] in pixels, iBUG 300-W order.

    Returns:
        [6, 2]: left, middle and right of the upper edge, then of the lower edge.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    left, right = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
    across = (right - left) / max(float(np.hypot(*(right - left))), 1e-6)
    axes = np.stack([across, np.array([-across[1], across[0]])])
    turned = points @ axes.T
    nose, lip = turned[33, 1], turned[57, 1]
    halves = (turned[0:9], turned[16:7:-1])
    upper = [_crossing(half, nose) for half in halves]
    lower = [_crossing(half, lip) for half in halves]
    anchors = [upper[0], turned[28], upper[1], lower[0], turned[8], lower[1]]
    return np.asarray(np.stack(anchors) @ axes, np.float32)


def _yaw(camera: Camera) -> float:
    """Degrees; above 0 the nose points to the right of the picture."""
    return float(np.degrees(np.arctan2(camera.matrix[0, 2], camera.matrix[0, 0])))


class MaskTemplates:
    """A folder of RGBA masks with `anchors.json`.

    `anchors.json` names each file's `points` a to f in its pixels; files whose name ends in `_left`
    or `_right` are the views of the same mask on a face turned to that side of the picture.

    Raises:
        RecipeError: no usable `anchors.json`.
        MediaError: a picture that it names is missing or has no alpha.
    """

    def __init__(self, folder: str | Path) -> None:
        listing = Path(folder) / "anchors.json"
        try:
            entries = json.loads(listing.read_text(encoding="utf-8"))
            anchors = {
                name: np.array([entry["points"][key] for key in _NAMES], np.float32)
                for name, entry in entries.items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecipeError(
                f"{listing}: not a list of mask templates with points a to f ({error})"
            ) from error
        self._views: dict[str, dict[str, _Template]] = {}
        for name, points in anchors.items():
            stem = Path(name).stem
            view = next((v for v in ("left", "right") if stem.endswith(f"_{v}")), "front")
            template = self._read(Path(folder) / name, points)
            self._views.setdefault(stem.removesuffix(f"_{view}"), {})[view] = template
        self.names = sorted(name for name, views in self._views.items() if "front" in views)
        if not self.names:
            raise RecipeError(f"{listing}: names no mask seen from the front")

    @staticmethod
    def _read(path: Path, anchors: npt.NDArray[np.float32]) -> _Template:
        data = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if data is None or data.ndim != 3 or data.shape[2] != 4 or data.dtype != np.uint8:
            raise MediaError(f"{path}: not a readable 8-bit RGBA picture")
        alpha = data[..., 3:].astype(np.float32) / 255
        light = to_linear(np.ascontiguousarray(data[..., 2::-1])) * alpha
        pixels = np.concatenate([light, alpha], axis=2)
        scale = min(1.0, _LARGEST / pixels.shape[1])
        if scale < 1:
            pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        # Room for the interpolation to fade out.
        pixels = cv2.copyMakeBorder(pixels, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(0, 0, 0, 0))
        return _Template(np.asarray(pixels, np.float32), (anchors + 0.5) * scale - 0.5 + 2)

    def wear(
        self,
        image: npt.NDArray[np.uint8],
        landmarks: npt.ArrayLike,
        rng: np.random.Generator,
        *,
        name: str | None = None,
    ) -> WornMask:
        """Put a template on an aligned face.

        Args:
            image: [S, S, 3] uint8 RGB.
            landmarks: [68, 2] in its pixels.
            name: one of `names`; None chooses.
        """
        points = np.asarray(landmarks, dtype=np.float64)
        if name is None:
            name = self.names[int(rng.integers(len(self.names)))]
        if name not in self.names:
            raise ValueError(f"unknown template {name!r}: known are {', '.join(self.names)}")
        camera = fit_camera(points)
        light = estimate_light(image, points, camera)
        yaw = _yaw(camera)
        views = self._views[name]
        view = "front" if abs(yaw) < _TURNED else ("right" if yaw > 0 else "left")
        template = views.get(view, views["front"])

        target = face_anchors(points)
        target += rng.normal(0, 0.012 * camera.unit, target.shape).astype(np.float32)
        matrix, _ = cv2.findHomography(template.anchors, target, 0)
        size = image.shape[0]
        tall, wide = template.pixels.shape[:2]
        border = np.array([[[0, 0]], [[wide, 0]], [[wide, tall]], [[0, tall]]], np.float32)
        outline = cv2.perspectiveTransform(border, matrix).reshape(-1, 2)
        margin = 0.2 * camera.unit + 2
        low = np.clip(np.floor(outline.min(axis=0) - margin).astype(int), 0, size - 2)
        high = np.clip(np.ceil(outline.max(axis=0) + margin).astype(int), low + 2, size)
        width, height = (int(v) for v in high - low)
        # Two samples per pixel each way, averaged, so that edges and prints do not alias.
        fine = np.array([[2.0, 0, 0.5 - 2 * low[0]], [0, 2.0, 0.5 - 2 * low[1]], [0, 0, 1]])
        large = cv2.warpPerspective(template.pixels, fine @ matrix, (2 * width, 2 * height))
        layer = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)

        x = (np.arange(low[0], high[0]) - points[30, 0]) / camera.unit
        y = (np.arange(low[1], high[1]) - points[51, 1]) / camera.unit
        slope = 0.6 * np.clip(light.tilt[0] * x, -0.5, 0.5)[None]
        slope = slope + 0.4 * np.clip(light.tilt[1] * y, -0.4, 0.4)[:, None]
        gain = np.clip(1 + slope, 0.4, 1.5).astype(np.float32) * np.float32(rng.uniform(0.9, 1.08))
        if light.gray:
            layer[..., :3] = (layer[..., :3] @ LUMA)[..., None]
        layer[..., :3] *= gain[..., None] * light.white
        picture, mask = lay_over(image, layer, low, points, camera, light, rng)
        return WornMask(picture, mask, f"template:{name}")
