"""ABPN, the adaptive blend pyramid network: retouch at low resolution, blend at any resolution.

Source: Lei et al. 2022, "ABPN: Adaptive Blend Pyramid Network for Real-Time Local Retouching of
Ultra High-Resolution Photo" (CVPR).

What is public (the paper's pages; the code that its authors published is another, simpler network,
see `skin_retouching.py`): a context-aware local retouching layer (LRL) works at low resolution and
predicts a mask and a local edit; its result is turned into a blend layer by a reverse blend module
(R-BPM); a pyramid enlarges and refines the blend layer level by level, and blend modules (BPM) put
it over the picture. The blend is shaped like soft light and has two learned scalars, which all
forward and reverse modules share.

What is chosen here: widths, depths and the layers of LRL and refinement; and the place of the two
scalars, see `AdaptiveBlend`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ABPN", "AdaptiveBlend", "BlendPyramid", "LocalRetouching"]

LEAST_GAIN = 1 / 16  # bounds what the reverse module divides by, near black and white


def _conv(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class AdaptiveBlend(nn.Module):
    """The blend x, B -> R and its inverse x, R -> B, of pictures in [0, 1] and blend layers.

    R = x + (B - 1/2) g(x),  g(x) = max(a x - b x^2, 1/16),  with learned scalars a and b

    With a = b = 2 this is soft light, R = (1 - 2B) x^2 + 2Bx, wherever g is not at its bound.
    B = 1/2 is identity whatever a and b are, so what nobody asked to change stays as it is. The
    inverse B = 1/2 + (R - x) / g(x) is exact; without the bound it is singular at x = 0 and at
    x = a / b (white, for soft light), which learned scalars can only move.
    """

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Parameter(torch.tensor(2.0))  # a
        self.quadratic = nn.Parameter(torch.tensor(2.0))  # b

    def gain(self, image: Tensor) -> Tensor:
        """g(x)."""
        return (self.linear * image - self.quadratic * image.square()).clamp(min=LEAST_GAIN)

    def forward(self, image: Tensor, layer: Tensor) -> Tensor:
        """Put a blend layer over a picture of its size (BPM)."""
        return image + (layer - 0.5) * self.gain(image)

    def reverse(self, image: Tensor, result: Tensor) -> Tensor:
        """The layer that makes `result` of `image` (R-BPM)."""
        return 0.5 + (result - image) / self.gain(image)


class LocalRetouching(nn.Module):
    """LRL: [N, 3, h, w] in [0, 1] -> edit [N, 3, h, w] in [0, 1] and mask [N, 1, h, w] in [0, 1].

    One encoder, dilated convolutions for context, and two decoders: the mask branch, and the edit
    branch, whose features are attended by those of the mask branch at every level. h and w are
    multiples of `multiple_of`.

    Args:
        widths: channels at full size of the low-resolution picture, half, quarter, ...
        dilations: of the context convolutions at the smallest size.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128, 256, 256),
        dilations: Sequence[int] = (1, 2, 4, 8),
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ValueError(f"widths of two levels or more, not {list(widths)}")
        self.multiple_of = 2 ** (len(widths) - 1)
        self.stem = _conv(3, widths[0])
        self.down = nn.ModuleList(
            nn.Sequential(_conv(wide, deeper, 2), _conv(deeper, deeper))
            for wide, deeper in itertools.pairwise(widths)
        )
        self.context = nn.ModuleList(_conv(widths[-1], widths[-1], 1, d) for d in dilations)
        self.mask_up, self.edit_up, self.attention = (nn.ModuleList() for _ in range(3))
        for deeper, wide in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.mask_up.append(_conv(deeper + wide, wide))
            self.edit_up.append(_conv(deeper + wide, wide))
            self.attention.append(nn.Conv2d(wide, wide, 1))
        self.mask_head = nn.Conv2d(widths[0], 1, 3, padding=1)
        self.edit_head = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        skips = [self.stem(2 * image - 1)]
        for down in self.down:
            skips.append(down(skips[-1]))
        x = skips.pop()
        for context in self.context:
            x = x + context(x)
        mask = edit = x
        for mask_up, edit_up, attention in zip(
            self.mask_up, self.edit_up, self.attention, strict=True
        ):
            skip = skips.pop()
            mask = mask_up(torch.cat([_twice(mask), skip], dim=1))
            edit = edit_up(torch.cat([_twice(edit), skip], dim=1)) * attention(mask).sigmoid()
        # The edit is predicted as a change: there is less to learn.
        return (image + self.edit_head(edit)).clamp(0, 1), self.mask_head(mask).sigmoid()


