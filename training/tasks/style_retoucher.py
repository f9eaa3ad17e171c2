"""Training of StyleRetoucher, and of pSp as its comparator, on faces with and without blemishes.

Pairs are drawn on the fly: blemishes on clean aligned faces, scaled by a random lambda; or they are
a folder of photos and their professional retouches (FFHQR). The prior is a trained StyleGAN2 from a
file, frozen or trained on, or it begins from noise and is trained along.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from revisage.errors import CheckpointError, RecipeError
from revisage.training.data.retouch_samples import RetouchData as Data
from revisage.training.data.retouch_samples import RetouchSamples
from revisage.training.importers import from_checkpoint
from revisage.training.loop import Turn
from revisage.training.losses.adversarial import gradient_penalty
from revisage.training.losses.perceptual import perceptual_loss, published_or_stand_in
from revisage.training.metrics.lpips import lpips_network
from revisage.training.metrics.retouching import retouch_figures, retouch_sheet
from revisage.training.models.psp import Psp, PspEncoder
from revisage.training.models.style_retoucher import StyleRetoucher
from revisage.training.models.stylegan2 import StyleGAN2, StyleGAN2Discriminator
from revisage.training.models.stylegan2_ada import NvStyleGAN2, as_stylegan2
from revisage.training.recipe import section

__all__ = ["SMALL", "TINY", "StyleRetoucherTask", "build"]

Batch = Mapping[str, Tensor]

TINY: dict[str, dict[str, Any]] = {
    "run": {"steps": 10, "batch": 2, "learning_rate": 5e-3, "warmup_steps": 0},
    "model": {
        "prior": "",
        "style_dim": 8,
        "n_mlp": 2,
        "largest_width": 8,
        "channel_multiplier": 1,
        "critic_width": 8,
        "encoder_size": 32,
        "encoder_widths": (4, 4, 8, 8, 8),
        "encoder_units": (1, 1, 1, 1),
    },
    "data": {"size": 32, "ffhq": "", "retouched": "", "held_out": 2},
    "loss": {"perceptual": 0.0, "lpips": False},
}
SMALL: dict[str, dict[str, Any]] = {
    "run": {"steps": 400, "batch": 4, "learning_rate": 2e-3, "validate_every": 400},
    "model": {
        "prior": "",
        "style_dim": 32,
        "n_mlp": 2,
        "largest_width": 32,
        "channel_multiplier": 1,
        "critic_width": 32,
        "encoder_size": 64,
        "encoder_widths": (8, 8, 16, 32, 32),
        "encoder_units": (1, 1, 1, 1),
    },
    "data": {"size": 64, "ffhq": "", "retouched": "", "held_out": 16},
    "loss": {"perceptual_network": "stand_in", "perceptual_weights": ""},
}


@dataclasses.dataclass(frozen=True)
class Model:
    network: str = "style_retoucher"  # or "psp"
    blend: str = "both"  # of style_retoucher: "none", "concat", "spatial", "channel" or "both"
    prior: str = ""  # file of a trained StyleGAN2; empty begins from noise
    freeze_prior: bool = False
    # Of the prior, where it comes from no file:
    style_dim: int = 512
    n_mlp: int = 8
    channel_multiplier: int = 2
    largest_width: int = 512
    critic_width: int = 512  # largest width of the discriminator
    # Of pSp's encoder; the last width must be the prior's style_dim:
    encoder_size: int = 256
    encoder_widths: tuple[int, ...] = (64, 64, 128, 256, 512)
    encoder_units: tuple[int, ...] = (3, 4, 14, 3)


@dataclasses.dataclass(frozen=True)
class Loss:
    l1: float = 0.0
    l2: float = 1.0
    perceptual: float = 0.01
    perceptual_network: str = "vgg19"
    perceptual_weights: str = ""  # file of it; without one the stand-in is used
    adversarial: float = 0.01  # 0 leaves the discriminator out
    r1: float = 10.0
    r1_every: int = 16
    lpips: bool = True  # validate with LPIPS too (its stand-in where no file is named)
    lpips_trunk: str = ""
    lpips_heads: str = ""


class StyleRetoucherTask:
    """See `revisage.training.loop.Task`."""

    product, averaged = "retoucher", ("retoucher",)

    def __init__(self, model: Model, data: Data, loss: Loss) -> None:
        self.data, self.weights = data, loss
        self.notes: dict[str, str] = {}
        self.samples = RetouchSamples(data)
        prior = self._prior(model)
        try:
            self.retoucher = _retoucher(model, prior)
            self.discriminator = StyleGAN2Discriminator(
                data.size, model.channel_multiplier, largest_width=model.critic_width
            )
        except ValueError as error:
            raise RecipeError(f"[model] or [data]: {error}") from error
        self.retoucher.centre()
        self.networks: dict[str, nn.Module] = {"retoucher": self.retoucher}
        turns = [Turn("generator", ("retoucher",), self.generator_loss)]
        if loss.adversarial > 0:
            self.networks["discriminator"] = self.discriminator
            turns.append(Turn("critic", ("discriminator",), self.critic_loss))
            if loss.r1 > 0:
                turns.append(
                    Turn("critic_r1", ("discriminator",), self.r1_loss, loss.r1_every, 1, "critic")
                )
        self.turns = tuple(turns)
        self.watch = "generator/l1"
        self.perceptual = None
        if loss.perceptual > 0:
            self.perceptual = published_or_stand_in(
                loss.perceptual_network, loss.perceptual_weights
            )
            self.notes["perceptual"] = self.perceptual.record
        self.distance = None
        if loss.lpips:
            self.distance = lpips_network(loss.lpips_trunk, loss.lpips_heads)
            self.notes[self.distance.name] = self.distance.record
        self.notes.update(self.samples.notes)
        cv2.setNumThreads(1)

    def _prior(self, model: Model) -> StyleGAN2:
        """The generator of the recipe, from its file or from noise."""
        size = self.data.size
        if not model.prior:
            if model.freeze_prior:
                raise RecipeError("[model] freeze_prior needs prior: the file of a trained one")
            try:
                return StyleGAN2(
                    size,
                    model.style_dim,
                    model.n_mlp,
                    model.channel_multiplier,
                    largest_width=model.largest_width,
                )
            except ValueError as error:
                raise RecipeError(f"[model] or [data] size: {error}") from error
        path = Path(model.prior)
        if not path.is_file():
            raise RecipeError(
                f"[model] prior: {path} is not a file; train one with the recipe stylegan2, or "
                "name a published checkpoint of rosinality/stylegan2-pytorch"
            )
        try:
            found = from_checkpoint(path)
            prior = as_stylegan2(found) if isinstance(found, NvStyleGAN2) else found
        except (CheckpointError, ValueError) as error:
            raise RecipeError(f"[model] prior: {error}") from error
        if not isinstance(prior, StyleGAN2) or prior.size != size:
            raise RecipeError(f"[model] prior: {path} is not a StyleGAN2 generator of {size} px")
        self.notes["prior"] = f"{path}, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
        return prior.requires_grad_(not model.freeze_prior)

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """`image` and `target` [N, 3, S, S] in [0, 1], mirrored in half of all cases."""
        return self.samples.batch(rng, size)

    # -- losses -----------------------------------------------------------------------------------

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Reconstruction, perceptual and adversarial losses of the retoucher."""
        weights, target = self.weights, batch["target"]
        found = self.retoucher(batch["image"]).float()
        l1, l2 = functional.l1_loss(found, target), functional.mse_loss(found, target)
        total = weights.l1 * l1 + weights.l2 * l2
        parts = {"l1": l1.item(), "l2": l2.item()}
        if self.perceptual is not None:
            seen = perceptual_loss(self.perceptual, found, target)
            total = total + weights.perceptual * seen
            parts["perceptual"] = seen.item()
        if weights.adversarial > 0:
            fooled = functional.softplus(-self.discriminator(2 * found - 1)).mean()
            total = total + weights.adversarial * fooled
            parts["adversarial"] = fooled.item()
        return total, parts

    def critic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Non-saturating logistic loss of the discriminator, on pictures in [-1, 1]."""
        with torch.no_grad():
            found = self.retoucher(batch["image"]).float()
        real = functional.softplus(-self.discriminator(2 * batch["target"] - 1)).mean()
        fake = functional.softplus(self.discriminator(2 * found - 1)).mean()
        return real + fake, {"adversarial": (real + fake).item()}

    def r1_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """gamma / 2 times R1, times the steps between two such turns."""
        real = (2 * batch["target"] - 1).requires_grad_()
        penalty = gradient_penalty(self.discriminator(real), real)
        scale = self.weights.r1 / 2 * self.weights.r1_every
        return scale * penalty, {"r1": penalty.item()}

    # -- what it is worth -------------------------------------------------------------------------

    def validate(self, networks: Mapping[str, nn.Module], out: Path, step: int) -> dict[str, float]:
        """Held-out faces against their clean originals, see `retouch_figures`."""
        network = networks[self.product]
        device = next(network.parameters()).device
        held_out = self.samples.held_out(self.data.held_out)
        return retouch_figures(network, held_out, device=device, distance=self.distance)

    def pictures(self, networks: Mapping[str, nn.Module]) -> Mapping[str, npt.NDArray[np.uint8]]:
        """Held-out faces in columns: blemished, retouched, clean."""
        network = networks[self.product]
        device = next(network.parameters()).device
        return {"retoucher": retouch_sheet(network, self.samples.held_out(8), device=device)}


def _retoucher(model: Model, prior: StyleGAN2) -> StyleRetoucher | Psp:
    if model.network == "style_retoucher":
        return StyleRetoucher(prior, model.blend)
    if model.network == "psp":
        encoder = PspEncoder(
            prior.n_latent,
            model.encoder_size,
            model.encoder_widths,
            model.encoder_units,
            prior.style_dim,
        )
        return Psp(encoder, prior)
    raise ValueError(f"network is style_retoucher or psp, not {model.network!r}")


def build(recipe: Mapping[str, Mapping[str, Any]]) -> StyleRetoucherTask:
    """The task of a recipe."""
    return StyleRetoucherTask(
        section(recipe, "model", Model),
        section(recipe, "data", Data),
        section(recipe, "loss", Loss),
    )
