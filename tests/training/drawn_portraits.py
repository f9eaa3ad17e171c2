"""A folder of drawn portraits in the layout that `training/data/portraits.py` reads.

For tests of everything that learns from portraits: faces with skin, hair, brows, eyes, a nose and a
mouth, each person in colours of their own, each photo a little turned, shifted and scaled.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from revisage.training.data.faces import placement
from tests.training.drawn_face import SKIN, drawn_landmarks

__all__ = ["drawn_portrait", "drawn_portraits"]

DRAWN = 512  # side in which a face is drawn before it is reduced


def _filled(
    picture: npt.NDArray[np.float32], points: npt.NDArray[np.float64], colour: npt.ArrayLike
) -> None:
    hull = cv2.convexHull(np.rint(points).astype(np.int32))
    cv2.fillConvexPoly(picture, hull, np.asarray(colour, float).tolist(), cv2.LINE_AA)


def drawn_portrait(
    person: int, photo: int, size: int = 160
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """One photo of one person.

    Args:
        person: seeds the colours and the proportions.
        photo: seeds the place, the turn, the light and the grain.

    Returns:
        [size, size, 3] uint8 RGB, and 68 landmarks [68, 2] in its pixels.
    """
    looks, shot = np.random.default_rng([7, person]), np.random.default_rng([7, person, photo])
    points = drawn_landmarks(DRAWN)
    middle = points[30].copy()
    points = middle + (points - middle) * looks.uniform(0.94, 1.06, 2)  # broad or narrow
    skin = np.array(SKIN) * looks.uniform(0.6, 1.1)
    hair, lips, iris, wall = (looks.uniform(low, high, 3) for low, high in _COLOURS)

    picture = np.empty((DRAWN, DRAWN, 3), np.float32)
    picture[:] = wall
    picture += np.linspace(25, -25, DRAWN, dtype=np.float32)[:, None, None]  # a lamp above
    crown = points[17:27] - [0, 90]
    _filled(picture, middle + (np.concatenate([points[:17], crown]) - middle) * 1.15, hair)
    _filled(picture, np.concatenate([points[:17], points[17:27] - [0, 60]]), skin)
    for brow in (points[17:22], points[22:27]):
        line = [np.rint(brow).astype(np.int32)]
        cv2.polylines(picture, line, False, (hair * 0.7).tolist(), 9, cv2.LINE_AA)
    for eye in (points[36:42], points[42:48]):
        _filled(picture, eye, (238, 236, 232))
        centre = np.rint(eye.mean(axis=0)).astype(int).tolist()
        cv2.circle(picture, centre, 11, iris.tolist(), -1, cv2.LINE_AA)
        cv2.circle(picture, centre, 5, (15, 12, 12), -1, cv2.LINE_AA)
    for part, width in ((points[27:31], 3), (points[31:36], 5)):
        line = [np.rint(part).astype(np.int32)]
        cv2.polylines(picture, line, False, (skin * 0.72).tolist(), width, cv2.LINE_AA)
    _filled(picture, points[48:60], lips)
    _filled(picture, points[60:68], lips * 0.5)

    side = DRAWN * shot.uniform(0.98, 1.12)
    centre_point = np.full(2, (DRAWN - 1) / 2) + shot.uniform(-12, 12, 2)
    matrix = placement(centre_point, side, shot.uniform(-0.1, 0.1), DRAWN)
    picture = np.asarray(
        cv2.warpAffine(picture, matrix, (DRAWN, DRAWN), borderMode=cv2.BORDER_REPLICATE)
    )
    points = points @ matrix[:, :2].T + matrix[:, 2]
    picture = np.asarray(cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA))
    points = (points + 0.5) * size / DRAWN - 0.5
    picture = picture * shot.uniform(0.85, 1.1) + shot.normal(0, 2, (size, size, 1))
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), points


# Lowest and highest RGB of hair, lips, iris and wall.
_COLOURS = (
    ((15, 10, 5), (120, 90, 60)),
    ((140, 50, 50), (200, 95, 100)),
    ((30, 50, 40), (90, 110, 140)),
    ((60, 70, 90), (180, 190, 200)),
)


def drawn_portraits(folder: Path, count: int = 6, size: int = 160) -> Path:
    """Write `count` portraits of side `size` and `annotations.jsonl` into `folder`.

    The last third (at least one) is the split `val`, the others are `train`; the first two photos
    of each split show one person, every other photo a person of its own. `native_face_px` is
    stated as of a photo that was reduced, so that nothing is left out for being small.

    Returns:
        `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held_out = max(1, count // 3)
    lines = []
    for index in range(count):
        split = "train" if index < count - held_out else "val"
        first = 0 if split == "train" else count - held_out
        person, photo = (first, 1) if index == first + 1 else (index, 0)
        picture, points = drawn_portrait(person, photo, size)
        name = f"d{index:03d}.png"
        cv2.imwrite(str(folder / name), picture[..., ::-1])
        low, high = points.min(axis=0), points.max(axis=0)
        lines.append(
            json.dumps(
                {
                    "id": Path(name).stem,
                    "file": name,
                    "identity": f"person{person}",
                    "split": split,
                    "width": size,
                    "height": size,
                    "box": [*low.tolist(), *(high - low).tolist()],
                    "landmarks": points.tolist(),
                    "face_px": float((high - low)[0]),
                    "native_face_px": 400.0,
                    "yaw": 0.0,
                    "pitch": 0.0,
                }
            )
        )
    (folder / "annotations.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
