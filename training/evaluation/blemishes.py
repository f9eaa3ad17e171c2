"""How well blemishes are cleared, and what else is touched.

Blemishes are drawn on clean faces (`revisage.training.data.blemishes`), so the clean face is known.
Figures are of 8-bit pictures: PSNR of the blemished skin against the clean face, and by how many
levels of 255 unblemished skin and features (eyes, brows, lips, nostrils) differ from the input, in
the mean of their pixels. The filters, bilateral (Tomasi and Manduchi 1998) and guided by the
picture itself (He, Sun and Tang 2013), run over the whole face; of each the parameters are shown
that do best on these very faces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from revisage.errors import RecipeError
from revisage.training.data.aligned_faces import AlignedFace
from revisage.training.data.blemishes import add_blemishes
from revisage.training.data.face_skin import blemish_skin, feature_region
from revisage.training.data.picture_tensors import eight_bit, pictures_tensor
from revisage.training.evaluation.fills import decibels, levels
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
from revisage.training.evaluation.weights import described, filled, named, recipe_of, shipped
from revisage.training.recipe import section
from revisage.training.tasks import retouch_comparator
from revisage.training.tasks.live import load_retoucher

__all__ = ["BILATERAL", "FILTERS", "GUIDED", "BlemishEvaluation", "guided_filter", "load"]

Image = npt.NDArray[np.uint8]
Retouch = Callable[[Tensor], Tensor]  # [1, 3, S, S] in [0, 1] -> the same, retouched

BILATERAL, GUIDED = "bilateral filter", "guided filter"


def guided_filter(image: Image, radius: int, edge: float) -> Image:
    """The guided filter of a picture by itself, each channel alone.

    Args:
        image: [H, W, 3].
        radius: of the box in pixels.
        edge: standard deviation in levels above which a step counts as an edge and stays.
    """
    box = (2 * radius + 1,) * 2
    values = image.astype(np.float32)
    mean = cv2.blur(values, box)
    variance = cv2.blur(values * values, box) - mean * mean
    slope = variance / (variance + edge**2)
    offset = mean - slope * mean
    smooth = np.asarray(cv2.blur(slope, box) * values + cv2.blur(offset, box))
    return np.asarray(np.rint(smooth.clip(0, 255)), dtype=np.uint8)


def _bilateral(edge: float, reach: float) -> Callable[[Image], Image]:
    return lambda image: np.asarray(cv2.bilateralFilter(image, -1, edge, reach), dtype=np.uint8)


def _guided(radius: int, edge: float) -> Callable[[Image], Image]:
    return lambda image: guided_filter(image, radius, edge)


# Lengths in pixels of 256.
FILTERS: dict[str, dict[str, Callable[[Image], Image]]] = {
    BILATERAL: {
        f"colour {edge} levels, space {reach} px": _bilateral(edge, reach)
        for edge in (20, 40, 80, 160)
        for reach in (2, 4, 8)
    },
    GUIDED: {
        f"edge {edge} levels, radius {radius} px": _guided(radius, edge)
        for edge in (5, 10, 20, 40)
        for radius in (2, 4, 8, 16)
    },
}


class BlemishEvaluation(Evaluation):
    """See `revisage.training.evaluation.study.Evaluation`."""

    name, text = "blemishes", (__doc__ or "").partition("\n\n")[2].strip()
    goals = (
        Goal("blemished", "psnr", 6.0, over=NOTHING),
        Goal("blemished", "psnr", 3.0, over=BILATERAL),
        Goal("blemished", "psnr", 3.0, over=GUIDED),
        Goal("blemished", "skin", 0.5),
        Goal("blemished", "features", 0.5),
    )

    def __init__(self, retouch: Retouch, size: int = 256) -> None:
        self.retouch = retouch
        self.weights: dict[str, str] = {}
        self.kinds = {
            "blemished": Kind(
                "Blemished faces",
                size,
                (
                    Measure("psnr", "PSNR of blemished skin, dB"),
                    Measure("skin", "other skin changed, levels", better="lower"),
                    Measure("features", "features changed, levels", better="lower"),
                ),
                "blemished, where, cleared, four times the difference, clean",
                over=NOTHING,
                best_of={name: tuple(ways) for name, ways in FILTERS.items()},
            )
        }

    def case(
        self, kind: str, faces: Sequence[AlignedFace], index: int, rng: np.random.Generator
    ) -> Case | LeftOut:
        """One face with drawn blemishes, and every way of clearing them."""
        face = faces[index]
        if face.extra.get("face_mask"):
            return LeftOut("wears a mask in the photo")
        clean = face.image
        skin = blemish_skin(clean, face.landmarks)
        drawn = add_blemishes(clean, face.landmarks, rng, skin=skin)
        regions = {
            "psnr": drawn.mask > 0,
            "skin": (skin > 0.5) & (drawn.mask == 0),
            "features": feature_region(face.landmarks, len(clean)) > 0,
        }
        if not all(region.any() for region in regions.values()):
            return LeftOut("no skin to be told from the rest")
        with torch.inference_mode():
            result = eight_bit(self.retouch(pictures_tensor([drawn.image])))
        ways = {OURS: result, NOTHING: drawn.image}
        for filters in FILTERS.values():
            ways |= {name: smooth(drawn.image) for name, smooth in filters.items()}
        figures = {
            "psnr": {name: decibels(one, clean, regions["psnr"]) for name, one in ways.items()},
            **{
                key: {name: levels(one, drawn.image, regions[key]) for name, one in ways.items()}
                for key in ("skin", "features")
            },
        }
        shown = (drawn.image, gray(drawn.mask), result, difference(result, clean), clean)
        return Case(figures, shown)


def load(weights: Sequence[Path] = (), recipe: str = "") -> BlemishEvaluation:
    """The evaluation of a StyleRetoucher, or of a network that the paper compares it with.

    Args:
        weights: one file; none takes those that ship.
        recipe: of the network, see `recipe_of`; of a StyleRetoucher the tensors say all.
    """
    path = weights[0] if weights else shipped("style_retoucher")
    settings = recipe_of(path, "style_retoucher", recipe, others=("retouch_comparator",))
    size = int(settings.get("data", {}).get("size", 256))
    network: nn.Module
    if settings["run"]["task"] == "retouch_comparator":
        model = section(settings, "model", retouch_comparator.Model)
        try:
            network = retouch_comparator.make_network(model)
        except ValueError as error:
            raise RecipeError(f"[model] {error}") from error
        filled(network, path, "this retouching network")
    else:
        retoucher = load_retoucher(str(named(path)))
        network, size = retoucher, retoucher.size
    evaluation = BlemishEvaluation(network, size)
    evaluation.weights["retoucher"] = described(path)
    return evaluation
