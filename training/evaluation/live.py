"""How near the live network comes to its teachers, and how steady it is beside them.

A face with drawn blemishes and, in half of the cases, drawn wrinkles is retouched by the teachers
at 512 px (the blemishes by the truth beneath them, then the shipped wrinkle networks), and by the
live network at 256 px, where both are compared: PSNR of the whole 8-bit picture. Most of a face
needs no retouch, so look at the gain over doing nothing too. Flicker is that of a pan of the still
by one pixel a frame: how much more the retouched frames differ from each other along the movement
than those of the input do (`revisage.training.metrics.flicker`), in levels of 255.
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
from revisage.training.data.blemishes import add_blemishes
from revisage.training.data.picture_tensors import eight_bit, pictures_tensor
from revisage.training.evaluation.fills import decibels
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
from revisage.training.evaluation.weights import described, filled, needed, recipe_of, shipped
from revisage.training.metrics.flicker import flicker, pan_flow
from revisage.training.models.live import LiveRetoucher
from revisage.training.models.wrinkle_filler import CompactFiller
from revisage.training.models.wrinkle_segmenter import CompactSegmenter
from revisage.training.recipe import section
from revisage.training.tasks.live import Model, Teachers, resized, wrinkled_pair
from revisage.training.tasks.wrinkle_filler import skin_region

__all__ = ["TEACHERS", "LiveEvaluation", "load"]

Image = npt.NDArray[np.uint8]
Live = Callable[[Tensor], tuple[Tensor, Tensor]]  # [N, 3, s, s] -> delta, mask
Teach = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # of `Teachers`

TEACHERS = "teachers"
FRAMES = 3  # of the pan
WRINKLED = 0.5  # share of faces that wrinkles are drawn on


class LiveEvaluation(Evaluation):
    """See `revisage.training.evaluation.study.Evaluation`."""

    name, text = "live", (__doc__ or "").partition("\n\n")[2].strip()
    goals = (Goal("retouch", "psnr", 38.0), Goal("retouch", "flicker", 0.0, over=TEACHERS))

    def __init__(self, live: Live, teach: Teach, size: int = 512, live_size: int = 256) -> None:
        self.live, self.teach = live, teach
        self.size, self.live_size = size, live_size
        self.weights: dict[str, str] = {}
        self.kinds = {
            "retouch": Kind(
                "One pass beside its teachers",
                size,
                (
                    Measure("psnr", "PSNR against the teachers, dB"),
                    Measure("flicker", "flicker of a pan, levels", 3, better="lower"),
                ),
                "input, mask, result, four times the difference, the teachers' result",
            )
        }

    def case(
        self, kind: str, faces: Sequence[AlignedFace], index: int, rng: np.random.Generator
    ) -> Case | LeftOut:
        """One face, retouched by both."""
        face = faces[index]
        if face.extra.get("face_mask"):
            return LeftOut("wears a mask in the photo")
        drawn = add_blemishes(face.image, face.landmarks, rng)
        skin = skin_region(face.landmarks, self.size)
        image, clean = drawn.image, face.image
        if rng.random() < WRINKLED:
            image, clean = wrinkled_pair(image, clean, face.landmarks, skin, rng)
        given = [
            pictures_tensor([image]),
            pictures_tensor([clean]),
            torch.from_numpy(drawn.mask)[None, None],
            torch.from_numpy(skin)[None, None].float(),
        ]
        step = self.size // self.live_size
        with torch.inference_mode():
            taught, seen = [], []
            for frame in range(FRAMES):
                moved = [torch.roll(part, frame * step, dims=3) for part in given]
                taught.append(resized(self.teach(*moved)[0], self.live_size))
                seen.append(resized(moved[0], self.live_size))
            frames = torch.cat(seen)
            delta, mask = self.live(frames)
            result = (frames + mask * delta).float().clamp(0, 1)
            flow = pan_flow(frames, 1, 0)
            unsteady = {
                name: 255 * float(flicker(made, frames, flow).mean())
                for name, made in ((OURS, result), (TEACHERS, torch.cat(taught)), (NOTHING, frames))
            }
        ours, wanted, before = (eight_bit(one[:1]) for one in (result, taught[0], frames))
        psnr = {OURS: decibels(ours, wanted), NOTHING: decibels(before, wanted)}
        shown = (before, gray(mask[0, 0].numpy()), ours, difference(ours, wanted), wanted)
        return Case({"psnr": psnr, "flicker": unsteady}, shown)


def load(weights: Sequence[Path] = (), recipe: str = "") -> LiveEvaluation:
    """The evaluation of the live network beside the shipped wrinkle networks.

    Args:
        weights: one file; none takes those that ship.
        recipe: of the network, see `recipe_of`.
    """
    path = weights[0] if weights else shipped("live")
    settings = recipe_of(path, "live", recipe)
    model = section(settings, "model", Model)
    try:
        live = LiveRetoucher(model.widths, model.blocks, model.head)
    except ValueError as error:
        raise RecipeError(f"[model] {error}") from error
    filled(live, path, "this live network")
    names = ("wrinkle_segmenter", "wrinkle_filler")
    files = {name: needed(name, "teaches the live network") for name in names}
    teachers = Teachers(
        filled(CompactSegmenter(), files["wrinkle_segmenter"], "the wrinkle segmenter"),
        filled(CompactFiller(), files["wrinkle_filler"], "the wrinkle filler"),
    )
    data = settings.get("data", {})
    evaluation = LiveEvaluation(
        live, teachers, int(data.get("size", 512)), int(data.get("live_size", 256))
    )
    evaluation.weights["live"] = described(path)
    evaluation.weights |= {f"teacher {name}": described(file) for name, file in files.items()}
    return evaluation
