"""Distillation of the live network: one small pass that does what the compact networks do.

A training picture is a face with blemishes and, at random, more wrinkles. The teachers make its
retouch at their own size: blemishes go as the ground truth says (or as a trained StyleRetoucher
does), then the wrinkle segmenter finds what the filler fills. The live network sees the picture at
its smaller size and learns the change and where it is; and it learns to make the same change when
the picture moves by a few pixels and is noisy anew, so that a video does not flicker.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from revisage.errors import CheckpointError, RecipeError
from revisage.training.data.lambda_augmentation import lambda_augment
from revisage.training.data.retouch_samples import (
    RETOUCHED,
    RetouchData,
    RetouchSamples,
    picture_tensor,
)
from revisage.training.data.wrinkles import draw_wrinkles
from revisage.training.importers import from_state_dict
from revisage.training.loop import Turn
from revisage.training.losses.perceptual import file_record
from revisage.training.metrics.flicker import flicker, pan_flow
from revisage.training.metrics.report import image_figures
from revisage.training.models.live import LiveRetoucher
from revisage.training.models.style_retoucher import StyleRetoucher
from revisage.training.models.stylegan2 import StyleGAN2
from revisage.training.models.wrinkle_filler import CompactFiller
from revisage.training.models.wrinkle_segmenter import CompactSegmenter
from revisage.training.recipe import section
from revisage.training.tasks.wrinkle_filler import skin_region

__all__ = [
    "SMALL",
    "TINY",
    "LiveTask",
    "Model",
    "Teachers",
    "build",
    "load_retoucher",
    "resized",
    "wrinkled_pair",
]

Batch = Mapping[str, Tensor]

SHOULDER = 4.0  # a wrinkle shades the skin on both sides of its line; pixels of a 512 px square
HELD_OUT_SEED = 3141
FRAMES = 4  # of the pan that flicker is measured on

TINY: dict[str, dict[str, Any]] = {
    "run": {"steps": 10, "batch": 2, "learning_rate": 5e-3, "warmup_steps": 0},
    "model": {
        "widths": (4, 8),
        "blocks": (1,),
        "head": 4,
        "segmenter": "",
        "filler": "",
        "blemish_teacher": "",
    },
    "data": {"size": 64, "live_size": 32, "ffhq": "", "retouched": "", "held_out": 2},
}
SMALL: dict[str, dict[str, Any]] = {
    "run": {"steps": 300, "batch": 4, "learning_rate": 3e-3, "validate_every": 300},
    "data": {"size": 256, "live_size": 128, "ffhq": "", "retouched": "", "held_out": 16},
}


@dataclasses.dataclass(frozen=True)
class Model:
    widths: tuple[int, ...] = (16, 32, 64, 96)
    blocks: tuple[int, ...] = (1, 2, 2)
    head: int = 8
    # Teachers, as safetensors files. Both wrinkle networks, or "" for both: blemishes only.
    segmenter: str = ""
    filler: str = ""
    # A StyleRetoucher that was trained here; "" takes the ground truth of the blemishes.
    blemish_teacher: str = ""


@dataclasses.dataclass(frozen=True)
class Data(RetouchData):
    size: int = 512  # side of the aligned square that the teachers see
    live_size: int = 256  # what the live network sees; divides `size`
    wrinkle_amount: float = 1.0  # of drawn wrinkles ...
    wrinkle_share: float = 0.5  # ... in this share of the pictures, beside the face's own


@dataclasses.dataclass(frozen=True)
class Loss:
    delta: float = 1.0
    mask: float = 1.0
    composite: float = 10.0
    temporal: float = 1.0
    shift: int = 6  # largest movement in pixels
    noise: float = 0.01  # deviation of the noise that is added to the moved picture


class Teachers(nn.Module):
    """What the live network shall do, from networks that are too slow to do it live."""

    def __init__(
        self,
        segmenter: nn.Module | None = None,
        filler: nn.Module | None = None,
        retoucher: StyleRetoucher | None = None,
    ) -> None:
        super().__init__()
        if (segmenter is None) != (filler is None):
            raise ValueError("segmenter and filler belong together: give both, or none")
        self.segmenter, self.filler, self.retoucher = segmenter, filler, retoucher
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Teachers:
        """Stay in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(
        self, image: Tensor, clean: Tensor, blemish: Tensor, skin: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Retouch.

        Args:
            image: [N, 3, S, S] in [0, 1] with blemishes and wrinkles; clean: without the blemishes.
            blemish: [N, 1, S, S], where they are.
            skin: [N, 1, S, S], 1 where wrinkles are looked for.

        Returns:
            The retouched picture [N, 3, S, S], and where it differs, [N, 1, S, S] of 0 and 1.
        """
        if self.retoucher is not None:
            side = self.retoucher.size
            small = resized(image, side)
            change = resized(self.retoucher(small).clamp(0, 1) - small, image.shape[-1])
            blemish = change.abs().amax(dim=1, keepdim=True)
            clean = image + torch.where(blemish > RETOUCHED, change, torch.zeros_like(change))
            where = blemish > RETOUCHED
        else:
            where = blemish > 0
        clean = clean.clamp(0, 1)
        if self.segmenter is not None and self.filler is not None:
            found = ((self.segmenter(clean) > 0) & (skin > 0)).float()
            reach = max(1, round(SHOULDER * image.shape[-1] / 512))
            hole = functional.max_pool2d(found, 2 * reach + 1, 1, reach) * (skin > 0)
            clean = self.filler(clean, hole)
            where = where | (hole > 0)
        return clean, where.float()


def resized(x: Tensor, side: int) -> Tensor:
    """[N, C, H, W] to a square of `side`: cell means where that is smaller, else bilinear."""
    if side < x.shape[-1]:
        return functional.adaptive_avg_pool2d(x, side)
    return functional.interpolate(x, (side, side), mode="bilinear", align_corners=False)


def _tensors(path: str, key: str) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RecipeError(f"[model] {key}: {path} cannot be read ({error})") from error


def _loaded(network: nn.Module, path: str, key: str) -> nn.Module:
    try:
        network.load_state_dict(_tensors(path, key))
    except RuntimeError as error:
        raise RecipeError(f"[model] {key}: {path} is not of this network ({error})") from error
    return network


def load_retoucher(path: str) -> StyleRetoucher:
    """A StyleRetoucher from the weights of a run; sizes and blend follow from its tensors.

    Raises:
        RecipeError: the file cannot be read, or holds another network.
    """
    state = _tensors(path, "blemish_teacher")
    selection = {key.split(".")[2] for key in state if key.startswith("selection.0.")}
    blends = {
        frozenset[str](): "none",
        frozenset({"join"}): "concat",
        frozenset({"spatial"}): "spatial",
        frozenset({"channel"}): "channel",
        frozenset({"spatial", "channel"}): "both",
    }
    try:
        prior = from_state_dict(
            {k.removeprefix("prior."): v for k, v in state.items() if k.startswith("prior.")}
        )
        if not isinstance(prior, StyleGAN2) or frozenset(selection) not in blends:
            raise ValueError("it has no StyleGAN2 prior, or an unknown blend")
        retoucher = StyleRetoucher(prior, blends[frozenset(selection)])
        retoucher.load_state_dict(state)
    except (CheckpointError, ValueError, RuntimeError) as error:
        raise RecipeError(
            f"[model] blemish_teacher: {path} is not a StyleRetoucher of tasks/style_retoucher "
            f"({error})"
        ) from error
    return retoucher.eval()


class LiveTask:
    """See `revisage.training.loop.Task`."""

    product, averaged = "live", ("live",)

    def __init__(self, model: Model, data: Data, loss: Loss) -> None:
        self.data, self.weights = data, loss
        self.samples = RetouchSamples(data)
        self.notes: dict[str, str] = dict(self.samples.notes)
        try:
            self.live = LiveRetoucher(model.widths, model.blocks, model.head)
        except ValueError as error:
            raise RecipeError(f"[model]: {error}") from error
        if data.live_size < 1 or data.size % data.live_size:
            raise RecipeError(f"[data] live_size must divide size ({data.size})")
        if data.live_size % self.live.multiple_of or data.size % CompactSegmenter.multiple:
            raise RecipeError(
                f"[data] live_size takes multiples of {self.live.multiple_of}, size of "
                f"{CompactSegmenter.multiple}; not {data.live_size} and {data.size}"
            )
        if not 1 <= loss.shift < data.live_size // 4:
            raise RecipeError(f"[loss] shift is 1 to below a quarter of {data.live_size}")
        self.teachers = self._teachers(model)
        self.networks: dict[str, nn.Module] = {"live": self.live}
        self.turns = (Turn("student", ("live",), self.loss),)
        self.watch = "student/mask"
        self._skin: dict[tuple[str, int], npt.NDArray[np.uint8]] = {}
        cv2.setNumThreads(1)

    def _teachers(self, model: Model) -> Teachers:
        if bool(model.segmenter) != bool(model.filler):
            raise RecipeError("[model] segmenter and filler belong together: name both, or none")
        segmenter = filler = retoucher = None
        self.notes["wrinkle teacher"] = "none"
        if model.segmenter:
            segmenter = _loaded(CompactSegmenter(), model.segmenter, "segmenter")
            filler = _loaded(CompactFiller(), model.filler, "filler")
            files = (file_record(Path(file)) for file in (model.segmenter, model.filler))
            self.notes["wrinkle teacher"] = "; ".join(files)
        self.notes["blemish teacher"] = "the ground truth of the blemishes"
        if model.blemish_teacher:
            retoucher = load_retoucher(model.blemish_teacher)
            self.notes["blemish teacher"] = file_record(Path(model.blemish_teacher))
        return Teachers(segmenter, filler, retoucher)

    # -- data -------------------------------------------------------------------------------------

    def _draw(
        self, split: str, index: int, rng: np.random.Generator, *, augment: bool
    ) -> tuple[npt.NDArray[np.float32], ...]:
        """Image, clean [S, S, 3], blemish mask and skin [S, S, 1], all float32 in [0, 1]."""
        data = self.data
        clean, residual, mask = self.samples.pair(split, index, rng)
        skin: npt.NDArray[np.uint8] = np.ones(mask.shape, np.uint8)
        image = np.clip(_unit(clean) + residual, 0, 1)
        if augment:
            image, _, factor = lambda_augment(clean, residual, rng, range_=self.samples.lambdas)
            mask = mask * np.float32(factor > 0)
        if not data.retouched:  # pairs of FFHQR come without landmarks
            face = self.samples.faces(split)[index]
            if (split, index) not in self._skin:
                self._skin[split, index] = skin_region(face.landmarks, data.size)
            skin = self._skin[split, index]
            if rng.random() < data.wrinkle_share:
                levels = np.round(image * 255).astype(np.uint8)
                levels, clean = wrinkled_pair(
                    levels, clean, face.landmarks, skin, rng, data.wrinkle_amount
                )
                image = _unit(levels)
        return image, _unit(clean), mask[..., None], skin[..., None].astype(np.float32)

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """`image`, `clean` [N, 3, S, S] in [0, 1], `blemish` and `skin` [N, 1, S, S]."""
        rows = []
        for _ in range(size):
            index = int(rng.integers(self.samples.count("train")))
            row = self._draw("train", index, rng, augment=True)
            if rng.random() < 0.5:
                row = tuple(part[:, ::-1] for part in row)
            rows.append(row)
        return _batch(rows)

    # -- losses -----------------------------------------------------------------------------------

    def _lesson(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Picture, target [N, 3, s, s] and mask [N, 1, s, s] at the live network's size."""
        target, where = self.teachers(
            batch["image"], batch["clean"], batch["blemish"], batch["skin"]
        )
        side = self.data.live_size
        return resized(batch["image"], side), resized(target, side), resized(where, side)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Losses on delta (where there is something to do), mask, composite, and steadiness."""
        weights = self.weights
        image, target, where = self._lesson(batch)
        raw = self.live.raw(image).float()
        delta, mask = self.live.ranged(raw)
        change = target - image
        off = (where * delta - change).abs() * (where > 0)
        delta_loss = off.sum() / (3 * where.sum()).clamp(min=1)
        # A sigmoid of the logit: the ReLU6 that makes the mask has no gradient where it is cut off.
        mask_loss = functional.binary_cross_entropy_with_logits(raw[:, 3:], where)
        composite = functional.l1_loss(image + mask * delta, target)
        total = weights.delta * delta_loss + weights.mask * mask_loss
        total = total + weights.composite * composite
        parts = {
            "delta": delta_loss.item(),
            "mask": mask_loss.item(),
            "composite": composite.item(),
        }
        if weights.temporal > 0:
            temporal = self._unsteadiness(image, mask * delta)
            total = total + weights.temporal * temporal
            parts["temporal"] = temporal.item()
        return total, parts

    def _unsteadiness(self, image: Tensor, edit: Tensor) -> Tensor:
        """L1 between the moved edit and the edit of the moved, noisy picture."""
        reach = self.weights.shift
        down, right = (int(v) for v in torch.randint(-reach, reach + 1, (2,)))
        noise = self.weights.noise * torch.randn_like(image)
        moved = torch.roll(image, (down, right), dims=(2, 3)) + noise
        delta, mask = self.live(moved.clamp(0, 1))
        wanted = torch.roll(edit, (down, right), dims=(2, 3))
        # What rolled in at the border, and what sees it first.
        inner = slice(2 * reach, image.shape[-1] - 2 * reach)
        return functional.l1_loss(
            (mask * delta).float()[..., inner, inner], wanted[..., inner, inner]
        )

    # -- what it is worth -------------------------------------------------------------------------

    def _held_out(self, count: int, device: torch.device) -> Iterator[tuple[Tensor, ...]]:
        rng = np.random.default_rng(HELD_OUT_SEED)
        for index in range(min(count, self.samples.count("val"))):
            batch = _batch([self._draw("val", index, rng, augment=False)])
            yield self._lesson({name: value.to(device) for name, value in batch.items()})

    def validate(self, networks: Mapping[str, nn.Module], out: Path, step: int) -> dict[str, float]:
        """Held-out faces against what the teachers make of them.

        `input_psnr` is that of the input itself; `iou` of the masks at 1/2; `flicker` of a pan by a
        pixel a frame, above that of the input, in steps of 8 bits.
        """
        network = networks[self.product]
        device = next(network.parameters()).device
        sums: dict[str, list[float]] = {}
        for image, target, where in self._held_out(self.data.held_out, device):
            with torch.no_grad():
                delta, mask = network(image)
                figures = image_figures((image + mask * delta).float(), target)
                frames = torch.cat([torch.roll(image, x, dims=3) for x in range(FRAMES)])
                deltas, masks = network(frames)
            figures["input_psnr"] = image_figures(image, target)["psnr"]
            found, wanted = mask > 0.5, where > 0.5
            union = int((found | wanted).sum())
            figures["iou"] = int((found & wanted).sum()) / union if union else 1.0
            result = (frames + masks * deltas).float().clamp(0, 1)
            unsteady = flicker(result, frames, pan_flow(frames, 1, 0))
            figures["flicker"] = 255 * float(unsteady.mean())
            for name, value in figures.items():
                sums.setdefault(name, []).append(value)
        return {name: float(np.mean(values)) for name, values in sums.items()}

    def pictures(self, networks: Mapping[str, nn.Module]) -> Mapping[str, npt.NDArray[np.uint8]]:
        """Held-out faces in columns: input, result, the teachers' result, mask, their mask."""
        network = networks[self.product]
        device = next(network.parameters()).device
        columns = []
        for image, target, where in self._held_out(8, device):
            with torch.no_grad():
                delta, mask = network(image)
            rows = [image, image + mask * delta, target, mask.expand(-1, 3, -1, -1)]
            columns.append(torch.cat([*rows, where.expand(-1, 3, -1, -1)], dim=2)[0])
        sheet = torch.cat(columns, dim=2).float().clamp(0, 1).permute(1, 2, 0).cpu().numpy()
        return {"live": np.round(sheet * 255).astype(np.uint8)}


def wrinkled_pair(
    image: npt.NDArray[np.uint8],
    clean: npt.NDArray[np.uint8],
    landmarks: npt.NDArray[np.float64],
    skin: npt.NDArray[np.uint8],
    rng: np.random.Generator,
    amount: float = 1.0,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """The same wrinkles drawn on two pictures [S, S, 3] of a face; see `draw_wrinkles`."""
    seed = int(rng.integers(2**63))
    one, two = (
        draw_wrinkles(picture, landmarks, np.random.default_rng(seed), amount=amount, skin=skin)[0]
        for picture in (image, clean)
    )
    return one, two


def _unit(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return np.asarray(picture.astype(np.float32) / np.float32(255), dtype=np.float32)


def _batch(rows: list[tuple[npt.NDArray[np.float32], ...]]) -> dict[str, Tensor]:
    names = ("image", "clean", "blemish", "skin")
    return {
        name: picture_tensor(parts)
        for name, parts in zip(names, zip(*rows, strict=True), strict=True)
    }


def build(recipe: Mapping[str, Mapping[str, Any]]) -> LiveTask:
    """The task of a recipe."""
    return LiveTask(
        section(recipe, "model", Model),
        section(recipe, "data", Data),
        section(recipe, "loss", Loss),
    )
