"""Training of GFRNet end to end: a degraded face and a guide -> the face, sharp.

Li et al. 2018, "Learning Warped Guidance for Blind Face Restoration" (ECCV):
reconstruction (mean squared error and VGG-Face features), two adversarial losses (whole picture,
face box), and the landmark loss and total variation of the field. Players' losses are binary cross
entropy with noisy labels for the critics, as the re-implementation has them.

`model.variant` is a row of the paper's ablation (Note [Variants of the ablation] in
`models/gfrnet.py`): -F leaves the landmark loss out, R guides with strangers, here and in the
validation; the others have other layers.
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
from revisage.training.losses.perceptual import (
    PerceptualNetwork,
    load_published,
    perceptual_loss,
    perceptual_network,
)
from revisage.training.metrics.report import image_figures
from revisage.training.models.crop import crop_resized
from revisage.training.models.gfrnet import (
    PARTS,
    GFRNet,
    Restoration,
    RestorationDiscriminator,
    face_boxes,
    part_boxes,
)
from revisage.training.recipe import section
from revisage.training.tasks import warp as warp_task
from revisage.training.tasks.warp import check_size, warp_losses

__all__ = ["SMALL", "TINY", "Data", "Loss", "Model", "RestoreTask", "build", "make_network"]

Batch = Mapping[str, Tensor]
Image = npt.NDArray[np.uint8]

TINY: dict[str, dict[str, Any]] = {
    "run": {"steps": 10, "batch": 2, "warmup_steps": 0, "learning_rate": 1e-3, "threads": 1},
    "model": {
        "warpnet": "paper",
        "warp_ngf": 4,
        "rec_ngf": 4,
        "levels": 5,
        "reduced": 1,
        "ndf": 4,
        "warpnet_weights": "",
    },
    "data": {"size": 32, "min_native_face_px": 0.0, "validation_faces": 2},
    "loss": {"perceptual": 0.0, "stand_in": 0.0, "vgg_face": ""},
}
SMALL: dict[str, dict[str, Any]] = {
    "run": {"steps": 600, "batch": 8, "warmup_steps": 50, "validate_every": 600},
    "model": {
        "warpnet": "paper",
        "warp_ngf": 16,
        "rec_ngf": 16,
        "levels": 6,
        "reduced": 1,
        "reach": 0.25,  # a short run has no time to learn where every pixel is
        "ndf": 16,
        "warpnet_weights": "",
    },
    "data": {"size": 64},
    "loss": {"vgg_face": ""},
}

SCALES = (4, 8)  # of the paper's tables


@dataclasses.dataclass(frozen=True)
class Model:
    variant: str = "full"  # "full", "-F", "R", "-W", "-WG", "-W2", "-WG2"
    warpnet: str = "paper"  # or "pyramid", the authors' later version
    warp_ngf: int = 0  # 0 takes the published width
    recnet: str = "paper"  # or "folded", ours
    rec_ngf: int = 64
    levels: int = 8  # of paper: data.size is a multiple of 2 ** levels
    reach: float = 0.0  # of models.gfrnet.predicted_grid: 0 is as published
    reduced: int = 1  # of models.gfrnet.predicted_grid
    weights: str = ""  # safetensors file to start from; empty starts from noise
    detach_guide: bool = False  # keep the losses of the restored face from WarpNet
    warpnet_weights: str = ""  # safetensors file of a trained WarpNet (task warp) to start from
    ndf: int = 64  # channels of the critics' first convolutions
    global_inputs: int = 3  # 3: the picture; 6: and the warped guide; 9: and the guide


@dataclasses.dataclass(frozen=True)
class Data:
    portraits: tuple[str, ...]  # folders of annotated portraits
    size: int = 256  # 8 times a power of two
    min_native_face_px: float = 0.0
    degradation: str = "paper"  # or "authors": the ranges of the authors' PyTorch code
    flip: float = 0.5
    validation_faces: int = 24


@dataclasses.dataclass(frozen=True)
class Loss:
    mse: float = 100.0
    vgg_face: str = ""  # file of the published VGG-Face weights; without it the stand-in is used
    # Of VGG-Face, whose pictures are 0..255: relu3_3 and relu4_3 (re-implementation: one of both).
    perceptual: float = 0.001
    stand_in: float = 0.1  # of the stand-in, whose pictures are 0..1
    adversarial_global: float = 1.0
    adversarial_local: float = 0.5
    adversarial_parts: float = 0.0  # of both eyes, nose and mouth each; above 0 adds their critics
    landmark: float = 10.0
    total_variation: float = 1.0
    minus_identity: bool = False  # total variation of the grid less the identity grid
    symmetry: float = 0.0
    symmetry_shift: float = 10.0  # pixels
    flow: float = 0.0  # squared distance from the known field, in grid units
    real_labels: tuple[float, float] = (0.7, 1.2)  # drawn for each picture; (1, 1) is without noise
    fake_labels: tuple[float, float] = (0.0, 0.3)


def make_network(model: Model) -> GFRNet:
    """GFRNet as [model] says.

    Raises:
        ValueError: a network that cannot be built.
    """
    return GFRNet(
        model.variant,
        warpnet=model.warpnet,
        warp_ngf=model.warp_ngf,
        recnet=model.recnet,
        rec_ngf=model.rec_ngf,
        levels=model.levels,
        reach=model.reach,
        reduced=model.reduced,
        detach_guide=model.detach_guide,
    )


class RestoreTask:
    """See `revisage.training.loop.Task`."""

    def __init__(self, model: Model, data: Data, loss: Loss) -> None:
        try:
            network = make_network(model)
        except ValueError as error:
            raise RecipeError(f"[model] {error}") from error
        check_size(network.multiple_of, data.size)
        if network.warpnet is not None and model.warpnet_weights:
            load_published(network.warpnet, model.warpnet_weights, "this WarpNet")
        if model.weights:
            load_published(network, model.weights, "this GFRNet")
        self.networks: dict[str, nn.Module] = {"gfrnet": network}
        self.product, self.averaged = "gfrnet", ("gfrnet",)
        self.turns = [Turn("generator", ("gfrnet",), self.generator_loss)]
        self.watch = "generator/mse"
        self.notes: dict[str, str] = {}
        self.strengths: dict[str, float] = {}  # critic -> weight of its loss for the generator
        self._add_critics(model, data, loss)
        self.perceptual, self.perceptual_weight = self._perceptual(loss)
        self.pairs = GuidedPairs(
            data.portraits,
            data.size,
            data.min_native_face_px,
            data.degradation,
            data.flip,
            strangers=model.variant == "R",
        )
        self.field_weights = warp_task.Loss(
            0.0 if model.variant == "-F" else loss.landmark,
            loss.total_variation,
            loss.minus_identity,
            loss.symmetry,
            loss.symmetry_shift,
            loss.flow,
        )
        self.model, self.data, self.weights = model, data, loss

    def _add_critics(self, model: Model, data: Data, loss: Loss) -> None:
        levels = (data.size // 8).bit_length() - 1
        if data.size != 8 * 2**levels or levels < 1:
            raise RecipeError(f"[data] size must be 16, 32, 64, ..., not {data.size}")
        if model.global_inputs not in {3, 6, 9}:
            raise RecipeError(f"[model] global_inputs is 3, 6 or 9, not {model.global_inputs}")
        wanted = {"global": loss.adversarial_global, "local": loss.adversarial_local}
        wanted |= dict.fromkeys(PARTS, loss.adversarial_parts)
        self.strengths = {name: weight for name, weight in wanted.items() if weight > 0}
        for name in self.strengths:
            inputs = model.global_inputs if name == "global" else 3
            depth = max(1, levels - 2) if name in PARTS else levels
            self.networks[name] = RestorationDiscriminator(inputs, model.ndf, depth)
        if self.strengths:
            self.turns.append(Turn("critic", tuple(self.strengths), self.critic_loss))

    def _perceptual(self, loss: Loss) -> tuple[PerceptualNetwork | None, float]:
        kind, weight = (
            ("vgg_face", loss.perceptual) if loss.vgg_face else ("stand_in", loss.stand_in)
        )
        if weight <= 0:
            return None, 0.0
        network = perceptual_network(kind, loss.vgg_face)
        self.notes["perceptual"] = network.record
        return network, weight

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """See `GuidedPairs.batch`."""
        return self.pairs.sample(rng, size)

    def _judged(self, name: str, image: Tensor, found: Restoration, batch: Batch) -> Tensor:
        """What one critic sees of a picture, restored or sharp."""
        if name == "global":
            seen = [found.warped.detach(), batch["guide"]][: self.model.global_inputs // 3 - 1]
            return torch.cat([*seen, image], dim=1)
        if name == "local":
            boxes = face_boxes(batch["landmarks"])
        else:
            boxes = part_boxes(batch["landmarks"], name)
        return crop_resized(image, boxes, int(self.networks[name].size))  # type: ignore[arg-type]

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Reconstruction, features, the critics' verdicts, and the field's losses."""
        found: Restoration = self.networks["gfrnet"](batch["degraded"], batch["guide"])
        restored, sharp = found.restored.float(), batch["sharp"]
        mse = functional.mse_loss(restored, sharp)
        total = self.weights.mse * mse
        parts = {"mse": mse.item()}
        if self.perceptual is not None:
            features = perceptual_loss(self.perceptual, restored, sharp, distance="l2")
            total = total + self.perceptual_weight * features
            parts["perceptual"] = features.item()
        for name, weight in self.strengths.items():
            scores = self.networks[name](self._judged(name, restored, found, batch))
            verdict = functional.softplus(-scores.float()).mean()
            total = total + weight * verdict
            parts[name] = verdict.item()
        if found.grid is not None:
            field, field_parts = warp_losses(found.grid.float(), batch, self.field_weights)
            total, parts = total + field, parts | field_parts
        return total, parts

    def critic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Half the cross entropies of sharp and of restored pictures, summed over the critics."""
        with torch.no_grad():
            found: Restoration = self.networks["gfrnet"](batch["degraded"], batch["guide"])
        total, parts = batch["sharp"].new_zeros(()), {}
        for name in self.strengths:
            loss = torch.zeros_like(total)
            for image, limits in (
                (batch["sharp"], self.weights.real_labels),
                (found.restored.float(), self.weights.fake_labels),
            ):
                scores = self.networks[name](self._judged(name, image, found, batch)).float()
                low, high = limits
                labels = low + (high - low) * torch.rand_like(scores)
                loss = loss + 0.5 * functional.binary_cross_entropy_with_logits(scores, labels)
            total, parts[name] = total + loss, loss.item()
        return total, parts

    def validate(self, networks: Mapping[str, nn.Module], out: Path, step: int) -> dict[str, float]:
        """`psnr` and `ssim` of held-out faces, at 4 and 8 times reduction and their means.

        `psnr_4x` and so on are the network's, `bicubic_psnr_4x` those of the degraded picture,
        which is enlarged bicubically.
        """
        network = networks["gfrnet"]
        device = next(network.parameters()).device
        figures: dict[str, float] = {}
        for scale in SCALES:
            ours, bicubic = [], []
            for case in self.pairs.held_out(self.data.validation_faces, scale):
                found = network(case["degraded"].to(device), case["guide"].to(device))
                ours.append(image_figures(found.restored.cpu(), case["sharp"]))
                bicubic.append(image_figures(case["degraded"], case["sharp"]))
            for name in ("psnr", "ssim"):
                figures[f"{name}_{scale}x"] = float(np.mean([one[name] for one in ours]))
                figures[f"bicubic_{name}_{scale}x"] = float(np.mean([one[name] for one in bicubic]))
        for name in ("psnr", "ssim", "bicubic_psnr", "bicubic_ssim"):
            figures[name] = float(np.mean([figures[f"{name}_{scale}x"] for scale in SCALES]))
        return figures

    def pictures(self, networks: Mapping[str, nn.Module]) -> Mapping[str, Image]:
        """Held-out faces in columns: degraded, guide, warped guide, restored, sharp."""
        network = networks["gfrnet"]
        device = next(network.parameters()).device
        columns = []
        for case in self.pairs.held_out(8):
            with torch.no_grad():
                found = network(case["degraded"].to(device), case["guide"].to(device))
            shown = [case["degraded"], case["guide"], found.warped, found.restored, case["sharp"]]
            rows = torch.cat([picture.float().cpu() for picture in shown], dim=2)
            columns.append(rows[0].permute(1, 2, 0).clamp(0, 1).numpy())
        return {"restore": np.round(np.hstack(columns) * 255).astype(np.uint8)}


def build(recipe: Mapping[str, Mapping[str, Any]]) -> RestoreTask:
    """The task of a recipe."""
    return RestoreTask(
        section(recipe, "model", Model),
        section(recipe, "data", Data),
        section(recipe, "loss", Loss),
    )
