"""Taking off a worn face mask, learned without pairs: the masked CycleGAN and its variants.

Two domains, faces with and without a mask. One generator takes the mask off, another puts one on
(or, with `model.single`, one generator does both, as StarGAN); critics judge each domain; a picture
that goes there and back again must be what it was. Masks are drawn on the fly on bare faces of
other people than those that stand for the bare domain, so that no pair is ever shown.

The drawn masks do have a bare face beneath them. `loss.paired`, `loss.log_mse` and `loss.coverage`
use it; they are 0 in the paper's recipe, which is unpaired, and above 0 in the compact one. Where
neither critics nor cycles have a weight, the generator that takes the mask off is all there is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from revisage.alignment import transform_points
from revisage.errors import RecipeError
from revisage.training.data.aligned_faces import AlignedFace, aligned_faces
from revisage.training.data.jitter import jittered
from revisage.training.data.mask_templates import MaskTemplates
from revisage.training.data.masked_faces import MaskedFaces
from revisage.training.data.picture_tensors import signed_pictures, unit_range
from revisage.training.data.worn_masks import wear_mask
from revisage.training.loop import Turn
from revisage.training.losses.cycle import (
    cycle_loss,
    identity_loss,
    mask_smoothness_loss,
    mask_sparsity_loss,
)
from revisage.training.losses.gan import adversarial, wasserstein_penalty
from revisage.training.losses.masked import masked_l1, masked_log_mse
from revisage.training.losses.perceptual import perceptual_loss, published_or_stand_in
from revisage.training.metrics.report import image_figures
from revisage.training.metrics.segmentation import Overlap
from revisage.training.models.critics import make_critic
from revisage.training.models.masked_cyclegan import Translation, UnmaskGenerator
from revisage.training.recipe import section

__all__ = ["BARE", "SMALL", "TINY", "Model", "UnmaskTask", "build", "make_generator"]

Batch = Mapping[str, Tensor]
Image = npt.NDArray[np.uint8]

BARE, MASKED = 0, 1  # domains

TINY: dict[str, dict[str, Any]] = {
    "run": {"steps": 10, "batch": 2, "warmup_steps": 0, "learning_rate": 2e-3},
    "optimiser": {
        "generator": {"learning_rate": 2e-3, "warmup_steps": 0},
    },
    "model": {"width": 4, "blocks": 1, "critic_width": 4, "critic_depth": 3},
    "data": {"size": 32, "held_out": 2},
    "loss": {"critic_steps": 1, "perceptual": 0.0},
}
SMALL: dict[str, dict[str, Any]] = {
    "run": {"steps": 300, "batch": 4, "warmup_steps": 20, "validate_every": 300},
    "optimiser": {
        "generator": {"learning_rate": 5e-4, "warmup_steps": 20},
        "critic": {"learning_rate": 2e-3, "warmup_steps": 20},
    },
    "model": {"width": 12, "blocks": 3, "critic_width": 16, "critic_depth": 4},
    "data": {"size": 64, "held_out": 16},
    "loss": {"critic_steps": 1},
}


@dataclasses.dataclass(frozen=True)
class Model:
    generator: str = "dmfn"  # "resnet", "stargan", "dilated", "dmfn" or "folded"
    head: str = "mask"  # "normal", "residual", "mask" or "binary_mask"
    width: int = 64
    blocks: int = 0  # 0: as many as the generator's source has
    single: bool = False  # one generator and one critic for both directions
    critic: str = "stargan"  # "stargan", "patch" or "red"
    critic_width: int = 64
    critic_depth: int = 0  # halvings; 0: as many as the critic's source has


@dataclasses.dataclass(frozen=True)
class Data:
    portraits: tuple[str, ...]  # folders of annotated portraits, or FFHQ
    masked_faces: str = ""  # folder of MaskedFace-Net, in place of drawn masks; `portraits` = FFHQ
    size: int = 256  # side of the aligned square
    min_native_face_px: float = 0.0
    masks: tuple[str, ...] = ()  # kinds of `wear_mask`; empty for its own mixture
    templates: str = ""  # folder of RGBA pictures of masks, for half of that mixture
    jitter: float = 0.0  # share of faces that are moved and lit differently; not with masked_faces
    unmasked: float = 0.0  # share of pictures that are bare faces, to be left as they are
    held_out: int = 32  # faces of the validation split that are judged


@dataclasses.dataclass(frozen=True)
class Loss:
    adversarial: str = "wasserstein"  # a name of `losses.gan.ADVERSARIAL`
    adversarial_weight: float = 1.0
    penalty: float = 10.0  # of WGAN-GP; only with adversarial = "wasserstein"
    critic_steps: int = 1  # critic steps for each generator step
    cycle: float = 10.0
    identity: float = 5.0
    domain: float = 1.0  # cross entropy of the critic's domain head; only with model.single
    sparsity: float = 0.0  # mean square of the soft mask
    smoothness: float = 0.0  # mean squared step of the soft mask
    # With the truth beneath the drawn masks, which the unpaired method does without:
    paired: float = 0.0  # L1 over the picture and under the mask
    log_mse: float = 0.0  # mean logarithm of the squared error under the mask: minus PSNR
    coverage: float = 0.0  # mean squared difference of the mask and the drawn one
    perceptual: float = 0.0  # distance of the unmasked and the true face
    perceptual_network: str = "stand_in"
    perceptual_weights: str = ""  # file of it; without one the stand-in is used


class UnmaskTask:
    """See `revisage.training.loop.Task`."""

    product, averaged = "unmask", ("unmask",)

    def __init__(self, model: Model, data: Data, loss: Loss) -> None:
        self.model, self.data, self.weights = model, data, loss
        self.unpaired = loss.adversarial_weight > 0 or loss.cycle > 0
        if not self.unpaired and not (loss.paired > 0 or loss.log_mse > 0):
            raise RecipeError(
                "[loss] nothing says what a bare face looks like: set adversarial_weight, cycle, "
                "paired or log_mse above 0"
            )
        self.needs_bare = self.unpaired or loss.identity > 0
        self.watch = "generator/cycle" if self.unpaired else "generator/loss"
        try:
            self.networks = _networks(model, data.size, self.unpaired)
            self.adversarial = adversarial(loss.adversarial)
        except ValueError as error:
            raise RecipeError(f"[model] or [loss]: {error}") from error
        critics = tuple(name for name in self.networks if name.startswith("critic"))
        generators = tuple(name for name in self.networks if name not in critics)
        self.turns = [Turn("generator", generators, self.generator_loss)]
        if critics:
            repeats = loss.critic_steps
            self.turns.insert(0, Turn("critic", critics, self.critic_loss, repeats=repeats))
        self.notes: dict[str, str] = {}
        self.templates = MaskTemplates(data.templates) if data.templates else None
        self.faces: dict[str, Sequence[AlignedFace]] = {}  # by split
        self.photographed: dict[str, MaskedFaces] = {}  # by split
        if data.masked_faces:
            if data.jitter > 0:
                raise RecipeError("[data] jitter needs drawn masks: leave masked_faces empty, or 0")
            if len(data.portraits) != 1:
                raise RecipeError("[data] masked_faces needs one folder in portraits: its FFHQ")
            for split in ("train", "val"):
                pictures = MaskedFaces(data.masked_faces, data.portraits[0], split)
                self.photographed[split] = pictures
        self.perceptual = None
        if loss.perceptual > 0:
            self.perceptual = published_or_stand_in(
                loss.perceptual_network, loss.perceptual_weights
            )
            self.notes["perceptual"] = self.perceptual.record
        cv2.setNumThreads(1)

    # -- data -------------------------------------------------------------------------------------

    def _faces(self, split: str) -> Sequence[AlignedFace]:
        """Faces of a split that wear no mask in the photo."""
        if split in self.faces:
            return self.faces[split]
        data = self.data
        faces = aligned_faces(
            data.portraits, split, data.size, min_native_face_px=data.min_native_face_px
        )
        bare = [face for face in faces if not face.extra.get("face_mask", False)]
        if not bare:
            raise RecipeError(f"[data] portraits: no bare face in split {split!r}")
        self.faces[split] = bare
        return bare

    def _maskable(self, split: str) -> Sequence[AlignedFace]:
        """Faces that can be shown with a mask: all, unless masks come from a data set."""
        faces = self._faces(split)
        if split not in self.photographed:
            return faces
        return [face for face in faces if face in self.photographed[split]]

    def _masked(
        self, face: AlignedFace, split: str, rng: np.random.Generator
    ) -> tuple[Image, npt.NDArray[np.float32]]:
        """[S, S, 3] with a mask on, and its coverage [S, S]."""
        if split in self.photographed:
            found = self.photographed[split].wear(face, rng)
            return found.image, found.mask
        kind = str(rng.choice(self.data.masks)) if self.data.masks else None
        worn = wear_mask(face.image, face.landmarks, rng, kind=kind, templates=self.templates)
        return worn.image, worn.mask

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """`masked`, `truth` (the same face bare), `coverage` (the mask), and `bare` (another face).

        Without critics, cycles and identity there is no `bare`.

        Pictures are [N, 3, S, S] in [-1, 1], the coverage is [N, 1, S, S] in [0, 1]. Each picture
        is mirrored in half of all cases.
        """
        faces, maskable = self._faces("train"), self._maskable("train")
        rows: list[tuple[Image, Image, Image, npt.NDArray[np.float32]]] = []
        for _ in range(size):
            face = maskable[int(rng.integers(len(maskable)))]
            if self.data.jitter > 0 and rng.random() < self.data.jitter:
                face = _jittered(face, rng)
            masked, coverage = self._masked(face, "train", rng)
            truth = face.image
            bare = _somebody_else(faces, face, rng).image if self.needs_bare else truth
            if self.data.unmasked > 0 and rng.random() < self.data.unmasked:
                masked, coverage = truth, np.zeros_like(coverage)
            if rng.random() < 0.5:
                masked, truth, coverage = masked[:, ::-1], truth[:, ::-1], coverage[:, ::-1]
            if rng.random() < 0.5:
                bare = bare[:, ::-1]
            rows.append((masked, truth, bare, coverage))
        masked_, truth_, bare_, coverage_ = zip(*rows, strict=True)
        batch = {
            "masked": signed_pictures(masked_),
            "truth": signed_pictures(truth_),
            "coverage": torch.from_numpy(np.stack(coverage_).astype(np.float32))[:, None],
        }
        return {**batch, "bare": signed_pictures(bare_)} if self.needs_bare else batch

    # -- losses -----------------------------------------------------------------------------------

    def _translate(self, picture: Tensor, domain: int) -> Translation:
        """A picture brought to a domain."""
        made: Translation
        if self.model.single:
            made = self.networks["unmask"](picture, domain)
        else:
            made = self.networks["unmask" if domain == BARE else "mask"](picture)
        return made

    def _critic(self, domain: int) -> nn.Module:
        if self.model.single:
            return self.networks["critic"]
        return self.networks["critic_bare" if domain == BARE else "critic_masked"]

    def critic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Of the critics, over both domains; the generators are only run."""
        with torch.no_grad():
            made = {
                BARE: self._translate(batch["masked"], BARE).image,
                MASKED: self._translate(batch["bare"], MASKED).image,
            }
        total = torch.zeros((), device=batch["bare"].device)
        parts = {"adversarial": 0.0}
        for domain, real in ((BARE, batch["bare"]), (MASKED, batch["masked"])):
            fake, critic = made[domain], self._critic(domain)
            if self.model.single:
                scores, logits = critic.judge(real)  # type: ignore[operator]
                kind = functional.cross_entropy(logits, _labels(real, domain))
                total = total + self.weights.domain * kind
                parts["domain"] = parts.get("domain", 0.0) + kind.item()
            else:
                scores = critic(real)
            loss = self.adversarial.critic(scores.float(), critic(fake).float())
            total = total + loss
            parts["adversarial"] += loss.item()
            if self.weights.adversarial == "wasserstein":
                penalty = wasserstein_penalty(critic, real, fake)
                total = total + self.weights.penalty * penalty
                parts["penalty"] = parts.get("penalty", 0.0) + penalty.item()
        return total, parts

    def _adversarial(self, fake: Tensor, real: Tensor, domain: int) -> tuple[Tensor, Tensor]:
        """The generator's adversarial loss, and its domain loss (0 for a pair of generators)."""
        critic = self._critic(domain)
        with torch.no_grad():  # the relativistic loss alone looks at them
            reference = critic(real) if self.weights.adversarial == "relativistic" else None
        if not self.model.single:
            return self.adversarial.generator(critic(fake), reference), fake.new_zeros(())
        scores, logits = critic.judge(fake)  # type: ignore[operator]
        kind = functional.cross_entropy(logits, _labels(fake, domain))
        return self.adversarial.generator(scores, reference), kind

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Of the generators: adversarial, cycle, identity, masks, and what the recipe adds."""
        weights = self.weights
        masked = batch["masked"]
        off = self._translate(masked, BARE)
        made = [off]
        sources = [(batch["bare"], BARE)] if self.needs_bare else []
        terms: dict[str, tuple[float, Tensor]] = {}
        if self.unpaired:
            bare = batch["bare"]
            on = self._translate(bare, MASKED)
            made.append(on)
            sources.append((masked, MASKED))
            for fake, (real, domain) in zip(made, sources, strict=True):
                fooled, kind = self._adversarial(fake.image, real, domain)
                _add(terms, "adversarial", weights.adversarial_weight, fooled)
                if self.model.single:
                    _add(terms, "domain", weights.domain, kind)
            _add(terms, "cycle", weights.cycle, cycle_loss(self._back(off, MASKED), masked))
            _add(terms, "cycle", weights.cycle, cycle_loss(self._back(on, BARE), bare))
        if weights.identity > 0:
            for picture, domain in sources:
                kept = self._translate(picture, domain).image
                _add(terms, "identity", weights.identity, identity_loss(kept, picture))
        if self.model.head in {"mask", "binary_mask"}:
            for translation in made:
                if weights.sparsity > 0:
                    _add(terms, "sparsity", weights.sparsity, mask_sparsity_loss(translation.mask))
                if weights.smoothness > 0:
                    rough = mask_smoothness_loss(translation.mask)
                    _add(terms, "smoothness", weights.smoothness, rough)
            if weights.coverage > 0:
                wrong = functional.mse_loss(off.mask, batch["coverage"])
                _add(terms, "coverage", weights.coverage, wrong)
        if weights.paired > 0:
            error = functional.l1_loss(off.image, batch["truth"])
            error = error + masked_l1(off.image, batch["truth"], batch["coverage"])
            _add(terms, "paired", weights.paired, error)
        if weights.log_mse > 0:
            found, true = unit_range(off.image), unit_range(batch["truth"])
            _add(terms, "log_mse", weights.log_mse, masked_log_mse(found, true, batch["coverage"]))
        if self.perceptual is not None:
            error = perceptual_loss(
                self.perceptual, unit_range(off.image), unit_range(batch["truth"])
            )
            _add(terms, "perceptual", weights.perceptual, error)
        total = torch.stack([weight * value for weight, value in terms.values()]).sum()
        return total, {name: value.item() for name, (_, value) in terms.items()}

    def _back(self, made: Translation, domain: int) -> Tensor:
        return self._translate(made.image, domain).image

    # -- what it is worth -------------------------------------------------------------------------

    def _held_out(self, count: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """`masked`, `truth` [1, 3, S, S] in [-1, 1] and `coverage`, the same every time."""
        rng = np.random.default_rng(2718)
        rows = []
        for face in self._maskable("val")[:count]:
            masked, coverage = self._masked(face, "val", rng)
            cover = torch.from_numpy(coverage.astype(np.float32))[None, None]
            rows.append((signed_pictures([masked]), signed_pictures([face.image]), cover))
        return rows

    def validate(self, networks: Mapping[str, nn.Module], out: Path, step: int) -> dict[str, float]:
        """Held-out faces against the truth beneath their masks.

        `psnr`, `l1` and `l2` are of the pixels that the mask covers, `picture_psnr` and
        `picture_l1` of all; `ssim` and `ms_ssim` look at the whole picture. The same with the
        prefix `masked_` is of the input itself: what doing nothing would get. `iou` compares the
        soft mask, at 0.5, with the drawn one, for heads that have one.
        """
        network = networks[self.product]
        device = next(network.parameters()).device
        sums: dict[str, list[float]] = {}
        overlap = Overlap()
        for masked, truth, coverage in self._held_out(self.data.held_out):
            with torch.no_grad():
                made: Translation = network(masked.to(device), BARE)
            found, true, cover = unit_range(made.image).cpu(), unit_range(truth), coverage > 0.5
            if not bool(cover.any()):  # a mask outside the square
                continue
            figures = _figures(found, true, cover)
            for name, value in _figures(unit_range(masked), true, cover).items():
                figures[f"masked_{name}"] = value
            if self.model.head in {"mask", "binary_mask"}:
                overlap.add(made.mask[0, 0].cpu().numpy() > 0.5, cover[0, 0].numpy())
            for name, value in figures.items():
                sums.setdefault(name, []).append(value)
        if not sums:
            raise RecipeError("[data] portraits: no held-out face could be given a mask")
        means = {name: float(np.mean(values)) for name, values in sums.items()}
        return {**means, "iou": overlap.iou} if overlap.found or overlap.truth else means

    def pictures(self, networks: Mapping[str, nn.Module]) -> Mapping[str, Image]:
        """Held-out faces in columns: masked, the soft mask, unmasked, the truth."""
        network = networks[self.product]
        device = next(network.parameters()).device
        columns = []
        for masked, truth, _ in self._held_out(8):
            with torch.no_grad():
                made: Translation = network(masked.to(device), BARE)
            mask = made.mask.cpu().expand(-1, 3, -1, -1)
            rows = torch.cat(
                [unit_range(masked), mask, unit_range(made.image).cpu(), unit_range(truth)], dim=2
            )
            columns.append(rows[0].clamp(0, 1))
        sheet = torch.cat(columns, dim=2).permute(1, 2, 0).numpy()
        return {"unmask": np.round(sheet * 255).astype(np.uint8)}


def make_generator(model: Model) -> UnmaskGenerator:
    """A generator as [model] says: picture [N, 3, S, S] in [-1, 1], domain -> `Translation`.

    Raises:
        ValueError: a network that cannot be built.
    """
    return UnmaskGenerator(
        model.generator,  # type: ignore[arg-type]
        model.head,  # type: ignore[arg-type]
        model.width,
        model.blocks,
        2 if model.single else 0,
    )


def _networks(model: Model, size: int, unpaired: bool) -> dict[str, nn.Module]:
    """Generators and critics by name; raises ValueError for what cannot be built."""
    if model.single and model.critic != "stargan":
        raise ValueError('single = true needs critic = "stargan", which has a domain head')
    if model.single and not unpaired:
        raise ValueError("single = true needs adversarial_weight or cycle above 0")

    def critic(classes: int = 0) -> nn.Module:
        return make_critic(model.critic, size, model.critic_width, model.critic_depth, classes)

    if not unpaired:
        return {"unmask": make_generator(model)}
    if model.single:
        return {"unmask": make_generator(model), "critic": critic(classes=2)}
    return {
        "unmask": make_generator(model),
        "mask": make_generator(model),
        "critic_bare": critic(),
        "critic_masked": critic(),
    }


def _jittered(face: AlignedFace, rng: np.random.Generator) -> AlignedFace:
    # The colour of the skin is to be read from the face, not known: most people here are light.
    image, matrix = jittered(face.image, rng, moved=0.5, lit=2.0)
    points = transform_points(matrix, face.landmarks)
    return AlignedFace(face.id, face.identity, image, points, face.native_face_px, face.extra)


def _somebody_else(
    faces: Sequence[AlignedFace], face: AlignedFace, rng: np.random.Generator
) -> AlignedFace:
    """A face of another person; of anybody where there is only one."""
    start = int(rng.integers(len(faces)))
    for step in range(len(faces)):
        other = faces[(start + step) % len(faces)]
        if other.identity != face.identity:
            return other
    return faces[start]


def _figures(found: Tensor, true: Tensor, cover: Tensor) -> dict[str, float]:
    """Under the mask, and with the prefix `picture_` over all pixels."""
    whole = image_figures(found, true)
    return {
        **image_figures(found, true, cover),
        "picture_psnr": whole["psnr"],
        "picture_l1": whole["l1"],
    }


def _labels(picture: Tensor, domain: int) -> Tensor:
    return torch.full((len(picture),), domain, dtype=torch.long, device=picture.device)


def _add(terms: dict[str, tuple[float, Tensor]], name: str, weight: float, value: Tensor) -> None:
    """Sum up both directions of a loss under one name."""
    value = value.float()
    terms[name] = (weight, terms[name][1] + value if name in terms else value)


def build(recipe: Mapping[str, Mapping[str, Any]]) -> UnmaskTask:
    """The task of a recipe."""
    return UnmaskTask(
        section(recipe, "model", Model),
        section(recipe, "data", Data),
        section(recipe, "loss", Loss),
    )
