"""Adversarial training of a filler, as LaMa is trained, with the wrinkle paper's two losses.

Suvorov et al. 2022, "Resolution-robust Large Mask Inpainting with Fourier Convolutions" (LaMa),
section 2: L1 on the known pixels, a patch critic that counts only patches of the hole as fake, its
R1 penalty, feature matching, and the high-receptive-field perceptual loss. Sanchez et al. 2022,
"Photorealistic Facial Wrinkles Removal", add the focal frequency loss and the wrinkle critic: the
segmentation network must see no wrinkle in what was filled.

Every loss has a weight; 0 leaves it out, which is how the rows of an ablation are made. The critic
always takes its turn, so that a recipe's `[optimiser.critic]` fits every row.
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
from torch import Tensor, nn

from revisage.errors import RecipeError
from revisage.training.baselines.texture_synthesis import synthesise_texture
from revisage.training.data.aligned_faces import AlignedFace, aligned_faces
from revisage.training.data.holes import free_form_hole, stroke_holes
from revisage.training.data.wrinkles import wrinkle_mask
from revisage.training.importers import from_checkpoint
from revisage.training.loop import Turn
from revisage.training.losses.adversarial import (
    critic_loss,
    feature_matching_loss,
    filler_adversarial_loss,
    gradient_penalty,
)
from revisage.training.losses.focal_frequency import focal_frequency_loss
from revisage.training.losses.masked import known_missing_l1
from revisage.training.losses.perceptual import (
    file_record,
    high_receptive_field_loss,
    load_published,
    published_or_stand_in,
)
from revisage.training.losses.wrinkle_critic import WrinkleCritic
from revisage.training.metrics.frechet import (
    FrechetFeatures,
    features_of,
    frechet_distance,
    frechet_features,
)
from revisage.training.metrics.lpips import FeatureDistance, Lpips, lpips_network
from revisage.training.metrics.report import image_figures
from revisage.training.models.lama import LamaDiscriminator, LamaGenerator, composite
from revisage.training.models.wrinkle_filler import CompactFiller
from revisage.training.recipe import section
from revisage.training.tasks.wrinkle_segmenter import read_segmenter

__all__ = ["HOLES", "NETWORKS", "SMALL", "TINY", "InpaintingTask", "build"]

NETWORKS = ("lama", "compact")
HOLES = ("wrinkles", "strokes", "free_form")

Batch = Mapping[str, Tensor]
Image = npt.NDArray[np.uint8]

# Overrides of every recipe of this task: ten steps in seconds, and a run of minutes that means
# something.
TINY: dict[str, dict[str, Any]] = {
    "run": {"steps": 10, "batch": 2, "warmup_steps": 0, "learning_rate": 3e-3, "accumulate": 1},
    "optimiser": {
        "generator": {"learning_rate": 3e-3, "warmup_steps": 0},
        "critic": {"learning_rate": 1e-4, "warmup_steps": 0},
    },
    "model": {
        "ngf": 4,
        "stem": 8,
        "width": 8,
        "blocks": 1,
        "weights": "",
        "critic_width": 4,
        "critic_layers": 2,
    },
    "data": {"square": 128, "crop": 32, "held_out": 4, "min_native_face_px": 0.0},
    "loss": {"perceptual_network": "stand_in", "perceptual_weights": ""},
}
SMALL: dict[str, dict[str, Any]] = {
    "run": {"steps": 300, "batch": 6, "accumulate": 1, "validate_every": 300, "warmup_steps": 20},
    "optimiser": {
        "generator": {"learning_rate": 1e-3, "warmup_steps": 20},
        "critic": {"learning_rate": 1e-4, "warmup_steps": 20},
    },
    "model": {
        "ngf": 16,
        "stem": 24,
        "width": 64,
        "blocks": 3,
        "weights": "",
        "critic_width": 24,
        "critic_layers": 3,
    },
    "data": {"square": 256, "crop": 96, "held_out": 48},
    "loss": {"perceptual_network": "stand_in", "perceptual_weights": ""},
}


@dataclasses.dataclass(frozen=True)
class Model:
    network: str = "lama"  # or "compact"
    blocks: int = 18  # residual blocks of fast Fourier convolutions
    ratio: float = 0.75  # global share of their channels
    ngf: int = 64  # lama: channels behind the stem
    downsamplings: int = 3  # lama
    stem: int = 32  # compact: channels at half size
    width: int = 96  # compact: channels at quarter size
    weights: str = ""  # file of the generator to start from; "" starts from noise
    critic_width: int = 64
    critic_layers: int = 4


@dataclasses.dataclass(frozen=True)
class Data:
    portraits: tuple[str, ...]  # folders of annotated portraits
    square: int = 512  # side of the aligned squares
    crop: int = 256  # side of the training crops
    zoom: tuple[float, float] = (0.75, 1.5)  # side of the crop in the square over `crop`
    min_native_face_px: float = 200.0
    holes: str = "wrinkles"  # or "strokes", "free_form"
    grow: tuple[int, int] = (1, 5)  # wrinkles: dilation in pixels of the square
    held_out: int = 96  # crops to validate on
    baselines: bool = False  # also judge Telea's fill and texture synthesis: telea_*, texture_*
    lpips_trunk: str = ""  # torchvision's alexnet; both "" take the stand-in
    lpips_heads: str = ""
    inception: str = ""  # of the FID; "" takes the stand-in


@dataclasses.dataclass(frozen=True)
class Loss:
    l1_known: float = 10.0
    l1_missing: float = 0.0
    adversarial: float = 10.0
    r1: float = 0.001
    feature_matching: float = 100.0
    perceptual: float = 30.0
    perceptual_network: str = "stand_in"  # or "resnet50_dilated", LaMa's own
    perceptual_weights: str = ""  # file of it; without one the stand-in is used
    focal_frequency: float = 0.0
    wrinkle_critic: float = 0.0
    segmenter: str = ""  # weights of the wrinkle critic; "" takes those that ship


def _generator(model: Model) -> nn.Module:
    network: nn.Module
    if model.network == "lama":
        network = LamaGenerator(
            ngf=model.ngf,
            n_downsampling=model.downsamplings,
            n_blocks=model.blocks,
            ratio=model.ratio,
        )
    elif model.network == "compact":
        network = CompactFiller(model.stem, model.width, model.blocks, model.ratio)
    else:
        raise RecipeError(f"[model] network: no {model.network!r}; known: {', '.join(NETWORKS)}")
    if model.weights:
        path = Path(model.weights)
        if not path.is_file():
            raise RecipeError(f"[model] weights: {path} is not a file")
        if model.network == "lama":
            network.load_state_dict(from_checkpoint(path, "lama").state_dict())
        else:
            load_published(network, path, "the compact filler")
    return network


def _segmenter_file(named: str) -> Path:
    """The file that was named, or the segmenter that ships beside the package."""
    if named:
        return Path(named)
    for place in (Path(__file__).parents[1] / "weights", Path("training") / "weights"):
        if (place / "wrinkle_segmenter.safetensors").is_file():
            return place / "wrinkle_segmenter.safetensors"
    raise RecipeError(
        "the wrinkle critic needs a trained segmenter: name its file as loss.segmenter, or run in "
        "a checkout of the repository"
    )


class InpaintingTask:
    """See `revisage.training.loop.Task`."""

    def __init__(self, model: Model, data: Data, loss: Loss) -> None:
        cv2.setNumThreads(1)
        if data.holes not in HOLES:
            raise RecipeError(f"[data] holes: no {data.holes!r}; known: {', '.join(HOLES)}")
        self.model, self.data, self.weights = model, data, loss
        self.networks = {
            "generator": _generator(model),
            "critic": LamaDiscriminator(3, model.critic_width, model.critic_layers),
        }
        self.product, self.averaged = "generator", ("generator",)
        self.turns = (
            Turn("generator", ("generator",), self.generator_loss),
            Turn("critic", ("critic",), self.critic_loss),
        )
        self.watch = "generator/loss"
        self.notes: dict[str, str] = {}
        self.perceptual = None
        if loss.perceptual > 0:
            self.perceptual = published_or_stand_in(
                loss.perceptual_network, loss.perceptual_weights
            )
            self.notes["perceptual"] = self.perceptual.record
        # Wrinkle-shaped holes are judged by what the segmenter sees in them, whatever the losses.
        self.segmenter: nn.Module | None = None
        if loss.wrinkle_critic > 0 or data.holes == "wrinkles":
            file = _segmenter_file(loss.segmenter)
            self.segmenter = read_segmenter(file)
            self.notes["wrinkle critic"] = file_record(file)
        stands_in = self.perceptual is not None and self.perceptual.kind == "stand_in"
        self.distance: Lpips | FeatureDistance
        if stands_in and not (data.lpips_trunk or data.lpips_heads):
            assert self.perceptual is not None
            self.distance = FeatureDistance(self.perceptual)  # the same network, read once
        else:
            self.distance = lpips_network(data.lpips_trunk, data.lpips_heads)
        self.notes["lpips"] = self.distance.record
        self.frechet: FrechetFeatures | None = None  # read when first validated
        self.fixed: dict[str, float] = {}  # figures of the baselines, the same every time

    # -- data -------------------------------------------------------------------------------------

    def _faces(self, split: str) -> list[AlignedFace]:
        data = self.data
        return aligned_faces(
            data.portraits, split, data.square, min_native_face_px=data.min_native_face_px
        )

    def _crop(self, face: AlignedFace, rng: np.random.Generator, *, jitter: bool) -> _Crop:
        """A window of an aligned face: image [crop, crop, 3] uint8 and hole [crop, crop]."""
        data = self.data
        zoom = float(np.exp(rng.uniform(*np.log(data.zoom)))) if jitter else 1.0
        side = min(data.square, round(data.crop * zoom))
        corner = rng.integers(0, data.square - side + 1, 2)
        hole = np.zeros((0, 0), np.uint8)
        if data.holes == "wrinkles":
            hole = wrinkle_mask(
                face.landmarks,
                data.square,
                rng,
                amount=float(rng.uniform(0.8, 2.0)),
                grow=int(rng.integers(data.grow[0], data.grow[1] + 1)),
            )
            places = np.argwhere(hole)
            if len(places):
                middle = places[int(rng.integers(len(places)))] + rng.integers(-8, 9, 2)
                corner = np.clip(middle - side // 2, 0, data.square - side)
        top, left = (int(v) for v in corner)
        window = (slice(top, top + side), slice(left, left + side))
        shape, image = (data.crop, data.crop), face.image[window]
        if side != data.crop:
            way = cv2.INTER_AREA if side > data.crop else cv2.INTER_CUBIC
            image = np.asarray(cv2.resize(image, shape, interpolation=way), dtype=np.uint8)
        if data.holes == "wrinkles":
            resized = cv2.resize(hole[window], shape, interpolation=cv2.INTER_NEAREST)
            hole = np.asarray(resized, dtype=np.uint8)
        elif data.holes == "free_form":
            hole = free_form_hole(data.crop, rng)
        # A face may have grown no wrinkle in this draw.
        if data.holes == "strokes" or not hole.any():
            hole = stroke_holes(data.crop, rng)
        if jitter and rng.random() < 0.5:
            image, hole = image[:, ::-1], hole[:, ::-1]
        return np.ascontiguousarray(image), np.ascontiguousarray(hole)

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """`image` [N, 3, H, W] in [0, 1] and `mask` [N, 1, H, W], 1 = hole."""
        faces = self._faces("train")
        crops = [
            self._crop(faces[int(rng.integers(len(faces)))], rng, jitter=True) for _ in range(size)
        ]
        return _batch(crops)

    def _held_out(self) -> list[_Crop]:
        faces, rng = self._faces("val"), np.random.default_rng(97)  # the same every time
        return [
            self._crop(faces[index % len(faces)], rng, jitter=False)
            for index in range(self.data.held_out)
        ]

    # -- losses -----------------------------------------------------------------------------------

    def _filled(self, generator: nn.Module, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The prediction for every pixel, and the picture with only the hole replaced."""
        if self.model.network == "lama":
            predicted, filled = composite(generator, image, mask)
            return predicted.float(), filled.float()
        filled = generator(image, mask).float()
        return filled, filled

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """LaMa's final loss (its equation 7) and the two of the wrinkle paper."""
        image, mask, weights = batch["image"], batch["mask"], self.weights
        predicted, filled = self._filled(self.networks["generator"], image, mask)
        terms: dict[str, tuple[float, Tensor]] = {
            "reconstruction": (
                1.0,
                known_missing_l1(
                    predicted, image, mask, known=weights.l1_known, missing=weights.l1_missing
                ),
            )
        }
        if weights.adversarial > 0 or weights.feature_matching > 0:
            critic = self.networks["critic"]
            with torch.no_grad():
                _, real_features = critic(image)
            # As published: the critic sees the prediction for the known pixels too.
            scores, features = critic(predicted)
            terms["adversarial"] = weights.adversarial, filler_adversarial_loss(scores.float())
            terms["feature_matching"] = (
                weights.feature_matching,
                feature_matching_loss(
                    [f.float() for f in features], [f.float() for f in real_features]
                ),
            )
        if self.perceptual is not None:
            terms["perceptual"] = (
                weights.perceptual,
                high_receptive_field_loss(self.perceptual, predicted, image),
            )
        if weights.focal_frequency > 0:
            terms["focal_frequency"] = weights.focal_frequency, focal_frequency_loss(filled, image)
        if weights.wrinkle_critic > 0:
            assert self.segmenter is not None
            terms["wrinkle_critic"] = (
                weights.wrinkle_critic,
                WrinkleCritic(self.segmenter)(filled, mask),
            )
        total = torch.stack([weight * term for weight, term in terms.values()]).sum()
        parts = {name: term.item() for name, (_, term) in terms.items()}
        parts["l1"] = (predicted.detach() - image).abs().mean().item()
        return total, parts

    def critic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Equations 4 and 5 of LaMa: fake only where the hole is, and R1 on the originals."""
        image, mask = batch["image"].clone().requires_grad_(), batch["mask"]
        with torch.no_grad():
            predicted, _ = self._filled(self.networks["generator"], batch["image"], mask)
        critic = self.networks["critic"]
        real_scores, _ = critic(image)
        fake_scores, _ = critic(predicted)
        real_scores, fake_scores = real_scores.float(), fake_scores.float()
        penalty = gradient_penalty(real_scores, image)
        total = critic_loss(real_scores, fake_scores, mask, penalty, penalty_weight=self.weights.r1)
        return total, {
            "r1": penalty.item(),
            "real": real_scores.mean().item(),
            "fake": fake_scores.mean().item(),
        }

    # -- figures ----------------------------------------------------------------------------------

    def validate(self, networks: Mapping[str, nn.Module], out: Path, step: int) -> dict[str, float]:
        """Figures of fills of held-out crops.

        Returns:
            psnr, l1, l2 in the holes; ssim, ms_ssim and the perceptual and Frechet distances of the
            whole crops; and with wrinkle-shaped holes `wrinkle_left`, the share of the hole in
            which the segmenter sees a wrinkle. With `data.baselines` the same under telea_ and
            texture_.
        """
        crops = self._held_out()
        generator = networks["generator"]

        def ours(image: Image, hole: Image) -> Image:
            return _fill(self._filled, generator, image, hole)

        figures = self._figures(ours, crops)
        if self.data.baselines and not self.fixed:
            others: dict[str, Callable[[Image, Image], Image]] = {
                "telea": lambda image, hole: np.asarray(
                    cv2.inpaint(image, hole, 3, cv2.INPAINT_TELEA), dtype=np.uint8
                ),
                "texture": lambda image, hole: synthesise_texture(image, hole, patch=5),
            }
            for name, fill in others.items():
                for key, value in self._figures(fill, crops).items():
                    self.fixed[f"{name}_{key}"] = value
        return figures | self.fixed

    def _figures(
        self, fill: Callable[[Image, Image], Image], crops: list[_Crop]
    ) -> dict[str, float]:
        device = next(self.distance.parameters()).device
        sums: dict[str, float] = {}
        found: list[Tensor] = []
        true: list[Tensor] = []
        wrinkled, holes = 0.0, 0.0
        for image, hole in crops:
            true.append(_pictures([image]).to(device))
            found.append(_pictures([fill(image, hole)]).to(device))
            mask = torch.from_numpy(hole)[None, None].float().to(device)
            figures = image_figures(found[-1], true[-1], mask, distance=self.distance)
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value / len(crops)
            if self.segmenter is not None:
                with torch.no_grad():
                    seen = self.segmenter(found[-1]) > 0
                wrinkled += float((seen * mask).sum())
                holes += float(mask.sum())
        if self.frechet is None:
            self.frechet = frechet_features(self.data.inception)
        one, two = (
            features_of(self.frechet, (picture.cpu() for picture in pictures))
            for pictures in (found, true)
        )
        sums[self.frechet.name] = frechet_distance(one, two)
        if self.segmenter is not None:
            sums["wrinkle_left"] = wrinkled / max(1.0, holes)
        return sums

    def pictures(self, networks: Mapping[str, nn.Module]) -> Mapping[str, Image]:
        """Held-out crops in columns: as they are, with the hole, filled."""
        columns = []
        for image, hole in self._held_out()[:8]:
            masked = np.where(hole[..., None] > 0, np.uint8(128), image)
            filled = _fill(self._filled, networks["generator"], image, hole)
            columns.append(np.vstack([image, masked, filled]))
        return {"generator": np.hstack(columns)}


_Crop = tuple[Image, Image]


def _pictures(images: list[Image]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def _batch(crops: list[_Crop]) -> Batch:
    masks = torch.from_numpy(np.stack([hole for _, hole in crops])).float()
    return {"image": _pictures([image for image, _ in crops]), "mask": masks[:, None]}


def _fill(
    fill: Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]],
    generator: nn.Module,
    image: Image,
    hole: Image,
) -> Image:
    """One picture, rounded to 8 bits as it would be saved; equal to `image` outside the hole."""
    device = next(generator.parameters()).device
    batch = {name: value.to(device) for name, value in _batch([(image, hole)]).items()}
    with torch.no_grad():
        _, filled = fill(generator, batch["image"], batch["mask"])
    values = filled[0].permute(1, 2, 0).clamp(0, 1).cpu().numpy() * 255
    return np.where(hole[..., None] > 0, np.rint(values).astype(np.uint8), image)


def build(recipe: Mapping[str, Mapping[str, Any]]) -> InpaintingTask:
    """The task of a recipe with the tables [model], [data] and [loss]."""
    return InpaintingTask(
        section(recipe, "model", Model),
        section(recipe, "data", Data),
        section(recipe, "loss", Loss),
    )
