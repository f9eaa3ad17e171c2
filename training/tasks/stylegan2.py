"""Training of StyleGAN2 on aligned faces: the prior of StyleRetoucher and of pSp.

Karras et al. 2020: non-saturating logistic loss, R1 on the discriminator at every 16th step and
path length regularisation on the generator at every 4th (lazy regularisation, section 3.1), two
latents mixed in nine of ten batches. With `loss.ada` the discriminator sees augmented pictures
(Karras et al. 2020b), which small sets of faces need.
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
from revisage.training.data.aligned_faces import AlignedFace, aligned_faces
from revisage.training.data.augment import AdaptiveAugment
from revisage.training.data.picture_tensors import signed_pictures, unit_range
from revisage.training.loop import Turn
from revisage.training.losses.adversarial import gradient_penalty
from revisage.training.losses.path_length import PathLength, path_lengths
from revisage.training.metrics.frechet import features_of, frechet_distance, frechet_features
from revisage.training.models.stylegan2 import StyleGAN2, StyleGAN2Discriminator
from revisage.training.recipe import section

__all__ = ["SMALL", "TINY", "StyleGAN2Task", "build"]

Batch = Mapping[str, Tensor]

TINY: dict[str, dict[str, Any]] = {
    "run": {"steps": 10, "batch": 2},
    "optimiser": {"generator": {"learning_rate": 2e-3}, "critic": {"learning_rate": 1e-2}},
    "model": {"style_dim": 8, "n_mlp": 2, "largest_width": 8, "channel_multiplier": 1},
    "data": {"size": 32, "judged": 0},
    "loss": {"ada_pictures": 40},
}
SMALL: dict[str, dict[str, Any]] = {
    "run": {"steps": 600, "batch": 8, "validate_every": 600, "ema_decay": 0.99},
    "model": {"style_dim": 64, "n_mlp": 4, "largest_width": 64, "channel_multiplier": 1},
    "data": {"size": 64, "judged": 128},
    "loss": {"ada_pictures": 20_000},
}


@dataclasses.dataclass(frozen=True)
class Model:
    """Sizes of both networks; the defaults are configuration F."""

    style_dim: int = 512
    n_mlp: int = 8
    channel_multiplier: int = 2
    largest_width: int = 512
    stddev_group: int = 4  # samples that share a minibatch standard deviation


@dataclasses.dataclass(frozen=True)
class Data:
    portraits: tuple[str, ...]  # folders of annotated portraits
    size: int = 1024  # side of the aligned square
    min_native_face_px: float = 0.0
    judged: int = 256  # pictures made for the Frechet distance; 0 leaves it out
    compared: int = 0  # faces of each split that the made ones are compared with; 0 takes all
    inception: str = ""  # weights of the FID's network; empty takes the stand-in


@dataclasses.dataclass(frozen=True)
class Loss:
    r1: float = 10.0  # gamma
    r1_every: int = 16
    path_length: float = 2.0
    path_every: int = 4
    path_shrink: int = 2  # the path turn sees 1 / this of a batch
    mixing: float = 0.9  # share of batches that mix two latents
    ada: bool = False
    ada_target: float = 0.6
    ada_pictures: int = 500_000  # in which p can rise from 0 to 1


class StyleGAN2Task:
    """See `revisage.training.loop.Task`."""

    product, averaged, watch = "generator", ("generator",), "critic/adversarial"

    def __init__(self, model: Model, data: Data, loss: Loss) -> None:
        self.data, self.weights = data, loss
        multiplier, widest = model.channel_multiplier, model.largest_width
        try:
            self.generator = StyleGAN2(
                data.size, model.style_dim, model.n_mlp, multiplier, largest_width=widest
            )
            self.discriminator = StyleGAN2Discriminator(
                data.size, multiplier, largest_width=widest, stddev_group=model.stddev_group
            )
        except ValueError as error:
            raise RecipeError(f"[model] or [data] size: {error}") from error
        self.path = PathLength()
        self.augment = AdaptiveAugment(target=loss.ada_target, pictures=loss.ada_pictures)
        self.networks: dict[str, nn.Module] = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "path_length": self.path,
            "augment": self.augment,
        }
        turns = [Turn("critic", ("discriminator",), self.critic_loss)]
        if loss.r1 > 0:
            turns.append(
                Turn("critic_r1", ("discriminator",), self.r1_loss, loss.r1_every, 1, "critic")
            )
        turns.append(Turn("generator", ("generator",), self.generator_loss))
        if loss.path_length > 0:
            turns.append(
                Turn(
                    "generator_path",
                    ("generator",),
                    self.path_loss,
                    loss.path_every,
                    1,
                    "generator",
                )
            )
        self.turns = tuple(turns)
        self.real_features: npt.NDArray[np.float64] | None = None  # when first judged
        self.notes: dict[str, str] = {}
        if data.judged:
            self.notes["frechet"] = frechet_features(data.inception).record

    # -- data -------------------------------------------------------------------------------------

    def _faces(self, split: str) -> list[AlignedFace]:
        data = self.data
        return aligned_faces(
            data.portraits, split, data.size, min_native_face_px=data.min_native_face_px
        )

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """`image` [N, 3, S, S] in [-1, 1], each mirrored in half of all cases."""
        faces = self._faces("train")
        images = []
        for _ in range(size):
            image = faces[int(rng.integers(len(faces)))].image
            images.append(image[:, ::-1] if rng.random() < 0.5 else image)
        return {"image": signed_pictures(images)}

    # -- losses -----------------------------------------------------------------------------------

    def latents(self, count: int) -> Tensor:
        """W+ [count, n_latent, style_dim] of random z, of two mixed at a random layer."""
        generator = self.generator
        z = torch.randn(2, count, generator.style_dim, device=generator.input.input.device)
        latents = generator.get_latent(z[0])[:, None].repeat(1, generator.n_latent, 1)
        if float(torch.rand(())) < self.weights.mixing:
            first = int(torch.randint(1, generator.n_latent, ()))
            other = generator.get_latent(z[1])[:, None]
            keep = torch.arange(generator.n_latent, device=z.device)[:, None] < first
            latents = torch.where(keep, latents, other)
        return latents

    def _generate(self, count: int) -> Tensor:
        return self.generator.synthesise(self.latents(count))[0]

    def _scores(self, images: Tensor) -> Tensor:
        scores: Tensor = self.discriminator(self.augment(images) if self.weights.ada else images)
        return scores

    def critic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Non-saturating logistic loss of the discriminator."""
        real = batch["image"]
        with torch.no_grad():
            fake = self._generate(len(real))
        real_scores, fake_scores = self._scores(real), self._scores(fake)
        if self.weights.ada:
            self.augment.observe(real_scores)
        loss = functional.softplus(-real_scores).mean() + functional.softplus(fake_scores).mean()
        parts = {
            "adversarial": loss.item(),
            "real": real_scores.mean().item(),
            "fake": fake_scores.mean().item(),
            "p": float(self.augment.p),
        }
        return loss, parts

    def r1_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """gamma / 2 times R1, times the steps between two such turns."""
        real = batch["image"].detach().requires_grad_()  # other turns see the batch too
        penalty = gradient_penalty(self._scores(real), real)
        scale = self.weights.r1 / 2 * self.weights.r1_every
        return scale * penalty, {"r1": penalty.item()}

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Non-saturating logistic loss of the generator."""
        scores = self._scores(self._generate(len(batch["image"])))
        loss = functional.softplus(-scores).mean()
        return loss, {"adversarial": loss.item()}

    def path_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Path length penalty, times the steps between two such turns."""
        count = max(1, len(batch["image"]) // self.weights.path_shrink)
        latents = self.latents(count)
        lengths = path_lengths(self.generator.synthesise(latents)[0], latents)
        penalty = self.path(lengths)
        scale = self.weights.path_length * self.weights.path_every
        parts = {"penalty": penalty.item(), "length": lengths.mean().item()}
        return scale * penalty, parts

    # -- what it is worth -------------------------------------------------------------------------

    @torch.no_grad()
    def _made(self, generator: nn.Module, count: int) -> list[Tensor]:
        """Pictures [n, 3, S, S] in [0, 1] on the CPU, the same latents every time."""
        assert isinstance(generator, StyleGAN2)
        device = generator.input.input.device
        random = torch.Generator().manual_seed(2718)
        z = torch.randn(count, generator.style_dim, generator=random).to(device)
        return [
            unit_range(generator([part], randomize_noise=False)[0]).clamp(0, 1).cpu()
            for part in torch.split(z, 8)
        ]

    @torch.no_grad()
    def validate(self, networks: Mapping[str, nn.Module], out: Path, step: int) -> dict[str, float]:
        """Frechet distance to all faces (`fid`, or `fid_stand_in`), and what the critic sees.

        `held_out_score` is the mean score of faces of the validation split less that of made ones,
        `train_score` that of trained faces less made ones; far apart, they show overfitting.
        """
        data = self.data
        faces = {split: self._faces(split)[: data.compared or None] for split in ("train", "val")}
        device = self.generator.input.input.device
        made = self._made(networks["generator"], max(8, data.judged))

        def score(pictures: list[Tensor]) -> float:
            parts = [self.discriminator(p.to(device)).flatten() for p in pictures]
            return float(torch.cat(parts).mean())

        fake = score([2 * p - 1 for p in made[:8]])
        figures = {}
        for name, split in (("held_out_score", "val"), ("train_score", "train")):
            real = [signed_pictures([face.image]) for face in faces[split][:64]]
            figures[name] = score(real) - fake
        if data.judged:
            features = frechet_features(data.inception)
            if self.real_features is None:
                real_faces = faces["train"] + faces["val"]
                self.real_features = features_of(
                    features, (unit_range(signed_pictures([face.image])) for face in real_faces)
                )
            distance = frechet_distance(self.real_features, features_of(features, made))
            figures[features.name] = distance
        return figures

    def pictures(self, networks: Mapping[str, nn.Module]) -> Mapping[str, npt.NDArray[np.uint8]]:
        """Four by eight made faces."""
        made = torch.cat(self._made(networks["generator"], 32))
        rows = [torch.cat(list(row), dim=2) for row in torch.split(made, 8)]
        sheet = torch.cat(rows, dim=1).permute(1, 2, 0).numpy()
        return {"generator": np.round(sheet * 255).astype(np.uint8)}


def build(recipe: Mapping[str, Mapping[str, Any]]) -> StyleGAN2Task:
    """The task of a recipe."""
    return StyleGAN2Task(
        section(recipe, "model", Model),
        section(recipe, "data", Data),
        section(recipe, "loss", Loss),
    )
