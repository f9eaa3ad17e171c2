"""What a retouch does to portraits: how much ridge energy goes, and what else is touched.

    python benchmarks/quality/evaluate_retouch.py --portraits FOLDER [--split val] [--sheets DIR]

Judges the whole pipeline (`Session.retouch`) from outside, with a ridge filter that is not ours:
scikit-image's `sato` (Sato et al. 1998, "Three-dimensional multi-scale line filter"), black ridges,
scales of 1, 1.5, 2 and 3 px of the aligned 512 px square. Two readings of "wrinkle regions":

- real: inside the edit's mask, where the filter's response before the retouch is above its median
  there;
- drawn: wrinkles drawn on the skin of the portrait by `revisage.training.data.wrinkles` with seeds
  that no training used; the region is the drawn truth, found by the segmenter or not.

The limits that tell folds from spectacles, hair and moles (`revisage.operations.folds`) were chosen
by eye on the train and val splits of the same portraits, so these figures flatter them a little.

FOLDER holds `annotations.jsonl` and the pictures (see `revisage.training.data.portraits`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage.filters import sato

import revisage as rv
from revisage.alignment import invert_affine, square_matrix, transform_points
from revisage.kernels import flow_warp
from revisage.training.data.portraits import read_portraits
from revisage.training.data.ridges import skin_mask
from revisage.training.data.wrinkles import draw_wrinkles

SIZE = 512
SCALES = (1.0, 1.5, 2.0, 3.0)

Array = npt.NDArray[Any]


def luminance(image: Array) -> Array:
    """Rec. 709 luma of [H, W, 3] u8, as float in [0, 1]."""
    return np.asarray(image[..., :3] @ np.array([0.2126, 0.7152, 0.0722]) / 255.0)


def ridge_response(image: Array) -> Array:
    """Strength of dark lines, [H, W], of a square [H, W, 3] u8."""
    return np.asarray(sato(luminance(image), sigmas=SCALES, black_ridges=True))


def aligned(photo: Array, matrix: Array) -> Array:
    """The face's square out of a photo, [SIZE, SIZE, 3] u8."""
    inverse = invert_affine(matrix)
    return np.asarray(flow_warp(photo, matrix=inverse, size=(SIZE, SIZE), padding="border"))


def lowered(before: Array, after: Array, region: Array) -> float:
    """Share of ridge energy (sum of squared responses) that went from `region`."""
    energy = float(np.square(before[region]).sum())
    return 1 - float(np.square(after[region]).sum()) / energy if energy else float("nan")


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles of finite values."""
    finite = [v for v in values if np.isfinite(v)]
    if len(finite) < 2:
        return {"n": len(finite)}
    low, middle, high = statistics.quantiles(finite, n=4)
    return {"median": round(middle, 4), "q1": round(low, 4), "q3": round(high, 4), "n": len(finite)}


def main() -> None:
    """Print one JSON report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--portraits", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--min-face", type=int, default=250, help="native face width in px")
    parser.add_argument("--sheets", type=Path, help="write before/after/mask pictures here")
    options = parser.parse_args()

    session = rv.Session(device="cpu")
    portraits = read_portraits(options.portraits, split=options.split, min_face_px=options.min_face)
    if options.limit:
        portraits = portraits[: options.limit]
    real: list[float] = []
    drawn: list[float] = []
    found: list[float] = []
    seconds: list[float] = []
    covered: list[float] = []
    outside_changed = 0
    for number, portrait in enumerate(portraits):
        photo = portrait.image()
        started = time.perf_counter()
        result = session.retouch(photo, rv.Retouch(wrinkles=1.0))
        seconds.append(time.perf_counter() - started)
        mask = np.zeros(photo.shape[:2], bool)
        for edit in result.edits:
            mask |= edit.mask_on(*photo.shape[:2]) > 0
        outside_changed += int((result.image[~mask] != photo[~mask]).sum())
        if result.edits:
            edit = result.edits[0]
            before, after = (ridge_response(aligned(p, edit.matrix)) for p in (photo, result.image))
            skin = edit.mask > 0
            covered.append(float(skin.mean()))
            if skin.any():
                strong = before > np.quantile(before[skin], 0.5)
                real.append(lowered(before, after, skin & strong))
        matrix = square_matrix(portrait.landmarks, SIZE)
        square, points = aligned(photo, matrix), transform_points(matrix, portrait.landmarks)
        wrinkled, truth = draw_wrinkles(
            square, points, np.random.default_rng([77, number]), skin=skin_mask(square, points)
        )
        again = session.retouch(wrinkled, rv.Retouch(wrinkles=1.0))
        if again.edits and truth.any():
            region = truth > 0
            worn, mended = (ridge_response(p) for p in (wrinkled, again.image))
            drawn.append(lowered(worn, mended, region))
            found.append(float((again.edits[0].mask_on(SIZE, SIZE)[region] > 0.5).mean()))
        if options.sheets:
            options.sheets.mkdir(parents=True, exist_ok=True)
            gray = np.repeat((mask * 255).astype(np.uint8)[..., None], 3, axis=2)
            sheet = np.concatenate([photo, result.image, gray], axis=1)
            Image.fromarray(sheet).save(options.sheets / f"{number:03d}.png")
            sheet = np.concatenate([square, wrinkled, again.image], axis=1)
            Image.fromarray(sheet).save(options.sheets / f"{number:03d}-drawn.png")
    report = {
        "portraits": len(portraits),
        "ridge_energy_lowered_in_mask": spread(real),
        "ridge_energy_lowered_on_drawn_wrinkles": spread(drawn),
        "drawn_wrinkles_covered_by_mask": spread(found),
        "share_of_square_in_mask": spread(covered),
        "samples_changed_outside_masks": outside_changed,
        "seconds_per_portrait": spread(seconds),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
