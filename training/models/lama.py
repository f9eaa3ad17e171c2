"""LaMa at paper size: the generator of fast Fourier convolutions and its patch critic.

Source: Suvorov et al. 2022, "Resolution-robust Large Mask Inpainting with Fourier Convolutions"
(WACV). Attribute names and the order of layers give the state-dict keys of the published
checkpoints (advimman/lama, Apache-2.0); the code is our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from revisage.training.models.ffc import FFCBlock, FFCResidualBlock

__all__ = ["LamaDiscriminator", "LamaGenerator", "composite", "inpaint_reference"]

PADDING_MULTIPLE = 8


def _output_activation(kind: str | bool) -> nn.Module | None:
    """The published classes take a name, True (which means tanh) or False (none)."""
    if kind is False:
        return None
    known = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
    name = "tanh" if kind is True else kind
    if name not in known:
        raise ValueError(f"add_out_act is one of sigmoid, tanh, True, False, not {kind!r}")
    return known[name]()


class LamaGenerator(nn.Module):
    """[N, input_nc, H, W] -> [N, output_nc, H, W].

    The input is the picture with the hole set to zero and the mask behind it, both in [0, 1]
    (`composite` puts them together). H and W are multiples of 2 ** n_downsampling.

    Args:
        ngf: channels behind the stem; they double at every downsampling, up to `max_features`.
        n_downsampling: how often the size is halved.
        n_blocks: residual blocks at the smallest size.
        ratio: global share of the channels in the residual blocks.
        add_out_act: "sigmoid" (all published checkpoints), "tanh" or True, False for none.
        stem_ratio, down_ratio: global share behind the stem and the downsamplings but the last.
        enable_lfu: the local Fourier units (see `SpectralTransform`), off in all published ones.
    """

    def __init__(
        self,
        input_nc: int = 4,
        output_nc: int = 3,
        ngf: int = 64,
        n_downsampling: int = 3,
        n_blocks: int = 9,
        ratio: float = 0.75,
        add_out_act: str | bool = "sigmoid",
        *,
        max_features: int = 1024,
        stem_ratio: float = 0.0,
        down_ratio: float = 0.0,
        enable_lfu: bool = False,
    ) -> None:
        super().__init__()
        if n_downsampling < 1 or n_blocks < 0:
            raise ValueError("n_downsampling must be at least 1 and n_blocks at least 0")
        self.multiple_of = 2**n_downsampling
        widths = [min(max_features, ngf * 2**level) for level in range(n_downsampling + 1)]
        layers: list[nn.Module] = [
            nn.ReflectionPad2d(3),
            FFCBlock(input_nc, ngf, 7, 0.0, stem_ratio, local_unit=enable_lfu),
        ]
        share = stem_ratio
        for level in range(n_downsampling):
            # The last step makes the global part that the residual blocks work on.
            following = ratio if level == n_downsampling - 1 else down_ratio
            layers.append(
                FFCBlock(
                    widths[level],
                    widths[level + 1],
                    3,
                    share,
                    following,
                    stride=2,
                    padding=1,
                    local_unit=enable_lfu,
                )
            )
            share = following
        layers += [
            FFCResidualBlock(widths[-1], ratio, local_unit=enable_lfu) for _ in range(n_blocks)
        ]
        layers.append(_Concatenate())
        for level in range(n_downsampling, 0, -1):
            wide = min(max_features, ngf * 2**level)
            # Not the width of the level below where `max_features` cut it: half of this one's.
            narrow = min(max_features, ngf * 2**level // 2)
            layers += [
                nn.ConvTranspose2d(wide, narrow, 3, stride=2, padding=1, output_padding=1),
                nn.BatchNorm2d(narrow),
                nn.ReLU(),
            ]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(ngf, output_nc, 7)]
        activation = _output_activation(add_out_act)
        if activation is not None:
            layers.append(activation)
        self.model = nn.Sequential(*layers)

    @classmethod
    def from_configuration(cls, settings: Mapping[str, Any]) -> LamaGenerator:
        """Build from the arguments of the published class (`generator` of a LaMa config).

        Raises:
            ValueError: a setting asks for something that no published generator has.
        """
        given = dict(settings)
        given.pop("kind", None)
        ratios: dict[str, tuple[float, float]] = {}
        local_units = set()
        for part in ("init", "downsample", "resnet"):
            options = dict(given.pop(f"{part}_conv_kwargs", {}))
            ratios[part] = float(options.pop("ratio_gin", 0)), float(options.pop("ratio_gout", 0))
            local_units.add(bool(options.pop("enable_lfu", False)))
            if options:
                raise ValueError(f"{part}_conv_kwargs: unknown {', '.join(sorted(options))}")
        if len(local_units) != 1:
            raise ValueError("enable_lfu must be the same in all parts")
        if ratios["resnet"][0] != ratios["resnet"][1]:
            raise ValueError("residual blocks need ratio_gin equal to ratio_gout")
        if ratios["init"][0] != 0:
            raise ValueError("the stem has no global input: its ratio_gin must be 0")
        return cls(
            **given,
            ratio=ratios["resnet"][0],
            stem_ratio=ratios["init"][1],
            down_ratio=ratios["downsample"][1],
            enable_lfu=local_units.pop(),
        )

    def forward(self, x: Tensor) -> Tensor:
        local: Tensor | None = x
        wide: Tensor | None = None
        for layer in self.model:
            if isinstance(layer, FFCBlock | FFCResidualBlock):
                local, wide = layer(local, wide)
            elif isinstance(layer, _Concatenate):
                local, wide = layer(local, wide), None
            else:
                local = layer(local)
        assert local is not None
        return local


class _Concatenate(nn.Module):
    """The end of the trunk: local channels, then global ones, as one map."""

    def forward(self, local: Tensor | None, wide: Tensor | None) -> Tensor:
        return torch.cat([part for part in (local, wide) if part is not None], dim=1)


class LamaDiscriminator(nn.Module):
    """Patch critic (pix2pix's, with 4x4 convolutions padded by 2): [N, C, H, W] -> scores.

    Returns the score map [N, 1, h, w] and the outputs of all blocks before it, for feature
    matching. `n_layers` blocks halve the size; then come one more block and the score at stride 1.
    """

    def __init__(self, input_nc: int = 3, ndf: int = 64, n_layers: int = 4) -> None:
        super().__init__()
        self.n_layers = n_layers
        widths = [min(512, ndf * 2**level) for level in range(n_layers + 1)]
        self.model0 = nn.Sequential(nn.Conv2d(input_nc, ndf, 4, 2, 2), nn.LeakyReLU(0.2))
        for level in range(1, n_layers + 1):
            block = nn.Sequential(
                nn.Conv2d(widths[level - 1], widths[level], 4, 1 if level == n_layers else 2, 2),
                nn.BatchNorm2d(widths[level]),
                nn.LeakyReLU(0.2),
            )
            self.add_module(f"model{level}", block)
        self.add_module(f"model{n_layers + 1}", nn.Sequential(nn.Conv2d(widths[-1], 1, 4, 1, 2)))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        for level in range(self.n_layers + 2):
            x = self.get_submodule(f"model{level}")(x)
            features.append(x)
        return features[-1], features[:-1]


def composite(generator: nn.Module, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Run a generator on a picture with a hole.

    Args:
        image: [N, 3, H, W] in [0, 1]; mask: [N, 1, H, W], 1 = hole.

    Returns:
        The prediction for the whole picture, and mask * prediction + (1 - mask) * image.
    """
    predicted: Tensor = generator(torch.cat([image * (1 - mask), mask], dim=1))
    return predicted, mask * predicted + (1 - mask) * image


def inpaint_reference(
    generator: nn.Module,
    image: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.uint8],
    *,
    multiple: int = PADDING_MULTIPLE,
) -> npt.NDArray[np.uint8]:
    """Fill a picture exactly as the published prediction script does.

    The picture is padded at the bottom and the right by repeating it mirrored, edge pixel included
    (numpy's "symmetric"), and the result is truncated, not rounded, to 8 bits.

    Args:
        generator: [N, 4, H, W] -> [N, 3, H, W]; used in the mode that it is in.
        image: [H, W, 3] RGB.
        mask: [H, W]; every value above 0 is hole.
        multiple: height and width are padded to multiples of this.

    Returns:
        [H, W, 3] uint8.
    """
    if image.ndim != 3 or image.shape[2] != 3 or mask.shape != image.shape[:2]:
        raise ValueError(
            f"image must be [H, W, 3] and mask [H, W], got {image.shape}, {mask.shape}"
        )
    height, width = mask.shape
    margin = ((0, -height % multiple), (0, -width % multiple))
    padded = np.pad(image, (*margin, (0, 0)), mode="symmetric").astype(np.float32) / 255
    hole = np.pad(mask, margin, mode="symmetric") > 0
    picture = torch.from_numpy(padded).permute(2, 0, 1)[None]
    with torch.inference_mode():
        _, filled = composite(generator, picture, torch.from_numpy(hole)[None, None].float())
    values = filled[0].permute(1, 2, 0).numpy()[:height, :width] * np.float32(255)
    return np.asarray(np.clip(values, 0, 255).astype(np.uint8))
