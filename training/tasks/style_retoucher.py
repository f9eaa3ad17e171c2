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
from revisage.training.data.aligned_faces import AlignedFace, aligned_faces
from revisage.training.data.blemishes import (
    LambdaRange,
    add_blemishes,
    blemish_skin,
    lambda_augment,
)
from revisage.training.data.retouch_pairs import RetouchPairs
from revisage.training.importers import from_checkpoint
from revisage.training.loop import Turn
from revisage.training.losses.adversarial import gradient_penalty
from revisage.training.losses.perceptual import perceptual_loss, perceptual_network
from revisage.training.metrics.lpips import lpips_network
from revisage.training.metrics.report import image_figures
from revisage.training.models.psp import Psp, PspEncoder
from revisage.training.models.style_retoucher import StyleRetoucher
from revisage.training.models.stylegan2 import StyleGAN2, StyleGAN2Discriminator
from revisage.training.models.stylegan2_ada import NvStyleGAN2, as_stylegan2
from revisage.training.recipe import section

__all__ = ["SMALL", "TINY", "StyleRetoucherTask", "build"]

Batch = Mapping[str, Tensor]
FloatImage = npt.NDArray[np.float32]

RETOUCHED = 2.5 / 255  # where photo and retouch differ by more, the retoucher was at work

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
class Data:
    portraits: tuple[str, ...]  # folders of annotated portraits, taken as clean
    # FFHQR instead of drawn blemishes; both folders as `read_ffhqr` wants them:
    ffhq: str = ""
    retouched: str = ""
    size: int = 1024  # side of the aligned square
    min_native_face_px: float = 0.0
    amount: float = 1.0  # of drawn blemishes
    lambda_low: float = 0.1
    lambda_high: float = 1.5
    lambda_clean: float = 0.05  # share of inputs without any blemish
    held_out: int = 64  # faces of the validation split that are judged


@dataclasses.dataclass(frozen=True)
class Loss:
    l1: float = 0.0
    l2: float = 1.0
    perceptual: float = 0.01
    perceptual_network: str = "vgg19"
    perceptual_weights: str = ""  # file of the published network
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
        prior = self._prior(model)
        try:
            self.lambdas = LambdaRange(data.lambda_low, data.lambda_high, data.lambda_clean)
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
            self.perceptual = perceptual_network(loss.perceptual_network, loss.perceptual_weights)
            self.notes["perceptual"] = self.perceptual.record
        self.distance = None
        if loss.lpips:
            self.distance = lpips_network(loss.lpips_trunk, loss.lpips_heads)
            self.notes[self.distance.name] = self.distance.record
        self._skin: dict[int, FloatImage] = {}
        self._pairs: dict[str, RetouchPairs] = {}
        if bool(data.ffhq) != bool(data.retouched):
            raise RecipeError("[data] ffhq and retouched belong together: name both, or none")
        if data.retouched:
            self.notes["alignment"] = self._retouches("train").alignment
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

    # -- data -------------------------------------------------------------------------------------

    def _faces(self, split: str) -> list[AlignedFace]:
        data = self.data
        return aligned_faces(
            data.portraits, split, data.size, min_native_face_px=data.min_native_face_px
        )

    def _retouches(self, split: str) -> RetouchPairs:
        if split not in self._pairs:
            data = self.data
            self._pairs[split] = RetouchPairs(data.ffhq, data.retouched, split, data.size)
        return self._pairs[split]

    def _count(self, split: str) -> int:
        return len(self._retouches(split) if self.data.retouched else self._faces(split))

    def _pair(
        self, split: str, index: int, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.uint8], FloatImage, FloatImage]:
        """Clean face [S, S, 3], blemished less clean in 0..1 units, and where it is blemished."""
        if self.data.retouched:
            photo, clean = self._retouches(split)[index]
            change = (photo.astype(np.float32) - clean.astype(np.float32)) / np.float32(255)
            where: FloatImage = (np.abs(change).max(axis=2) > RETOUCHED).astype(np.float32)
            return clean, np.asarray(change, dtype=np.float32), where
        face = self._faces(split)[index]
        if id(face) not in self._skin:
            self._skin[id(face)] = blemish_skin(face.image, face.landmarks)
        skin = self._skin[id(face)]
        drawn = add_blemishes(face.image, face.landmarks, rng, amount=self.data.amount, skin=skin)
        return face.image, drawn.residual, drawn.mask

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """`image` and `target` [N, 3, S, S] in [0, 1], mirrored in half of all cases."""
        count = self._count("train")
        rows = []
        for _ in range(size):
            clean, residual, _ = self._pair("train", int(rng.integers(count)), rng)
            image, target, _ = lambda_augment(clean, residual, rng, range_=self.lambdas)
            if rng.random() < 0.5:
                image, target = image[:, ::-1], target[:, ::-1]
            rows.append((image, target))
        images, targets = zip(*rows, strict=True)
        return {"image": _tensor(images), "target": _tensor(targets)}

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

    def _held_out(self, count: int) -> list[tuple[Tensor, ...]]:
        """`image`, `target` [1, 3, S, S] and blemish mask [1, 1, S, S], the same every time."""
        rng = np.random.default_rng(2718)
        rows: list[tuple[Tensor, ...]] = []
        for index in range(min(count, self._count("val"))):
            clean, residual, mask = self._pair("val", index, rng)
            target = clean.astype(np.float32) / 255
            rows.append(
                (_tensor([target + residual]), _tensor([target]), _tensor([mask[..., None]]))
            )
        return rows

    def validate(self, networks: Mapping[str, nn.Module], out: Path, step: int) -> dict[str, float]:
        """Held-out faces against their clean originals.

        `blemish_psnr` is of blemished pixels only; `input_psnr` and `input_blemish_psnr` are those
        of the input itself, which doing nothing would get.
        """
        network = networks[self.product]
        device = next(network.parameters()).device
        sums: dict[str, list[float]] = {}
        for image, target, mask in self._held_out(self.data.held_out):
            with torch.no_grad():
                found = network(image.to(device)).float().clamp(0, 1)
                figures = image_figures(found, target.to(device), distance=self.distance)
            figures["input_psnr"] = image_figures(image, target)["psnr"]
            if bool((mask > 0).any()):
                inside = (mask > 0).float()
                figures["blemish_psnr"] = image_figures(found.cpu(), target, inside)["psnr"]
                figures["input_blemish_psnr"] = image_figures(image, target, inside)["psnr"]
            for name, value in figures.items():
                sums.setdefault(name, []).append(value)
        return {name: float(np.mean(values)) for name, values in sums.items()}

    def pictures(self, networks: Mapping[str, nn.Module]) -> Mapping[str, npt.NDArray[np.uint8]]:
        """Held-out faces in columns: blemished, retouched, clean."""
        network = networks[self.product]
        device = next(network.parameters()).device
        columns = []
        for image, target, _ in self._held_out(8):
            with torch.no_grad():
                found = network(image.to(device)).float().clamp(0, 1).cpu()
            columns.append(torch.cat([image, found, target], dim=2)[0])
        sheet = torch.cat(columns, dim=2).permute(1, 2, 0).numpy()
        return {"retoucher": np.round(sheet * 255).astype(np.uint8)}


def _tensor(pictures: Any) -> Tensor:
    """[H, W, C] float32 each -> [N, C, H, W]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


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
