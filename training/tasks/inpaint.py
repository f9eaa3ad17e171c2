"""Training of the networks that fill a hole in a face against a critic of the hole.

Context Encoder (Pathak et al. 2016, equation 3) and the encoder-decoder with skip connections have
one objective: 0.999 reconstruction + 0.001 adversarial. `model.network` and `model.context_model`
choose the row of the comparison (Note [Models 0 to 3] in `models/context_encoder.py`). The compact
network, `coarse_to_fine`, is learnt in two runs: its coarse half as "skip" on small faces, then its
fine half, with the first frozen.
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

from revisage.errors import RecipeError
from revisage.training.data import holes
from revisage.training.data.aligned_faces import AlignedFace, aligned_faces
from revisage.training.data.jitter import jittered
from revisage.training.data.picture_tensors import pictures_tensor
from revisage.training.loop import Turn
from revisage.training.losses.gan import adversarial
from revisage.training.losses.masked import masked_log_mse
from revisage.training.losses.perceptual import load_published
from revisage.training.metrics.report import image_figures
from revisage.training.models.coarse_to_fine import CoarseToFine
from revisage.training.models.context_encoder import ContextEncoder, HoleCritic, picture_with_hole
from revisage.training.models.crop import crop_resized
from revisage.training.models.skip_inpainting import SkipInpainting, composite_hole
from revisage.training.recipe import section

__all__ = [
    "HOLES",
    "SMALL",
    "TINY",
    "Data",
    "InpaintTask",
    "Loss",
    "Model",
    "build",
    "make_network",
]

Batch = Mapping[str, Tensor]
Image = npt.NDArray[np.uint8]

# Faces in the mean face: more would take minutes to decode and change no pixel visibly.
MEAN_FACES = 2000
HOLES = ("centre", "rectangle", "polygon_chain", "free_form")
MIXED = (0.15, 0.2, 0.1, 0.55)  # how often each of these is drawn for "mixed"

TINY: dict[str, dict[str, Any]] = {
    "run": {"steps": 10, "batch": 2, "warmup_steps": 0, "learning_rate": 2e-3, "threads": 1},
    "model": {"ngf": 4, "levels": 3, "bottleneck": 16, "ndf": 4, "stem": 8, "width": 8,
              "blocks": 1, "coarse_weights": "", "fine_weights": ""},
    "data": {"size": 32, "hole_side": 16, "overlap": 0, "crop": 0, "min_native_face_px": 0.0,
             "validation_faces": 2},
}  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {
    "run": {"steps": 1500, "batch": 16, "warmup_steps": 50, "validate_every": 1500},
    "model": {"ngf": 16, "levels": 4, "bottleneck": 500, "ndf": 16},
    "data": {"size": 64, "hole_side": 32, "overlap": 0},
}


@dataclasses.dataclass(frozen=True)
class Model:
    network: str = "skip"  # or "context_encoder", "coarse_to_fine"
    context_model: int = 0  # 0 to 3, of the Context Encoder
    ngf: int = 64  # channels of the first convolution
    levels: int = 5  # halvings of the skip network; the Context Encoder goes down to 4 x 4
    mask_input: bool = False  # skip network: the mask as a fourth channel
    prefilled: bool = False  # skip network: it corrects a smooth fill
    weights: str = ""  # safetensors file to start from; empty starts from noise
    coarse_weights: str = ""  # coarse_to_fine: of a run of "skip" with `prefilled`
    fine_weights: str = ""  # coarse_to_fine: of a run of wrinkle_filler
    stem: int = 32  # coarse_to_fine: the fine half, as of wrinkle_filler
    width: int = 96
    blocks: int = 4
    ratio: float = 0.5
    bottleneck: int = 4000  # of Context-Encoder models 0 and 1
    ndf: int = 64  # channels of the critic's first convolution
    critic_norm: str = ""  # "batch" or "instance"; "" takes the one that belongs to the network


@dataclasses.dataclass(frozen=True)
class Data:
    portraits: tuple[str, ...]  # folders of annotated portraits
    size: int = 128
    hole: str = "centre"  # "rectangle", "polygon_chain", "free_form", "mixed"
    hole_side: int = 64  # of the hole in the middle; a power of two, which the critic sees
    overlap: int = 0  # pixels at the rim of the hole that are shown, yet predicted too
    min_native_face_px: float = 0.0
    flip: float = 0.5
    crop: int = 0  # coarse_to_fine: side of the window on which the fine half learns; 0 takes all
    jitter: float = 0.0  # share of faces that are moved, turned, scaled, and lit differently
    validation_faces: int = 48


@dataclasses.dataclass(frozen=True)
class Loss:
    reconstruction: float = 0.999
    adversarial: float = 0.001
    log_mse: float = 0.0  # of the hole, per picture: the figure itself (`masked_log_mse`)
    kind: str = "minimax"  # of the five in losses/gan.py; wasserstein has no penalty here
    distance: str = "l2"  # or "l1", of pictures in [-1, 1]
    region: str = "hole"  # or "picture": where the reconstruction counts
    overlap_weight: float = 10.0  # of the rim of `data.overlap` pixels


class InpaintTask:
    """See `revisage.training.loop.Task`."""

    def __init__(self, model: Model, data: Data, loss: Loss) -> None:
        _check(model, data, loss)
        # A hole in the middle is judged as it is, any other as the whole picture or window.
        seen = data.hole_side if data.hole == "centre" else data.crop or data.size
        try:
            network = make_network(model, data.size)
            multiple = getattr(network, "multiple_of", 1)
            if data.size % multiple:
                raise ValueError(f"sides must be multiples of {multiple}")
            self.networks: dict[str, nn.Module] = {"inpainting": network}
            self.product, self.averaged = "inpainting", ("inpainting",)
            self.turns = [Turn("generator", ("inpainting",), self.generator_loss)]
            if loss.adversarial > 0:
                norm = model.critic_norm or network.critic_norm
                self.networks["critic"] = HoleCritic(seen, model.ndf, norm)
                # The published code lets the critic go first.
                self.turns.insert(0, Turn("critic", ("critic",), self.critic_loss))
        except ValueError as error:
            raise RecipeError(f"[model] or [data]: {error}") from error
        self.watch = "generator/reconstruction"
        self.notes: dict[str, str] = {}
        self.mean_face: Tensor | None = None  # made when first validated
        self.game = adversarial(loss.kind)
        self.data, self.weights = data, loss

    def _faces(self, split: str) -> list[AlignedFace]:
        cv2.setNumThreads(1)  # one thread makes batches beside the ones that train
        data = self.data
        return aligned_faces(
            data.portraits, split, data.size, min_native_face_px=data.min_native_face_px
        )

    def _hole(self, rng: np.random.Generator) -> Image:
        """[S, S], 1 = hole."""
        size, kind = self.data.size, self.data.hole
        if kind == "mixed":
            kind = str(rng.choice(HOLES, p=MIXED))
        if kind == "centre":
            return holes.centre_hole(size, self.data.hole_side)
        if kind == "rectangle":
            return holes.rectangle_hole(size, rng)
        if kind == "polygon_chain":
            return holes.polygon_chain_hole(size, rng)
        return holes.free_form_hole(size, rng)

    def _batch(
        self,
        faces: list[AlignedFace],
        indices: list[int],
        rng: np.random.Generator,
        flip: float,
        jitter: float,
    ) -> Batch:
        images, masks, hidden = [], [], []
        for index in indices:
            image = faces[index].image
            if flip > 0 and rng.random() < flip:
                image = image[:, ::-1]
            if jitter > 0 and rng.random() < jitter:
                image, _ = jittered(image, rng)
            mask = self._hole(rng)
            images.append(image)
            masks.append(mask)
            rim = 2 * self.data.overlap + 1
            eroded = cv2.erode(mask, np.ones((rim, rim), np.uint8)) if rim > 1 else mask
            hidden.append(np.asarray(eroded, dtype=np.uint8))
        batch = {
            "image": pictures_tensor(images),
            "mask": torch.from_numpy(np.stack(masks)).float()[:, None],
            "hidden": torch.from_numpy(np.stack(hidden)).float()[:, None],
        }
        if self.data.crop:
            corners = [_corner(mask, self.data.crop, rng) for mask in masks]
            batch["corner"] = torch.tensor(corners)
        return batch

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """`image` [N, 3, S, S] in [0, 1]; `mask` and `hidden` [N, 1, S, S], 1 = hole.

        What is `hidden` from the network is the mask less its rim of `data.overlap` pixels. With
        `data.crop` also `corner` [N, 2], the top left of each window.
        """
        faces = self._faces("train")
        indices = rng.integers(len(faces), size=size).tolist()
        return self._batch(faces, indices, rng, self.data.flip, self.data.jitter)

    def _learnt(self, batch: Batch) -> tuple[Tensor, Batch]:
        """The prediction that learns, and what it is compared with: windows with `data.crop`."""
        network, side = self.networks["inpainting"], self.data.crop
        if not side:
            return network(batch["image"], batch["hidden"]).float(), batch
        assert isinstance(network, CoarseToFine)
        with torch.no_grad():
            start = network.coarse_fill(batch["image"], batch["hidden"])
        corners = batch["corner"].tolist()
        windows = {
            name: torch.stack(
                [
                    one[:, top : top + side, left : left + side]
                    for one, (top, left) in zip(pictures, corners, strict=True)
                ]
            )
            for name, pictures in {**batch, "start": start}.items()
            if name != "corner"
        }
        predicted = network.fine.corrected(windows["start"], windows["hidden"]).float()
        return predicted, windows

    def _judged(self, picture: Tensor) -> Tensor:
        """What the critic sees: the hole in the middle, or the whole picture."""
        if self.data.hole != "centre":
            return picture
        first = (self.data.size - self.data.hole_side) // 2
        last = first + self.data.hole_side - 1
        box = picture.new_tensor([[first, first, last, last]]).expand(len(picture), 4)
        return crop_resized(picture, box, self.data.hole_side)

    def reconstruction_loss(self, predicted: Tensor, batch: Batch) -> Tensor:
        """Mean distance of pictures in [-1, 1] where it counts; the rim counts more."""
        difference = 2 * (predicted - batch["image"])
        distance = difference.abs() if self.weights.distance == "l1" else difference.square()
        rim = batch["mask"] - batch["hidden"]
        weight = 1 + (self.weights.overlap_weight - 1) * rim  # [N, 1, S, S]
        counted = batch["mask"] if self.weights.region == "hole" else torch.ones_like(rim)
        return (distance * weight * counted).sum() / (counted.sum() * distance.shape[1])

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """0.999 reconstruction + 0.001 adversarial, or as the recipe weighs them."""
        predicted, batch = self._learnt(batch)
        distance = self.reconstruction_loss(predicted, batch)
        total = self.weights.reconstruction * distance
        parts = {"reconstruction": distance.item()}
        if self.weights.log_mse > 0:
            log_mse = masked_log_mse(predicted, batch["image"], batch["mask"])
            total = total + self.weights.log_mse * log_mse
            parts["log_mse"] = log_mse.item()
        if self.weights.adversarial > 0:
            critic = self.networks["critic"]
            filled = composite_hole(predicted, batch["image"], batch["mask"])
            fake = critic(self._judged(filled)).float()
            real = None
            if self.weights.kind == "relativistic":
                real = critic(self._judged(batch["image"])).float()
            verdict = self.game.generator(fake, real)
            total = total + self.weights.adversarial * verdict
            parts["adversarial"] = verdict.item()
        return total, parts

    def critic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """True holes against filled ones."""
        with torch.no_grad():
            predicted, batch = self._learnt(batch)
            filled = composite_hole(predicted, batch["image"], batch["mask"])
        critic = self.networks["critic"]
        real = critic(self._judged(batch["image"])).float()
        loss = self.game.critic(real, critic(self._judged(filled)).float())
        return loss, {"real": real.mean().item()}

    def _mean_face(self) -> Tensor:
        """[1, 3, S, S] in [0, 1]; of the first faces only where there are many."""
        if self.mean_face is None:
            faces = self._faces("train")[:MEAN_FACES]
            total = np.zeros((self.data.size, self.data.size, 3), np.int64)
            for face in faces:
                total += face.image
            mean = torch.from_numpy(total / (255 * len(faces))).float()
            self.mean_face = mean.permute(2, 0, 1)[None].contiguous()
        return self.mean_face

    def _held_out(self, count: int) -> list[Batch]:
        """The first faces of the validation split with the same holes every time."""
        faces = self._faces("val")
        return [
            self._batch(faces, [index], np.random.default_rng([2016, index]), 0.0, 0.0)
            for index in range(min(count, len(faces)))
        ]

    def validate(self, networks: Mapping[str, nn.Module], out: Path, step: int) -> dict[str, float]:
        """Figures of filled held-out faces, beside two fills that need no network.

        `l1`, `l2`, `psnr` are of the pixels in the hole, `ssim` of the whole picture, and so is
        `psnr_picture`. `telea_*` are those of OpenCV's inpainting (Telea 2004), `mean_face_*`
        those of the mean of the aligned training faces put into the hole.
        """
        network = networks["inpainting"]
        device = next(network.parameters()).device
        mean = self._mean_face()
        sums: dict[str, list[float]] = {}
        for case in self._held_out(self.data.validation_faces):
            image, hidden = case["image"], case["hidden"]
            there = {name: value.to(device) for name, value in case.items()}
            predicted = network(there["image"], there["hidden"]).float().cpu()
            fills = {
                "": composite_hole(predicted, image, hidden),
                "telea_": _telea(image, hidden),
                "mean_face_": composite_hole(mean, image, hidden),
            }
            for prefix, filled in fills.items():
                figures = image_figures(filled, image, hidden)
                figures["psnr_picture"] = image_figures(filled, image)["psnr"]
                for name, value in figures.items():
                    sums.setdefault(prefix + name, []).append(value)
        return {name: float(np.mean(values)) for name, values in sums.items()}

    def pictures(self, networks: Mapping[str, nn.Module]) -> Mapping[str, Image]:
        """Held-out faces in columns: with the hole, filled, as they are."""
        network = networks["inpainting"]
        device = next(network.parameters()).device
        columns = []
        for case in self._held_out(8):
            with torch.no_grad():
                there = {name: value.to(device) for name, value in case.items()}
                predicted = network(there["image"], there["hidden"]).float().cpu()
            shown = [
                (picture_with_hole(case["image"], case["hidden"]) + 1) / 2,
                composite_hole(predicted, case["image"], case["hidden"]),
                case["image"],
            ]
            columns.append(torch.cat(shown, dim=2)[0].permute(1, 2, 0).clamp(0, 1).numpy())
        return {"inpaint": np.round(np.hstack(columns) * 255).astype(np.uint8)}


def make_network(model: Model, size: int) -> ContextEncoder | SkipInpainting | CoarseToFine:
    """The network that [model] says, for pictures of `size` pixels.

    Raises:
        ValueError: a network that cannot be built.
        CheckpointError: weights to start from that do not fit.
    """
    network: ContextEncoder | SkipInpainting | CoarseToFine
    if model.network == "context_encoder":
        network = ContextEncoder(model.context_model, size, model.ngf, model.bottleneck)
    elif model.network == "coarse_to_fine":
        network = CoarseToFine(
            model.ngf, model.levels, model.stem, model.width, model.blocks, model.ratio
        )
        if model.coarse_weights:
            load_published(network.coarse, model.coarse_weights, "the coarse network")
        if model.fine_weights:
            load_published(network.fine, model.fine_weights, "the compact filler")
            network.fine.reset_head()  # what it added to a smooth fill does not fit here
    else:
        network = SkipInpainting(
            model.ngf, model.levels, mask_input=model.mask_input, prefilled=model.prefilled
        )
    if model.weights:
        load_published(network, model.weights, "the inpainting network")
    return network


def _corner(mask: Image, side: int, rng: np.random.Generator) -> list[int]:
    """Top left of a window of a picture that has some of the hole in it."""
    places = np.argwhere(mask)
    middle = places[int(rng.integers(len(places)))]
    first = middle - rng.integers(side // 4, side - side // 4, 2)
    return np.clip(first, 0, mask.shape[0] - side).tolist()  # type: ignore[no-any-return]


def _check(model: Model, data: Data, loss: Loss) -> None:
    for where, value, known in (
        ("[model] network", model.network, ("skip", "context_encoder", "coarse_to_fine")),
        ("[data] hole", data.hole, (*HOLES, "mixed")),
        ("[loss] distance", loss.distance, ("l1", "l2")),
        ("[loss] region", loss.region, ("hole", "picture")),
    ):
        if value not in known:
            raise RecipeError(f"{where} is one of {', '.join(known)}, not {value!r}")
    if loss.kind == "wasserstein":
        raise RecipeError("[loss] kind: wasserstein needs a gradient penalty, which is not here")
    if data.hole in {"centre", "mixed"} and not 0 < data.hole_side < data.size:
        raise RecipeError(f"[data] hole_side must be below the size, {data.size}")
    if not 0 <= 2 * data.overlap < data.hole_side:
        raise RecipeError("[data] overlap leaves nothing of the hole: lower it")
    if data.crop and (model.network != "coarse_to_fine" or data.hole == "centre"):
        raise RecipeError("[data] crop is for the fine half of coarse_to_fine, and holes anywhere")
    if data.crop % 8 or data.crop > data.size:
        raise RecipeError(f"[data] crop must be a multiple of 8, at most the size, {data.size}")
    published = model.network == "context_encoder" and model.context_model == 0
    if published and (data.hole != "centre" or 2 * data.hole_side != data.size):
        raise RecipeError(
            "[model] context_model 0 fills a square of half the side in the middle: set "
            'data.hole = "centre" and data.hole_side to half of data.size'
        )


def _telea(image: Tensor, mask: Tensor) -> Tensor:
    """OpenCV's inpainting of one picture [1, 3, H, W] in [0, 1]."""
    plain = (image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    hole = mask[0, 0].numpy().astype(np.uint8)
    filled = cv2.inpaint(np.ascontiguousarray(plain), hole, 3, cv2.INPAINT_TELEA)
    return pictures_tensor([np.asarray(filled, dtype=np.uint8)])


def build(recipe: Mapping[str, Mapping[str, Any]]) -> InpaintTask:
    """The task of a recipe."""
    return InpaintTask(
        section(recipe, "model", Model),
        section(recipe, "data", Data),
        section(recipe, "loss", Loss),
    )
