"""Training of the finder on synthetic scenes."""

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

from revisage.training.data.face_scenes import scene_batches
from revisage.training.data.faces import FacePool, read_negatives
from revisage.training.loop import Turn
from revisage.training.losses.perceptual import load_published
from revisage.training.models.face_finder import FaceFinder
from revisage.training.recipe import section
from revisage.training.tasks.face_landmarks import as_image

__all__ = ["SMALL", "TINY", "FinderTask", "build"]

Batch = Mapping[str, torch.Tensor]

# Overrides of every recipe of this task: ten steps in seconds, and a first useful network in
# minutes.
TINY: dict[str, dict[str, Any]] = {
    "run": {"steps": 10, "batch": 2, "warmup_steps": 0, "learning_rate": 1e-2},
    "model": {"widths": [8, 8, 8], "blocks": 1},
    "data": {"scene": 64},
}
SMALL: dict[str, dict[str, Any]] = {
    "run": {"steps": 300, "batch": 8, "validate_every": 300},
    "data": {"scene": 192},
}


@dataclasses.dataclass(frozen=True)
class Model:
    widths: tuple[int, ...] = (16, 32, 64)  # channels at 1/2, 1/4, 1/8
    blocks: int = 6
    weights: str = ""  # safetensors file to start from; empty starts from noise


@dataclasses.dataclass(frozen=True)
class Data:
    portraits: tuple[str, ...]
    negatives: str = ""  # folder of pictures without people; empty for procedural ones only
    face_px: float = 72.0
    scene: int = 256  # side of a training scene in pixels


@dataclasses.dataclass(frozen=True)
class Loss:
    focus: float = 2.0  # exponent of the focal loss (Lin et al. 2017, "Focal Loss", equation 5)
    place: float = 1.0
    turn: float = 0.3


@dataclasses.dataclass(frozen=True)
class Target:
    """What the cells of a batch should say; all [N, cells_y, cells_x] but `place`."""

    face: torch.Tensor  # 1 where a face is centred, else 0
    counted: torch.Tensor  # 0 where the score may be anything
    place: torch.Tensor  # [N, 5, cells_y, cells_x]: output channels 1 to 5


def target(squares: torch.Tensor, state: torch.Tensor, cells: int) -> Target:
    """Cells near the centre of a face of a known size say yes; a ring around them is left open.

    Args:
        squares: [N, F, 4] x, y, side, angle in pixels and radians.
        state: [N, F] 1 face, 0.5 cut off, 0 no face in this row.
    """
    stride = FaceFinder.stride
    device = squares.device
    at = torch.arange(cells, dtype=torch.float32, device=device) * stride + (stride - 1) / 2
    x, y, side, angle = squares.unbind(dim=2)
    gap_x = x[..., None] - at  # [N, F, cells]
    gap_y = y[..., None] - at
    away = torch.sqrt(gap_x[:, :, None, :] ** 2 + gap_y[:, :, :, None] ** 2)
    away = torch.where(state[..., None, None] > 0, away, torch.full_like(away, 1e6))
    distance, owner = (away / side.clamp(min=1)[..., None, None]).min(dim=1)
    nearest = away.gather(1, owner[:, None]).squeeze(1)
    batch = torch.arange(squares.shape[0], device=device)[:, None, None]
    own_side, own_state = side[batch, owner], state[batch, owner]
    own_x, own_y, own_angle = x[batch, owner], y[batch, owner], angle[batch, owner]
    known = (own_side >= FaceFinder.smallest_side) & (own_side <= FaceFinder.largest_side)
    close = (nearest < 0.71 * stride) | (distance < 0.17)
    around = (nearest < 1.42 * stride) | (distance < 0.33)
    face = (close & known & (own_state > 0.75)).float()
    counted = torch.where(around, face, torch.ones_like(face))
    place = torch.stack(
        [
            (own_x - at) / stride,
            (own_y - at[:, None]) / stride,
            torch.log(own_side.clamp(min=1) / FaceFinder.reference_side),
            torch.cos(own_angle),
            torch.sin(own_angle),
        ],
        dim=1,
    )
    return Target(face, counted, place)


