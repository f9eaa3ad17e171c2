"""Training of the landmark network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from revisage.alignment import face_crop_matrix, invert_affine, transform_points
from revisage.training.data.faces import (
    FacePool,
    aligned_jitter,
    crop,
    landmark_batches,
    read_negatives,
    shown_again,
)
from revisage.training.distributed import rows_of_all
from revisage.training.loop import Turn
from revisage.training.losses.perceptual import load_published
from revisage.training.metrics.landmarks import landmark_error
from revisage.training.models.face_landmarks import FaceLandmarks
from revisage.training.recipe import section

__all__ = ["SMALL", "TINY", "LandmarkTask", "build"]

Batch = Mapping[str, torch.Tensor]
HARD_SCORE = 0.15  # a crop without a face that scores more is kept to be shown again

# Overrides of every recipe of this task: ten steps in seconds, and a first useful network in
# minutes.
TINY: dict[str, dict[str, Any]] = {
    "run": {"steps": 10, "batch": 2, "warmup_steps": 0, "learning_rate": 1e-2},
    "model": {"widths": [8, 8, 8, 8]},
    "data": {"face_px": 80.0, "hard_negatives": 8},
}
SMALL: dict[str, dict[str, Any]] = {
    "run": {"steps": 300, "batch": 16, "validate_every": 300},
    "data": {"hard_negatives": 200},
}


@dataclasses.dataclass(frozen=True)
class Model:
    widths: tuple[int, ...] = (48, 80, 128, 160)  # channels at 1/4, 1/8, 1/16, 1/32
    weights: str = ""  # safetensors file to start from; empty starts from noise


@dataclasses.dataclass(frozen=True)
class Data:
    portraits: tuple[str, ...]  # folders of annotated portraits
    negatives: str = ""  # folder of pictures without people; empty for procedural ones only
    face_px: float = 160.0  # width of the faces in memory
    negative_share: float = 0.3  # of the samples show no face
    hard_negatives: int = 2000  # crops that fooled the network are shown again; how many are kept


@dataclasses.dataclass(frozen=True)
class Loss:
    points: float = 1.0  # mean distance in crop pixels
    shape: float = 0.3  # cross entropy of the heat maps against a Gaussian
    spread: float = 1.0  # its standard deviation in cells
    score: float = 1.0
    pose: float = 0.1


def as_image(image: torch.Tensor) -> torch.Tensor:
    """[N, H, W, 3] uint8 -> [N, 3, H, W] float32 in [0, 1], channels last in memory."""
    return image.permute(0, 3, 1, 2).float() / 255


class HardNegatives(torch.nn.Module):
    """A ring of crops without a face that fooled the network, shown again instead of new ones.

    The crops are a buffer, so that they outlive a kill with the rest of the state. Of several
    processes each keeps the crops of all: they share what fooled any of them.
    """

    least = 64  # fewer are not shown: the network would learn them by heart

    def __init__(self, room: int, size: int) -> None:
        super().__init__()
        self.images: torch.Tensor
        self.seen: torch.Tensor
        self.register_buffer("images", torch.zeros(room, size, size, 3, dtype=torch.uint8))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def add(self, images: torch.Tensor) -> None:
        """Keep crops [N, S, S, 3] uint8 of every process, in the place of the oldest."""
        room = len(self.images)
        if room == 0:
            return
        images = rows_of_all(images)[-room:]
        places = (int(self.seen) + torch.arange(len(images), device=images.device)) % room
        self.images[places] = images
        self.seen += len(images)

    def mixed_in(self, images: torch.Tensor, is_face: torch.Tensor) -> torch.Tensor:
        """Images [N, S, S, 3] uint8, half of those without a face replaced by kept ones."""
        count = min(int(self.seen), len(self.images))
        if count < self.least:
            return images
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        mixed = images.clone()
        for index in torch.nonzero(is_face < 0.5).flatten().tolist():
            if rng.random() < 0.5:
                kept = self.images[int(rng.integers(count))].cpu().numpy()
                mixed[index] = torch.from_numpy(shown_again(kept, rng)).to(mixed.device)
        return mixed


class LandmarkTask:
    """See `revisage.training.loop.Task`."""

    def __init__(self, model: Model, data: Data, loss: Loss) -> None:
        cv2.setNumThreads(1)
        a, b, c, d = model.widths
        network: torch.nn.Module = FaceLandmarks((a, b, c, d))
        if model.weights:
            load_published(network, model.weights, "the landmark network")
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.hard = HardNegatives(data.hard_negatives, FaceLandmarks.size)
        self.networks = {"landmarks": network, "hard_negatives": self.hard}
        self.product, self.averaged = "landmarks", ("landmarks",)
        self.turns = (Turn("landmarks", ("landmarks",), self.loss),)
        self.watch = "landmarks/loss"
        self.notes: dict[str, str] = {}
        self.weights = loss
        negatives = read_negatives(data.negatives)
        self.pool = FacePool(data.portraits, "train", face_px=data.face_px, negatives=negatives)
        self.negative_share = data.negative_share
        self.held_out = FacePool(data.portraits[:1], "val", face_px=data.face_px)

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """`image` [N, S, S, 3] uint8, `landmarks` [N, 68, 2], `pose` [N, 2], `is_face` [N], ..."""
        arrays = next(
            landmark_batches(
                self.pool, FaceLandmarks.size, size, rng, negative_share=self.negative_share
            )
        )
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        """Distance of the points, shape of their heat maps, score and pose."""
        network = self.networks["landmarks"]
        assert isinstance(network, FaceLandmarks)
        image = self.hard.mixed_in(batch["image"], batch["is_face"])
        logits, summary = network.heat_maps(as_image(image))
        logits, summary = logits.float(), summary.float()
        count = batch["points_count"]
        faces = count.sum().clamp(min=1)
        found = network.expectation(logits)
        distance = (found - batch["landmarks"]).square().sum(dim=2).add(0.25).sqrt().sub(0.5)
        points = (distance.mean(dim=1) * count).sum() / faces
        # Gaussian target around each point, in cells; points outside the crop teach nothing here.
        centres = network.centres
        gap = (batch["landmarks"][..., None] - centres) / 4  # [N, 68, 2, 32]
        target = torch.exp(-gap.square() / (2 * self.weights.spread**2))
        target = target[:, :, 1, :, None] * target[:, :, 0, None, :]
        mass = target.sum(dim=(2, 3), keepdim=True)
        target = target / mass.clamp(min=1e-6)
        inside = (mass[..., 0, 0] > 1.0).float() * count[:, None]
        log_share = functional.log_softmax(logits.flatten(2), dim=2)
        entropy = -(target.flatten(2) * log_share).sum(dim=2)
        shape = (entropy * inside).sum() / inside.sum().clamp(min=1)
        score = functional.binary_cross_entropy_with_logits(summary[:, 0], batch["is_face"])
        off = (summary[:, 1:] - batch["pose"] / 30).abs().mean(dim=1)
        pose = (off * count).sum() / faces
        fooled = (torch.sigmoid(summary[:, 0]) > HARD_SCORE) & (batch["is_face"] < 0.5)
        self.hard.add(image[fooled])
        w = self.weights
        total = w.points * points + w.shape * shape + w.score * score + w.pose * pose
        right = ((summary[:, 0] > 0) == (batch["is_face"] > 0.5)).float().mean()
        return total, {
            "points": points.item(),
            "shape": shape.item(),
            "score": score.item(),
            "pose_degrees": pose.item() * 30,
            "score_right": right.item(),
            "fooled": fooled.float().mean().item(),
        }

    def validate(
        self, networks: Mapping[str, torch.nn.Module], out: Path, step: int
    ) -> dict[str, float]:
        """Error on turned and shifted crops of the held-out faces, one pass and two passes."""
        network, rng = networks["landmarks"], np.random.default_rng(7)
        device = next(network.parameters()).device
        size = FaceLandmarks.size
        first, second, scores = [], [], []
        for face in self.held_out.faces:
            matrix = aligned_jitter(face.landmarks, size, rng, rough=True, flip=False)
            errors = []
            for _ in range(2):
                image = torch.from_numpy(crop(face.picture, matrix, size))[None]
                points, score, _pose = network(as_image(image.to(device)))
                found = transform_points(invert_affine(matrix), points[0].cpu().numpy())
                errors.append(float(landmark_error(found, face.landmarks)))
                matrix = face_crop_matrix(found, size)
            first.append(errors[0])
            second.append(errors[1])
            scores.append(float(torch.sigmoid(score[0])))
        return {
            "error_first_pass": float(np.mean(first)),
            "error": float(np.mean(second)),
            "error_worst_tenth": float(np.sort(second)[-max(1, len(second) // 10) :].mean()),
            "score_lowest": float(np.min(scores)),
        }

    def pictures(
        self, networks: Mapping[str, torch.nn.Module]
    ) -> Mapping[str, npt.NDArray[np.uint8]]:
        """The points found on crops of held-out faces."""
        network, rng = networks["landmarks"], np.random.default_rng(8)
        device = next(network.parameters()).device
        sheet = []
        for face in self.held_out.faces[:8]:
            matrix = aligned_jitter(face.landmarks, FaceLandmarks.size, rng, rough=True, flip=False)
            image = crop(face.picture, matrix, FaceLandmarks.size)
            points = network(as_image(torch.from_numpy(image)[None].to(device)))[0][0]
            large = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
            for x, y in (points.float().cpu().numpy() * 2 + 0.5).round().astype(int).tolist():
                cv2.circle(large, (x, y), 2, (0, 255, 0), -1, cv2.LINE_AA)
            sheet.append(np.asarray(large, dtype=np.uint8))
        return {"landmarks": np.hstack(sheet)}


def build(recipe: Mapping[str, Mapping[str, Any]]) -> LandmarkTask:
    """Make the task of a recipe."""
    return LandmarkTask(
        section(recipe, "model", Model),
        section(recipe, "data", Data),
        section(recipe, "loss", Loss),
    )
