"""Training of WarpNet by itself: from a degraded face and a guide to the field between them.

GFRNet (Li et al. 2018, "Learning Warped Guidance for Blind Face Restoration") first trains WarpNet
with the landmark loss and total variation, since nobody knows the field between two photos, and
then goes on end to end (`tasks/restore.py`). Guides made from the face itself come with their
field: `loss.flow` can learn from it, which the paper does not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from revisage.errors import RecipeError
from revisage.training.data.guided_pairs import GuidedPairs
from revisage.training.loop import Turn
from revisage.training.losses.landmark import face_axes, landmark_loss, symmetry_loss
from revisage.training.losses.perceptual import load_published
from revisage.training.losses.total_variation import total_variation
from revisage.training.metrics.landmarks import landmark_error
from revisage.training.metrics.report import image_figures
from revisage.training.models.gfrnet import make_warpnet, predicted_grid
from revisage.training.models.gfrnet_warpnet import grid_of_flow, warp
from revisage.training.recipe import section

__all__ = [
    "SMALL",
    "TINY",
    "Data",
    "Loss",
    "Model",
    "WarpTask",
    "build",
    "check_size",
    "warp_losses",
]

Batch = Mapping[str, Tensor]
Image = npt.NDArray[np.uint8]

TINY: dict[str, dict[str, Any]] = {
    "run": {"steps": 10, "batch": 2, "warmup_steps": 0, "learning_rate": 1e-3, "threads": 1},
    "model": {"warpnet": "paper", "ngf": 4, "levels": 5, "reduced": 1},
    "data": {"size": 32, "min_native_face_px": 0.0, "validation_faces": 2},
}
SMALL: dict[str, dict[str, Any]] = {
    "run": {"steps": 1200, "batch": 8, "warmup_steps": 50, "validate_every": 600},
    "model": {"warpnet": "paper", "ngf": 16, "levels": 6, "reach": 0.25, "reduced": 1},
    "data": {"size": 64},
}


@dataclasses.dataclass(frozen=True)
class Model:
    warpnet: str = "paper"  # or "pyramid", the authors' later version
    ngf: int = 0  # channels of the first convolution; 0 takes the published width
    levels: int = 8  # halvings of the paper's version: data.size is a multiple of 2 ** levels
    reach: float = 0.0  # of models.gfrnet.predicted_grid: 0 is as published
    reduced: int = 1  # of models.gfrnet.predicted_grid
    weights: str = ""  # safetensors file to start from; empty starts from noise


@dataclasses.dataclass(frozen=True)
class Data:
    portraits: tuple[str, ...]  # folders of annotated portraits
    size: int = 256
    min_native_face_px: float = 0.0
    degradation: str = "paper"  # or "authors": the ranges of the authors' PyTorch code
    flip: float = 0.5
    validation_faces: int = 48


@dataclasses.dataclass(frozen=True)
class Loss:
    landmark: float = 10.0
    total_variation: float = 1.0
    minus_identity: bool = False  # total variation of the grid less the identity grid
    symmetry: float = 0.0
    symmetry_shift: float = 10.0  # pixels
    flow: float = 0.0  # squared distance from the known field, in grid units


def check_size(multiple: int, size: int) -> None:
    """Raise RecipeError where a network of this `multiple_of` cannot take pictures of this side."""
    if size % multiple:
        raise RecipeError(
            f"[data] size must be a multiple of {multiple} for this network, not {size}: change "
            "it, or model.levels"
        )


def warp_losses(grid: Tensor, batch: Batch, weights: Loss) -> tuple[Tensor, dict[str, float]]:
    """The losses of the field, weighed, and each by itself; see the module's docstring."""
    terms: dict[str, tuple[float, Tensor]] = {}
    bound = landmark_loss(grid, batch["bound"], batch["target"])
    terms["landmark"] = weights.landmark, bound
    smooth = total_variation(grid, minus_identity=weights.minus_identity)
    terms["total_variation"] = weights.total_variation, smooth
    if weights.symmetry > 0:
        axes, guide_axes = face_axes(batch["landmarks"]), face_axes(batch["guide_landmarks"])
        even = symmetry_loss(grid, axes, guide_axes, weights.symmetry_shift)
        terms["symmetry"] = weights.symmetry, even
    if weights.flow > 0:
        known = batch["known"].to(grid.dtype)[:, None, None, None]
        distance = functional.mse_loss(grid * known, grid_of_flow(batch["flow"]) * known)
        terms["flow"] = weights.flow, distance
    total = torch.stack([weight * value for weight, value in terms.values()]).sum()
    return total, {name: value.item() for name, (_, value) in terms.items()}


