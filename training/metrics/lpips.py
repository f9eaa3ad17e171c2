"""LPIPS, the learned perceptual distance (Zhang et al. 2018, "The Unreasonable Effectiveness of
Deep Features as a Perceptual Metric"), version 0.1.

Features of five layers are scaled to unit length over the channels; their squared difference is
weighed channel by channel by learned heads and averaged over the picture (equation 1). The trunk's
and the heads' weights come from files that the user names. Without them there is a stand-in with
the features of our own networks and no heads; it has another name, `lpips_stand_in`, because its
values compare with nobody's.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from revisage.errors import RecipeError
from revisage.training.losses.perceptual import (
    PerceptualNetwork,
    file_record,
    load_published,
    perceptual_network,
)
from revisage.training.metrics.pictures import check_pair

__all__ = ["FeatureDistance", "Lpips", "lpips_network"]

# Layers of torchvision's trunks, cut behind the five ReLUs that are compared: (channels, kernel,
# stride, padding) of a convolution with its ReLU, or (kernel, stride) of a pool in front of it.
_ALEX: tuple[tuple[tuple[int, ...], ...], ...] = (
    ((64, 11, 4, 2),),
    ((3, 2), (192, 5, 1, 2)),
    ((3, 2), (384, 3, 1, 1)),
    ((256, 3, 1, 1),),
    ((256, 3, 1, 1),),
)
_VGG: tuple[tuple[tuple[int, ...], ...], ...] = (
    ((64, 3, 1, 1),) * 2,
    ((2, 2), *((128, 3, 1, 1),) * 2),
    ((2, 2), *((256, 3, 1, 1),) * 3),
    ((2, 2), *((512, 3, 1, 1),) * 3),
    ((2, 2), *((512, 3, 1, 1),) * 3),
)
TRUNKS = {"alex": _ALEX, "vgg": _VGG}
EPSILON = 1e-10  # keeps features that are all 0 finite


def unit_length(features: Tensor) -> Tensor:
    """Features [N, C, H, W] over their length over the channels."""
    length: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / (length + EPSILON)


class _Scaling(nn.Module):
    """ImageNet's normalisation, for pictures in [-1, 1]."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.shift) / self.scale


class _Trunk(nn.Module):
    """Five slices of a torchvision network, whose layers keep their numbers there."""

    def __init__(self, net: str) -> None:
        super().__init__()
        inside, number = 3, 0
        for index, layers in enumerate(TRUNKS[net], start=1):
            piece = nn.Sequential()
            for layer in layers:
                if len(layer) == 2:
                    piece.add_module(str(number), nn.MaxPool2d(*layer))
                    number += 1
                else:
                    outside, kernel, stride, padding = layer
                    convolution = nn.Conv2d(inside, outside, kernel, stride, padding)
                    piece.add_module(str(number), convolution)
                    piece.add_module(str(number + 1), nn.ReLU())
                    inside, number = outside, number + 2
            self.add_module(f"slice{index}", piece)

    def forward(self, image: Tensor) -> list[Tensor]:
        found = []
        for piece in self.children():
            image = piece(image)
            found.append(image)
        return found


class _Head(nn.Module):
    """Weights of one layer's channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The dropout was active when the heads were learned; it keeps the published keys.
        self.model = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, difference: Tensor) -> Tensor:
        weighed: Tensor = self.model(difference)
        return weighed


class Lpips(nn.Module):
    """`network(a, b)`: pictures [N, 3, H, W] in [-1, 1], RGB -> distances [N], 0 for equal ones.

    Keys are those of richzhang/PerceptualSimilarity, where every head has two names.

    Args:
        net: trunk, "alex" (pictures of at least 31 pixels) or "vgg" (16 pixels).
    """

    name = "lpips"

    def __init__(self, net: str = "alex") -> None:
        super().__init__()
        if net not in TRUNKS:
            raise ValueError(f"no LPIPS trunk {net!r}; known: {', '.join(TRUNKS)}")
        self.record = ""
        self.scaling_layer = _Scaling()
        self.net = _Trunk(net)
        heads = [_Head(layers[-1][0]) for layers in TRUNKS[net]]
        for index, head in enumerate(heads):
            self.add_module(f"lin{index}", head)
        self.lins = nn.ModuleList(heads)
        self.eval().requires_grad_(False)

    def per_layer(self, one: Tensor, two: Tensor) -> Tensor:
        """The five terms that are summed, [N, 5]."""
        check_pair(one, two)
        first, second = self.net(self.scaling_layer(one)), self.net(self.scaling_layer(two))
        terms = [
            head((unit_length(a) - unit_length(b)).square()).mean(dim=(1, 2, 3))
            for head, a, b in zip(self.lins, first, second, strict=True)
        ]
        return torch.stack(terms, dim=1)

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        return self.per_layer(one, two).sum(dim=1)


class FeatureDistance(nn.Module):
    """The same distance without heads, all channels alike; called as `Lpips` is.

    Args:
        network: whose `default_layers` are compared.
    """

    name = "lpips_stand_in"

    def __init__(self, network: PerceptualNetwork) -> None:
        super().__init__()
        self.network, self.record = network, network.record

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        check_pair(one, two)
        first, second = self.network((one + 1) / 2), self.network((two + 1) / 2)
        terms = [
            (unit_length(first[name]) - unit_length(second[name])).square().sum(1).mean(dim=(1, 2))
            for name in first
        ]
        return torch.stack(terms, dim=1).sum(dim=1)


def lpips_network(
    trunk: str = "", heads: str = "", *, net: str = "alex"
) -> Lpips | FeatureDistance:
    """The distance with published weights, or its stand-in where no file is named.

    Args:
        trunk: torchvision's state dict of the trunk (alexnet or vgg16), or a whole LPIPS state
            dict, which needs no `heads`.
        heads: the five heads (`lpips/weights/v0.1/alex.pth` in the PyPI package `lpips`).
        net: "alex" or "vgg".

    Raises:
        RecipeError: a file is missing.
        CheckpointError: a file does not hold what it should.
    """
    if not trunk and not heads:
        return FeatureDistance(perceptual_network("stand_in"))
    for name, what in ((trunk, "the trunk"), (heads, "the heads")):
        if name and not Path(name).is_file():
            raise RecipeError(f"{name} is not a file: LPIPS needs {what} from a file")
    if not trunk:
        raise RecipeError(
            "LPIPS has heads but no trunk: name torchvision's state dict of "
            f"{'alexnet' if net == 'alex' else 'vgg16'} too, or neither for the stand-in"
        )
    network = Lpips(net)
    if not heads:
        load_published(network, trunk, f"LPIPS ({net})")
        network.record = f"lpips {net} of {file_record(Path(trunk))}"
        return network
    slices = {
        layer: f"slice{index}"
        for index, piece in enumerate(network.net.children(), start=1)
        for layer, _ in piece.named_children()
    }
    load_published(
        network.net,
        trunk,
        f"the trunk of LPIPS ({net})",
        prefixes=("", "module."),
        ignored=(r"classifier\..*",),
        renames=tuple(
            (rf"features\.{layer}\.(weight|bias)", rf"{piece}.{layer}.\1")
            for layer, piece in slices.items()
        ),
    )
    published = nn.ModuleDict({f"lin{index}": head for index, head in enumerate(network.lins)})
    load_published(published, heads, "the heads of LPIPS")
    network.record = (
        f"lpips {net}: trunk of {file_record(Path(trunk))}; heads of {file_record(Path(heads))}"
    )
    return network
