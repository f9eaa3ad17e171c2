"""Perceptual losses: distances between the features of a fixed network.

The published trunks need their published weights, which do not come with Revisage: the user names
a file. `stand_in` is another thing and is called so: the encoders of the wrinkle segmenter and of
the landmark network that were trained here, for runs on machines that have no such file. What a
network was made of stands in its `record`, which a run keeps.

| kind | network | weights file | picture before the network |
|---|---|---|---|
| `vgg19` | VGG-19 | torchvision `vgg19` | ImageNet mean and deviation |
| `vgg_face` | VGG-16 layout, trained on faces | VGG-Face | 0..255, less its mean colour, BGR |
| `alexnet` | AlexNet | torchvision `alexnet`, or an LPIPS state dict | ImageNet |
| `resnet50_dilated` | dilated ResNet-50 | ADE20K encoder, or LaMa's `best.ckpt` | ImageNet |
| `stand_in` | our own encoders | `training/weights` | as they were trained |
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from revisage.errors import CheckpointError, RecipeError
from revisage.training.importers.checkpoint_reader import StoredTensor, read_checkpoint
from revisage.training.models.face_landmarks import FaceLandmarks
from revisage.training.models.perceptual_trunks import AlexNetTrunk, DilatedResNet50, VggTrunk
from revisage.training.models.wrinkle_segmenter import CompactSegmenter

__all__ = [
    "KINDS",
    "PerceptualNetwork",
    "high_receptive_field_loss",
    "load_published",
    "perceptual_loss",
    "perceptual_network",
    "published_or_stand_in",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
# Mean colour of VGG-Face's training pictures, RGB in 0..255.
VGG_FACE_MEAN = (129.1863, 104.7624, 93.5940)
LISTED = 8  # keys in an error message, before "and N more"


class StandInTrunk(nn.Module):
    """The encoders of the wrinkle segmenter and of the landmark network, side by side.

    `skin2` to `skin16` come from the segmenter, which reads fine texture; `face4` to `face32` from
    the landmark network, which reads where the parts of a face are. The number is the stride.
    """

    names = ("skin2", "skin4", "skin8", "skin16", "face4", "face8", "face16", "face32")

    def __init__(self) -> None:
        super().__init__()
        self.segmenter = CompactSegmenter()
        self.landmarks = FaceLandmarks()

    def forward(self, image: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """Features of the wanted layers of RGB in [0, 1], [N, 3, H, W]."""
        # The segmenter's shortcuts pool by whole cells of 16 pixels.
        height, width = image.shape[-2:]
        image = functional.pad(image, (0, -width % 16, 0, -height % 16), mode="replicate")
        found: dict[str, Tensor] = {}
        if any(name.startswith("skin") for name in wanted):
            segmenter = self.segmenter
            out = segmenter.stem((image - segmenter.mean) / segmenter.deviation)
            found["skin2"] = out
            for stride, stage in zip((4, 8, 16), segmenter.stages, strict=True):
                out = found[f"skin{stride}"] = stage(out)
        if any(name.startswith("face") for name in wanted):
            landmarks = self.landmarks
            out = found["face4"] = landmarks.stage4(landmarks.stem(image - 0.5))
            out = found["face8"] = landmarks.stage8(out)
            out = found["face16"] = landmarks.stage16(out)
            found["face32"] = landmarks.stage32(out)
        return {name: found[name] for name in self.names if name in wanted}


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What is known about one published trunk."""

    build: type[nn.Module] | tuple[type[nn.Module], int]
    default_layers: tuple[str, ...]
    how_to_get: str
    mean: tuple[float, float, float] = IMAGENET_MEAN
    deviation: tuple[float, float, float] = IMAGENET_DEVIATION
    bgr: bool = False
    prefixes: tuple[str, ...] = ("", "module.")
    ignored: tuple[str, ...] = ()  # patterns of keys that the trunk leaves out
    renames: tuple[tuple[str, str], ...] = ()  # pattern, name of the layer in the trunk

    def trunk(self) -> nn.Module:
        if isinstance(self.build, tuple):
            network, depth = self.build
            return network(depth)
        return self.build()


