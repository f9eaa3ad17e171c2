"""How well a guided network rebuilds degraded faces.

Faces are degraded by GFRNet's model (blur, reduction by exactly 4 or 8, noise, JPEG; Li et al.
2018, section 3.4) and rebuilt with a guide: another photo of the same person where the folder has
one, else the face itself, bent, turned and lit anew. Figures are PSNR of the whole 8-bit square
against the sharp face. `bicubic` is the small picture enlarged. `no guide` is the same network with
the degraded face as its own guide, `a stranger's guide` with a random photo of somebody else. A
guide that is made from the face shows the face itself: what counts most is the group with another
photo.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from revisage.errors import RecipeError
from revisage.training.data.aligned_faces import AlignedFace
from revisage.training.data.guided_pairs import GuidedPairs
from revisage.training.data.picture_tensors import eight_bit, pictures_tensor
from revisage.training.evaluation.fills import decibels
from revisage.training.evaluation.report import difference
from revisage.training.evaluation.study import OURS, Case, Evaluation, Goal, Kind, Measure
from revisage.training.evaluation.weights import described, filled, recipe_of, shipped
from revisage.training.recipe import section
from revisage.training.tasks.restore import Data, Model, make_network

__all__ = ["BICUBIC", "NO_GUIDE", "REAL", "STRANGER", "RestoreEvaluation", "load"]

Image = npt.NDArray[np.uint8]
Restore = Callable[[Tensor, Tensor], Tensor]  # degraded, guide [1, 3, S, S] in [0, 1] -> restored

BICUBIC, NO_GUIDE, STRANGER = "bicubic", "no guide", "a stranger's guide"
REAL = "guide: another photo"
SCALES = {"4x": 4.0, "8x": 8.0}


class RestoreEvaluation(Evaluation):
    """See `revisage.training.evaluation.study.Evaluation`."""

    name, text = "restore", (__doc__ or "").partition("\n\n")[2].strip()

    def __init__(
        self,
        restore: Restore,
        size: int = 256,
        degradation: str = "paper",
        rivals: Mapping[str, Restore] | None = None,
    ) -> None:
        self.restore, self.rivals = restore, dict(rivals or {})
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
        # A guide that is made from the face holds more of it than any other photo would.
        self.goals = [
            Goal(kind, "psnr", bound, over, group)
            for kind, least in (("4x", 2.0), ("8x", 1.5))
            for group in ("", REAL)
            for over, bound in {
                BICUBIC: least,
                NO_GUIDE: 0.3,
                **dict.fromkeys(self.rivals, 0.3),
            }.items()
        ]

    def case(
        self, kind: str, faces: Sequence[AlignedFace], index: int, rng: np.random.Generator
    ) -> Case:
        """One degraded face, rebuilt with and without help."""
        pair = self.pairs.batch(faces, [index], rng, scale=SCALES[kind])
        sharp, degraded, guide = (eight_bit(pair[k]) for k in ("sharp", "degraded", "guide"))
        restored = self._run(self.restore, pair["degraded"], pair["guide"])
        psnr = {
            OURS: decibels(restored, sharp),
            BICUBIC: decibels(degraded, sharp),
            NO_GUIDE: decibels(self._run(self.restore, pair["degraded"], pair["degraded"]), sharp),
        }
        for name, rival in self.rivals.items():
            psnr[name] = decibels(self._run(rival, pair["degraded"], pair["guide"]), sharp)
        others = [face for face in faces if face.identity != faces[index].identity]
        if others:
            stranger = others[int(rng.integers(len(others)))].image
            found = self._run(self.restore, pair["degraded"], pictures_tensor([stranger]))
            psnr[STRANGER] = decibels(found, sharp)
        made = bool(pair["known"][0])
        return Case(
            {"psnr": psnr},
            (degraded, guide, restored, difference(restored, sharp), sharp),
            ("guide: made from the face" if made else REAL,),
        )

    @staticmethod
    def _run(restore: Restore, degraded: Tensor, guide: Tensor) -> Image:
        with torch.inference_mode():
            return eight_bit(restore(degraded, guide))


def _network(path: Path, recipe: str) -> tuple[Restore, Model, Data]:
    settings = recipe_of(path, "gfrnet", recipe)
    model, data = section(settings, "model", Model), section(settings, "data", Data)
    try:
        network = make_network(model)
    except ValueError as error:
        raise RecipeError(f"[model] {error}") from error
    filled(network, path, "this GFRNet")
    return lambda degraded, guide: network(degraded, guide).restored, model, data


def load(weights: Sequence[Path] = (), recipe: str = "") -> RestoreEvaluation:
    """The evaluation of GFRNet with trained weights.

    Args:
        weights: of the network that is judged; none takes those that ship. More are judged beside
            it, such as one that was trained without a guide.
        recipe: of the networks, see `recipe_of`.
    """
    path, *others = weights or [shipped("gfrnet")]
    restore, _, data = _network(path, recipe)
    rivals = {}
    for number, other in enumerate(others, start=2):
        rival, model, _ = _network(other, recipe)
        rivals[f"network {number}, variant {model.variant}"] = rival
    evaluation = RestoreEvaluation(restore, data.size, data.degradation, rivals)
    evaluation.weights["gfrnet"] = described(path)
    evaluation.weights |= dict(zip(rivals, map(described, others), strict=True))
    return evaluation
