"""Training of a wrinkle segmenter: the compact one, or a paper-size network.

The paper-size networks (UNet++, U-Net and DeepLabV3 with a ResNeXt-50 encoder) see pictures with
ImageNet's mean and deviation, as their published encoders do; the compact one normalises itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from revisage.errors import RecipeError
from revisage.training.baselines.gabor_wrinkles import detect_wrinkles
from revisage.training.data.labelled_wrinkles import LabelledWrinkles
from revisage.training.data.ridges import IGNORE
from revisage.training.data.wrinkle_crops import AlignedFace, WrinklePool
from revisage.training.data.wrinkles import draw_wrinkles
from revisage.training.importers import from_checkpoint
from revisage.training.importers.checkpoint_reader import read_checkpoint
from revisage.training.loop import Turn
from revisage.training.losses.dice import dice_loss
from revisage.training.losses.perceptual import (
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    file_record,
    load_published,
)
from revisage.training.metrics.segmentation import Overlap
from revisage.training.models.deeplabv3 import DeepLabV3
from revisage.training.models.unet import UNet
from revisage.training.models.unetpp import UNetPlusPlus
from revisage.training.models.wrinkle_segmenter import CompactSegmenter
from revisage.training.recipe import section

__all__ = [
    "NETWORKS",
    "SMALL",
    "TINY",
    "ImageNetInput",
    "SegmenterTask",
    "build",
    "judged_regions",
    "read_segmenter",
    "segmentation_figures",
]

NETWORKS = ("compact", "unetpp", "unet", "deeplabv3")

Batch = Mapping[str, torch.Tensor]
Picture = npt.NDArray[np.uint8]

# Overrides of every recipe of this task: ten steps in seconds, and a first useful network in
# minutes.
TINY: dict[str, dict[str, Any]] = {
    "run": {"steps": 10, "batch": 2, "warmup_steps": 0, "learning_rate": 1e-2},
    "model": {
        "widths": [8, 8, 8, 8],
        "blocks": [1, 1, 1],
        "group_width": 4,
        "encoder_width": 4,
        "decoder_channels": [8, 8, 8, 8, 8],
        "pooled_channels": 8,
        "encoder_weights": "",
    },
    "data": {"crop": 64},
}
SMALL: dict[str, dict[str, Any]] = {
    "run": {"steps": 400, "batch": 8, "validate_every": 400},
    "model": {
        "encoder_width": 16,
        "decoder_channels": [64, 32, 16, 16, 8],
        "pooled_channels": 64,
        "encoder_weights": "",
    },
    "data": {"crop": 192},
}


@dataclasses.dataclass(frozen=True)
class Model:
    network: str = "compact"  # or "unetpp", "unet", "deeplabv3"
    # of the compact network
    widths: tuple[int, ...] = (16, 24, 48, 96)
    blocks: tuple[int, ...] = (1, 2, 4)
    group_width: int = 8
    weights: str = ""  # trained weights.safetensors of it to go on from; "" starts from noise
    # of the others
    encoder_width: int = 64  # channels behind the encoder's stem; 64 is ResNeXt-50
    encoder_weights: str = ""  # torchvision's resnext50_32x4d state dict; "" starts from noise
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)  # of unetpp and unet
    pooled_channels: int = 256  # of deeplabv3


@dataclasses.dataclass(frozen=True)
class Data:
    portraits: tuple[str, ...]  # folders of annotated portraits, on which wrinkles are drawn
    labelled: tuple[str, ...] = ()  # folders as FFHQ-Wrinkle's; with any, nothing else is used
    crop: int = 256  # side of the training crops, pixels of the 512 px square
    smallest_face: float = 220.0  # native face width; smaller faces show no wrinkles
    cache: str = ""  # folder that keeps aligned faces and teacher labels; empty for none
    held_out: int = 24  # faces of the validation split that wrinkles are drawn on
    baselines: bool = False  # also judge the Gabor baseline, under keys that begin with gabor_


@dataclasses.dataclass(frozen=True)
class Loss:
    dice: float = 1.0
    cross_entropy: float = 0.5
    positive: float = 1.0  # weight of wrinkle pixels in the cross entropy


def as_image(image: torch.Tensor) -> torch.Tensor:
    """[N, H, W, 3] uint8 -> [N, 3, H, W] float32 in [0, 1], channels last in memory."""
    return image.permute(0, 3, 1, 2).float() / 255


class ImageNetInput(nn.Module):
    """A network behind ImageNet's normalisation: [N, 3, H, W] in [0, 1] -> its logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        mean, deviation = (image.new_tensor(v).reshape(1, 3, 1, 1) for v in _IMAGENET)
        out: torch.Tensor = self.network((image - mean) / deviation)
        return out


