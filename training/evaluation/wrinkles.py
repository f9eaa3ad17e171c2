"""How well wrinkles are found and filled, in aligned squares of 512 px.

- `drawn`: wrinkles are drawn over the face; intersection over union of what the segmenter finds
  (threshold 0.5) and what was drawn, of all faces together. Real wrinkles of the face count as
  false. `near` looks within 6 px of drawn ones only; precision and recall are against drawn and
  real wrinkles (those of a ridge filter), without what that filter cannot tell.
- `holes`: drawn wrinkles, widened by 4 px as the runtime does, cut out of skin that has no line
  there; PSNR of the filled 8-bit pixels.
- `face_holes`: strokes and blobs anywhere in the box of the landmarks.
- `lines`: the face as it is. What the segmenter finds on skin is widened and filled; the figure is
  the ridge energy (`revisage.training.metrics.ridges`) that is left on the lines which the ridge
  filter takes for wrinkles, found or not, and on those of them that were filled. The runtime also
  tells folds from spectacles, hair and moles: `benchmarks/quality/evaluate_retouch.py` judges that.

`OpenCV's best` is, in each picture, the best of Telea's and the Navier-Stokes fill at radius 3 and
5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open

from revisage.errors import RecipeError
from revisage.training.data.aligned_faces import AlignedFace
from revisage.training.data.holes import stroke_holes
from revisage.training.data.picture_tensors import eight_bit, pictures_tensor
from revisage.training.data.ridges import (
    line_response,
    log_luminance,
    skin_mask,
    teacher_labels,
)
from revisage.training.data.wrinkle_crops import drawing_area
from revisage.training.data.wrinkles import draw_wrinkles, wrinkle_mask
from revisage.training.evaluation.fills import (
    BEST_NAVIER_STOKES,
    BEST_TELEA,
    TELEA,
    Fill,
    hole_case,
    hole_kind,
)
from revisage.training.evaluation.report import difference, gray
from revisage.training.evaluation.study import (
    NOTHING,
    OURS,
    Case,
    Evaluation,
    Figure,
    Goal,
    Kind,
    LeftOut,
    Measure,
)
from revisage.training.evaluation.weights import described, filled, named, needed, recipe_of
from revisage.training.metrics.ridges import valley_strength
from revisage.training.metrics.segmentation import Overlap
from revisage.training.recipe import section
from revisage.training.tasks.wrinkle_filler import Model, make_network
from revisage.training.tasks.wrinkle_segmenter import judged_regions, read_segmenter

__all__ = ["WrinkleEvaluation", "clean_skin", "load"]

Image = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]
Find = Callable[[Image], Image]  # [S, S, 3] -> [S, S], 1 = wrinkle

SIZE = 512
SHOULDER = 4  # pixels on both sides of a line that are filled with it
LEAST_HOLE = 300  # pixels; below this the figure of a picture is chance

KINDS = {
    "drawn": Kind(
        "Drawn wrinkles found",
        SIZE,
        (
            Measure("iou", "IoU", 3),
            Measure("near", "IoU near them", 3),
            Measure("precision", "precision", 3),
            Measure("recall", "recall", 3),
            Measure("bare", "found on the face as it is, % of pixels", better="lower"),
        ),
        "with wrinkles, drawn ones, found ones, four times what was drawn, as it is",
        smallest_face=220.0,
    ),
    "holes": hole_kind("Wrinkle-shaped holes in skin", SIZE),
    "face_holes": hole_kind("Strokes in the face", SIZE),
    "lines": Kind(
        "Ridge energy on real wrinkles",
        SIZE,
        (
            Measure("left", "left, %", 1, better="lower"),
            Measure("left_filled", "left where it was filled, %", 1, better="lower"),
            Measure("found", "of it within what was filled, %", 1),
        ),
        "as it is, what is filled, filled, four times the difference, the lines that count",
        smallest_face=220.0,
    ),
}


class WrinkleEvaluation(Evaluation):
    """See `revisage.training.evaluation.study.Evaluation`."""

    name, text, kinds = "wrinkles", (__doc__ or "").partition("\n\n")[2].strip(), KINDS
    goals = (
        Goal("drawn", "iou", 0.55),
        Goal("holes", "psnr", 3.0, over=BEST_TELEA),
        Goal("holes", "psnr", 3.0, over=BEST_NAVIER_STOKES),
        Goal("lines", "left", 45.0),
        Goal("lines", "left_filled", 45.0),
    )

    def __init__(self, find: Find, fill: Fill) -> None:
        self.find, self.fill = find, fill
        self.weights: dict[str, str] = {}

    def case(
        self, kind: str, faces: Sequence[AlignedFace], index: int, rng: np.random.Generator
    ) -> Case | LeftOut:
        """One face: wrinkles drawn and found, holes filled, or its own lines."""
        face = faces[index]
        if face.extra.get("face_mask"):
            return LeftOut("wears a mask in the photo")
        wide = face.native_face_px >= 200
        tags = ("face: 200 px and wider" if wide else "face: narrower than 200 px",)
        if kind == "drawn":
            return self._drawn(face, rng, tags)
        if kind == "lines":
            return self._lines(face, tags)
        if kind == "holes":
            drawn = wrinkle_mask(face.landmarks, SIZE, rng, amount=1.6, grow=SHOULDER)
            return self._holes(face.image, drawn & clean_skin(face.image, face.landmarks), tags)
        strokes = stroke_holes(SIZE, rng, coverage=(0.03, 0.06), width=(3, 11), blobs=0.1)
        return self._holes(face.image, strokes & _face_box(face.landmarks), tags)

    def _drawn(self, face: AlignedFace, rng: np.random.Generator, tags: tuple[str, ...]) -> Case:
        image, points = face.image, face.landmarks
        skin = skin_mask(image, points)
        labels = teacher_labels(image, points, skin=skin)
        wrinkled, drawn = draw_wrinkles(image, points, rng, skin=drawing_area(skin, points))
        found, bare = self.find(wrinkled), self.find(image)
        counts = {}
        for name, (truth, region) in judged_regions(drawn, labels).items():
            counts[name] = Overlap()
            counts[name].add(found, truth, region)
        union = counts["union"]
        figures: dict[str, Figure] = {
            "iou": _iou(counts["whole"]),
            "near": _iou(counts["near"]),
            "precision": (union.both, union.found),
            "recall": (union.both, union.truth),
            "bare": 100 * float(bare.mean()),
        }
        shown = (wrinkled, gray(drawn), gray(found), difference(wrinkled, image), image)
        return Case({key: {OURS: value} for key, value in figures.items()}, shown, tags)

    def _holes(self, image: Image, mask: Image, tags: tuple[str, ...]) -> Case | LeftOut:
        if int(mask.sum()) < LEAST_HOLE:
            return LeftOut(f"fewer than {LEAST_HOLE} pixels in holes")
        return hole_case(image, mask, self.fill, tags=tags)

    def _lines(self, face: AlignedFace, tags: tuple[str, ...]) -> Case | LeftOut:
        image = face.image
        skin = skin_mask(image, face.landmarks)
        lines = teacher_labels(image, face.landmarks, skin=skin) == 1
        if int(lines.sum()) < LEAST_HOLE:
            return LeftOut(f"fewer than {LEAST_HOLE} pixels of lines")
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * SHOULDER + 1,) * 2)
        hole = np.asarray(cv2.dilate(self.find(image) & skin, disc), dtype=np.uint8) & skin
        holed = np.where(hole[:, :, None] > 0, np.uint8(0), image)
        ways = {OURS: image, NOTHING: image, **dict.fromkeys(TELEA, image)}
        if hole.any():
            ways[OURS] = self.fill(holed, hole)
            ways |= {name: fill(holed, hole) for name, fill in TELEA.items()}
        before = valley_strength(image)
        whole, within = float(before[lines].sum()), float(before[lines & (hole > 0)].sum())
        left: dict[str, Figure] = {}
        left_filled: dict[str, Figure] = {}
        for name, picture in ways.items():
            after = valley_strength(picture)
            left[name] = (100 * float(after[lines].sum()), whole)
            left_filled[name] = (100 * float(after[lines & (hole > 0)].sum()), within)
        ours = ways[OURS]
        return Case(
            {"left": left, "left_filled": left_filled, "found": {OURS: (100 * within, whole)}},
            (image, gray(hole), ours, difference(ours, image), gray(lines)),
            tags,
        )


def clean_skin(image: Image, landmarks: npt.ArrayLike) -> Image:
    """[S, S] uint8, 1 where skin shows no line deeper than 3 % of its luminance within 4 px."""
    lines = (line_response(log_luminance(image)) > 0.03).astype(np.uint8)
    near = cv2.dilate(lines, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9)))
    return np.asarray((skin_mask(image, landmarks) > 0) & (near == 0), dtype=np.uint8)


def _iou(overlap: Overlap) -> tuple[float, float]:
    return overlap.both, overlap.found + overlap.truth - overlap.both


def _face_box(landmarks: Points) -> Image:
    low = np.clip(landmarks.min(axis=0), 0, SIZE).astype(int)
    high = np.clip(landmarks.max(axis=0), 0, SIZE).astype(int)
    box = np.zeros((SIZE, SIZE), np.uint8)
    box[low[1] : high[1], low[0] : high[0]] = 1
    return box


def _role(path: Path) -> str:
    """Which of the two networks a checkpoint holds."""
    try:
        with safe_open(named(path), framework="pt") as file:
            filler = any(key.startswith("blocks.") for key in file.keys())  # noqa: SIM118
    except SafetensorError:  # a published segmenter in another format
        filler = False
    return "wrinkle_filler" if filler else "wrinkle_segmenter"


def load(weights: Sequence[Path] = (), recipe: str = "") -> WrinkleEvaluation:
    """The evaluation of a segmenter and a filler.

    Args:
        weights: of one network or of both, in any order; the other is the one that ships.
        recipe: of the filler, see `recipe_of`; segmenters are known by their tensors.
    """
    given = {_role(path): path for path in weights}
    paths = {
        name: given.get(name) or needed(name, "belongs to the operation: name it with --weights")
        for name in ("wrinkle_segmenter", "wrinkle_filler")
    }
    segmenter = read_segmenter(paths["wrinkle_segmenter"])
    settings = recipe_of(paths["wrinkle_filler"], "wrinkle_filler", recipe)
    try:
        network = make_network(section(settings, "model", Model))
    except ValueError as error:
        raise RecipeError(f"[model] {error}") from error
    filler = filled(network, paths["wrinkle_filler"], "this wrinkle filler")

    def find(image: Image) -> Image:
        with torch.inference_mode():
            found = segmenter(pictures_tensor([image]))[0, 0] > 0
        return np.asarray(found.numpy(), dtype=np.uint8)

    def fill(image: Image, mask: Image) -> Image:
        hole = torch.from_numpy(mask)[None, None].float()
        with torch.inference_mode():
            return eight_bit(filler(pictures_tensor([image]), hole))

    evaluation = WrinkleEvaluation(find, fill)
    evaluation.weights |= {name: described(path) for name, path in paths.items()}
    return evaluation
