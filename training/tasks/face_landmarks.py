"""Training of the landmark network."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Mapping
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
)
from revisage.training.metrics.landmarks import landmark_error
from revisage.training.models.face_landmarks import FaceLandmarks
from revisage.training.recipe import section

__all__ = ["LandmarkTask", "build"]

Batch = Mapping[str, torch.Tensor]
HARD_SCORE = 0.15  # a crop without a face that scores more is kept to be shown again


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


class LandmarkTask:
    """See `revisage.training.loop.Task`."""

    def __init__(self, model: Model, data: Data, loss: Loss) -> None:
        cv2.setNumThreads(1)
        a, b, c, d = model.widths
        network = FaceLandmarks((a, b, c, d))
        if model.weights:
            from safetensors.torch import load_file

            network.load_state_dict(load_file(model.weights))
        self.network: torch.nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.weights = loss
        negatives = read_negatives(data.negatives)
        self.pool = FacePool(data.portraits, "train", face_px=data.face_px, negatives=negatives)
        self.negative_share = data.negative_share
        self.hard: collections.deque[npt.NDArray[np.uint8]] = collections.deque(
            maxlen=data.hard_negatives
        )
        self.held_out = FacePool(data.portraits[:1], "val", face_px=data.face_px)

    def batches(self, rng: np.random.Generator, batch: int) -> Iterator[Batch]:
        for arrays in landmark_batches(
            self.pool,
            FaceLandmarks.size,
            batch,
            rng,
            negative_share=self.negative_share,
            hard=self.hard,
        ):
            yield {name: torch.from_numpy(array) for name, array in arrays.items()}

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        network = self.network
        assert isinstance(network, FaceLandmarks)
        logits, summary = network.heat_maps(as_image(batch["image"]))
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
        self.hard.extend(batch["image"][fooled].numpy())
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

    def validate(self, network: torch.nn.Module, out: Path, step: int) -> dict[str, float]:
        """Error on turned and shifted crops of the held-out faces, one pass and two passes."""
        rng = np.random.default_rng(7)
        size = FaceLandmarks.size
        first, second, scores = [], [], []
        for face in self.held_out.faces:
            matrix = aligned_jitter(face.landmarks, size, rng, rough=True, flip=False)
            errors = []
            for _ in range(2):
                image = torch.from_numpy(crop(face.picture, matrix, size))[None]
                points, score, _pose = network(as_image(image))
                found = transform_points(invert_affine(matrix), points[0].numpy())
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


def build(recipe: Mapping[str, Mapping[str, Any]]) -> LandmarkTask:
    """Make the task of a recipe."""
    return LandmarkTask(
        section(recipe, "model", Model),
        section(recipe, "data", Data),
        section(recipe, "loss", Loss),
    )
