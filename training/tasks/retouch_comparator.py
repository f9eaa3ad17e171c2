"""Supervised training of the networks that StyleRetoucher is compared with.

AutoRetouch's, ABPN and pix2pixHD learn from the same pairs as StyleRetoucher (blemishes drawn on
clean faces, or FFHQR), and are judged by the same figures. The multi-scale critic of pix2pixHD,
with feature matching, may be put beside any of the three.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from revisage.errors import RecipeError
from revisage.training.data.retouch_samples import RetouchData, RetouchSamples
from revisage.training.loop import Turn
from revisage.training.losses.gan import adversarial
from revisage.training.losses.multiscale_adversarial import (
    multiscale_critic_loss,
    multiscale_feature_matching,
    multiscale_generator_loss,
)
from revisage.training.losses.perceptual import perceptual_loss, published_or_stand_in
from revisage.training.metrics.lpips import lpips_network
from revisage.training.metrics.retouching import retouch_figures, retouch_sheet
from revisage.training.models.abpn import ABPN
from revisage.training.models.autoretouch import AutoRetouch
from revisage.training.models.pix2pixhd import (
    GlobalGenerator,
    LocalEnhancer,
    MultiscaleDiscriminator,
)
from revisage.training.recipe import section

__all__ = ["NETWORKS", "SMALL", "TINY", "ComparatorTask", "Signed", "build"]

Batch = Mapping[str, Tensor]

NETWORKS = ("autoretouch", "abpn", "pix2pixhd")

TINY: dict[str, dict[str, Any]] = {
    "run": {"steps": 10, "batch": 2, "learning_rate": 3e-3, "warmup_steps": 0},
    "model": {
        "width": 4,
        "blocks": 1,
        "widths": (4, 4),
        "dilations": (1,),
        "refine_width": 4,
        "halvings": 1,
        "enhancer_blocks": 1,
        "critic_width": 4,
        "critic_scales": 2,
    },
    "data": {"size": 32, "crop": 0, "ffhq": "", "retouched": "", "held_out": 2},
    "loss": {"perceptual": 0.0, "lpips": False},
}
SMALL: dict[str, dict[str, Any]] = {
    "run": {"steps": 400, "batch": 4, "learning_rate": 1e-3, "validate_every": 400},
    "model": {
        "width": 16,
        "blocks": 4,
        "widths": (8, 16, 32),
        "dilations": (1, 2),
        "refine_width": 8,
        "halvings": 2,
        "enhancer_blocks": 1,
        "critic_width": 8,
        "critic_scales": 2,
    },
    "data": {"size": 64, "crop": 0, "ffhq": "", "retouched": "", "held_out": 16},
    "loss": {"perceptual_network": "stand_in", "perceptual_weights": ""},
}


@dataclasses.dataclass(frozen=True)
class Model:
    network: str  # one of `NETWORKS`
    # Of autoretouch: channels and residual blocks. Of pix2pixhd: channels at full size, and
    # residual blocks of the global generator.
    width: int = 128
    blocks: int = 16
    # Of abpn:
    levels: int = 1  # of the blend pyramid
    widths: tuple[int, ...] = (32, 64, 128, 256, 256)
    dilations: tuple[int, ...] = (1, 2, 4, 8)
    refine_width: int = 16
    # Of pix2pixhd:
    halvings: int = 4
    enhancers: int = 1  # 0 is the global generator alone
    enhancer_blocks: int = 3
    # Of the critic:
    critic_width: int = 64
    critic_layers: int = 3
    critic_scales: int = 3


@dataclasses.dataclass(frozen=True)
class Data(RetouchData):
    crop: int = 0  # side of random crops to train on; 0 takes the whole square


@dataclasses.dataclass(frozen=True)
class Loss:
    l1: float = 1.0
    low_resolution: float = 0.0  # of abpn: L1 of the result of its local layer
    perceptual: float = 0.0
    perceptual_network: str = "vgg19"
    perceptual_weights: str = ""  # file of the published network; "" takes the stand-in
    adversarial: float = 0.0  # 0 leaves the critic out
    adversarial_kind: str = "least_squares"
    feature_matching: float = 0.0
    lpips: bool = True  # validate with LPIPS too (its stand-in where no file is named)
    lpips_trunk: str = ""
    lpips_heads: str = ""


class Signed(nn.Module):
    """A generator of [-1, 1] pictures as a network from [0, 1] to [0, 1]."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = (self.generator(2 * image - 1) + 1) / 2
        return out


def make_network(model: Model) -> nn.Module:
    """RGB in [0, 1] -> RGB, about [0, 1], as [model] says; its `multiple_of` is how sides divide.

    Raises:
        ValueError: an unknown network, or sizes that it does not have.
    """
    if model.network == "autoretouch":
        return AutoRetouch(model.width, model.blocks)
    if model.network == "abpn":
        return ABPN(model.levels, model.widths, model.dilations, model.refine_width)
    if model.network != "pix2pixhd":
        raise ValueError(f"network is one of {', '.join(NETWORKS)}, not {model.network!r}")
    generator: GlobalGenerator | LocalEnhancer
    if model.enhancers:
        generator = LocalEnhancer(
            ngf=model.width,
            n_downsample_global=model.halvings,
            n_blocks_global=model.blocks,
            n_local_enhancers=model.enhancers,
            n_blocks_local=model.enhancer_blocks,
        )
    else:
        generator = GlobalGenerator(
            ngf=model.width, n_downsampling=model.halvings, n_blocks=model.blocks
        )
    return Signed(_initialised(generator))


