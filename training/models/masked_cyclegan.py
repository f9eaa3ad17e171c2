"""Generators of the unmask system: a body, and a head that says how its drawing meets the picture.

The system takes a worn mask off a face without pairs of pictures: a CycleGAN whose generators also
say where they draw, so that the rest of the picture is kept as it is. Bodies are those of the cited
base works:

| body | encoder and decoder | blocks at a quarter of the size |
|---|---|---|
| resnet | CycleGAN (Zhu et al. 2017) | residual, reflected borders |
| stargan | StarGAN (Choi et al. 2018) | residual, affine instance norm |
| dilated | StarGAN | the same, first convolutions dilated by 2, 4, 8, 16, 2, ... |
| dmfn | DMFN (Hui et al. 2020) | dense multi-scale fusion blocks |
| folded | pixels folded into channels (`folded_unet.py`) | a U-Net of `blocks` levels |

| head | result, x the input, all in [-1, 1] |
|---|---|
| normal | drawing |
| residual | x + 2 * tanh, so that every colour can become every other; not clamped |
| mask | m * drawing + (1 - m) * x with a soft mask m, as the attention of GANimation |
| binary_mask | the same with m rounded to 0 or 1 |

Note [Gradients of the binary mask]
    Rounding has no gradient. The rounded mask is used forward and the soft one backward (the
    straight-through estimator of Bengio et al. 2013, "Estimating or Propagating Gradients Through
    Stochastic Neurons"). In eval mode nothing but the rounding is left.

What the sources leave open and is chosen here: the kernel of the heads is that of the body's own
last convolution (7 for resnet, stargan and dilated, 3 for dmfn), the mask is a sigmoid, the dilated
blocks take the four dilations of Iizuka et al. 2017, "Globally and Locally Consistent Image
Completion" (SIGGRAPH), in turn, and instance norms keep no running statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from revisage.training.models.cyclegan import resnet_body
from revisage.training.models.dmfn import DMFB, dmfn_decoder, dmfn_encoder
from revisage.training.models.folded_unet import FoldedUNet, unfolding
from revisage.training.models.stargan import StarGANResidualBlock, stargan_decoder, stargan_encoder

__all__ = ["BODIES", "HEADS", "Translation", "UnmaskGenerator"]

Body = Literal["resnet", "stargan", "dilated", "dmfn", "folded"]
Head = Literal["normal", "residual", "mask", "binary_mask"]
HEADS = ("normal", "residual", "mask", "binary_mask")
DILATIONS = (2, 4, 8, 16)  # of the "dilated" body, block after block


class Translation(NamedTuple):
    """What a generator made of a picture."""

    image: Tensor  # [N, 3, H, W] in [-1, 1], with the residual head in [-3, 3]
    mask: Tensor  # [N, 1, H, W] in [0, 1], 1 = drawn; 1 everywhere for heads without a mask


def _resnet(channels_in: int, width: int, blocks: int) -> list[nn.Module]:
    return resnet_body(channels_in, width, blocks)


def _stargan(channels_in: int, width: int, blocks: int) -> list[nn.Module]:
    return [
        *stargan_encoder(channels_in, width, stored=False),
        *(StarGANResidualBlock(4 * width, stored=False) for _ in range(blocks)),
        *stargan_decoder(width, stored=False),
    ]


def _dilated(channels_in: int, width: int, blocks: int) -> list[nn.Module]:
    dilations = [DILATIONS[index % len(DILATIONS)] for index in range(blocks)]
    return [
        *stargan_encoder(channels_in, width, stored=False),
        *(StarGANResidualBlock(4 * width, stored=False, dilation=d) for d in dilations),
        *stargan_decoder(width, stored=False),
    ]


def _folded(channels_in: int, width: int, blocks: int) -> list[nn.Module]:
    widths = [width * min(3, level + 1) for level in range(blocks)]
    return [UnitRange(), FoldedUNet(channels_in, widths)]


def _dmfn(channels_in: int, width: int, blocks: int) -> list[nn.Module]:
    return [
        dmfn_encoder(channels_in, width),
        *(DMFB(4 * width) for _ in range(blocks)),
        *dmfn_decoder(width),
    ]


class UnitRange(nn.Module):
    """[-1, 1] -> [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + 1) / 2


