"""How well a guided network rebuilds degraded faces.

Faces are degraded by GFRNet's model (blur, reduction by exactly 4 or 8, noise, JPEG; Li et al.
2018, section 3.4) and rebuilt with a guide: another photo of the same person where the folder has
one, else the face itself, bent, turned and lit anew. Figures are PSNR of the whole 8-bit square
against the sharp face. `bicubic` is the small picture enlarged. `no guide` is the same network with
the degraded face as its own guide, `a stranger's guide` with a random photo of somebody else.
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
from revisage.training.data.guided_pairs import GuidedPairs, pictures_tensor
from revisage.training.data.picture_tensors import eight_bit
from revisage.training.evaluation.fills import decibels
from revisage.training.evaluation.report import difference
from revisage.training.evaluation.study import OURS, Case, Goal, Kind, Measure
from revisage.training.evaluation.weights import described, filled, recipe_of, shipped
from revisage.training.recipe import section
from revisage.training.tasks.restore import Model, make_network

__all__ = ["BICUBIC", "NO_GUIDE", "STRANGER", "RestoreEvaluation", "load"]

Image = npt.NDArray[np.uint8]
Restore = Callable[[Tensor, Tensor], Tensor]  # degraded, guide [1, 3, S, S] in [0, 1] -> restored

BICUBIC, NO_GUIDE, STRANGER = "bicubic", "no guide", "a stranger's guide"
SCALES = {"4x": 4.0, "8x": 8.0}


class RestoreEvaluation:
    """See `revisage.training.evaluation.study.Evaluation`."""

    name, text = "restore", (__doc__ or "").partition("\n\n")[2].strip()
    goals = (
        Goal("4x", "psnr", 2.0, over=BICUBIC),
        Goal("4x", "psnr", 0.3, over=NO_GUIDE),
        Goal("8x", "psnr", 1.5, over=BICUBIC),
        Goal("8x", "psnr", 0.3, over=NO_GUIDE),
    )

    def __init__(self, restore: Restore, size: int = 256, degradation: str = "paper") -> None:
        self.restore = restore
        self.weights: dict[str, str] = {}
        self.pairs = GuidedPairs((), size, degradation=degradation)
        self.kinds = {
            key: Kind(
                f"Degraded faces, {key}",
                size,
                (Measure("psnr", "PSNR, dB"),),
                "degraded, guide, restored, four times the difference, as it is",
                over=BICUBIC,
            )
            for key in SCALES
        }

    def prepare(
        self, kind: str, folders: Sequence[str], faces: Sequence[AlignedFace]
    ) -> Sequence[str]:
        """Nothing to do."""
        return ()

    def case(
        self, kind: str, faces: Sequence[AlignedFace], index: int, rng: np.random.Generator
    ) -> Case:
        """One degraded face, rebuilt with and without help."""
        pair = self.pairs.batch(faces, [index], rng, scale=SCALES[kind])
        sharp, degraded, guide = (eight_bit(pair[k]) for k in ("sharp", "degraded", "guide"))
        restored = self._restored(pair["degraded"], pair["guide"])
        psnr = {
            OURS: decibels(restored, sharp),
            BICUBIC: decibels(degraded, sharp),
            NO_GUIDE: decibels(self._restored(pair["degraded"], pair["degraded"]), sharp),
        }
        others = [face for face in faces if face.identity != faces[index].identity]
        if others:
            stranger = others[int(rng.integers(len(others)))].image
            found = self._restored(pair["degraded"], pictures_tensor([stranger]))
            psnr[STRANGER] = decibels(found, sharp)
        made = bool(pair["known"][0])
        return Case(
            {"psnr": psnr},
            (degraded, guide, restored, difference(restored, sharp), sharp),
            ("guide: made from the face" if made else "guide: another photo",),
        )

    def _restored(self, degraded: Tensor, guide: Tensor) -> Image:
        with torch.inference_mode():
            return eight_bit(self.restore(degraded, guide))


def load(weights: Sequence[Path] = (), recipe: str = "") -> RestoreEvaluation:
    """The evaluation of GFRNet with trained weights.

    Args:
        weights: one file; none takes those that ship.
        recipe: of the network, see `recipe_of`.
    """
    path = weights[0] if weights else shipped("gfrnet")
    settings = recipe_of(path, "gfrnet", recipe)
    model = section(settings, "model", Model)
    try:
        network = make_network(model)
    except ValueError as error:
        raise RecipeError(f"[model] {error}") from error
    filled(network, path, "this GFRNet")
    data = settings.get("data", {})
    evaluation = RestoreEvaluation(
        lambda degraded, guide: network(degraded, guide).restored,
        int(data.get("size", 256)),
        str(data.get("degradation", "paper")),
    )
    evaluation.weights["gfrnet"] = described(path)
    return evaluation
