"""Reader of a folder of annotated portraits.

A folder holds JPEG or PNG files and `annotations.jsonl`: one JSON object per line with `file`,
`split`, `identity`, `width`, `height`, `box` [x, y, w, h] (tight box of the face, forehead to
chin), `landmarks` (68 points, iBUG 300-W order), and optionally `face_px`, `yaw`, `pitch`, `roll`,
`gray`, `face_mask`, `age`, `sharpness`, `native_face_px`.
`annotate.py` makes one for pictures of your own.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from revisage.errors import MediaError, RecipeError

__all__ = ["Portrait", "read_portraits"]


@dataclasses.dataclass(frozen=True, eq=False)
class Portrait:
    """One annotated face; the picture is decoded when `image` is called."""

    id: str
    path: Path
    identity: str
    split: str
    width: int
    height: int
    box: npt.NDArray[np.float32]  # [4]: x, y, w, h in pixels
    landmarks: npt.NDArray[np.float32]  # [68, 2] in pixels
    yaw: float
    pitch: float
    roll: float
    gray: bool
    face_mask: bool
    extra: dict[str, Any]  # the whole annotation line

    @property
    def face_px(self) -> float:
        """Width of the face box in pixels."""
        return float(self.box[2])

    def image(self, scale: float = 1.0) -> npt.NDArray[np.uint8]:
        """The picture as [H, W, 3] uint8 RGB, decoded now and reduced to `scale` (at most 1).

        With half-pixel centres, a point p of the annotation is at (p + 0.5) * s - 0.5 in the
        reduced picture, where s = reduced width / width.
        """
        data = cv2.imread(str(self.path), cv2.IMREAD_COLOR)
        if data is None:
            raise MediaError(f"{self.path}: not a readable picture")
        if scale < 1.0:
            size = (max(1, round(self.width * scale)), max(1, round(self.height * scale)))
            data = cv2.resize(data, size, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.cvtColor(data, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def read_portraits(
    folder: str | Path, split: str | None = None, min_face_px: float = 0.0
) -> list[Portrait]:
    """Portraits listed in `folder/annotations.jsonl`, in file order.

    Args:
        split: "train", "val" or "test"; None for all.
        min_face_px: leave out faces whose box is narrower (pixels of the stored picture).

    Raises:
        RecipeError: no annotations there, or a line that cannot be understood.
    """
    listing = Path(folder) / "annotations.jsonl"
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise RecipeError(
            f"{listing}: no annotated portraits there ({error.strerror}); name folders "
            "with --set 'data.portraits=[\"FOLDER\"]', or annotate yours with "
            "python -m revisage.training.data.annotate (see docs/training.md)"
        ) from error
    portraits = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            portrait = Portrait(
                id=str(entry["id"]),
                path=Path(folder) / entry["file"],
                identity=str(entry["identity"]),
                split=str(entry["split"]),
                width=int(entry["width"]),
                height=int(entry["height"]),
                box=np.asarray(entry["box"], dtype=np.float32).reshape(4),
                landmarks=np.asarray(entry["landmarks"], dtype=np.float32).reshape(68, 2),
                yaw=float(entry.get("yaw") or 0.0),
                pitch=float(entry.get("pitch") or 0.0),
                roll=float(entry.get("roll") or 0.0),
                gray=bool(entry.get("gray", False)),
                face_mask=bool(entry.get("face_mask", False)),
                extra=entry,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"{listing}: line {number} is not an annotation ({error})") from error
        if (split is None or portrait.split == split) and portrait.face_px >= min_face_px:
            portraits.append(portrait)
    return portraits
