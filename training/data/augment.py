"""Adaptive discriminator augmentation.

Source: Karras et al. 2020, "Training Generative Adversarial Networks with Limited
Data" (NeurIPS), section 3 and appendix B. What the discriminator sees, real or generated, goes
through the same random transforms, each applied with probability p; p rises while the scores of
real pictures show overfitting. All steps are differentiable, twice for a gradient penalty.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

__all__ = ["AdaptiveAugment", "sample_bilinear"]

# Low-pass filter of the wavelet Symlet 6 (Daubechies 1992), which appendix B.2 resamples with.
SYMLET_6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)


def sample_bilinear(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear samples at pixel positions, zero outside; differentiable in `images` any often.

    torch's grid_sample has no second derivative, which a gradient penalty behind it needs.

    Args:
        images: [N, C, H, W]; x, y: [N, h, w], pixel centres at whole numbers.

    Returns:
        [N, C, h, w].
    """
    batch, channels, height, width = images.shape
    flat = images.reshape(batch, channels, height * width)
    left, top = x.floor(), y.floor()
    out = torch.zeros(batch, channels, x[0].numel(), dtype=images.dtype, device=images.device)
    for column, row in ((0, 0), (1, 0), (0, 1), (1, 1)):
        i, j = left + column, top + row
        weight = (1 - (x - i).abs()) * (1 - (y - j).abs())
        inside = (i >= 0) & (i < width) & (j >= 0) & (j < height)
        place = j.clamp(0, height - 1) * width + i.clamp(0, width - 1)
        index = place.long().reshape(batch, 1, -1).expand(-1, channels, -1)
        out = out + flat.gather(2, index) * (weight * inside).reshape(batch, 1, -1)
    return out.reshape(batch, channels, *x.shape[1:])


def _translation(x: Tensor, y: Tensor) -> Tensor:
    """[N, 3, 3] homogeneous matrices."""
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    rows = torch.stack([one, zero, x, zero, one, y, zero, zero, one], dim=1)
    return rows.reshape(-1, 3, 3)


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    return torch.stack([x, zero, zero, zero, y, zero, zero, zero, one], dim=1).reshape(-1, 3, 3)


def _rotation(angle: Tensor) -> Tensor:
    one, zero, cos, sin = torch.ones_like(angle), torch.zeros_like(angle), angle.cos(), angle.sin()
    rows = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=1)
    return rows.reshape(-1, 3, 3)