class WarpTask:
    """See `revisage.training.loop.Task`."""

    def __init__(self, model: Model, data: Data, loss: Loss) -> None:
        try:
            network: nn.Module = make_warpnet(
                model.warpnet, model.ngf, model.levels, at_rest=model.reach > 0
            )
        except ValueError as error:
            raise RecipeError(f"[model] {error}") from error
        if model.reduced < 1 or (model.reduced > 1 and model.reach == 0):
            raise RecipeError("[model] reduced is 1, or above 1 with a reach")
        check_size(int(network.multiple_of) * model.reduced, data.size)  # type: ignore[arg-type]
        if model.weights:
            load_published(network, model.weights, "this WarpNet")
        self.networks = {"warpnet": network}
        self.product, self.averaged = "warpnet", ("warpnet",)
        self.turns = (Turn("warpnet", ("warpnet",), self.loss),)
        self.watch = "warpnet/landmark"
        self.notes: dict[str, str] = {}
        self.pairs = GuidedPairs(
            data.portraits, data.size, data.min_native_face_px, data.degradation, data.flip
        )
        self.model, self.data, self.weights = model, data, loss

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """See `GuidedPairs.batch`."""
        return self.pairs.sample(rng, size)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Landmark, total variation, and what else has a weight."""
        grid = self._grid(self.networks["warpnet"], batch)
        return warp_losses(grid.float(), batch, self.weights)

    def _grid(self, network: nn.Module, batch: Batch) -> Tensor:
        reach, reduced = self.model.reach, self.model.reduced
        return predicted_grid(network, batch["degraded"], batch["guide"], reach, reduced)

    def validate(self, networks: Mapping[str, nn.Module], out: Path, step: int) -> dict[str, float]:
        """How well the field hits the guide's landmarks, and how much the guide then looks alike.

        `landmark_error` is the distance of the field at the face's landmarks from the guide's, as a
        share of the guide's outer eye distance, `unwarped_landmark_error` that of no field at all;
        `flow_error` the mean distance from the known field in pixels where there is one; `l1`,
        `psnr`, `ssim` compare the warped guide with the sharp face, under whatever light.
        """
        network = networks["warpnet"]
        device = next(network.parameters()).device
        sums: dict[str, list[float]] = {}
        for case in self.pairs.held_out(self.data.validation_faces):
            grid = self._grid(network, {k: case[k].to(device) for k in ("degraded", "guide")})
            grid = grid.float().cpu()
            points, wanted = case["landmarks"], case["guide_landmarks"]
            last = self.data.size - 1
            places = 2 * points[:, None] / last - 1  # [1, 1, 68, 2]
            found = functional.grid_sample(grid, places, "bilinear", "border", align_corners=True)
            found = (found[:, :, 0].transpose(1, 2) + 1) * last / 2  # [1, 68, 2]
            figures = image_figures(warp(case["guide"], grid), case["sharp"])
            figures["landmark_error"] = float(landmark_error(found, wanted)[0])
            figures["unwarped_landmark_error"] = float(landmark_error(points, wanted)[0])
            if bool(case["known"]):
                distance = (grid - grid_of_flow(case["flow"])) * last / 2
                figures["flow_error"] = distance.square().sum(dim=1).sqrt().mean().item()
            for name, value in figures.items():
                sums.setdefault(name, []).append(value)
        return {name: float(np.mean(values)) for name, values in sums.items()}

    def pictures(self, networks: Mapping[str, nn.Module]) -> Mapping[str, Image]:
        """Held-out pairs in columns: degraded, guide, warped guide, sharp."""
        network = networks["warpnet"]
        device = next(network.parameters()).device
        columns = []
        for case in self.pairs.held_out(8):
            grid = self._grid(network, {k: case[k].to(device) for k in ("degraded", "guide")})
            warped = warp(case["guide"], grid.float().cpu())
            rows = torch.cat([case["degraded"], case["guide"], warped, case["sharp"]], dim=2)
            columns.append(rows[0].permute(1, 2, 0).clamp(0, 1).detach().numpy())
        return {"warp": np.round(np.hstack(columns) * 255).astype(np.uint8)}


def build(recipe: Mapping[str, Mapping[str, Any]]) -> WarpTask:
    """The task of a recipe."""
    return WarpTask(
        section(recipe, "model", Model),
        section(recipe, "data", Data),
        section(recipe, "loss", Loss),
    )
