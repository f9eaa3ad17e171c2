"""Filling a hole in a face with DMFN (Hui et al. 2020, "Image Fine-grained Inpainting").

The generator sees the picture with the hole blanked, and the hole; its losses are those of the
paper (`losses.dmfn`), on the picture in which only the hole is its work. The discriminator sees the
whole picture and the square of half its side in which the hole lies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from revisage.errors import RecipeError
from revisage.training.data.aligned_faces import AlignedFace, aligned_faces
from revisage.training.data.holes import stroke_holes
from revisage.training.data.picture_tensors import signed_pictures, unit_range
from revisage.training.loop import Turn
from revisage.training.losses.dmfn import (
    GUIDED_LAYERS,
    centre_alignment_loss,
    error_guidance,
    feature_matching_loss,
    self_guided_regression_loss,
)
from revisage.training.losses.gan import adversarial
from revisage.training.losses.masked import masked_l1
from revisage.training.losses.perceptual import published_or_stand_in
from revisage.training.metrics.report import image_figures
from revisage.training.models.dmfn import DMFNDiscriminator, DMFNGenerator, composite
from revisage.training.recipe import section

__all__ = ["SMALL", "TINY", "CompletionTask", "build", "hole_in_box"]

Batch = Mapping[str, Tensor]
Image = npt.NDArray[np.uint8]

HOLES = ("rectangle", "centre", "strokes")
# Layers that stand for relu1_1 .. relu5_1 of VGG-19.
LAYERS = {
    "vgg19": ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"),
    "stand_in": ("skin2", "skin4", "skin8", "skin16", "face16"),
}
CENTRED = 3  # of these, whose centres are compared

TINY: dict[str, dict[str, Any]] = {
    "run": {"steps": 10, "batch": 2, "warmup_steps": 0, "learning_rate": 5e-3},
    "optimiser": {
        "generator": {"learning_rate": 5e-3, "warmup_steps": 0},
        "critic": {"learning_rate": 1e-3, "warmup_steps": 0},
    },
    "model": {"width": 4, "blocks": 1, "critic_width": 4},
    "data": {"size": 64, "held_out": 2},
    "loss": {"perceptual_network": "stand_in", "perceptual_weights": ""},
}
SMALL: dict[str, dict[str, Any]] = {
    "run": {"steps": 300, "batch": 8, "warmup_steps": 20, "validate_every": 300},
    "optimiser": {
        "generator": {"learning_rate": 1e-3, "warmup_steps": 20},
        "critic": {"learning_rate": 5e-4, "warmup_steps": 20},
    },
    "model": {"width": 12, "blocks": 3, "critic_width": 16},
    "data": {"size": 64, "held_out": 16},
    "loss": {"perceptual_network": "stand_in", "perceptual_weights": ""},
}


@dataclasses.dataclass(frozen=True)
class Model:
    width: int = 64
    blocks: int = 8
    critic_width: int = 64


@dataclasses.dataclass(frozen=True)
class Data:
    portraits: tuple[str, ...]  # folders of annotated portraits
    size: int = 256  # side of the aligned square, a multiple of 64
    min_native_face_px: float = 0.0
    holes: str = "rectangle"  # "rectangle", "centre" or "strokes"
    held_out: int = 32  # faces of the validation split that are judged


@dataclasses.dataclass(frozen=True)
class Loss:
    l1: float = 1.0
    hole_l1: float = 0.0  # L1 over the pixels of the hole alone
    features: float = 25.0  # feature matching, the first two layers self-guided
    centre: float = 1.0  # geometrical alignment of the feature centres
    critic_features: float = 5.0
    adversarial: str = "relativistic"
    adversarial_weight: float = 0.003
    perceptual_network: str = "vgg19"  # "vgg19" or "stand_in"
    perceptual_weights: str = ""  # file of vgg19; without it the stand-in is used


def hole_in_box(size: int, rng: np.random.Generator, kind: str) -> tuple[Image, tuple[int, int]]:
    """A hole and the top left corner (row, column) of the half-size square that contains it.

    "rectangle": the square lies anywhere and the hole is the square less up to a quarter of its
    side, half at each end (DMFN's "regular" holes). "centre": the square in the middle. "strokes":
    free-form strokes anywhere, the square around as many of their pixels as it can hold.

    Returns:
        [size, size] uint8 with 1 = hole, and the corner.
    """
    side = size // 2
    hole = np.zeros((size, size), np.uint8)
    if kind == "centre":
        corner = (size - side) // 2
        hole[corner : corner + side, corner : corner + side] = 1
        return hole, (corner, corner)
    if kind == "rectangle":
        top, left = (int(v) for v in rng.integers(0, size - side + 1, 2))
        down, across = (int(v) for v in rng.integers(0, side // 8 + 1, 2))
        hole[top + down : top + side - down, left + across : left + side - across] = 1
        return hole, (top, left)
    if kind == "strokes":
        hole = stroke_holes(size, rng)
        rows, columns = hole.sum(axis=1), hole.sum(axis=0)
        middle = [float(np.average(np.arange(size), weights=w + 1e-9)) for w in (rows, columns)]
        top, left = (int(np.clip(round(m - side / 2), 0, size - side)) for m in middle)
        return hole, (top, left)
    raise RecipeError(f"[data] holes: no {kind!r}; known: {', '.join(HOLES)}")


class CompletionTask:
    """See `revisage.training.loop.Task`."""

    product, averaged, watch = "filler", ("filler",), "generator/l1"

    def __init__(self, model: Model, data: Data, loss: Loss) -> None:
        if data.holes not in HOLES:
            raise RecipeError(f"[data] holes: no {data.holes!r}; known: {', '.join(HOLES)}")
        self.data, self.weights = data, loss
        try:
            self.networks: dict[str, nn.Module] = {
                "filler": DMFNGenerator(4, 3, model.width, model.blocks),
                "critic": DMFNDiscriminator(3, model.critic_width, data.size),
            }
            self.adversarial = adversarial(loss.adversarial)
        except ValueError as error:
            raise RecipeError(f"[model], [data] or [loss]: {error}") from error
        self.turns = (
            Turn("generator", ("filler",), self.generator_loss),
            Turn("critic", ("critic",), self.critic_loss),
        )
        self.notes: dict[str, str] = {}
        self.perceptual, self.layers = None, LAYERS["vgg19"]
        if loss.features > 0 or loss.centre > 0:
            if loss.perceptual_network not in LAYERS:
                raise RecipeError(
                    f"[loss] perceptual_network: no {loss.perceptual_network!r}; "
                    f"known here: {', '.join(LAYERS)}"
                )
            self.perceptual = published_or_stand_in(
                loss.perceptual_network, loss.perceptual_weights
            )
            self.layers = LAYERS[self.perceptual.kind]
            self.notes["perceptual"] = self.perceptual.record
        cv2.setNumThreads(1)

    # -- data -------------------------------------------------------------------------------------

    def _faces(self, split: str) -> Sequence[AlignedFace]:
        data = self.data
        return aligned_faces(
            data.portraits, split, data.size, min_native_face_px=data.min_native_face_px
        )

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """`image` [N, 3, S, S] in [-1, 1], `mask` [N, 1, S, S] 1 = hole, `box` [N, 2] corners."""
        faces = self._faces("train")
        images, masks, boxes = [], [], []
        for _ in range(size):
            image = faces[int(rng.integers(len(faces)))].image
            images.append(image[:, ::-1] if rng.random() < 0.5 else image)
            mask, box = hole_in_box(self.data.size, rng, self.data.holes)
            masks.append(mask)
            boxes.append(box)
        return {
            "image": signed_pictures(images),
            "mask": torch.from_numpy(np.stack(masks)).float()[:, None],
            "box": torch.tensor(boxes),
        }

    # -- losses -----------------------------------------------------------------------------------

    def _judge(self, image: Tensor, box: Tensor) -> tuple[Tensor, list[Tensor]]:
        side = self.data.size // 2
        near = torch.stack(
            [
                one[:, top : top + side, left : left + side]
                for one, (top, left) in zip(image, box.tolist(), strict=True)
            ]
        )
        judged: tuple[Tensor, list[Tensor]] = self.networks["critic"](near, image)
        return judged

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The paper's sum of losses on the composite."""
        weights = self.weights
        image, mask = batch["image"], batch["mask"]
        _, filled = composite(self.networks["filler"], image, mask)
        filled = filled.float()
        terms = {"l1": (weights.l1, functional.l1_loss(filled, image))}
        if weights.hole_l1 > 0:
            terms["hole_l1"] = (weights.hole_l1, masked_l1(filled, image, mask))
        if self.perceptual is not None:
            with torch.no_grad():
                features = self.perceptual(unit_range(image), self.layers)
            real = [features[name].float() for name in self.layers]
            features = self.perceptual(unit_range(filled), self.layers)
            fake = [features[name].float() for name in self.layers]
            n = GUIDED_LAYERS
            guided = self_guided_regression_loss(fake[:n], real[:n], error_guidance(filled, image))
            terms["guided"] = (weights.features, guided)
            terms["features"] = (weights.features, feature_matching_loss(fake[n:], real[n:]))
            centred = centre_alignment_loss(fake[CENTRED], real[CENTRED])
            terms["centre"] = (weights.centre, centred)
        if weights.adversarial_weight > 0 or weights.critic_features > 0:
            with torch.no_grad():
                true_scores, true_features = self._judge(image, batch["box"])
            scores, found = self._judge(filled, batch["box"])
            fooled = self.adversarial.generator(scores.float(), true_scores.float())
            terms["adversarial"] = (weights.adversarial_weight, fooled)
            matched = feature_matching_loss(found, true_features)
            terms["critic_features"] = (weights.critic_features, matched)
        total = torch.stack([weight * value for weight, value in terms.values()]).sum()
        return total, {name: value.item() for name, (_, value) in terms.items()}

    def critic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Real pictures against filled ones; the generator is only run."""
        image = batch["image"]
        with torch.no_grad():
            _, filled = composite(self.networks["filler"], image, batch["mask"])
        real, _ = self._judge(image, batch["box"])
        fake, _ = self._judge(filled, batch["box"])
        loss = self.adversarial.critic(real.float(), fake.float())
        return loss, {"real": real.mean().item(), "fake": fake.mean().item()}

    # -- what it is worth -------------------------------------------------------------------------

    def _held_out(self, count: int) -> list[tuple[Tensor, Tensor]]:
        """Pictures [1, 3, S, S] and holes [1, 1, S, S], the same every time."""
        rng = np.random.default_rng(2719)
        rows = []
        for face in self._faces("val")[:count]:
            mask, _ = hole_in_box(self.data.size, rng, self.data.holes)
            rows.append((signed_pictures([face.image]), torch.from_numpy(mask)[None, None].float()))
        return rows

    def _filled(self, network: nn.Module, image: Tensor, mask: Tensor) -> Tensor:
        """The composite in [0, 1]."""
        device = next(network.parameters()).device
        with torch.no_grad():
            _, filled = composite(network, image.to(device), mask.to(device))
        return unit_range(filled).cpu()

    def validate(self, networks: Mapping[str, nn.Module], out: Path, step: int) -> dict[str, float]:
        """Held-out faces: `psnr`, `l1`, `l2` in the hole, `picture_psnr` and `picture_l1` over all
        pixels, `ssim` and `ms_ssim` of the whole picture.
        """
        sums: dict[str, list[float]] = {}
        for image, mask in self._held_out(self.data.held_out):
            found, true = self._filled(networks[self.product], image, mask), unit_range(image)
            figures = image_figures(found, true, mask)
            whole = image_figures(found, true)
            figures["picture_psnr"], figures["picture_l1"] = whole["psnr"], whole["l1"]
            for name, value in figures.items():
                sums.setdefault(name, []).append(value)
        return {name: float(np.mean(values)) for name, values in sums.items()}

    def pictures(self, networks: Mapping[str, nn.Module]) -> Mapping[str, Image]:
        """Held-out faces in columns: with the hole, filled, the truth."""
        columns = []
        for image, mask in self._held_out(8):
            true = unit_range(image)
            holed = true * (1 - mask) + 0.5 * mask
            filled = self._filled(networks[self.product], image, mask)
            columns.append(torch.cat([holed, filled, true], dim=2)[0].clamp(0, 1))
        sheet = torch.cat(columns, dim=2).permute(1, 2, 0).numpy()
        return {"completion": np.round(sheet * 255).astype(np.uint8)}


def build(recipe: Mapping[str, Mapping[str, Any]]) -> CompletionTask:
    """The task of a recipe."""
    return CompletionTask(
        section(recipe, "model", Model),
        section(recipe, "data", Data),
        section(recipe, "loss", Loss),
    )