_IMAGENET = (IMAGENET_MEAN, IMAGENET_DEVIATION)


def read_segmenter(path: str | Path) -> nn.Module:
    """A trained segmenter of any of the networks: [N, 3, H, W] in [0, 1] -> logits, eval mode.

    Args:
        path: weights.safetensors of this task (of the compact network: in its shipped size), or a
            checkpoint of segmentation_models.pytorch.

    Raises:
        RecipeError: it is not a file.
        CheckpointError: it holds another network.
    """
    place = Path(path)
    if not place.is_file():
        raise RecipeError(f"{place} is not a file: name the weights of a trained wrinkle segmenter")
    content = read_checkpoint(place).content
    if isinstance(content, Mapping) and "stem.0.weight" in content:
        network = CompactSegmenter()
        load_published(network, place, "the compact wrinkle segmenter")
        return network.eval().requires_grad_(False)
    return ImageNetInput(from_checkpoint(place)).eval()


Finder = Callable[[Picture, AlignedFace], npt.NDArray[np.uint8]]


def segmentation_figures(
    network: nn.Module, faces: list[AlignedFace], seed: int, out: Path | None = None
) -> dict[str, float]:
    """Draw wrinkles over held-out faces and compare what the network finds (threshold 0.5).

    Returns:
        iou: against the drawn wrinkles alone, on the whole square.
        iou_near: the same within 6 px of the drawn wrinkles.
        iou_union, precision, recall, f1: against drawn and real wrinkles (the teacher's), leaving
            out what the teacher could not tell.
        bare: share of pixels found on the faces as they are, without drawn wrinkles.
    """
    return _figures(lambda image, face: _found(network, image[None])[0], faces, seed, out)


def judged_regions(
    drawn: Picture, labels: Picture
) -> dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any] | None]]:
    """What a found mask is compared with, and where: three ways to read the truth.

    Args:
        drawn: [S, S], 1 where wrinkles were drawn.
        labels: [S, S], the teacher's, of the face without them.

    Returns:
        `whole`: the drawn wrinkles alone, everywhere; `near`: within 6 px of them; `union`: drawn
        and real wrinkles, without what the teacher could not tell.
    """
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (13, 13))
    truth = (drawn > 0) | (labels == 1)
    return {
        "whole": (drawn, None),
        "near": (drawn, np.asarray(cv2.dilate(drawn, disc))),
        "union": (truth, (labels != IGNORE) | truth),
    }


