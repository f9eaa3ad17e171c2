"""The skin retouching networks of modelscope: detection, gated inpainting, and the blend layer.

Source: models/cv/skin_retouching and pipelines/cv/skin_retouching_pipeline.py of
modelscope/modelscope (Apache-2.0), of the authors of ABPN but not the ABPN of their paper (that is
`abpn.py`). Attribute names and the order of layers give the state-dict keys of the published
checkpoints; the code is our own.

A face is retouched in two steps. Locally: blemishes are found, cut out and inpainted. Globally: a
U-Net predicts a blend layer, which soft light puts over the picture. Pictures are RGB in [-1, 1],
[N, 3, H, W]; blend layers are in [0, 1], and 0.5 changes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "BlendUNet",
    "DetectionUNet",
    "InpaintingUNet",
    "SkinRetoucher",
    "blend_layer_over",
    "border_fade",
    "face_square",
    "join_tiles",
    "keep_mask",
    "retouch_locally",
    "soft_light",
    "split_tiles",
    "strengthened",
    "whitening_layer",
]

LEVELS = 6
DETECTION_SIDE = 768  # pictures are resized to this square to look for blemishes
BLEND_SIDE = 512  # ... and to this one to predict the blend layer
TILE, TILE_MARGIN = 512, 32
FADE_SIDE, FADE_RAMP = 500, 20
FACE_SCALE = 1.5  # side of the face square over the larger side of the face box
LEAST_PROBABILITY, FULL_PROBABILITY = 0.35, 0.5


def _widths(width: int) -> list[int]:
    """Channels behind the six strided convolutions."""
    return [width, 2 * width, 4 * width, 8 * width, 8 * width, 8 * width]


class ConvBlock(nn.Module):
    """3x3 convolution without bias, batch norm, ReLU or (where nothing is halved) leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, *, down: bool, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, 2 if down else 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs) if norm else nn.Identity()
        self.activation = nn.ReLU() if down else nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.bn(self.conv(x)))
        return out


class GatedConvBlock(nn.Module):
    """activation(norm(conv(x))) * sigmoid(gate(x)): Yu et al. 2019, "Free-Form Image Inpainting".

    Args:
        last: with biases, without norm and activation.
    """

    def __init__(
        self, inputs: int, outputs: int, *, down: bool, norm: bool = True, last: bool = False
    ) -> None:
        super().__init__()
        stride = 2 if down else 1
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=last)
        self.gate = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=last)
        self.bn = nn.BatchNorm2d(outputs) if norm and not last else nn.Identity()
        self.activation: nn.Module = nn.ReLU() if down else nn.LeakyReLU(0.2)
        if last:
            self.activation = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.bn(self.conv(x))) * torch.sigmoid(self.gate(x))
        return out


class _StridedUNet(nn.Module):
    """Six blocks down, six up: nearest x 2, then the skip behind it, then a block.

    Members are `ec_images_1` to `_6` and `dc_images_6` to `_1`.
    """

    def _add_levels(
        self,
        inputs: int,
        width: int,
        block: Callable[..., nn.Module],
        last: Callable[[int], nn.Module],
    ) -> None:
        widths = [inputs, *_widths(width)]
        for level in range(1, LEVELS + 1):
            made = block(widths[level - 1], widths[level], down=True, norm=level > 1)
            self.add_module(f"ec_images_{level}", made)
        deeper = widths[-1]
        for level in range(LEVELS, 1, -1):
            skip = widths[level - 1]
            self.add_module(f"dc_images_{level}", block(deeper + skip, skip, down=False))
            deeper = skip
        self.add_module("dc_images_1", last(deeper + inputs))

    def _run(self, x: Tensor) -> Tensor:
        if x.shape[-2] % 2**LEVELS or x.shape[-1] % 2**LEVELS:
            raise ValueError(f"sides must be multiples of {2**LEVELS}, not {list(x.shape[-2:])}")
        skips = [x]
        for level in range(1, LEVELS + 1):
            skips.append(self.get_submodule(f"ec_images_{level}")(skips[-1]))
        out = skips[LEVELS]
        for level in range(LEVELS, 0, -1):
            out = functional.interpolate(out, scale_factor=2.0, mode="nearest")
            joined = torch.cat([out, skips[level - 1]], dim=1)
            out = self.get_submodule(f"dc_images_{level}")(joined)
        return out


