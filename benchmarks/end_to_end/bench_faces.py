"""How well and how fast faces are found.

    python benchmarks/end_to_end/bench_faces.py --portraits ../shared/data/portraits \
        --without-people some/folder [--split val] [--json out.json]

Recall: every portrait of the split is scaled to each face width, turned by each angle, and placed
on a 960 x 720 canvas over a texture (a portrait never fills it at small sizes). A face counts as
found when the box overlaps the true one with IoU >= 0.5; the true box follows from the annotated
landmarks turned along with the picture. The landmark error is the mean distance of the 68 points
over the outer-eye distance. False faces are counted in the pictures of `--without-people`, which
must show none, and, on the canvases, everything that overlaps no true face.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from revisage.faces import FaceFinder
from revisage.faces.face import box_of_landmarks, overlap
from revisage.training.data.face_augment import texture
from revisage.training.data.portraits import Portrait, read_portraits
from revisage.training.metrics.landmarks import landmark_error

CANVAS = (960, 720)
WIDTHS = (48, 64, 100, 200, 400)
TURNS = (0, -15, 15, -30, 30)


def place(
    portrait: Portrait, width: float, turn: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The portrait on a canvas, and its landmarks there."""
    scale = min(1.0, width / portrait.face_px)
    picture = portrait.image(scale)
    factor = picture.shape[1] / portrait.width
    points = (portrait.landmarks.astype(np.float64) + 0.5) * factor - 0.5
    enlarge = width / (portrait.face_px * factor)
    angle = np.radians(turn)
    linear = enlarge * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = points.mean(axis=0)
    reach = 0.75 * width
    room = np.array(CANVAS) - 2 * reach
    at = (
        reach + rng.uniform(0, 1, 2) * np.maximum(room, 0)
        if room.min() > 0
        else np.array(CANVAS) / 2
    )
    matrix = np.concatenate([linear, (at - linear @ middle)[:, None]], axis=1)
    canvas = texture((CANVAS[1], CANVAS[0]), rng).copy()
    cv2.warpAffine(
        picture,
        matrix,
        CANVAS,
        dst=canvas,
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_TRANSPARENT,
    )
    return canvas, points @ linear.T + matrix[:, 2]


def recall(finder: FaceFinder, portraits: list[Portrait], every: int) -> dict[str, Any]:
    """Recall and landmark error per width and turn."""
    rng = np.random.default_rng(20240607)
    rows, errors, extra, missed = [], [], 0, []
    for width in WIDTHS:
        for turn in TURNS:
            found = []
            for portrait in portraits[::every]:
                canvas, points = place(portrait, width, turn, rng)
                truth = box_of_landmarks(points)
                faces = finder.find(canvas)
                best = max(faces, key=lambda f: overlap(f.box, truth), default=None)
                hit = best is not None and overlap(best.box, truth) >= 0.5
                found.append(hit)
                extra += sum(overlap(f.box, truth) < 0.1 for f in faces)
                if hit:
                    errors.append((width, turn, float(landmark_error(best.landmarks, points))))
                else:
                    missed.append(f"{portrait.id} at {width} px, {turn} degrees")
            mine = [e for w, t, e in errors if (w, t) == (width, turn)]
            rows.append(
                {
                    "width": width,
                    "turn": turn,
                    "recall": float(np.mean(found)),
                    "error": float(np.mean(mine)),
                }
            )
    values = np.sort([e for *_, e in errors])
    return {
        "rows": rows,
        "recall": float(np.mean([row["recall"] for row in rows])),
        "error": float(values.mean()),
        "error_worst_tenth": float(values[-max(1, len(values) // 10) :].mean()),
        "false_faces_on_canvases": int(extra),
        "canvases": len(portraits[::every]) * len(WIDTHS) * len(TURNS),
        "missed": missed,
    }


def own_pictures(finder: FaceFinder, portraits: list[Portrait]) -> dict[str, Any]:
    """The portraits as they are, against the annotated boxes and landmarks."""
    hits, errors, ious = 0, [], []
    for portrait in portraits:
        faces = finder.find(portrait.image())
        truth = tuple(float(v) for v in portrait.box)
        best = max(faces, key=lambda f: overlap(f.box, truth), default=None)
        if best is not None and overlap(best.box, truth) >= 0.5:
            hits += 1
            ious.append(overlap(best.box, truth))
            errors.append(float(landmark_error(best.landmarks, portrait.landmarks)))
    worst = np.sort(errors)[-max(1, len(errors) // 10) :]
    return {
        "portraits": len(portraits),
        "recall": hits / len(portraits),
        "error": float(np.mean(errors)),
        "error_worst_tenth": float(worst.mean()),
        "box_iou": float(np.mean(ious)),
    }


def false_faces(finder: FaceFinder, folder: Path, limit: int) -> dict[str, Any]:
    """Faces found in pictures that show none."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})[
        :limit
    ]
    found = []
    for path in paths:
        picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        found += [
            (path.name, round(f.score, 3), [round(v) for v in f.box]) for f in finder.find(picture)
        ]
    return {
        "pictures": len(paths),
        "false_faces": len(found),
        "per_100": 100 * len(found) / max(1, len(paths)),
        "found": found,
    }


def speed(portrait: Portrait) -> dict[str, float]:
    """Milliseconds on one core: search of a 1080p picture with one face, and tracking it."""
    rng = np.random.default_rng(3)
    photo = np.full((1080, 1920, 3), 90, dtype=np.uint8)
    back = texture((1080, 1920), rng)
    photo[:] = back
    picture = portrait.image(min(1.0, 300 / portrait.face_px))
    height, width = min(1080, picture.shape[0]), picture.shape[1]
    photo[200 : 200 + height, 700 : 700 + width] = picture[:880][:height]
    with FaceFinder(device="cpu", threads=1) as finder:
        faces = finder.find(photo)

        def measure(call: Any, name: str) -> dict[str, float]:
            wall, processor = [], []
            for _ in range(15):
                start, cpu = time.perf_counter(), time.process_time()
                call()
                wall.append(time.perf_counter() - start)
                processor.append(time.process_time() - cpu)
            # On a busy machine only the processor time says something.
            return {
                f"{name}_ms": 1000 * float(np.median(wall)),
                f"{name}_processor_ms": 1000 * float(np.median(processor)),
            }

        return {
            "faces": len(faces),
            **measure(lambda: finder.find(photo), "search"),
            **measure(lambda: finder.track(photo, faces), "track"),
        }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--portraits", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--every", type=int, default=1, help="use every n-th portrait for recall")
    parser.add_argument("--without-people", type=Path)
    parser.add_argument("--limit", type=int, default=10**6)
    parser.add_argument("--no-recall", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    figures: dict[str, Any] = {}
    with FaceFinder(device="cpu", threads=1) as finder:
        if arguments.portraits:
            portraits = read_portraits(arguments.portraits, arguments.split)
            figures["as_they_are"] = own_pictures(finder, portraits)
            figures["speed"] = speed(portraits[0])
            if not arguments.no_recall:
                figures["turned_and_scaled"] = recall(finder, portraits, arguments.every)
        if arguments.without_people:
            figures["without_people"] = false_faces(
                finder, arguments.without_people, arguments.limit
            )
    text = json.dumps(figures, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