def _figures(
    find: Finder, faces: list[AlignedFace], seed: int, out: Path | None = None
) -> dict[str, float]:
    """`segmentation_figures` of any way to find wrinkles in a picture of a face."""
    rng = np.random.default_rng(seed)
    whole, near, union = Overlap(), Overlap(), Overlap()
    overlaps = {"whole": whole, "near": near, "union": union}
    bare, sheet = 0.0, []
    for index, face in enumerate(faces):
        image, drawn = draw_wrinkles(face.image, face.landmarks, rng, skin=face.skin)
        found = find(image, face), find(face.image, face)
        for name, (truth, region) in judged_regions(drawn, face.labels).items():
            overlaps[name].add(found[0], truth, region)
        bare += float(found[1].mean()) / len(faces)
        if index < 12:
            sheet.append(
                np.vstack(
                    [
                        _outlined(image, found[0], drawn),
                        _outlined(face.image, found[1], face.labels == 1),
                    ]
                )
            )
    if out is not None and sheet:
        rows = [np.hstack(sheet[i : i + 4]) for i in range(0, len(sheet) // 4 * 4, 4)]
        if rows:
            cv2.imwrite(str(out / "held_out.png"), np.vstack(rows)[..., ::-1])
    return {
        "iou": whole.iou,
        "iou_near": near.iou,
        "iou_union": union.iou,
        "precision": union.precision,
        "recall": union.recall,
        "f1": union.f1,
        "bare": bare,
    }


def _found(network: nn.Module, images: Picture) -> Picture:
    """[N, H, W, 3] uint8 -> [N, H, W] uint8, 1 = wrinkle."""
    device = next(network.parameters()).device
    with torch.no_grad():
        pictures = as_image(torch.from_numpy(images).to(device))
        logits = network(pictures.contiguous(memory_format=torch.channels_last))
    found: Picture = (logits[:, 0] > 0).cpu().numpy().astype(np.uint8)
    return found


def _outlined(image: Picture, found: Picture, truth: npt.NDArray[Any]) -> Picture:
    """Found and true in green, found alone in red, missed in blue."""
    out = image.copy()
    truth = truth > 0
    out[(found > 0) & truth] = (0, 220, 0)
    out[(found > 0) & ~truth] = (255, 0, 0)
    out[(found == 0) & truth] = (0, 80, 255)
    return out


def _network(model: Model) -> nn.Module:
    if model.network == "compact":
        compact = CompactSegmenter(model.widths, model.blocks, model.group_width)
        if model.weights:
            load_published(compact, model.weights, "the compact wrinkle segmenter")
        return compact
    network: nn.Module
    if model.network == "unetpp":
        network = UNetPlusPlus(
            decoder_channels=model.decoder_channels, encoder_width=model.encoder_width
        )
    elif model.network == "unet":
        network = UNet(decoder_channels=model.decoder_channels, encoder_width=model.encoder_width)
    elif model.network == "deeplabv3":
        network = DeepLabV3(
            decoder_channels=model.pooled_channels, encoder_width=model.encoder_width
        )
    else:
        raise RecipeError(f"[model] network: no {model.network!r}; known: {', '.join(NETWORKS)}")
    if model.encoder_weights:
        path = Path(model.encoder_weights)
        if not path.is_file():
            raise RecipeError(
                f"[model] encoder_weights: {path} is not a file; get torchvision's "
                "resnext50_32x4d state dict (download.pytorch.org), or leave it empty to start "
                "from noise"
            )
        load_published(
            network.get_submodule("encoder"), path, "the ResNeXt-50 encoder", ignored=(r"fc\..*",)
        )
    return network


class SegmenterTask:
    """See `revisage.training.loop.Task`."""

    def __init__(self, model: Model, data: Data, loss: Loss) -> None:
        cv2.setNumThreads(1)
        network = _network(model)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.networks = {"segmenter": network}
        self.product, self.averaged = "segmenter", ("segmenter",)
        self.turns = (Turn("segmenter", ("segmenter",), self.loss),)
        self.watch = "segmenter/loss"
        self.notes: dict[str, str] = {}
        if model.encoder_weights:
            self.notes["encoder"] = file_record(Path(model.encoder_weights))
        self.data, self.weights = data, loss
        self.gabor: dict[str, float] | None = None  # figures of the baseline, the same every time
        self.normalised = model.network == "compact"  # by the network itself
        cache = Path(data.cache) if data.cache else None
        smallest = data.smallest_face
        if data.labelled:
            self.labelled = LabelledWrinkles(data.labelled, "train")
            self.labelled_held_out = LabelledWrinkles(data.labelled, "val")
        else:
            self.pool = WrinklePool(data.portraits, "train", smallest_face=smallest, cache=cache)
            self.held_out = WrinklePool(data.portraits, "val", smallest_face=smallest, cache=cache)

    def _seen(self, network: nn.Module) -> nn.Module:
        """The network as called with pictures in [0, 1]."""
        return network if self.normalised else ImageNetInput(network)

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """`image` [N, H, W, 3] uint8, `target` and `known` [N, 1, H, W] uint8."""
        if self.data.labelled:
            pairs = [self.labelled.crop(rng, self.data.crop) for _ in range(size)]
            target = torch.from_numpy(np.stack([mask for _, mask in pairs])[:, None])
            image = torch.from_numpy(np.stack([picture for picture, _ in pairs]))
            return {"image": image, "target": target, "known": torch.ones_like(target)}
        crops = self.pool.crops(rng, self.data.crop)
        images, targets, known = zip(*(next(crops) for _ in range(size)), strict=True)
        return {
            "image": torch.from_numpy(np.stack(images)),
            "target": torch.from_numpy(np.stack(targets)[:, None]),
            "known": torch.from_numpy(np.stack(known)[:, None]),
        }

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        """Dice loss and cross entropy where the teacher could tell."""
        logits = self._seen(self.networks["segmenter"])(as_image(batch["image"])).float()
        target, known = batch["target"].float(), batch["known"].float()
        dice = dice_loss(logits, target, known)
        weight = known * (1 + (self.weights.positive - 1) * target)
        entropy = functional.binary_cross_entropy_with_logits(
            logits, target, weight=weight, reduction="sum"
        ) / known.sum().clamp(min=1)
        total = self.weights.dice * dice + self.weights.cross_entropy * entropy
        return total, {"dice": dice.item(), "cross_entropy": entropy.item()}

    def validate(self, networks: Mapping[str, nn.Module], out: Path, step: int) -> dict[str, float]:
        """`segmentation_figures` on the first held-out faces; pictures in `held_out.png`.

        With labelled faces: iou, precision, recall and f1 on all that are held out.
        """
        if self.data.labelled:
            return self._labelled_figures(self._seen(networks["segmenter"]))
        faces = self.held_out.faces[: self.data.held_out]
        figures = segmentation_figures(self._seen(networks["segmenter"]), faces, 11, out)
        if self.data.baselines:
            if self.gabor is None:

                def find(image: Picture, face: AlignedFace) -> Picture:
                    return detect_wrinkles(image, face.landmarks, skin=face.skin)

                self.gabor = _figures(find, faces, 11)
            figures |= {f"gabor_{name}": value for name, value in self.gabor.items()}
        return figures

    def _labelled_figures(self, network: nn.Module) -> dict[str, float]:
        ours, baseline = Overlap(), Overlap()
        for index in range(len(self.labelled_held_out.records)):
            image, mask = self.labelled_held_out.face(index)
            ours.add(_found(network, image[None])[0], mask)
            if self.data.baselines and self.gabor is None:
                baseline.add(detect_wrinkles(image), mask)
        if self.data.baselines and self.gabor is None:
            self.gabor = baseline.figures()
        return ours.figures() | {f"gabor_{k}": v for k, v in (self.gabor or {}).items()}

    def pictures(self, networks: Mapping[str, nn.Module]) -> Mapping[str, Picture]:
        """Wrinkles drawn on held-out faces: found in green, wrongly in red, missed in blue."""
        network, rng = self._seen(networks["segmenter"]), np.random.default_rng(12)
        sheet = []
        if self.data.labelled:
            count = min(6, len(self.labelled_held_out.records))
            pairs = [self.labelled_held_out.face(index) for index in range(count)]
        else:
            pairs = [
                draw_wrinkles(face.image, face.landmarks, rng, skin=face.skin)
                for face in self.held_out.faces[:6]
            ]
        for image, drawn in pairs:
            found = _found(network, np.stack([image]))[0]
            sheet.append(np.vstack([image, _outlined(image, found, drawn)]))
        return {"segmenter": np.hstack(sheet)}


def build(recipe: Mapping[str, Mapping[str, Any]]) -> SegmenterTask:
    """The task of a recipe with the tables [model], [data] and [loss]."""
    return SegmenterTask(
        section(recipe, "model", Model),
        section(recipe, "data", Data),
        section(recipe, "loss", Loss),
    )
