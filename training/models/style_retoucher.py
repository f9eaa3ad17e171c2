"""StyleRetoucher: portrait retouching with a generative prior.

Source: Su et al. 2023, "StyleRetoucher: Generalized Portrait Image Retouching with GAN Priors"
(arXiv 2312.14389; TVCG 2024). Four parts: semantic extraction encoder (SE), latent extraction head
to W+ (LEH), StyleGAN2 as generative prior (GP), and blemish-aware feature selection (BAFS), which
at every level blends features of the photo with those of the prior by a spatial and a channel mask.

The authors published no code, and only the paper's abstract was at hand. A layer that it leaves open is
taken from the works that the paper builds on:

| part | open | taken |
|---|---|---|
| SE | layers | one map per level of the prior, with its width: StyleGAN2's convolutions with blurred stride 2, as the encoder of GPEN (Yang et al. 2021) |
| LEH | layers | a linear layer on the 4 x 4 map (GPEN), then one latent per layer around the mean latent (pSp, Richardson et al. 2021) |
| GP | noise | the stored planes, so that a result repeats |
| BAFS, where | order | behind both layers of a level; the blend goes to the colours and to the next level |
| BAFS, spatial logits | layers | two 3x3 convolutions on both maps together |
| BAFS, channel logits | layers | means over the map, two linear layers, softmax between the two branches for each channel: selective kernels (Li et al. 2019) |
| BAFS, start | values | logits begin at 0, so that no mask prefers a side |
| concat | layers | both maps together (as in GPEN), then a 3x3 convolution |

The blend itself, `Ms Mc Fs + (1 - Ms)(1 - Mc) Fi`, with each mask as the first entry of a softmax
over a pair of logits, is that of `revisage.kernels.feature_blend`.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from revisage.training.models.stylegan2 import ConvLayer, EqualConv2d, EqualLinear, StyleGAN2
from revisage.training.ops import feature_blend

__all__ = [
    "BLENDS",
    "FeatureSelection",
    "LatentHead",
    "SemanticEncoder",
    "StyleRetoucher",
    "blend_features",
    "level_strengths",
]

BLENDS = ("none", "concat", "spatial", "channel", "both")  # the rows of the paper's ablation


def blend_features(
    style: Tensor,
    image: Tensor,
    spatial_logits: Tensor | None,
    channel_logits: Tensor | None,
    strength: Tensor | float = 1.0,
) -> Tensor:
    """Blend features of the prior and of the photo by one mask or both.

    Args:
        style, image: [N, C, H, W].
        spatial_logits: [N, 2, H, W], entry 0 for `style`; None leaves the mask out.
        channel_logits: [N, 2, C], entry 0 for `style`; None leaves the mask out.
        strength: multiplies the channel mask.

    Returns:
        Ms Mc style + (1 - Ms)(1 - Mc) image; with one mask M, M style + (1 - M) image.
        In an exported graph, with both masks, the node `FeatureBlend`.
    """
    if spatial_logits is not None and channel_logits is not None and torch.onnx.is_in_onnx_export():
        return feature_blend(style, image, spatial_logits, channel_logits, strength=strength)
    out_style, out_image = style, image
    if spatial_logits is not None:
        spatial = torch.softmax(spatial_logits, dim=1)[:, :1]  # [N, 1, H, W]
        out_style, out_image = spatial * out_style, (1 - spatial) * out_image
    if channel_logits is not None:
        channel = strength * torch.softmax(channel_logits, dim=1)[:, 0, :, None, None]
        out_style, out_image = channel * out_style, (1 - channel) * out_image
    if spatial_logits is None and channel_logits is None:
        raise ValueError("a blend needs spatial logits, channel logits, or both")
    return out_style + out_image


def level_strengths(strength: float | Sequence[float], levels: int) -> list[float]:
    """Strength of every level, the 4 px level first.

    Args:
        strength: one number for the levels from the second to the last but one (2 to 8 of the nine
            levels of 1024 px), or one for each level. At least 0; 1 is the trained
            network, and with 0 no channel of the prior gets through.

    Raises:
        ValueError: negative, not finite, or not as many as levels.
    """
    if isinstance(strength, int | float):
        given = [1.0, *[float(strength)] * (levels - 2), 1.0]
    else:
        given = [float(value) for value in strength]
    if len(given) != levels:
        raise ValueError(f"one strength, or {levels} (one for each level), not {len(given)}")
    if not all(0 <= value < float("inf") for value in given):
        raise ValueError(f"strengths must be finite and at least 0, not {given}")
    return given


class SemanticEncoder(nn.Module):
    """SE: [N, 3, S, S] in [-1, 1] -> one map for every level, 4 px first.

    Args:
        widths: channels of the maps, 4 px first.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = ConvLayer(3, widths[-1], 1)
        self.down = nn.ModuleList()
        self.level = nn.ModuleList([ConvLayer(widths[-1], widths[-1], 3)])
        for index in range(len(widths) - 1, 0, -1):
            self.down.append(ConvLayer(widths[index], widths[index - 1], 3, down=True))
            self.level.append(ConvLayer(widths[index - 1], widths[index - 1], 3))

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.level[0](self.stem(image))
        maps = [x]
        for down, level in zip(self.down, self.level[1:], strict=True):
            x = level(down(x))
            maps.append(x)
        return maps[::-1]


