"""Training of the finder on synthetic scenes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.nn import functional

from revisage.training.data.face_scenes import scene_batches
from revisage.training.data.faces import FacePool, read_negatives
from revisage.training.models.face_finder import FaceFinder
from revisage.training.recipe import section
from revisage.training.tasks.face_landmarks import as_image

__all__ = ["FinderTask", "build"]

Batch = Mapping[str, torch.Tensor]


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
    at = torch.arange(cells, dtype=torch.float32) * stride + (stride - 1) / 2
    x, y, side, angle = squares.unbind(dim=2)
    gap_x = x[..., None] - at  # [N, F, cells]
    gap_y = y[..., None] - at
    away = torch.sqrt(gap_x[:, :, None, :] ** 2 + gap_y[:, :, :, None] ** 2)
    away = torch.where(state[..., None, None] > 0, away, torch.full_like(away, 1e6))
    distance, owner = (away / side.clamp(min=1)[..., None, None]).min(dim=1)
    nearest = away.gather(1, owner[:, None]).squeeze(1)
    batch = torch.arange(squares.shape[0])[:, None, None]
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
        network = FaceFinder((a, b, c), model.blocks)
        if model.weights:
            from safetensors.torch import load_file

            network.load_state_dict(load_file(model.weights))
        self.network: torch.nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.weights = loss
        self.scene = data.scene
        self.pool = FacePool(
            data.portraits, "train", face_px=data.face_px, negatives=read_negatives(data.negatives)
        )
        self.held_out = FacePool(data.portraits[:1], "val", face_px=data.face_px)

    def batches(self, rng: np.random.Generator, batch: int) -> Iterator[Batch]:
        for arrays in scene_batches(self.pool, self.scene, batch, rng):
            yield {name: torch.from_numpy(array) for name, array in arrays.items()}

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        out = self.network(as_image(batch["image"])).float()
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

    def validate(self, network: torch.nn.Module, out: Path, step: int) -> dict[str, float]:
        """Losses and cell counts on scenes of held-out faces (the same ones each time)."""
        training, self.network = self.network, network
        sums: dict[str, float] = {}
        batches = scene_batches(self.held_out, self.scene, 16, np.random.default_rng(11))
        for _ in range(6):
            arrays = next(batches)
            total, parts = self.loss({k: torch.from_numpy(v) for k, v in arrays.items()})
            for key, value in {"loss": total.item(), **parts}.items():
                sums[key] = sums.get(key, 0.0) + value / 6
        self.network = training
        return sums


def build(recipe: Mapping[str, Mapping[str, Any]]) -> FinderTask:
    """Make the task of a recipe."""
    return FinderTask(
        section(recipe, "model", Model),
        section(recipe, "data", Data),
        section(recipe, "loss", Loss),
    )