_PUBLISHED: dict[str, _Kind] = {
    "vgg19": _Kind(
        build=(VggTrunk, 19),
        default_layers=("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"),
        how_to_get="torchvision's vgg19 state dict (vgg19-dcbb9e9d.pth of download.pytorch.org)",
        ignored=(r"classifier\..*",),
    ),
    "vgg_face": _Kind(
        build=(VggTrunk, 16),
        default_layers=("relu3_3", "relu4_3"),
        how_to_get="VGG-Face as a PyTorch state dict (vgg_face_dag.pth; keys conv1_1.weight, ...)",
        mean=tuple(m / 255 for m in VGG_FACE_MEAN),  # type: ignore[arg-type]
        deviation=(1 / 255, 1 / 255, 1 / 255),
        bgr=True,
        ignored=(r"classifier\..*", r"fc_?\d.*"),
        renames=((r"conv_?(\d)_(\d)\.(weight|bias)", r"conv\1_\2.\3"),),
    ),
    "alexnet": _Kind(
        build=AlexNetTrunk,
        default_layers=("relu1", "relu2", "relu3", "relu4", "relu5"),
        how_to_get="torchvision's alexnet state dict (alexnet-owt-7be5be79.pth of "
        "download.pytorch.org)",
        ignored=(r"classifier\..*", r"scaling_layer\..*", r"lins?\d?\..*"),
        renames=((r"net\.slice\d\.(\d+)\.(weight|bias)", r"features.\1.\2"),),
    ),
    "resnet50_dilated": _Kind(
        build=DilatedResNet50,
        default_layers=DilatedResNet50.names,
        how_to_get="the encoder_epoch_20.pth of ade20k-resnet50dilated-ppm_deepsup "
        "(CSAILVision/semantic-segmentation-pytorch), or LaMa's best.ckpt, which holds it too",
        # The second is where LaMa's training checkpoints keep it.
        prefixes=("", "loss_resnet_pl.impl.", "module."),
        ignored=(r"fc\..*",),
    ),
}
KINDS = (*_PUBLISHED, "stand_in")


class PerceptualNetwork(nn.Module):
    """A frozen trunk with its normalisation: RGB [N, 3, H, W] in [0, 1] -> features by layer name.

    The trunk stays in eval mode whatever the mode of what holds it; gradients reach the picture.

    Args:
        kind: one of `KINDS`.
        trunk: called with the normalised picture and the names of the wanted layers; its `names`
            are all there are.
        default_layers: what is compared where the caller names no layers.
        mean, deviation: of the normalisation (x - mean) / deviation, RGB.
        bgr: whether the trunk wants its channels in the order B, G, R.
        record: which network, from which file, with its SHA-256.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        kind: str,
        trunk: nn.Module,
        default_layers: Sequence[str],
        *,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        deviation: Sequence[float] = (1.0, 1.0, 1.0),
        bgr: bool = False,
        record: str = "",
    ) -> None:
        super().__init__()
        self.kind, self.record, self.bgr = kind, record, bgr
        self.layers: tuple[str, ...] = tuple(trunk.names)  # type: ignore[arg-type]
        self.default_layers = tuple(default_layers)
        self.trunk = trunk
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).reshape(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> PerceptualNetwork:
        """Stay in eval mode: the statistics of the batch norms are part of the weights."""
        return super().train(False)

    def forward(self, image: Tensor, layers: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Feature maps by layer name, shallow ones first.

        Args:
            image: [N, 3, H, W] RGB in [0, 1].
            layers: names out of `layers`; None takes `default_layers`.

        Raises:
            ValueError: an unknown layer, or not three channels.
        """
        wanted = self.default_layers if layers is None else tuple(layers)
        unknown = [name for name in wanted if name not in self.layers]
        if unknown or not wanted:
            raise ValueError(
                f"{self.kind} has no layer {', '.join(unknown) or '(none was named)'}; "
                f"it has {', '.join(self.layers)}"
            )
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"pictures must be [N, 3, H, W], got {list(image.shape)}")
        normalised = (image - self.mean) / self.deviation
        if self.bgr:
            normalised = normalised.flip(1)
        features: dict[str, Tensor] = self.trunk(normalised, frozenset(wanted))
        return features


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:LISTED])
    return shown if len(names) <= LISTED else f"{shown} and {len(names) - LISTED} more"


def file_record(path: Path) -> str:
    """The file and its SHA-256, as a run records them."""
    with path.open("rb") as file:
        return f"{path}, sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"