class _Family(NamedTuple):
    """What a base work has."""

    layers: Callable[[int, int, int], list[nn.Module]]  # of channels in, width, blocks
    kernel: int  # of its last convolution, and so of the heads
    blocks: int  # at 256 px


BODIES = {
    "resnet": _Family(_resnet, 7, 9),
    "stargan": _Family(_stargan, 7, 6),
    "dilated": _Family(_dilated, 7, 8),
    "dmfn": _Family(_dmfn, 3, 8),
    "folded": _Family(_folded, 3, 4),
}


class UnmaskGenerator(nn.Module):
    """Picture [N, 3, H, W] in [-1, 1] -> `Translation`; H and W are multiples of `multiple_of`.

    Args:
        body: see the module's first table.
        head: see its second table.
        width: channels at full size, four times as many in the blocks.
        blocks: at a quarter of the size; 0 takes as many as the base work has at 256 px.
        domains: 0 for a generator of one direction. Above that, one generator makes pictures of
            every domain, as StarGAN: the wanted one stands behind the picture as one-hot maps.
    """

    def __init__(
        self,
        body: Body = "dmfn",
        head: Head = "mask",
        width: int = 64,
        blocks: int = 0,
        domains: int = 0,
    ) -> None:
        super().__init__()
        if body not in BODIES:
            raise ValueError(f"no body {body!r}; known: {', '.join(BODIES)}")
        if head not in HEADS:
            raise ValueError(f"no head {head!r}; known: {', '.join(HEADS)}")
        family = BODIES[body]
        kernel = family.kernel
        self.head, self.domains = head, domains
        self.body = nn.Sequential(*family.layers(3 + domains, width, blocks or family.blocks))

        def last(outputs: int) -> nn.Module:
            if body == "folded":
                return unfolding(width, outputs)
            return nn.Conv2d(width, outputs, kernel, padding=kernel // 2)

        body_ = self.body[-1]
        self.multiple_of = body_.multiple_of if isinstance(body_, FoldedUNet) else 4
        self.draw = last(3)
        self.choose = last(1) if head in {"mask", "binary_mask"} else None

    @classmethod
    def paper(cls, body: Body = "dmfn", head: Head = "mask", domains: int = 0) -> UnmaskGenerator:
        """64 channels; as many blocks as the base work has at 256 px."""
        return cls(body, head, 64, 0, domains)

    @classmethod
    def compact(cls) -> UnmaskGenerator:
        """The folded body with 32 channels at a quarter of the size, and four levels."""
        return cls("folded", "mask", 32, 4)

    def forward(self, x: Tensor, domain: int = 0) -> Translation:
        """Translate pictures to `domain` (without meaning where `domains` is 0)."""
        given = x
        if self.domains:
            if not 0 <= domain < self.domains:
                raise ValueError(f"domain {domain} is not one of 0 to {self.domains - 1}")
            label = torch.zeros_like(x[:, :1]).repeat(1, self.domains, 1, 1)
            label[:, domain] = 1
            given = torch.cat([x, label], dim=1)
        features = self.body(given)
        drawing = torch.tanh(self.draw(features))
        if self.choose is None:
            image = x + 2 * drawing if self.head == "residual" else drawing
            return Translation(image, torch.ones_like(x[:, :1]))
        mask = torch.sigmoid(self.choose(features))
        if self.head == "binary_mask":
            hard = (mask > 0.5).to(mask.dtype)
            # See Note [Gradients of the binary mask].
            mask = hard + mask - mask.detach() if self.training else hard
        return Translation(mask * drawing + (1 - mask) * x, mask)
