"""Training of the compact filler on crops of aligned faces.

The figure that counts is the PSNR in the hole, so the reconstruction losses lead. The focal
frequency loss and the wrinkle critic (the trained segmenter, which must see no wrinkle in what was
filled) come with small weights.
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

from revisage.alignment import square_matrix, transform_points
from revisage.errors import RecipeError
from revisage.training.data.holes import stroke_holes
from revisage.training.data.portraits import read_portraits
from revisage.training.loop import Turn
from revisage.training.losses.focal_frequency import focal_frequency_loss
from revisage.training.losses.masked import masked_l1, masked_log_mse
from revisage.training.losses.perceptual import file_record, load_published
from revisage.training.losses.wrinkle_critic import WrinkleCritic
from revisage.training.models.wrinkle_filler import CompactFiller
from revisage.training.models.wrinkle_segmenter import CompactSegmenter
from revisage.training.recipe import section

__all__ = ["SMALL", "TINY", "FillerTask", "aligned_squares", "build", "make_network", "skin_region"]

Batch = Mapping[str, torch.Tensor]
Image = npt.NDArray[np.uint8]

# Overrides of every recipe of this task: ten steps in seconds, and a first useful network in
# minutes. The critic needs the trained segmenter, which a quick look should not depend on.
TINY: dict[str, dict[str, Any]] = {
    "run": {"steps": 10, "batch": 2, "warmup_steps": 0, "learning_rate": 1e-2},
    "model": {"stem": 8, "width": 8, "blocks": 1},
    "data": {"square": 128, "crop": 32},
    "loss": {"wrinkle_critic": 0.0, "segmenter": ""},
}
SMALL: dict[str, dict[str, Any]] = {
    "run": {"steps": 400, "batch": 12, "validate_every": 400},
    "data": {"crop": 96},
    "loss": {"wrinkle_critic": 0.0, "segmenter": ""},
}


@dataclasses.dataclass(frozen=True)
class Model:
    stem: int = 32
    width: int = 96
    blocks: int = 4
    ratio: float = 0.5
    weights: str = ""  # safetensors file to start from; empty starts from noise


@dataclasses.dataclass(frozen=True)
class Data:
    portraits: tuple[str, ...]  # folders of annotated portraits
    square: int = 512  # the working size of the runtime
    crop: int = 128
    min_native_face_px: float = 200.0
    skin_share: float = 0.75  # crops centred on skin; the others anywhere in the square
    zoom: tuple[float, float] = (0.75, 1.5)  # side of the crop in the square over `crop`


@dataclasses.dataclass(frozen=True)
class Loss:
    l1: float = 10.0
    log_mse: float = 1.0
    # A squared error of an eight-bit step or two: thousands of it weigh like the losses above.
    focal_frequency: float = 0.0
    wrinkle_critic: float = 0.0  # above 0 it needs `segmenter`
    segmenter: str = ""  # safetensors file of the trained CompactSegmenter


def aligned_squares(
    folders: tuple[str, ...], split: str, size: int, min_native_face_px: float
) -> tuple[list[Image], list[npt.NDArray[np.float64]]]:
    """Aligned faces as [S, S, 3] uint8 and their landmarks [68, 2] in the square."""
    squares, points = [], []
    for folder in folders:
        for portrait in read_portraits(folder, split):
            if float(portrait.extra.get("native_face_px", portrait.face_px)) < min_native_face_px:
                continue
            # Twice the size, then area averaging: no aliasing down to a quarter of the photo.
            matrix = square_matrix(portrait.landmarks, 2 * size)
            large = cv2.warpAffine(
                portrait.image(),
                matrix,
                (2 * size, 2 * size),
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REFLECT_101,
            )
            square = cv2.resize(large, (size, size), interpolation=cv2.INTER_AREA)
            squares.append(np.asarray(square, dtype=np.uint8))
            points.append(
                transform_points(square_matrix(portrait.landmarks, size), portrait.landmarks)
            )
    return squares, points


def skin_region(landmarks: npt.NDArray[np.float64], size: int) -> Image:
    """Where a face shows bare skin: the hull up to the forehead less brows, eyes, nose tip, mouth.

    Args:
        landmarks: [68, 2] in the square.

    Returns:
        [size, size] uint8, 1 = skin.
    """
    region = np.zeros((size, size), np.uint8)
    unit = size / 512
    forehead = landmarks[17:27][::-1] - [0, 60 * unit]
    outline = np.concatenate([landmarks[0:17], forehead])
    cv2.fillPoly(region, [np.round(outline).astype(np.int32)], 1)
    region = np.asarray(cv2.erode(region, np.ones((round(25 * unit),) * 2)), dtype=np.uint8)
    for first, last, margin in (
        (36, 42, 14), (42, 48, 14), (48, 60, 14), (17, 22, 10), (22, 27, 10), (31, 36, 12),
    ):  # fmt: skip
        part = np.zeros_like(region)
        hull = cv2.convexHull(np.round(landmarks[first:last]).astype(np.int32))
        cv2.fillPoly(part, [hull], 1)
        grown = cv2.dilate(part, np.ones((2 * round(margin * unit) + 1,) * 2))
        region[grown > 0] = 0
    return region


def make_network(model: Model) -> CompactFiller:
    """The filler as [model] says, untrained."""
    return CompactFiller(model.stem, model.width, model.blocks, model.ratio)


class FillerTask:
    """See `revisage.training.loop.Task`."""

    def __init__(self, model: Model, data: Data, loss: Loss) -> None:
        network: torch.nn.Module = make_network(model)
        if model.weights:
            load_published(network, model.weights, "the compact filler")
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.networks = {"filler": network}
        self.product, self.averaged = "filler", ("filler",)
        self.turns = (Turn("filler", ("filler",), self.loss),)
        self.watch = "filler/l1"
        self.notes: dict[str, str] = {}
        self.critic: WrinkleCritic | None = None
        if loss.wrinkle_critic > 0:
            if not loss.segmenter:
                raise RecipeError(
                    "[loss] wrinkle_critic needs the trained segmenter: set loss.segmenter to its "
                    "safetensors file, or wrinkle_critic to 0"
                )
            segmenter = CompactSegmenter()
            load_published(segmenter, loss.segmenter, "the compact wrinkle segmenter")
            self.notes["wrinkle critic"] = file_record(Path(loss.segmenter))
            self.critic = WrinkleCritic(segmenter.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        self.data, self.weights = data, loss
        self.squares: dict[str, list[Image]] = {}
        self.skin: dict[str, list[npt.NDArray[np.int64]]] = {}
        cv2.setNumThreads(1)

    def _load(self, split: str) -> None:
        if split in self.squares:
            return
        data = self.data
        squares, points = aligned_squares(
            data.portraits, split, data.square, data.min_native_face_px
        )
        if not squares:
            raise RecipeError(
                f"[data] portraits: none of split {split!r} in {', '.join(data.portraits)} has a "
                f"face of {data.min_native_face_px:g} px: lower min_native_face_px, or name others"
            )
        self.squares[split] = squares
        self.skin[split] = [np.argwhere(skin_region(p, data.square)) for p in points]

    def _crop(
        self, split: str, rng: np.random.Generator, *, jitter: bool
    ) -> tuple[npt.NDArray[np.float32], Image]:
        """One crop [H, W, 3] in [0, 1] and its hole [H, W]."""
        data = self.data
        index = int(rng.integers(len(self.squares[split])))
        square, skin = self.squares[split][index], self.skin[split][index]
        side = data.crop
        if jitter:
            side = round(data.crop * float(np.exp(rng.uniform(*np.log(data.zoom)))))
        side = min(side, data.square)
        if len(skin) and rng.random() < data.skin_share:
            centre = skin[int(rng.integers(len(skin)))]
            corner = np.clip(centre - side // 2, 0, data.square - side)
        else:
            corner = rng.integers(0, data.square - side + 1, 2)
        top, left = (int(v) for v in corner)
        crop = square[top : top + side, left : left + side]
        if side != data.crop:
            way = cv2.INTER_AREA if side > data.crop else cv2.INTER_CUBIC
            crop = np.asarray(cv2.resize(crop, (data.crop, data.crop), interpolation=way))
        image = crop.astype(np.float32) / 255
        if jitter:
            if rng.random() < 0.5:
                image = image[:, ::-1]
            image = np.rot90(image, int(rng.integers(4)))
            image = image ** np.float32(np.exp(rng.normal(0, 0.25)))
            gain = np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.05, 3)).astype(np.float32)
            image = np.clip(image * gain, 0, 1)
            if rng.random() < 0.25:  # sensor noise of brighter or darker exposures
                noise = rng.standard_normal(image.shape, dtype=np.float32)
                image = np.clip(image + np.float32(rng.uniform(0, 0.02)) * noise, 0, 1)
        return np.ascontiguousarray(image), stroke_holes(data.crop, rng)

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """`image` [N, 3, H, W] in [0, 1] and `mask` [N, 1, H, W], 1 = hole."""
        self._load("train")
        samples = [self._crop("train", rng, jitter=True) for _ in range(size)]
        images = torch.from_numpy(np.stack([image for image, _ in samples]))
        masks = torch.from_numpy(np.stack([mask for _, mask in samples])).float()
        return {"image": images.permute(0, 3, 1, 2), "mask": masks[:, None]}

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        """Weighted losses in the hole."""
        image, mask = batch["image"], batch["mask"]
        filled = self.networks["filler"](image, mask).float()
        l1 = masked_l1(filled, image, mask)
        log_mse = masked_log_mse(filled, image, mask)
        total = self.weights.l1 * l1 + self.weights.log_mse * log_mse
        parts = {"l1": l1.item(), "psnr": -10 / float(np.log(10)) * log_mse.item()}
        if self.weights.focal_frequency > 0:
            focal = focal_frequency_loss(filled, image)
            total = total + self.weights.focal_frequency * focal
            parts["focal_frequency"] = focal.item()
        if self.critic is not None:
            seen = self.critic(filled, mask)
            total = total + self.weights.wrinkle_critic * seen
            parts["wrinkle_critic"] = seen.item()
        return total, parts

    def validate(
        self, networks: Mapping[str, torch.nn.Module], out: Path, step: int
    ) -> dict[str, float]:
        """PSNR in wrinkle-shaped holes on skin of held-out portraits, beside OpenCV's fills."""
        self._load("val")
        network = networks["filler"]
        rng = np.random.default_rng(4321)  # the same holes every time
        gains: dict[str, list[float]] = {"ours": [], "telea": [], "navier_stokes": []}
        for _ in range(96):
            image, mask = self._crop("val", rng, jitter=False)
            mask = stroke_holes(self.data.crop, rng, coverage=(0.04, 0.1), width=(3, 9), blobs=0)
            filled = _filled(network, image, mask)
            plain = np.round(image * 255).astype(np.uint8)
            fills = {
                "ours": filled * 255,
                "telea": cv2.inpaint(plain, mask, 3, cv2.INPAINT_TELEA),
                "navier_stokes": cv2.inpaint(plain, mask, 3, cv2.INPAINT_NS),
            }
            hole = mask > 0
            for name, fill in fills.items():
                error = float(np.square(fill[hole] - plain[hole].astype(np.float64)).mean())
                gains[name].append(10 * float(np.log10(255**2 / max(error, 1e-3))))
        return {name: float(np.mean(values)) for name, values in gains.items()}

    def pictures(self, networks: Mapping[str, torch.nn.Module]) -> Mapping[str, Image]:
        """Held-out crops in columns: as they are, with the hole, filled."""
        self._load("val")
        rng = np.random.default_rng(4322)
        columns = []
        for _ in range(8):
            image, mask = self._crop("val", rng, jitter=False)
            hole = np.where(mask[..., None] > 0, np.float32(0.5), image)
            columns.append(np.vstack([image, hole, _filled(networks["filler"], image, mask)]))
        return {"filler": np.round(np.hstack(columns) * 255).astype(np.uint8)}


def _filled(
    network: torch.nn.Module, image: npt.NDArray[np.float32], mask: Image
) -> npt.NDArray[np.float32]:
    """[H, W, 3] in [0, 1] with the hole [H, W] filled."""
    device = next(network.parameters()).device
    x = torch.from_numpy(image).to(device).permute(2, 0, 1)[None]
    m = torch.from_numpy(mask).to(device)[None, None].float()
    with torch.no_grad():
        filled: npt.NDArray[np.float32] = (
            network(x, m)[0].permute(1, 2, 0).clamp(0, 1).cpu().numpy()
        )
    return filled


def build(recipe: Mapping[str, Mapping[str, Any]]) -> FillerTask:
    """The task of a recipe."""
    return FillerTask(
        section(recipe, "model", Model),
        section(recipe, "data", Data),
        section(recipe, "loss", Loss),
    )