class AdaptiveAugment(nn.Module):
    """The pipeline "bgc": pixel blitting, geometry, colour; and p, adapted to the scores.

    | group | transforms, each with probability p |
    |---|---|
    | blitting | mirror; quarter turns; shifts of whole pixels, up to 1/8 of the side |
    | geometry | scale exp2(N(0, 0.2)); rotation; anisotropic scale exp2(N(0, 0.2)); shift N(0, 1/8) |
    | colour | brightness N(0, 0.2); contrast exp2(N(0, 0.5)); luma flip; hue; saturation exp2(N(0, 1)) |

    Geometry is one affine map, applied at twice the size between wavelet filters, so that it does
    not alias. State (p and the running mean of signs) is in buffers.

    Args:
        target: mean sign of the scores of real pictures at which p stays (r_t of the paper).
        pictures: real pictures in which p can move from 0 to 1.
        every: calls of `observe` between two moves of p.
        start: first p.
        groups: which of "blitting", "geometry", "colour".
    """  # noqa: E501

    p: Tensor
    signs: Tensor  # sum of signs, scores seen, calls since the last move
    wavelet: Tensor

    GROUPS = ("blitting", "geometry", "colour")

    def __init__(
        self,
        *,
        target: float = 0.6,
        pictures: int = 500_000,
        every: int = 4,
        start: float = 0.0,
        groups: tuple[str, ...] = GROUPS,
    ) -> None:
        super().__init__()
        unknown = sorted(set(groups) - set(self.GROUPS))
        if unknown or not 0 <= start <= 1 or pictures < 1 or every < 1:
            raise ValueError(
                f"groups are of {', '.join(self.GROUPS)} (unknown: {', '.join(unknown)}); "
                "start must be in 0..1, pictures and every at least 1"
            )
        self.target, self.pictures, self.every, self.groups = target, pictures, every, groups
        self.register_buffer("p", torch.tensor(float(start)))
        self.register_buffer("signs", torch.zeros(3))
        taps = torch.tensor(SYMLET_6, dtype=torch.float64)
        self.register_buffer("wavelet", (taps / taps.sum()).float(), persistent=False)

    @torch.no_grad()
    def observe(self, real_scores: Tensor) -> None:
        """Take the discriminator's scores of augmented real pictures; every so often, move p."""
        scores = real_scores.detach().flatten().float()
        self.signs += torch.stack(
            [scores.sign().sum(), scores.new_tensor(float(len(scores))), scores.new_tensor(1.0)]
        )
        if float(self.signs[2]) >= self.every:
            overfitting = self.signs[0] / self.signs[1]
            # Of several processes each sees its share, and the loop averages what they count.
            several = distributed.is_available() and distributed.is_initialized()
            step = self.signs[1] * (distributed.get_world_size() if several else 1) / self.pictures
            self.p.add_(torch.sign(overfitting - self.target) * step).clamp_(0, 1)
            self.signs.zero_()

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] in about [-1, 1] -> the same shape."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"pictures must be [N, 3, H, W], got {list(images.shape)}")
        if float(self.p) == 0:
            return images
        if {"blitting", "geometry"} & set(self.groups):
            images = self._moved(images, self._matrices(images))
        if "colour" in self.groups:
            matrix = self._colours(images)  # [N, 4, 4]
            flat = matrix[:, :3, :3] @ images.flatten(2) + matrix[:, :3, 3:]
            images = flat.reshape(images.shape)
        return images

    def _sometimes(self, values: Tensor, otherwise: float, p: Tensor | None = None) -> Tensor:
        """Each value [N] with probability p, else `otherwise`."""
        chosen = torch.rand_like(values) < (self.p if p is None else p)
        return torch.where(chosen, values, torch.full_like(values, otherwise))

    def _matrices(self, images: Tensor) -> Tensor:
        """From output to input positions, in pixels around the centre: [N, 3, 3]."""
        batch, _, height, width = images.shape
        template = torch.empty(batch, dtype=torch.float32, device=images.device)

        def normal(deviation: float) -> Tensor:
            return torch.randn_like(template) * deviation

        def uniform() -> Tensor:
            return torch.rand_like(template)

        matrix = torch.eye(3, device=images.device).expand(batch, 3, 3)
        if "blitting" in self.groups:
            # A coin with two sides decides once chosen, so that p = 1 mirrors half of them.
            mirror = self._sometimes(torch.floor(uniform() * 2), 0)
            matrix = matrix @ _scaling(1 - 2 * mirror, torch.ones_like(mirror))
            turns = self._sometimes(torch.floor(uniform() * 4), 0)
            matrix = matrix @ _rotation(turns * (math.pi / 2))
            chosen = self._sometimes(torch.ones_like(template), 0)
            dx, dy = (torch.round((uniform() / 4 - 1 / 8) * side) for side in (width, height))
            matrix = matrix @ _translation(chosen * dx, chosen * dy)
        if "geometry" in self.groups:
            scale = self._sometimes(torch.exp2(normal(0.2)), 1)
            matrix = matrix @ _scaling(1 / scale, 1 / scale)
            # Before and after the anisotropic scale, so that either happens with probability p.
            p_turn = 1 - torch.sqrt(1 - self.p)
            turn = self._sometimes((2 * uniform() - 1) * math.pi, 0, p_turn)
            matrix = matrix @ _rotation(turn)
            scale = self._sometimes(torch.exp2(normal(0.2)), 1)
            matrix = matrix @ _scaling(1 / scale, scale)
            turn = self._sometimes((2 * uniform() - 1) * math.pi, 0, p_turn)
            matrix = matrix @ _rotation(turn)
            chosen = self._sometimes(torch.ones_like(template), 0)
            dx, dy = normal(1 / 8) * width, normal(1 / 8) * height
            matrix = matrix @ _translation(chosen * dx, chosen * dy)
        return matrix

    def _moved(self, images: Tensor, matrix: Tensor) -> Tensor:
        """Apply `matrix` at twice the size; beyond its border a picture is mirrored.

        At twice the size pixel i stands at 2 i + `delay`, the filter's centre of gravity. An
        orthogonal filter up and its adjoint down are together the identity.
        """
        _, channels, height, width = images.shape
        taps = len(SYMLET_6)
        delay = float((self.wavelet * torch.arange(taps, device=images.device)).sum())
        pad_x, pad_y = _margins(matrix, width, height, taps // 2)
        images = functional.pad(images, (pad_x, pad_x, pad_y, pad_y), mode="reflect")
        kernel = self.wavelet.to(images.dtype).expand(channels, 1, 1, taps)
        images = functional.conv_transpose2d(images, 2 * kernel, stride=(1, 2), groups=channels)
        images = functional.conv_transpose2d(
            images, 2 * kernel.transpose(2, 3), stride=(2, 1), groups=channels
        )
        # Relative to the centre of the picture; the filter back down needs taps - 2 samples more.
        x = torch.arange(2 * width + taps - 2, device=images.device) - (width - 1 + delay)
        y = torch.arange(2 * height + taps - 2, device=images.device) - (height - 1 + delay)
        rows = matrix[:, :2, :, None, None]  # at twice the size only its shifts double
        from_x, from_y = (
            rows[:, row, 0] * x + rows[:, row, 1] * y[:, None] + 2 * rows[:, row, 2]
            for row in (0, 1)
        )
        from_x = from_x + (width + 2 * pad_x - 1 + delay)
        from_y = from_y + (height + 2 * pad_y - 1 + delay)
        images = sample_bilinear(images, from_x.to(images.dtype), from_y.to(images.dtype))
        images = functional.conv2d(images, kernel, stride=(1, 2), groups=channels)
        return functional.conv2d(images, kernel.transpose(2, 3), stride=(2, 1), groups=channels)

    def _colours(self, images: Tensor) -> Tensor:
        """Affine maps of colours, homogeneous: [N, 4, 4]."""
        batch = images.shape[0]
        template = torch.empty(batch, dtype=images.dtype, device=images.device)
        identity = torch.eye(4, dtype=images.dtype, device=images.device)
        luma = identity.new_tensor([1, 1, 1, 0]) / math.sqrt(3)  # the grey axis
        along = torch.outer(luma, luma)

        shift = self._sometimes(torch.randn_like(template) * 0.2, 0)
        matrix = identity.repeat(batch, 1, 1)
        matrix[:, :3, 3] = shift[:, None]
        gain = self._sometimes(torch.exp2(torch.randn_like(template) * 0.5), 1)
        scaled = torch.stack([gain, gain, gain, torch.ones_like(gain)], dim=1)
        matrix = torch.diag_embed(scaled) @ matrix
        flip = self._sometimes(torch.floor(torch.rand_like(template) * 2), 0)
        matrix = (identity - 2 * along * flip[:, None, None]) @ matrix
        angle = self._sometimes((2 * torch.rand_like(template) - 1) * math.pi, 0)
        matrix = _hue_rotation(angle) @ matrix
        more = self._sometimes(torch.exp2(torch.randn_like(template)), 1)[:, None, None]
        return (along + (identity - along) * more) @ matrix


def _hue_rotation(angle: Tensor) -> Tensor:
    """Rotations of RGB around the grey axis (Rodrigues' formula): [N, 4, 4]."""
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    cross = angle.new_tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    third = angle.new_full((3, 3), 1 / 3)
    turn = cos * torch.eye(3, dtype=angle.dtype, device=angle.device)
    turn = turn + sin * cross + (1 - cos) * third  # [N, 3, 3]
    matrix = torch.eye(4, dtype=angle.dtype, device=angle.device).repeat(len(angle), 1, 1)
    matrix[:, :3, :3] = turn
    return matrix


def _margins(matrix: Tensor, width: int, height: int, filter_radius: int) -> tuple[int, int]:
    """How far the transformed square reaches over the picture, in pixels: x and y.

    Mirroring can continue a picture by its side less one pixel; further out it is black.
    """
    x, y = (width - 1) / 2, (height - 1) / 2
    corners = matrix.new_tensor([[-x, x, x, -x], [-y, -y, y, y], [1, 1, 1, 1]])
    reach = (matrix @ corners)[:, :2].abs().amax(dim=(0, 2))
    over = [float(r) - side for r, side in zip(reach, (x, y), strict=True)]
    pad_x, pad_y = (math.ceil(max(0.0, o)) + filter_radius for o in over)
    return min(pad_x, width - 1), min(pad_y, height - 1)