class DetectionUNet(_StridedUNet):
    """Finds blemishes: [N, n_channels, H, W] in [-1, 1] -> logits [N, n_classes, H, W].

    H and W are multiples of 64. Published: one class, run at 768 x 768.

    Args:
        width: channels behind the first convolution; they double up to 8 * width.
    """

    def __init__(self, n_channels: int = 3, n_classes: int = 1, width: int = 64) -> None:
        super().__init__()
        self._add_levels(
            n_channels, width, ConvBlock, lambda inputs: nn.Conv2d(inputs, n_classes, 1)
        )

    def forward(self, image: Tensor) -> Tensor:
        return self._run(image)


class InpaintingUNet(_StridedUNet):
    """Inpaints what was cut out: (image * mask, mask) -> [N, out_channels, H, W] in [-1, 1].

    The image is [N, in_channels - 1, H, W] in [-1, 1]; the mask [N, 1, H, W] is 1 where the picture
    is kept; H and W are multiples of 64.

    Args:
        in_channels: of image and mask together.
        width: as of `DetectionUNet`.
    """

    def __init__(self, in_channels: int = 4, out_channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self._add_levels(
            in_channels,
            width,
            GatedConvBlock,
            lambda inputs: GatedConvBlock(inputs, out_channels, down=False, last=True),
        )

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return torch.tanh(self._run(torch.cat([image, mask], dim=1)))


# -- the U-Net of the blend layer -----------------------------------------------------------------


class DoubleConv(nn.Module):
    """Twice: 3x3 convolution with bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class _Named(nn.Module):
    """A module under one name, for the published keys."""

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__()
        self.add_module(name, module)
        self._member = name

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.get_submodule(self._member)(x)
        return out


class _Up(nn.Module):
    """The deeper map at twice its size, centred on the skip's, behind the skip."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = DoubleConv(inputs, outputs)

    def forward(self, deeper: Tensor, skip: Tensor) -> Tensor:
        up = functional.interpolate(deeper, scale_factor=2.0, mode="bilinear", align_corners=True)
        # Pooling rounds odd sides down.
        rows, columns = skip.shape[-2] - up.shape[-2], skip.shape[-1] - up.shape[-1]
        edges = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        out: Tensor = self.conv(torch.cat([skip, functional.pad(up, edges)], dim=1))
        return out


class BlendUNet(nn.Module):
    """Predicts a blend layer: [N, n_channels, H, W] in [-1, 1] -> [N, n_classes, H, W] in [0, 1].

    Published: 3 to 3 channels, run at 512 x 512. The heads `dsoutc1` to `dsoutc4` were for deep
    supervision and are in every checkpoint.

    Args:
        deep_supervision: return a tuple, with the outputs of `dsoutc1` to `dsoutc4` (no sigmoid,
            at full size) behind the blend layer.
        width: channels at full size; they double up to 8 * width.
    """

    def __init__(
        self,
        n_channels: int = 3,
        n_classes: int = 3,
        deep_supervision: bool = False,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        widths = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.inc = _Named("conv", DoubleConv(n_channels, width))
        for level in range(1, 5):
            double = DoubleConv(widths[level - 1], widths[level])
            pooled = _Named("mpconv", nn.Sequential(nn.MaxPool2d(2), double))
            self.add_module(f"down{level}", pooled)
        # Behind the ups, by depth: at 1/8, 1/4, 1/2 and full size.
        behind = [4 * width, 2 * width, width, width]
        deeper = widths[4]
        for step, outputs in enumerate(behind, start=1):
            self.add_module(f"up{step}", _Up(deeper + widths[4 - step], outputs))
            deeper = outputs
        self.outc = _Named("conv", nn.Conv2d(width, n_classes, 1))
        for depth in range(4, 0, -1):
            head = nn.Conv2d(behind[4 - depth], n_classes, 1)
            self.add_module(f"dsoutc{depth}", _Named("conv", head))

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        skips = [self.inc(image)]
        for level in range(1, 5):
            skips.append(self.get_submodule(f"down{level}")(skips[-1]))
        out, maps = skips[4], []
        for step in range(1, 5):
            out = self.get_submodule(f"up{step}")(out, skips[4 - step])
            maps.append(out)
        layer = torch.sigmoid(self.outc(out))
        if not self.deep_supervision:
            return layer
        heads = []
        for depth in range(1, 5):
            head = self.get_submodule(f"dsoutc{depth}")(maps[4 - depth])
            heads.append(functional.interpolate(head, layer.shape[-2:], mode="bilinear"))
        return layer, *heads


# -- the steps of the pipeline --------------------------------------------------------------------


def face_square(
    box: tuple[int, int, int, int], height: int, width: int
) -> tuple[int, int, int, int]:
    """Square around a face box, cut at the border of the picture.

    Args:
        box: left, top, right, bottom, whole pixels.
        height, width: of the picture.

    Returns:
        left, top, right, bottom, of 1.5 times the larger side of the box.
    """
    left, top, right, bottom = box
    side = int(FACE_SCALE * max(abs(right - left), abs(bottom - top)))
    x, y = (left + right) / 2, (top + bottom) / 2
    return (
        max(int(x - side / 2), 0),
        max(int(y - side / 2), 0),
        min(int(x + side / 2), width),
        min(int(y + side / 2), height),
    )


def keep_mask(probability: Tensor) -> Tensor:
    """How much of each pixel is kept: 1 below 0.35, 0 from 0.5 on, 1 - probability between."""
    weak = torch.where(probability < LEAST_PROBABILITY, torch.zeros_like(probability), probability)
    return 1 - torch.where(probability >= FULL_PROBABILITY, torch.ones_like(weak), weak)


def split_tiles(image: Tensor, side: int = TILE, margin: int = TILE_MARGIN) -> Tensor:
    """Overlapping tiles, row by row, with zeros beyond the picture.

    Args:
        image: [N, C, rows * side, columns * side].

    Returns:
        [rows * columns * N, C, side + 2 * margin, side + 2 * margin]; the N pictures of a tile
        stand together.
    """
    height, width = image.shape[-2:]
    if height % side or width % side:
        raise ValueError(f"sides must be multiples of {side}, not {height} x {width}")
    padded = functional.pad(image, (margin, margin, margin, margin))
    reach = side + 2 * margin
    return torch.cat(
        [
            padded[:, :, top : top + reach, left : left + reach]
            for top in range(0, height, side)
            for left in range(0, width, side)
        ]
    )


def join_tiles(tiles: Tensor, rows: int, columns: int, margin: int = TILE_MARGIN) -> Tensor:
    """The inverse of `split_tiles`: margins are dropped."""
    inner = tiles[:, :, margin : tiles.shape[2] - margin, margin : tiles.shape[3] - margin]
    strips = torch.chunk(inner, rows)
    return torch.cat([torch.cat(torch.chunk(strip, columns), dim=3) for strip in strips], dim=2)


def retouch_locally(detection: nn.Module, inpainting: nn.Module, image: Tensor) -> Tensor:
    """Find blemishes and inpaint them: [N, 3, H, W] in [-1, 1] -> the same, of any size."""
    height, width = image.shape[-2:]
    square = functional.interpolate(
        image, (DETECTION_SIDE, DETECTION_SIDE), mode="bilinear", align_corners=True
    )
    found = torch.sigmoid(detection(square))
    mask = keep_mask(functional.interpolate(found, (height, width), mode="nearest"))
    # What lies beyond the picture counts as cut out.
    beyond = (0, -width % TILE, 0, -height % TILE)
    images = split_tiles(functional.pad(image, beyond))
    masks = split_tiles(functional.pad(mask, beyond))
    parts = []
    rows, columns = -(-height // TILE), -(-width // TILE)
    count = rows * columns
    for part, keep in zip(images.chunk(count), masks.chunk(count), strict=True):
        parts.append(part * keep + (1 - keep) * inpainting(part * keep, keep))
    return join_tiles(torch.cat(parts), rows, columns)[:, :, :height, :width]


def strengthened(layer: Tensor, strength: float) -> Tensor:
    """A blend layer with its distance from 0.5 multiplied, cut to [0, 1]."""
    return ((layer - 0.5) * strength + 0.5).clamp(0, 1)


def border_fade(side: int = FADE_SIDE, ramp: int = FADE_RAMP) -> Tensor:
    """[side, side] float32: 0 at the first row and column, 1 from `ramp` pixels inwards.

    Pixel i of a side has min(i, side - i) / ramp, so the last one has 1 / ramp.
    """
    places = torch.arange(side, dtype=torch.float64)
    line = (torch.minimum(places, side - places) / ramp).clamp(max=1)
    return torch.minimum(line[:, None], line[None, :]).float()


def soft_light(image: Tensor, layer: Tensor) -> Tensor:
    """(1 - 2 m) x^2 + 2 m x of a picture x and a layer m, both in [0, 1]; m = 0.5 is identity."""
    return (1 - 2 * layer) * image.square() + 2 * layer * image


def blend_layer_over(
    image: Tensor, layer: Tensor, strength: float = 1.0, *, fade: bool = True
) -> tuple[Tensor, Tensor]:
    """Put a blend layer of any size over a picture.

    Args:
        image: [N, 3, H, W] in [-1, 1].
        layer: [N, 3, h, w] in [0, 1].
        fade: towards 0.5 at the border of the picture, so that a crop can be put back.

    Returns:
        The picture [N, 3, H, W] in [0, 1], and the layer that was used, of its size.
    """
    size = image.shape[-2:]
    layer = functional.interpolate(strengthened(layer, strength), size, mode="bilinear")
    if fade:
        weight = border_fade().to(layer)[None, None]
        weight = functional.interpolate(weight, size, mode="bilinear")
        layer = (layer - 0.5) * weight + 0.5
    return soft_light((image + 1) / 2, layer), layer


def whitening_layer(skin: Tensor, degree: float = 0.8) -> Tensor:
    """Blend layer [N, 3, H, W] that brightens skin.

    Args:
        skin: [N, 1, H, W] in [0, 1]; upstream closes and blurs it first.
        degree: 0 to 1. Green and blue are brightened by three quarters of what red is.
    """
    share = torch.tensor([1.0, 0.75, 0.75], dtype=skin.dtype, device=skin.device)
    return 0.5 + 0.2 * degree * skin * share[None, :, None, None]


@dataclasses.dataclass(frozen=True, eq=False)
class SkinRetoucher:
    """The pipeline on one face crop: inpaint blemishes, then blend. No gradients.

    The three networks are used in the mode that they are in; `detection` and `inpainting` may be
    left out together.
    """

    blend: nn.Module
    detection: nn.Module | None = None
    inpainting: nn.Module | None = None

    @torch.no_grad()
    def __call__(self, image: Tensor, strength: float = 1.0) -> Tensor:
        """[N, 3, H, W] in [-1, 1] -> [N, 3, H, W] in [0, 1]; upstream cuts 255 x to bytes."""
        if (self.detection is None) != (self.inpainting is None):
            raise ValueError("detection and inpainting belong together: give both, or none")
        if self.detection is not None and self.inpainting is not None:
            image = retouch_locally(self.detection, self.inpainting, image)
        small = functional.interpolate(image, (BLEND_SIDE, BLEND_SIDE), mode="bilinear")
        return blend_layer_over(image, self.blend(small), strength)[0]
