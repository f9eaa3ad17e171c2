"""Training of the compact wrinkle segmenter."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from revisage.training.data.ridges import IGNORE
from revisage.training.data.wrinkle_crops import AlignedFace, WrinklePool
from revisage.training.data.wrinkles import draw_wrinkles
from revisage.training.loop import Turn
from revisage.training.losses.dice import dice_loss
from revisage.training.metrics.segmentation import Overlap
from revisage.training.models.wrinkle_segmenter import CompactSegmenter
from revisage.training.recipe import section

__all__ = ["SMALL", "TINY", "SegmenterTask", "build", "segmentation_figures"]

Batch = Mapping[str, torch.Tensor]
Picture = npt.NDArray[np.uint8]

# Overrides of every recipe of this task: ten steps in seconds, and a first useful network in
# minutes.
TINY: dict[str, dict[str, Any]] = {
    "run": {"steps": 10, "batch": 2, "warmup_steps": 0, "learning_rate": 1e-2},
    "model": {"widths": [8, 8, 8, 8], "blocks": [1, 1, 1], "group_width": 4},
    "data": {"crop": 64},
}
SMALL: dict[str, dict[str, Any]] = {
    "run": {"steps": 400, "batch": 8, "validate_every": 400},
    "data": {"crop": 192},
}


@dataclasses.dataclass(frozen=True)
class Model:
    widths: tuple[int, ...] = (16, 24, 48, 96)
    blocks: tuple[int, ...] = (1, 2, 4)
    group_width: int = 8


@dataclasses.dataclass(frozen=True)
class Data:
    portraits: tuple[str, ...]  # folders of annotated portraits
    crop: int = 256  # side of the training crops, pixels of the 512 px square
    smallest_face: float = 220.0  # native face width; smaller faces show no wrinkles
    cache: str = ""  # folder that keeps aligned faces and teacher labels; empty for none


@dataclasses.dataclass(frozen=True)
class Loss:
    dice: float = 1.0
    cross_entropy: float = 0.5
    positive: float = 1.0  # weight of wrinkle pixels in the cross entropy


def as_image(image: torch.Tensor) -> torch.Tensor:
    """[N, H, W, 3] uint8 -> [N, 3, H, W] float32 in [0, 1], channels last in memory."""
    return image.permute(0, 3, 1, 2).float() / 255


def segmentation_figures(
    network: torch.nn.Module, faces: list[AlignedFace], seed: int, out: Path | None = None
) -> dict[str, float]:
    """Draw wrinkles over held-out faces and compare what the network finds (threshold 0.5).

    Returns:
        iou: against the drawn wrinkles alone, on the whole square.
        iou_near: the same within 6 px of the drawn wrinkles.
        iou_union, precision, recall: against drawn and real wrinkles (the teacher's), leaving out
            what the teacher could not tell.
        bare: share of pixels found on the faces as they are, without drawn wrinkles.
    """
    rng = np.random.default_rng(seed)
    whole, near, union = Overlap(), Overlap(), Overlap()
    bare, sheet = 0.0, []
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (13, 13))
    for index, face in enumerate(faces):
        image, drawn = draw_wrinkles(face.image, face.landmarks, rng, skin=face.skin)
        found = _found(network, np.stack([image, face.image]))
        whole.add(found[0], drawn)
        near.add(found[0], drawn, cv2.dilate(drawn, disc))
        truth = (drawn > 0) | (face.labels == 1)
        union.add(found[0], truth, (face.labels != IGNORE) | truth)
        bare += float(found[1].mean()) / len(faces)
        if index < 12:
            sheet.append(
                np.vstack(
                    [
                        _outlined(image, found[0], drawn),
                        _outlined(face.image, found[1], face.labels == 1),
                    ]
                )
            )
    if out is not None and sheet:
        rows = [np.hstack(sheet[i : i + 4]) for i in range(0, len(sheet) // 4 * 4, 4)]
        if rows:
            cv2.imwrite(str(out / "held_out.png"), np.vstack(rows)[..., ::-1])
    return {
        "iou": whole.iou,
        "iou_near": near.iou,
        "iou_union": union.iou,
        "precision": union.precision,
        "recall": union.recall,
        "bare": bare,
    }


def _found(network: torch.nn.Module, images: Picture) -> Picture:
    """[N, H, W, 3] uint8 -> [N, H, W] uint8, 1 = wrinkle."""
    device = next(network.parameters()).device
    with torch.no_grad():
        pictures = as_image(torch.from_numpy(images).to(device))
        logits = network(pictures.contiguous(memory_format=torch.channels_last))
    found: Picture = (logits[:, 0] > 0).cpu().numpy().astype(np.uint8)
    return found


def _outlined(image: Picture, found: Picture, truth: npt.NDArray[Any]) -> Picture:
    """Found and true in green, found alone in red, missed in blue."""
    out = image.copy()
    truth = truth > 0
    out[(found > 0) & truth] = (0, 220, 0)
    out[(found > 0) & ~truth] = (255, 0, 0)
    out[(found == 0) & truth] = (0, 80, 255)
    return out


class SegmenterTask:
    """See `revisage.training.loop.Task`."""

    def __init__(self, model: Model, data: Data, loss: Loss) -> None:
        cv2.setNumThreads(1)
        network: torch.nn.Module = CompactSegmenter(model.widths, model.blocks, model.group_width)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.networks = {"segmenter": network}
        self.product, self.averaged = "segmenter", ("segmenter",)
        self.turns = (Turn("segmenter", ("segmenter",), self.loss),)
        self.watch = "segmenter/loss"
        self.notes: dict[str, str] = {}
        self.data, self.weights = data, loss
        cache = Path(data.cache) if data.cache else None
        smallest = data.smallest_face
        self.pool = WrinklePool(data.portraits, "train", smallest_face=smallest, cache=cache)
        self.held_out = WrinklePool(data.portraits, "val", smallest_face=smallest, cache=cache)

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """`image` [N, H, W, 3] uint8, `target` and `known` [N, 1, H, W] uint8."""
        crops = self.pool.crops(rng, self.data.crop)
        images, targets, known = zip(*(next(crops) for _ in range(size)), strict=True)
        return {
            "image": torch.from_numpy(np.stack(images)),
            "target": torch.from_numpy(np.stack(targets)[:, None]),
            "known": torch.from_numpy(np.stack(known)[:, None]),
        }

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        """Dice loss and cross entropy where the teacher could tell."""
        logits = self.networks["segmenter"](as_image(batch["image"])).float()
        target, known = batch["target"].float(), batch["known"].float()
        dice = dice_loss(logits, target, known)
        weight = known * (1 + (self.weights.positive - 1) * target)
        entropy = functional.binary_cross_entropy_with_logits(
            logits, target, weight=weight, reduction="sum"
        ) / known.sum().clamp(min=1)
        total = self.weights.dice * dice + self.weights.cross_entropy * entropy
        return total, {"dice": dice.item(), "cross_entropy": entropy.item()}

    def validate(
        self, networks: Mapping[str, torch.nn.Module], out: Path, step: int
    ) -> dict[str, float]:
        """Figures on the first 24 held-out faces; pictures in `held_out.png`."""
        return segmentation_figures(networks["segmenter"], self.held_out.faces[:24], 11, out)

    def pictures(self, networks: Mapping[str, torch.nn.Module]) -> Mapping[str, Picture]:
        """Wrinkles drawn on held-out faces: found in green, wrongly in red, missed in blue."""
        network, rng = networks["segmenter"], np.random.default_rng(12)
        sheet = []
        for face in self.held_out.faces[:6]:
            image, drawn = draw_wrinkles(face.image, face.landmarks, rng, skin=face.skin)
            found = _found(network, np.stack([image]))[0]
            sheet.append(np.vstack([image, _outlined(image, found, drawn)]))
        return {"segmenter": np.hstack(sheet)}


def build(recipe: Mapping[str, Mapping[str, Any]]) -> SegmenterTask:
    """The task of a recipe with the tables [model], [data] and [loss]."""
    return SegmenterTask(
        section(recipe, "model", Model),
        section(recipe, "data", Data),
        section(recipe, "loss", Loss),
    )
