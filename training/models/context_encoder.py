"""Context Encoder: what stands in a square hole in the middle of a picture.

Source: Pathak et al. 2016, "Context Encoders: Feature Learning by Inpainting" (CVPR) and the
authors' code (pathak22/context-encoder), whose inpainting network differs from the paper's
feature-learning one: it has no channel-wise layer, but a bottleneck of 4000 numbers.

Note [Models 0 to 3]
    The comparison of the encoder-decoder with skip connections against "Context-Encoder models 0
    to 3" is known to us by these names and by the weights of its loss (0.999 reconstruction, 0.001
    adversarial, which are the Context Encoder's); its text was not available. We chose the four
    steps that lead from the published network to the one with skip connections, one change each:

    | model | predicts | bottleneck | critic's norm |
    |---|---|---|---|
    | 0 (published) | the hole alone | 4000 numbers | batch |
    | 1 | the whole picture | 4000 numbers | batch |
    | 2 | the whole picture | none: the 4 x 4 map itself | batch |
    | 3 | the whole picture | none | instance |

    `SkipInpainting` is model 3 with skip connections.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

__all__ = [
    "MEAN_COLOUR",
    "ContextEncoder",
    "HoleCritic",
    "decoder_widths",
    "encoder_widths",
    "initialise",
    "picture_with_hole",
]

# What the published code paints into the channels of the hole, in the order that it loads them.
MEAN_COLOUR = (117 / 255, 104 / 255, 123 / 255)


def picture_with_hole(image: Tensor, mask: Tensor) -> Tensor:
    """[N, 3, H, W] in [0, 1] with its hole in the mean colour, scaled to [-1, 1]."""
    colour = image.new_tensor(MEAN_COLOUR)[:, None, None]
    return 2 * (image * (1 - mask) + colour * mask) - 1


def encoder_widths(nef: int, levels: int) -> list[int]:
    """Channels behind each halving: the published 1, 1, 2, 4, 8 times nef, at five levels."""
    return [nef] + [nef * min(8, 2**level) for level in range(levels - 1)]


def decoder_widths(ngf: int, levels: int) -> list[int]:
    """Channels before each doubling: the published 8, 4, 2, 1 times ngf, at four levels."""
    return [ngf * min(8, 2**level) for level in reversed(range(levels))]


def _levels(size: int) -> int:
    """How often a side is halved down to 4."""
    levels = size.bit_length() - 3
    if size != 4 * 2**levels or levels < 1:
        raise ValueError(f"the side must be a power of two from 8 on, not {size}")
    return levels


class ContextEncoder(nn.Module):
    """image [N, 3, S, S] in [0, 1], mask [N, 1, S, S] (1 = hole) -> prediction [N, 3, S, S].

    Model 0 predicts the square of side S / 2 in the middle, and returns the picture with that
    square in it; the other models predict every pixel.

    Args:
        model: 0 to 3, see Note [Models 0 to 3].
        size: side S, a power of two from 16 on.
        nef: channels of the first convolution.
        bottleneck: numbers in the bottleneck of models 0 and 1.
    """

    def __init__(
        self, model: int = 0, size: int = 128, nef: int = 64, bottleneck: int = 4000
    ) -> None:
        super().__init__()
        if model not in {0, 1, 2, 3}:
            raise ValueError(f"model is 0, 1, 2 or 3, not {model}")
        if size < 16:
            raise ValueError(f"the side must be at least 16, not {size}")
        self.model, self.size = model, size
        levels = _levels(size)
        widths = encoder_widths(nef, levels)
        encoder: list[nn.Module] = [nn.Conv2d(3, nef, 4, 2, 1), nn.LeakyReLU(0.2)]
        for inputs, outputs in itertools.pairwise(widths):
            encoder += [
                nn.Conv2d(inputs, outputs, 4, 2, 1),
                nn.BatchNorm2d(outputs),
                nn.LeakyReLU(0.2),
            ]
        # The hole is half as wide as the picture, so it takes one doubling less.
        widths = decoder_widths(nef, levels if model else levels - 1)
        decoder: list[nn.Module] = []
        if model < 2:
            encoder += [
                nn.Conv2d(nef * min(8, 2 ** (levels - 2)), bottleneck, 4),  # 4 x 4 -> 1 x 1
                nn.BatchNorm2d(bottleneck),
                nn.LeakyReLU(0.2),
            ]
            decoder += [
                nn.ConvTranspose2d(bottleneck, widths[0], 4),  # 1 x 1 -> 4 x 4
                nn.BatchNorm2d(widths[0]),
                nn.ReLU(),
            ]
        else:
            widths[0] = nef * min(8, 2 ** (levels - 2))
        for inputs, outputs in itertools.pairwise(widths):
            decoder += [
                nn.ConvTranspose2d(inputs, outputs, 4, 2, 1),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        decoder += [nn.ConvTranspose2d(widths[-1], 3, 4, 2, 1), nn.Tanh()]
        self.encoder, self.decoder = nn.Sequential(*encoder), nn.Sequential(*decoder)
        initialise(self)

    @classmethod
    def paper(cls, model: int = 0) -> ContextEncoder:
        """128 px with a hole of 64 px."""
        return cls(model)

    @classmethod
    def compact(cls, model: int = 0) -> ContextEncoder:
        """128 px, a quarter of the channels and an eighth of the bottleneck."""
        return cls(model, nef=16, bottleneck=500)

    @property
    def critic_norm(self) -> str:
        """The norm of the critic that belongs to the model."""
        return "instance" if self.model == 3 else "batch"

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        if image.shape[-2:] != (self.size, self.size):
            raise ValueError(f"this network takes {self.size} px, got {tuple(image.shape[-2:])}")
        predicted = (self.decoder(self.encoder(picture_with_hole(image, mask))) + 1) / 2
        if self.model > 0:
            return predicted  # type: ignore[no-any-return]
        quarter = self.size // 4
        middle = slice(quarter, self.size - quarter)
        filled = image.to(predicted.dtype, copy=True)
        filled[:, :, middle, middle] = predicted
        return filled


class HoleCritic(nn.Module):
    """Judges what was filled in: [N, 3, S, S] in [0, 1] -> one score (logit) per picture, [N].

    The discriminator of the Context Encoder, after DCGAN; its sigmoid is part of the loss.

    Args:
        size: side S, a power of two from 8 on; 64 in the paper.
        ndf: channels of the first convolution; they double up to 8 times that.
        norm: "batch" (Context Encoder) or "instance" (network with skip connections). Instance norm
            judges each fill by itself, whatever else is in the batch.
    """

    def __init__(self, size: int = 64, ndf: int = 64, norm: str = "batch") -> None:
        super().__init__()
        if norm not in {"batch", "instance"}:
            raise ValueError(f"norm is batch or instance, not {norm!r}")
        self.size = size
        levels = _levels(size)
        widths = [ndf * min(8, 2**level) for level in range(levels)]
        layers: list[nn.Module] = [nn.Conv2d(3, ndf, 4, 2, 1), nn.LeakyReLU(0.2)]
        for inputs, outputs in itertools.pairwise(widths):
            layers += [
                nn.Conv2d(inputs, outputs, 4, 2, 1),
                nn.BatchNorm2d(outputs)
                if norm == "batch"
                else nn.InstanceNorm2d(outputs, affine=True),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(widths[-1], 1, 4))  # 4 x 4 -> 1 x 1
        self.model = nn.Sequential(*layers)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (self.size, self.size):
            raise ValueError(f"this critic judges {self.size} px, got {tuple(x.shape[-2:])}")
        scores: Tensor = self.model(2 * x - 1)
        return scores.flatten()


def initialise(network: nn.Module) -> None:
    """DCGAN's: normal(0, 0.02), norms normal(1, 0.02), no offsets."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d) and module.affine:
            nn.init.normal_(module.weight, 1.0, 0.02)
            torch.nn.init.zeros_(module.bias)