def _twice(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class BlendPyramid(nn.Module):
    """Enlarges a blend layer level by level, each time corrected by what the picture shows.

    Args:
        levels: doublings from the low resolution to the full one.
        width: channels of the refining convolutions.
    """

    def __init__(self, levels: int, width: int = 16) -> None:
        super().__init__()
        self.refine = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(6, width, 3, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, width, 3, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, 3, 3, padding=1),
            )
            for _ in range(levels)
        )
        for refine in self.refine:
            last = refine[-1]  # type: ignore[index]
            nn.init.zeros_(last.weight)  # at first the upsampling is bilinear
            nn.init.zeros_(last.bias)

    def forward(self, layer: Tensor, pictures: Sequence[Tensor]) -> Tensor:
        """[N, 3, h, w] and the picture at 2, 4, ... times that size -> the layer at full size."""
        for refine, picture in zip(self.refine, pictures, strict=True):
            layer = _twice(layer)
            layer = layer + refine(torch.cat([layer - 0.5, picture - 0.5], dim=1))
        return layer


class ABPN(nn.Module):
    """RGB in [0, 1] -> retouched RGB in [0, 1], both [N, 3, H, W].

    H and W are multiples of `multiple_of`; LRL works at 1 / 2 ** levels of the size.

    Args:
        levels: of the blend pyramid, at least 1.
        widths, dilations: of `LocalRetouching`.
        refine_width: of `BlendPyramid`.
    """

    def __init__(
        self,
        levels: int = 2,
        widths: Sequence[int] = (32, 64, 128, 256, 256),
        dilations: Sequence[int] = (1, 2, 4, 8),
        refine_width: int = 16,
    ) -> None:
        super().__init__()
        if levels < 1:
            raise ValueError(f"levels must be at least 1, not {levels}")
        self.levels = levels
        self.local = LocalRetouching(widths, dilations)
        self.blend = AdaptiveBlend()
        self.pyramid = BlendPyramid(levels, refine_width)
        self.multiple_of = self.local.multiple_of * 2**levels

    @classmethod
    def paper(cls, levels: int = 2) -> ABPN:
        """LRL at 512 px for pictures of 512 * 2 ** levels; its layers are chosen here."""
        return cls(levels)

    @classmethod
    def compact(cls, levels: int = 1) -> ABPN:
        """A quarter of the width, LRL at 128 px for pictures of 256."""
        return cls(levels, (8, 16, 32, 64), (1, 2, 4), 8)

    def retouch(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The result [N, 3, H, W], and of low resolution: result [N, 3, h, w], mask [N, 1, h, w].

        Raises:
            ValueError: sides are no multiples of `multiple_of`.
        """
        if image.shape[-2] % self.multiple_of or image.shape[-1] % self.multiple_of:
            raise ValueError(
                f"sides must be multiples of {self.multiple_of}, not {list(image.shape[-2:])}"
            )
        pictures = [image]
        for _ in range(self.levels):
            pictures.append(functional.avg_pool2d(pictures[-1], 2))
        low = pictures.pop()
        edit, mask = self.local(low)
        low_result = low + mask * (edit - low)
        layer = self.blend.reverse(low, low_result)
        result = self.blend(image, self.pyramid(layer, pictures[::-1]))
        return result.clamp(0, 1), low_result, mask

    def forward(self, image: Tensor) -> Tensor:
        return self.retouch(image)[0]
