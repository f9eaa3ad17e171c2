"""pSp: an encoder that reads the W+ latents of StyleGAN2 from a picture.

Source: Richardson et al. 2021, "Encoding in Style: a StyleGAN Encoder for Image-to-Image
Translation" (CVPR): a feature pyramid over the improved residual network with squeeze and
excitation (IR-SE-50, of ArcFace), and one small convolutional "map2style" network for every latent.
Attribute names give the keys of the published checkpoints (eladrich/pixel2style2pixel, MIT:
`encoder.*`, `decoder.*`); the code is our own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from revisage.training.models.stylegan2 import EqualLinear, StyleGAN2

__all__ = ["Psp", "PspEncoder"]

IR_50 = (3, 4, 14, 3)  # residual units at strides 2, 4, 8, 16
PYRAMID = 3  # levels of the feature pyramid: strides 16, 8, 4 for coarse, middle and fine styles


class SqueezeExcitation(nn.Module):
    """Scale every channel by what two layers make of the channel means."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(functional.relu(self.fc1(means))))


class ResidualUnit(nn.Module):
    """The improved residual unit: [N, I, H, W] -> [N, O, H / stride, W / stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module
        if inputs == outputs:
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            SqueezeExcitation(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return out


class MapToStyle(nn.Module):
    """Strided convolutions from [N, C, side, side] down to one pixel, then a linear layer."""

    def __init__(self, channels: int, style_dim: int, side: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        while side > 1:
            layers += [nn.Conv2d(inputs, style_dim, 3, 2, 1), nn.LeakyReLU()]
            inputs, side = style_dim, side // 2
        self.convs = nn.Sequential(*layers)
        self.linear = EqualLinear(style_dim, style_dim)

    def forward(self, x: Tensor) -> Tensor:
        style: Tensor = self.linear(self.convs(x).flatten(1))
        return style


class PspEncoder(nn.Module):
    """[N, 3, size, size] in about [-1, 1] -> latents [N, n_styles, style_dim].

    The first 3 latents are read at stride 16 (coarse), the next 4 at stride 8 (middle), the others
    at stride 4 (fine).

    Args:
        n_styles: latents of the generator.
        size: side of the picture, a power of two from 32 up.
        widths: channels of the stem and of the four stages.
        units: residual units of the four stages.
        style_dim: channels of the pyramid and length of a latent.
    """

    COARSE, MIDDLE = 3, 7

    def __init__(
        self,
        n_styles: int = 18,
        size: int = 256,
        widths: Sequence[int] = (64, 64, 128, 256, 512),
        units: Sequence[int] = IR_50,
        style_dim: int = 512,
    ) -> None:
        super().__init__()
        if size < 32 or size & (size - 1):
            raise ValueError(f"size must be a power of two, at least 32, not {size}")
        if len(widths) != 5 or len(units) != 4 or min(units) < 1:
            raise ValueError("widths are five numbers, units four numbers from 1 up")
        self.size, self.n_styles, self.style_dim = size, n_styles, style_dim
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 1, 1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.PReLU(widths[0]),
        )
        body: list[nn.Module] = []
        self.ends: list[int] = []  # index of the last unit of every stage
        for stage, count in enumerate(units):
            for unit in range(count):
                inputs = widths[stage] if unit == 0 else widths[stage + 1]
                body.append(ResidualUnit(inputs, widths[stage + 1], 2 if unit == 0 else 1))
            self.ends.append(len(body) - 1)
        self.body = nn.Sequential(*body)
        self.styles = nn.ModuleList()
        for style in range(n_styles):
            level = 0 if style < self.COARSE else 1 if style < self.MIDDLE else 2
            inputs = widths[4] if level == 0 else style_dim
            self.styles.append(MapToStyle(inputs, style_dim, size // 16 * 2**level))
        # The laterals add to the map above, so the deepest has style_dim channels too.
        if widths[4] != style_dim:
            raise ValueError(f"the last stage has {widths[4]} channels, style_dim is {style_dim}")
        self.latlayer1 = nn.Conv2d(widths[3], style_dim, 1)
        self.latlayer2 = nn.Conv2d(widths[2], style_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (self.size, self.size):
            raise ValueError(f"pictures must be {self.size} x {self.size}, not {list(x.shape[2:])}")
        x = self.input_layer(x)
        stages = []
        for index, unit in enumerate(self.body):
            x = unit(x)
            if index in self.ends[1:]:
                stages.append(x)
        fine, middle, coarse = stages  # strides 4, 8, 16
        middle = _enlarged(coarse, middle) + self.latlayer1(middle)
        fine = _enlarged(middle, fine) + self.latlayer2(fine)
        latents = []
        for index, style in enumerate(self.styles):
            source = coarse if index < self.COARSE else middle if index < self.MIDDLE else fine
            latents.append(style(source))
        return torch.stack(latents, dim=1)


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, like.shape[2:], mode="bilinear", align_corners=True)


class Psp(nn.Module):
    """Encoder and generator: RGB in [0, 1] -> RGB, about [0, 1], both [N, 3, S, S].

    What the encoder reads is added to the mean latent; the noise is the stored one.

    Args:
        encoder: reads pictures of its own size; larger ones are averaged down to it.
        decoder: trained StyleGAN2.
    """

    latent_avg: Tensor

    def __init__(self, encoder: PspEncoder, decoder: StyleGAN2) -> None:
        super().__init__()
        if (encoder.n_styles, encoder.style_dim) != (decoder.n_latent, decoder.style_dim):
            raise ValueError(
                f"the encoder gives {encoder.n_styles} latents of {encoder.style_dim}, the "
                f"generator takes {decoder.n_latent} of {decoder.style_dim}"
            )
        self.encoder, self.decoder = encoder, decoder
        self.register_buffer("latent_avg", torch.zeros(decoder.n_latent, decoder.style_dim))

    @classmethod
    def paper(cls, size: int = 1024) -> Psp:
        """IR-SE-50 on 256 px and configuration F of StyleGAN2."""
        decoder = StyleGAN2.paper(size)
        return cls(PspEncoder(decoder.n_latent), decoder)

    @classmethod
    def compact(cls, size: int = 256) -> Psp:
        """A quarter of the width and one unit a stage, on 128 px, with the compact StyleGAN2."""
        decoder = StyleGAN2.compact(size)
        encoder = PspEncoder(
            decoder.n_latent,
            min(size, 128),
            (16, 16, 32, 64, 128),
            (1, 1, 1, 1),
            decoder.style_dim,
        )
        return cls(encoder, decoder)

    @torch.no_grad()
    def centre(self, count: int = 4096) -> None:
        """Set the mean latent from the generator; to be done once its weights are there."""
        self.latent_avg.copy_(self.decoder.mean_latent(count).expand_as(self.latent_avg))

    def encode(self, image: Tensor) -> Tensor:
        """RGB in [0, 1] -> W+ [N, n_latent, style_dim]."""
        small = functional.adaptive_avg_pool2d(2 * image - 1, self.encoder.size)
        w: Tensor = self.encoder(small)
        return w + self.latent_avg

    def forward(self, image: Tensor) -> Tensor:
        picture, _ = self.decoder.synthesise(self.encode(image), self.decoder.stored_noise())
        return (picture + 1) / 2