class FinderTask:
    """See `revisage.training.loop.Task`."""

    def __init__(self, model: Model, data: Data, loss: Loss) -> None:
        cv2.setNumThreads(1)
        a, b, c = model.widths
        network: torch.nn.Module = FaceFinder((a, b, c), model.blocks)
        if model.weights:
            load_published(network, model.weights, "the finder")
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.networks = {"finder": network}
        self.product, self.averaged = "finder", ("finder",)
        self.turns = (Turn("finder", ("finder",), self.loss),)
        self.watch = "finder/loss"
        self.notes: dict[str, str] = {}
        self.weights = loss
        self.scene = data.scene
        self.pool = FacePool(
            data.portraits, "train", face_px=data.face_px, negatives=read_negatives(data.negatives)
        )
        self.held_out = FacePool(data.portraits[:1], "val", face_px=data.face_px)

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """`image` [N, S, S, 3] uint8, `squares` [N, F, 4] and `state` [N, F]; see `target`."""
        return _scenes(self.pool, self.scene, size, rng)

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        """Focal loss of the scores, smooth L1 of place and turn where a face is."""
        return self._loss(self.networks["finder"], batch)

    def _loss(
        self, network: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, dict[str, float]]:
        out = network(as_image(batch["image"])).float()
        wanted = target(batch["squares"], batch["state"], out.shape[-1])
        logit = out[:, 0]
        plain = functional.binary_cross_entropy_with_logits(logit, wanted.face, reduction="none")
        share = torch.sigmoid(logit)
        surprise = torch.where(wanted.face > 0, 1 - share, share)
        faces = wanted.face.sum().clamp(min=1)
        focal = (surprise**self.weights.focus * plain * wanted.counted).sum() / faces
        gap = functional.smooth_l1_loss(out[:, 1:], wanted.place, reduction="none", beta=0.1)
        gap = gap * wanted.face[:, None]
        place, turn = gap[:, :3].sum() / faces, gap[:, 3:].sum() / faces
        total = focal + self.weights.place * place + self.weights.turn * turn
        seen = ((share > 0.3) & (wanted.face > 0)).sum() / faces
        empty = (wanted.face == 0) & (wanted.counted > 0)
        return total, {
            "focal": focal.item(),
            "place": place.item(),
            "turn": turn.item(),
            "cells_seen": seen.item(),
            "false_cells": ((share > 0.3) & empty).float().sum().item() / len(out),
        }

    def validate(
        self, networks: Mapping[str, torch.nn.Module], out: Path, step: int
    ) -> dict[str, float]:
        """Losses and cell counts on scenes of held-out faces (the same ones each time)."""
        network, rng = networks["finder"], np.random.default_rng(11)
        device = next(network.parameters()).device
        sums: dict[str, float] = {}
        for _ in range(6):
            batch = _scenes(self.held_out, self.scene, 16, rng)
            total, parts = self._loss(network, {k: v.to(device) for k, v in batch.items()})
            for key, value in {"loss": total.item(), **parts}.items():
                sums[key] = sums.get(key, 0.0) + value / 6
        return sums

    def pictures(
        self, networks: Mapping[str, torch.nn.Module]
    ) -> Mapping[str, npt.NDArray[np.uint8]]:
        """Scenes of held-out faces, brighter where the network sees the centre of a face."""
        network = networks["finder"]
        device = next(network.parameters()).device
        image = _scenes(self.held_out, self.scene, 6, np.random.default_rng(12))["image"]
        score = torch.sigmoid(network(as_image(image.to(device)))[:, :1].float())
        light = functional.interpolate(score, image.shape[1:3]).cpu().permute(0, 2, 3, 1)
        shown = image * (0.4 + 0.6 * light)
        return {"finder": np.hstack(list(shown.round().to(torch.uint8).numpy()))}


def _scenes(pool: FacePool, size: int, count: int, rng: np.random.Generator) -> Batch:
    """One batch of `scene_batches` as tensors."""
    arrays = next(scene_batches(pool, size, count, rng))
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def build(recipe: Mapping[str, Mapping[str, Any]]) -> FinderTask:
    """Make the task of a recipe."""
    return FinderTask(
        section(recipe, "model", Model),
        section(recipe, "data", Data),
        section(recipe, "loss", Loss),
    )