class LatentHead(nn.Module):
    """LEH: the deepest map [N, C, 4, 4] -> W+ [N, n_latent, style_dim], around `mean`."""

    mean: Tensor

    def __init__(self, channels: int, n_latent: int, style_dim: int) -> None:
        super().__init__()
        self.hidden = EqualLinear(channels * 16, style_dim, activate=True)
        self.latents = EqualLinear(style_dim, n_latent * style_dim)
        self.register_buffer("mean", torch.zeros(n_latent, style_dim))

    def forward(self, x: Tensor) -> Tensor:
        offsets = self.latents(self.hidden(x.flatten(1)))
        latents: Tensor = self.mean + offsets.reshape(-1, *self.mean.shape)
        return latents


def _silent(layer: EqualConv2d | EqualLinear) -> nn.Module:
    nn.init.zeros_(layer.weight)
    return layer


class FeatureSelection(nn.Module):
    """BAFS of one level: the prior's map and the photo's, both [N, C, H, W], to one.

    Args:
        blend: one of `BLENDS`; "none" keeps the prior's map as it is.
        reduction: of the layer between channel means and channel logits.
    """

    def __init__(self, channels: int, blend: str, reduction: int = 4) -> None:
        super().__init__()
        if blend not in BLENDS:
            raise ValueError(f"blend is one of {', '.join(BLENDS)}, not {blend!r}")
        self.blend, self.channels = blend, channels
        hidden = max(4, channels // reduction)
        if blend in ("spatial", "both"):
            self.spatial = nn.Sequential(
                ConvLayer(2 * channels, hidden, 3), _silent(EqualConv2d(hidden, 2, 3))
            )
        if blend in ("channel", "both"):
            self.channel = nn.Sequential(
                EqualLinear(2 * channels, hidden, activate=True),
                _silent(EqualLinear(hidden, 2 * channels)),
            )
        if blend == "concat":
            self.join = ConvLayer(2 * channels, channels, 3)

    def logits(self, style: Tensor, image: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Spatial logits [N, 2, H, W] and channel logits [N, 2, C], where this blend has them."""
        both = torch.cat([style, image], dim=1)
        spatial = self.spatial(both) if self.blend in ("spatial", "both") else None
        channel = None
        if self.blend in ("channel", "both"):
            channel = self.channel(both.mean(dim=(2, 3))).reshape(-1, 2, self.channels)
        return spatial, channel

    def forward(self, style: Tensor, image: Tensor, strength: Tensor | float = 1.0) -> Tensor:
        if self.blend == "none":
            return style
        if self.blend == "concat":
            joined: Tensor = self.join(torch.cat([style, image], dim=1))
            return joined
        return blend_features(style, image, *self.logits(style, image), strength)


class StyleRetoucher(nn.Module):
    """RGB in [0, 1] -> retouched RGB, about [0, 1], both [N, 3, size, size].

    Args:
        prior: StyleGAN2, trained or not; it gives size and widths.
        blend: one of `BLENDS`.
    """

    def __init__(self, prior: StyleGAN2, blend: str = "both") -> None:
        super().__init__()
        self.size, self.blend = prior.size, blend
        self.encoder = SemanticEncoder(prior.widths)
        self.latent_head = LatentHead(prior.widths[0], prior.n_latent, prior.style_dim)
        self.prior = prior
        self.selection = nn.ModuleList(FeatureSelection(width, blend) for width in prior.widths)

    @classmethod
    def paper(cls, size: int = 1024, blend: str = "both") -> StyleRetoucher:
        """With configuration F of StyleGAN2."""
        return cls(StyleGAN2.paper(size), blend)

    @classmethod
    def compact(cls, size: int = 256, blend: str = "both") -> StyleRetoucher:
        """With the compact StyleGAN2."""
        return cls(StyleGAN2.compact(size), blend)

    @property
    def levels(self) -> int:
        """Levels of resolution, 4 px to `size`."""
        return len(self.selection)

    @torch.no_grad()
    def centre(self, count: int = 4096) -> None:
        """Set the mean latent from the prior; to be done once its weights are there."""
        mean = self.latent_head.mean
        mean.copy_(self.prior.mean_latent(count).expand_as(mean))

    def forward(self, image: Tensor, strength: float | Sequence[float] | Tensor = 1.0) -> Tensor:
        """Retouch.

        Args:
            image: [N, 3, size, size] in [0, 1].
            strength: see `level_strengths`; a tensor [levels], or [levels, N, 1, 1, 1] with a
                strength for each picture, is taken as it is (for export). Only the blends with a
                channel mask have one.
        """
        if image.shape[1:] != (3, self.size, self.size):
            raise ValueError(
                f"pictures must be [N, 3, {self.size}, {self.size}], not {list(image.shape)}"
            )
        per_level: Tensor | list[float]
        if isinstance(strength, Tensor):
            per_level = strength
        else:
            per_level = level_strengths(strength, self.levels)
            if self.blend not in ("channel", "both") and per_level != [1.0] * self.levels:
                raise ValueError(f"the blend {self.blend!r} has no channel mask to weaken")
        maps = self.encoder(2 * image - 1)
        latents = self.latent_head(maps[0])

        def select(level: int, style: Tensor) -> Tensor:
            chosen: Tensor = self.selection[level](style, maps[level], per_level[level])
            return chosen

        picture, _ = self.prior.synthesise(latents, self.prior.stored_noise(), select)
        return (picture + 1) / 2
