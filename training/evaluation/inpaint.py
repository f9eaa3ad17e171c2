"""How well a network fills holes in faces, beside fills that need no network.

Three kinds of holes in aligned faces, the same for every network:

- `centre`: a square of 64 px in the middle of 128 px (Pathak et al. 2016);
- `rectangle`: a rectangle anywhere in 256 px, 6 to 30 % of the picture;
- `free_form`: brush strokes anywhere in 256 px, 5 to 50 % of the picture (Yu et al. 2019).

What is compared is the 8-bit picture that a user would get; the figure is the PSNR in the hole,
and a gain is the difference of two in the same picture. `OpenCV's best` is, in each picture, the
best of Telea's and the Navier-Stokes fill at radius 3 and 5.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from revisage.errors import RecipeError
from revisage.training.data import holes
from revisage.training.data.aligned_faces import AlignedFace
from revisage.training.data.picture_tensors import pictures_tensor
from revisage.training.evaluation.fills import (
    BEST,
    BEST_TELEA,
    MEAN,
    Fill,
    hole_case,
    hole_kind,
    mean_of_others,
)
from revisage.training.evaluation.study import Case, Evaluation, Goal
from revisage.training.evaluation.weights import described, filled, recipe_of, shipped
from revisage.training.recipe import section
from revisage.training.tasks.inpaint import Model, make_network

__all__ = ["HOLES", "InpaintEvaluation", "fill_with", "load"]

Image = npt.NDArray[np.uint8]
Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

SIZE = 256  # of the faces that the shipped network was trained on
HOLES: dict[str, tuple[int, Callable[[int, np.random.Generator], Image]]] = {
    "centre": (128, lambda size, rng: holes.centre_hole(size)),
    "rectangle": (256, holes.rectangle_hole),
    "free_form": (256, holes.free_form_hole),
}


def fill_with(network: Network, trained: int = SIZE) -> Fill:
    """A network of (image, mask) tensors as a fill of pictures.

    A picture of another size goes through the network at the size of the faces that it was trained
    on, and what was filled comes back resampled.
    """

    def fill(image: Image, mask: Image) -> Image:
        size = image.shape[0]
        seen, hole = image, mask
        if size != trained:
            # Resampling must not smear what stands in the hole into the pixels around it.
            smooth = cv2.inpaint(image, mask, 3, cv2.INPAINT_TELEA)
            seen = np.asarray(
                cv2.resize(smooth, (trained, trained), interpolation=cv2.INTER_CUBIC),
                dtype=np.uint8,
            )
            hole = np.asarray(cv2.resize(mask, (trained, trained), interpolation=cv2.INTER_NEAREST))
        picture = pictures_tensor([seen])
        with torch.inference_mode():
            predicted = network(picture, torch.from_numpy(hole)[None, None].float())
        values = predicted[0].permute(1, 2, 0).clamp(0, 1).float().numpy() * 255
        if size != trained:
            way = cv2.INTER_AREA if size < trained else cv2.INTER_CUBIC
            values = np.clip(cv2.resize(values, (size, size), interpolation=way), 0, 255)
        done = np.rint(values).astype(np.uint8)
        return np.where(mask[:, :, None] > 0, done, image)

    return fill


class InpaintEvaluation(Evaluation):
    """See `revisage.training.evaluation.study.Evaluation`."""

    name, text = "inpaint", (__doc__ or "").partition("\n\n")[2].strip()
    goals = (
        Goal("centre", "psnr", 4.0, over=BEST_TELEA),
        Goal("centre", "psnr", 1.5, over=MEAN),
        Goal("free_form", "psnr", 3.0, over=BEST),
    )

    def __init__(self, fill: Fill) -> None:
        self.fill = fill
        self.weights: dict[str, str] = {}
        self.means: dict[int, Image] = {}
        self.kinds = {key: hole_kind(f"Holes: {key}", size) for key, (size, _) in HOLES.items()}

    def prepare(
        self, kind: str, folders: Sequence[str], faces: Sequence[AlignedFace]
    ) -> Sequence[str]:
        """The mean face, once for each size."""
        size = self.kinds[kind].size
        if size in self.means:
            return ()
        self.means[size], remarks = mean_of_others(folders, size, faces)
        return remarks

    def case(
        self, kind: str, faces: Sequence[AlignedFace], index: int, rng: np.random.Generator
    ) -> Case:
        """One hole in one face, filled in every way."""
        size, draw = HOLES[kind]
        mean = self.means[size]
        rivals: dict[str, Fill] = {
            MEAN: lambda image, mask: np.where(mask[:, :, None] > 0, mean, image)
        }
        return hole_case(faces[index].image, draw(size, rng), self.fill, rivals)


def load(weights: Sequence[Path] = (), recipe: str = "") -> InpaintEvaluation:
    """The evaluation of an inpainting network; arguments as of `restore.load`."""
    path = weights[0] if weights else shipped("inpainting")
    settings = recipe_of(path, "inpaint_fine", recipe)
    model, size = section(settings, "model", Model), int(settings.get("data", {}).get("size", SIZE))
    # The file holds all of the network: where it began does not matter.
    model = dataclasses.replace(model, weights="", coarse_weights="", fine_weights="")
    try:
        network = make_network(model, size)
    except ValueError as error:
        raise RecipeError(f"[model] {error}") from error
    evaluation = InpaintEvaluation(
        fill_with(filled(network, path, "this inpainting network"), size)
    )
    evaluation.weights["inpainting"] = described(path)
    return evaluation
