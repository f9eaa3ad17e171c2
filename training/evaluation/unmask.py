"""How well a network takes worn masks off.

Masks are drawn on bare faces, so the face beneath is known. Figures are of the 8-bit pixels that
the mask covers by more than half: PSNR, and the mean absolute difference in levels of 255. Telea
and the mean face fill everything that the mask touches, which they are told; the network is told
nothing. The landmark error is of the points beneath the mask: how far the points that the shipped
landmark network finds in the result are from those of the annotation, as a share of the outer-eye
distance. What it finds in the bare face says how exact that is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from revisage.errors import RecipeError
from revisage.training.data.aligned_faces import AlignedFace
from revisage.training.data.picture_tensors import eight_bit, signed_pictures, unit_range
from revisage.training.data.worn_masks import wear_mask
from revisage.training.evaluation.fills import (
    BEST_TELEA,
    MEAN,
    TELEA,
    decibels,
    levels,
    mean_of_others,
)
from revisage.training.evaluation.landmarks import LandmarkFinder
from revisage.training.evaluation.report import difference, gray
from revisage.training.evaluation.study import (
    NOTHING,
    OURS,
    Case,
    Evaluation,
    Goal,
    Kind,
    LeftOut,
    Measure,
)
from revisage.training.evaluation.weights import described, filled, recipe_of, shipped
from revisage.training.metrics.landmarks import landmark_error
from revisage.training.recipe import section
from revisage.training.tasks.unmask import BARE, Model, make_generator

__all__ = ["TRUE", "UnmaskEvaluation", "load"]

Image = npt.NDArray[np.uint8]
Unmask = Callable[[Tensor], Tensor]  # [1, 3, S, S] in [-1, 1] -> the same, bare

TRUE = "the bare face"


class UnmaskEvaluation(Evaluation):
    """See `revisage.training.evaluation.study.Evaluation`."""

    name, text = "unmask", (__doc__ or "").partition("\n\n")[2].strip()
    goals = (
        Goal("worn_mask", "psnr", 4.0, over=BEST_TELEA),
        Goal("worn_mask", "psnr", 2.0, over=MEAN),
        Goal("worn_mask", "landmarks", 8.0),
    )

    def __init__(
        self,
        unmask: Unmask,
        find: Callable[[Image, npt.NDArray[np.float64]], npt.NDArray[np.float64]],
        size: int = 256,
    ) -> None:
        self.unmask, self.find = unmask, find
        self.weights: dict[str, str] = {}
        self.mean: Image = np.zeros((size, size, 3), np.uint8)
        self.kinds = {
            "worn_mask": Kind(
                "Faces with a drawn mask",
                size,
                (
                    Measure("psnr", "PSNR under the mask, dB"),
                    Measure("l1", "L1 under the mask, levels", better="lower"),
                    Measure(
                        "landmarks", "covered landmarks, % of the eye distance", better="lower"
                    ),
                ),
                "with the mask, where it is, unmasked, four times the difference, bare",
                over=BEST_TELEA,
                best_of={BEST_TELEA: tuple(TELEA)},
            )
        }

    def prepare(
        self, kind: str, folders: Sequence[str], faces: Sequence[AlignedFace]
    ) -> Sequence[str]:
        """The mean face."""
        self.mean, remarks = mean_of_others(folders, self.kinds[kind].size, faces)
        return remarks

    def case(
        self, kind: str, faces: Sequence[AlignedFace], index: int, rng: np.random.Generator
    ) -> Case | LeftOut:
        """One face with a mask drawn on, and everything that takes it off."""
        face = faces[index]
        if face.extra.get("face_mask"):
            return LeftOut("wears a mask in the photo")
        bare = face.image
        worn = wear_mask(bare, face.landmarks, rng)
        covered, hole = worn.mask > 0.5, np.asarray(worn.mask > 0, dtype=np.uint8)
        beneath = _inside(covered, face.landmarks)
        if not covered.any() or not beneath.any():
            return LeftOut("the mask covers nothing of the face")
        with torch.inference_mode():
            result = eight_bit(unit_range(self.unmask(signed_pictures([worn.image]))))
        ways = {
            OURS: result,
            NOTHING: worn.image,
            MEAN: np.where(hole[:, :, None] > 0, self.mean, worn.image),
            **{name: fill(worn.image, hole) for name, fill in TELEA.items()},
        }
        points = {
            name: 100 * float(landmark_error(self.find(picture, face.landmarks), face.landmarks,
                                             beneath))
            for name, picture in {**ways, TRUE: bare}.items()
        }  # fmt: skip
        figures = {
            "psnr": {name: decibels(one, bare, covered) for name, one in ways.items()},
            "l1": {name: levels(one, bare, covered) for name, one in ways.items()},
            "landmarks": points,
        }
        shown = (worn.image, gray(worn.mask), result, difference(result, bare), bare)
        return Case(figures, shown, (f"mask: {worn.kind.partition('/')[0]}",))


def _inside(
    covered: npt.NDArray[np.bool_], points: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """[68] whether a point lies in a region."""
    size = len(covered)
    x, y = np.rint(points).astype(int).T
    within = (x >= 0) & (y >= 0) & (x < size) & (y < size)
    beneath: npt.NDArray[np.bool_] = within & covered[y.clip(0, size - 1), x.clip(0, size - 1)]
    return beneath


def load(weights: Sequence[Path] = (), recipe: str = "") -> UnmaskEvaluation:
    """The evaluation of a masked CycleGAN with trained weights; arguments as of `restore.load`."""
    path = weights[0] if weights else shipped("unmask")
    settings = recipe_of(path, "unmask", recipe)
    model = section(settings, "model", Model)
    try:
        network = make_generator(model)
    except ValueError as error:
        raise RecipeError(f"[model] {error}") from error
    filled(network, path, "this unmasking generator")
    evaluation = UnmaskEvaluation(
        lambda picture: network(picture, BARE).image,
        LandmarkFinder(),
        int(settings.get("data", {}).get("size", 256)),
    )
    evaluation.weights["unmask"] = described(path)
    return evaluation