def _state_dicts(content: Any) -> Iterator[dict[str, StoredTensor]]:
    """The mappings of tensors in a checkpoint: itself, then what stands one level down."""
    if isinstance(content, Mapping):
        for mapping in (content, *(v for v in content.values() if isinstance(v, Mapping))):
            tensors = {
                key: value
                for key, value in mapping.items()
                if isinstance(key, str) and isinstance(value, StoredTensor)
            }
            if tensors:
                yield tensors


def load_published(
    network: nn.Module,
    path: str | Path,
    name: str,
    *,
    prefixes: Sequence[str] = ("",),
    ignored: Sequence[str] = (),
    renames: Sequence[tuple[str, str]] = (),
) -> None:
    """Fill a network from a published file, which is read as data and never executed.

    Args:
        network: its state dict says what is needed; a key `features.N.*` of a `SequentialTrunk`
            may also stand in the file under the name of its layer.
        name: of the network, for messages.
        prefixes: what may stand in front of every key; the one with the most known keys is taken,
            and keys without it belong to other networks.
        ignored: patterns of keys that the file may hold too.
        renames: pattern and replacement for keys of other layouts.

    Raises:
        CheckpointError: the file cannot be read, or keys are missing, surplus or of other shapes.
    """
    wanted = network.state_dict()
    by_name = {
        f"{layer}.{part}": f"features.{index}.{part}"
        for index, layer in enumerate(getattr(network, "names", ()))
        for part in ("weight", "bias")
        if f"features.{index}.{part}" in wanted
    }

    def renamed(key: str) -> str:
        for pattern, replacement in renames:
            if re.fullmatch(pattern, key):
                key = re.sub(pattern, replacement, key)
        return by_name.get(key, key)

    best: dict[str, StoredTensor] = {}
    for tensors in _state_dicts(read_checkpoint(path).content):
        for prefix in prefixes:
            given = {
                renamed(key.removeprefix(prefix)): value
                for key, value in tensors.items()
                if key.startswith(prefix)
            }
            if len(wanted.keys() & given.keys()) > len(wanted.keys() & best.keys()):
                best = given
    if not best:
        raise CheckpointError(
            f"{path}: holds no tensor of {name}, whose keys are {_listed(list(wanted))}"
        )
    missing = [k for k in wanted if k not in best and not k.endswith("num_batches_tracked")]
    surplus = [
        k
        for k in best
        if k not in wanted
        and not k.endswith("num_batches_tracked")
        and not any(re.fullmatch(pattern, k) for pattern in ignored)
    ]
    shapes = [
        f"{k} {list(best[k].shape)} instead of {list(v.shape)}"
        for k, v in wanted.items()
        if k in best and tuple(best[k].shape) != tuple(v.shape)
    ]
    reasons = [
        f"{what}: {_listed(names)}"
        for what, names in (
            ("missing keys", missing),
            ("unknown keys", surplus),
            ("wrong shapes", shapes),
        )
        if names
    ]
    if reasons:
        raise CheckpointError(f"{path}: does not fit {name}; " + "; ".join(reasons))
    state = dict(wanted)
    for key in wanted.keys() & best.keys():
        value = best[key].load()
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{path}: {key} holds values that are not finite")
        state[key] = value.to(wanted[key].dtype)
    network.load_state_dict(state)


def _existing(path: str, need: str) -> Path:
    place = Path(path)
    if not place.is_file():
        raise RecipeError(f"{path or '(no file)'} is not a file: {need}")
    return place


def _stand_in_files(folder: str) -> tuple[Path, Path]:
    """The two files of the stand-in: in a named folder, beside the package, or in the checkout."""
    places = (
        [Path(folder)]
        if folder
        else [Path(__file__).parents[1] / "weights", Path("training") / "weights"]
    )
    for place in places:
        files = place / "wrinkle_segmenter.safetensors", place / "face_landmarks.safetensors"
        if all(file.is_file() for file in files):
            return files
    raise RecipeError(
        "the perceptual stand-in needs wrinkle_segmenter.safetensors and "
        f"face_landmarks.safetensors, looked for in {' and '.join(str(p) for p in places)}: run "
        "in a checkout of the repository, or name the folder that holds them"
    )


def published_or_stand_in(
    kind: str, weights: str = "", *, centring: str = "imagenet"
) -> PerceptualNetwork:
    """The published network where its file is named, our stand-in where none is.

    A recipe at paper settings also runs on a machine without the published weights; `.record`,
    which tasks write into the run, says which network it was. See `perceptual_network`.
    """
    if kind not in KINDS:
        raise RecipeError(f"no perceptual network {kind!r}; known: {', '.join(KINDS)}")
    if not weights:
        return perceptual_network("stand_in")
    return perceptual_network(kind, weights, centring=centring)