def _initialised(network: nn.Module) -> nn.Module:
    """Weights from N(0, 0.02), as pix2pixHD draws them; biases as they are."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
    return network


class ComparatorTask:
    """See `revisage.training.loop.Task`."""

    product, averaged = "retoucher", ("retoucher",)

    def __init__(self, model: Model, data: Data, loss: Loss) -> None:
        self.data, self.weights = data, loss
        self.samples = RetouchSamples(data)
        try:
            self.retoucher = make_network(model)
            self.kind = adversarial(loss.adversarial_kind)
            self.critic = _initialised(
                MultiscaleDiscriminator(
                    6, model.critic_width, model.critic_layers, model.critic_scales
                )
            )
        except ValueError as error:
            raise RecipeError(f"[model] or [loss]: {error}") from error
        self._check_sides()
        if loss.low_resolution > 0 and not isinstance(self.retoucher, ABPN):
            raise RecipeError("[loss] low_resolution is of abpn only: set it to 0")
        if loss.feature_matching > 0 and loss.adversarial <= 0:
            raise RecipeError("[loss] feature_matching needs the critic: set adversarial above 0")
        self.networks: dict[str, nn.Module] = {"retoucher": self.retoucher}
        turns = [Turn("generator", ("retoucher",), self.generator_loss)]
        if loss.adversarial > 0:
            self.networks["critic"] = self.critic
            turns.append(Turn("critic", ("critic",), self.critic_loss))
        self.turns = tuple(turns)
        self.watch = "generator/l1"
        self.notes: dict[str, str] = dict(self.samples.notes)
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
        cv2.setNumThreads(1)

    def _check_sides(self) -> None:
        network = self.retoucher
        inner = network.generator if isinstance(network, Signed) else network
        multiple = inner.multiple_of
        assert isinstance(multiple, int)
        data = self.data
        if not 0 <= data.crop <= data.size:
            raise RecipeError(f"[data] crop is 0 to size ({data.size}), not {data.crop}")
        for name, side in (("size", data.size), ("crop", data.crop)):
            if side % multiple:
                raise RecipeError(
                    f"[data] {name}: this network takes multiples of {multiple}, not {side}"
                )

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """`image` and `target` [N, 3, S, S] in [0, 1], mirrored in half of all cases."""
        return self.samples.batch(rng, size, self.data.crop)

    # -- losses -----------------------------------------------------------------------------------

    def _judged(self, image: Tensor, result: Tensor) -> list[list[Tensor]]:
        """Features of the critic, which sees input and result together, in [-1, 1]."""
        found: list[list[Tensor]] = self.critic(torch.cat([2 * image - 1, 2 * result - 1], dim=1))
        return found

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Reconstruction, perceptual, adversarial and feature matching losses."""
        weights, image, target = self.weights, batch["image"], batch["target"]
        low = None
        if isinstance(self.retoucher, ABPN):
            found, low, _ = self.retoucher.retouch(image)
        else:
            found = self.retoucher(image)
        found = found.float()
        l1 = functional.l1_loss(found, target)
        total, parts = weights.l1 * l1, {"l1": l1.item()}
        if low is not None and weights.low_resolution > 0:
            small = functional.adaptive_avg_pool2d(target, (low.shape[-2], low.shape[-1]))
            coarse = functional.l1_loss(low.float(), small)
            total = total + weights.low_resolution * coarse
            parts["low_resolution"] = coarse.item()
        if self.perceptual is not None:
            seen = perceptual_loss(self.perceptual, found, target)
            total = total + weights.perceptual * seen
            parts["perceptual"] = seen.item()
        if weights.adversarial > 0:
            fake = self._judged(image, found)
            fooled = multiscale_generator_loss(self.kind, fake)
            total = total + weights.adversarial * fooled
            parts["adversarial"] = fooled.item()
            if weights.feature_matching > 0:
                with torch.no_grad():
                    real = self._judged(image, target)
                matched = multiscale_feature_matching(fake, real)
                total = total + weights.feature_matching * matched
                parts["feature_matching"] = matched.item()
        return total, parts

    def critic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The critic's part, at all its scales."""
        image, target = batch["image"], batch["target"]
        with torch.no_grad():
            found = self.retoucher(image).float()
        loss = multiscale_critic_loss(
            self.kind, self._judged(image, target), self._judged(image, found)
        )
        return loss, {"adversarial": loss.item()}

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


def build(recipe: Mapping[str, Mapping[str, Any]]) -> ComparatorTask:
    """The task of a recipe."""
    return ComparatorTask(
        section(recipe, "model", Model),
        section(recipe, "data", Data),
        section(recipe, "loss", Loss),
    )