def perceptual_network(
    kind: str, weights: str = "", *, centring: str = "imagenet"
) -> PerceptualNetwork:
    """A perceptual network with its weights.

    Args:
        kind: one of `KINDS`.
        weights: file with the published weights; for `stand_in` the folder of our weights, "" for
            the one in the repository.
        centring: "imagenet", or "dmfn" for the means of DMFN's code, which are half of ImageNet's:
            it subtracts m - 1 from pictures in [-1, 1] where 2 m - 1 would be the same colour.

    Raises:
        RecipeError: unknown kind or centring, or a file that is needed and not there.
        CheckpointError: the file does not hold the network.
    """
    if kind not in KINDS:
        raise RecipeError(f"no perceptual network {kind!r}; known: {', '.join(KINDS)}")
    if centring not in {"imagenet", "dmfn"}:
        raise RecipeError(f"no centring {centring!r}; known: imagenet, dmfn")
    if kind == "stand_in":
        stand_in = StandInTrunk()
        files = _stand_in_files(weights)
        load_published(stand_in.segmenter, files[0], "the wrinkle segmenter")
        load_published(stand_in.landmarks, files[1], "the landmark network")
        return PerceptualNetwork(
            kind,
            stand_in,
            StandInTrunk.names,
            record="stand-in (encoders trained here, no published network): "
            + "; ".join(file_record(file) for file in files),
        )
    known = _PUBLISHED[kind]
    path = _existing(
        weights,
        f"the perceptual network {kind} needs its published weights; get {known.how_to_get}, name "
        "the file in the recipe, or choose the kind 'stand_in'",
    )
    trunk = known.trunk()
    load_published(
        trunk,
        path,
        kind,
        prefixes=known.prefixes,
        ignored=known.ignored,
        renames=known.renames,
    )
    halved = centring == "dmfn"
    return PerceptualNetwork(
        kind,
        trunk,
        known.default_layers,
        mean=[m / 2 for m in known.mean] if halved else known.mean,
        deviation=known.deviation,
        bgr=known.bgr,
        record=f"{kind}{', centred as DMFN does' if halved else ''} of {file_record(path)}",
    )


def perceptual_loss(
    network: PerceptualNetwork,
    image: Tensor,
    target: Tensor,
    layers: Sequence[str] | None = None,
    *,
    distance: str = "l1",
    layer_weights: Sequence[float] | None = None,
) -> Tensor:
    """Sum over layers of the mean distance of features (Johnson et al. 2016, equation 2).

    Args:
        image, target: [N, 3, H, W] RGB in [0, 1]; gradients reach both.
        layers: None takes the network's `default_layers`.
        distance: "l1" mean absolute, "l2" mean squared difference.
        layer_weights: one for each of the layers; None weighs all with 1.

    Returns:
        Scalar.

    Raises:
        ValueError: unknown layer or distance, pictures of different shapes, or another number of
            weights than of layers.
    """
    if distance not in {"l1", "l2"}:
        raise ValueError(f"no distance {distance!r}; known: l1, l2")
    if image.shape != target.shape:
        raise ValueError(
            f"pictures must have one shape, got {list(image.shape)} and {list(target.shape)}"
        )
    names = network.default_layers if layers is None else tuple(layers)
    weights = [1.0] * len(names) if layer_weights is None else list(layer_weights)
    if len(weights) != len(names):
        raise ValueError(f"{len(names)} layers need as many weights, got {len(weights)}")
    compare = functional.l1_loss if distance == "l1" else functional.mse_loss
    found, true = network(image, names), network(target, names)
    terms = [w * compare(found[n], true[n]) for n, w in zip(names, weights, strict=True)]
    return torch.stack(terms).sum()


def high_receptive_field_loss(network: PerceptualNetwork, image: Tensor, target: Tensor) -> Tensor:
    """LaMa's high-receptive-field perceptual loss (Suvorov et al. 2022, equation 3).

    The mean squared difference of every feature map of the network, summed over the maps as the
    authors' code does. Made for `resnet50_dilated`, whose features see far around each pixel.

    Args:
        image, target: [N, 3, H, W] RGB in [0, 1].
    """
    return perceptual_loss(network, image, target, distance="l2")
