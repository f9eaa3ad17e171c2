"""Fast Fourier convolution: the building block of LaMa.

Sources: Chi, Jiang and Mu 2020, "Fast Fourier Convolution" (NeurIPS); Suvorov et
al. 2022, "Resolution-robust Large Mask Inpainting with Fourier Convolutions" (WACV).
Names of modules give the state-dict keys of the published LaMa checkpoints.

A feature map is a pair (local, global): local channels see a 3x3 neighbourhood, global channels
also see the whole picture, through its spectrum. Either may be absent (None).

Note [The Fourier transform as matrix products]
    Engines have no fast Fourier transform, or a slow one. The transform along an axis of length n
    is a product with the n x n matrices cos(2 pi k t / n) and sin(2 pi k t / n), which every engine
    runs on its best hardware. The real transform keeps the columns k = 0 .. n // 2; the inverse
    counts every inner column twice, for its conjugate that was left out. `k t` is reduced modulo n
    before the cosine: float32 angles of thousands of turns would lose the digits that matter.
    A complex number is two real ones and its rotation a 2 x 2 block: with the parts of a row side
    by side, and those of a column one above the other, each direction is two products and nothing
    else. Matrices are made inside the graph from the shape, so that one graph serves every size.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn

from revisage.training.ops import fft_conv

__all__ = [
    "FFC",
    "FFCBlock",
    "FFCResidualBlock",
    "FourierUnit",
    "SpectralTransform",
    "fourier_matrices",
    "irfft2_by_matrices",
    "rfft2_by_matrices",
    "use_fourier_transform",
]

Transform = Literal["fft", "matrices", "operator"]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


def _waves(length: int, count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of 2 pi (k t mod length) / length for t < length, k < count, over sqrt(length).

    Returns:
        Two [length, count] float32.
    """
    t = torch.arange(length, device=like.device, dtype=torch.float32)
    k = torch.arange(count, device=like.device, dtype=torch.float32)
    n = t[-1:] + 1  # as a tensor, because the exporter has no remainder by a symbolic size
    turns = torch.remainder(t[:, None] * k[None, :], n) * (2 * math.pi / n)
    return turns.cos() * torch.rsqrt(n), turns.sin() * torch.rsqrt(n)


def fourier_matrices(like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The matrices of the transform of [N, C, H, W], both ways, with norm "ortho".

    Returns:
        With V = W // 2 + 1: across [W, 2 V], from a row to the real parts of its spectrum and then
        the imaginary ones; down [2 H, 2 H], from the two parts of each row to all real parts and
        then all imaginary ones; back [2 V, W], the inverse of across. The inverse of down is its
        transpose.
    """
    height, width = like.shape[-2:]
    cosine, sine = _waves(width, width // 2 + 1, like)
    # Column k counts twice unless it is its own conjugate: k = 0, and k = W / 2 where W is even.
    # As the library does, the imaginary part of those is ignored: their sines are zero.
    k = torch.arange(width // 2 + 1, device=like.device, dtype=torch.float32)
    n = torch.arange(width, device=like.device, dtype=torch.float32)[-1:] + 1
    weight = 2 - (torch.remainder(2 * k, n) == 0).to(torch.float32)
    across = torch.cat((cosine, -sine), dim=1)
    back = torch.cat((cosine * weight, -sine * weight), dim=1).T
    cosine, sine = _waves(height, height, like)  # symmetric
    real, imaginary = torch.stack((cosine, sine), dim=2), torch.stack((-sine, cosine), dim=2)
    return across, torch.cat((real, imaginary)).flatten(1), back


def rfft2_by_matrices(x: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """`torch.fft.rfft2(x, norm="ortho")` by products with `fourier_matrices`.

    Args:
        x: [N, C, H, W] float32.

    Returns:
        [N, 2 C, H, W // 2 + 1] float32: the real part of each channel, then its imaginary part.
    """
    count, channels, height, _ = x.shape
    rows = (x @ across).reshape(count, channels, 2 * height, -1)
    return (down @ rows).reshape(count, 2 * channels, height, -1)


def irfft2_by_matrices(spectrum: Tensor, down: Tensor, back: Tensor) -> Tensor:
    """`torch.fft.irfft2(norm="ortho")` of what `rfft2_by_matrices` returns, to [N, C, H, W]."""
    count, parts, height, _ = spectrum.shape
    rows = down.T @ spectrum.reshape(count, parts // 2, 2 * height, -1)
    return rows.reshape(count, parts // 2, height, -1) @ back


class FourierUnit(nn.Module):
    """A 1x1 convolution of the spectrum: rfft2 -> conv -> batch norm -> ReLU -> irfft2.

    The real and imaginary parts of each channel are neighbours in the channel order
    (c0 real, c0 imaginary, c1 real, ...).

    How it is computed (`transform`): "fft" by torch.fft, "matrices" by matrix products, "operator"
    by `revisage.training.ops.fft_conv`, with the batch norm folded; while a batch norm is in
    training mode it needs the spectrum's statistics, so "operator" is computed as "fft". An
    exported ONNX graph has the operator's node for "fft" too, as it has no fast Fourier transform.

    Input and output: [N, C, H, W] float32, any H and W. Without `norm` the unit is positively
    homogeneous: k times the input gives k times the output.
    """

    def __init__(self, channels_in: int, channels_out: int, *, norm: bool = True) -> None:
        super().__init__()
        self.conv_layer = nn.Conv2d(2 * channels_in, 2 * channels_out, 1, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(2 * channels_out) if norm else nn.Identity()
        self.transform: Transform = "fft"

    def forward(self, x: Tensor) -> Tensor:
        # Half precision loses the spectrum (its first value is the sum of the picture).
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            wanted = self.transform == "operator" or torch.onnx.is_in_onnx_export()
            if wanted and self.transform != "matrices" and self._foldable():
                return fft_conv(x, self.conv_layer.weight[:, :, 0, 0], *self._affine())
            if self.transform == "matrices":
                across, down, back = fourier_matrices(x)
                return irfft2_by_matrices(
                    self._mixed(rfft2_by_matrices(x, across, down)), down, back
                )
            spectrum = torch.fft.rfft2(x, norm="ortho")
            pairs = torch.stack((spectrum.real, spectrum.imag), dim=2).flatten(1, 2)
            mixed = self._mixed(pairs)
            spectrum = torch.complex(mixed[:, 0::2], mixed[:, 1::2])
            return cast(Tensor, torch.fft.irfft2(spectrum, s=x.shape[-2:], norm="ortho"))

    def _mixed(self, spectrum: Tensor) -> Tensor:
        """[N, 2 C, H, V] -> [N, 2 D, H, V]."""
        return torch.relu(self.bn(self.conv_layer(spectrum)))

    def _foldable(self) -> bool:
        """Whether the norm is a fixed affine map."""
        return not (isinstance(self.bn, nn.BatchNorm2d) and self.bn.training)

    def _affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift per channel that stand for the norm, each [2 D]."""
        weight, norm = self.conv_layer.weight, self.bn
        if not isinstance(norm, nn.BatchNorm2d):
            return weight.new_ones(len(weight)), weight.new_zeros(len(weight))
        assert norm.running_mean is not None  # for mypy: LaMa's norms keep statistics
        assert norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        return scale, norm.bias - norm.running_mean * scale


class SpectralTransform(nn.Module):
    """Global to global path of an FFC: narrow, transform, add, widen.

    With stride 2 the input is average-pooled first.

    Args:
        local_unit: add a second Fourier unit that sees the four quadrants of a quarter of the
            channels (the paper's "semi-global" unit; off in every shipped LaMa
            configuration). Height and width must be even, the narrow channels a multiple of 4.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        stride: int = 1,
        *,
        norm: bool = True,
        local_unit: bool = False,
    ) -> None:
        super().__init__()
        self.downsample = nn.AvgPool2d(2, 2) if stride == 2 else nn.Identity()
        narrow = channels_out // 2
        self.conv1 = nn.Sequential(
            nn.Conv2d(channels_in, narrow, 1, bias=not norm),
            nn.BatchNorm2d(narrow) if norm else nn.Identity(),
            nn.ReLU(inplace=True),
        )
        self.fu = FourierUnit(narrow, narrow, norm=norm)
        self.lfu = FourierUnit(narrow, narrow, norm=norm) if local_unit else None
        self.conv2 = nn.Conv2d(narrow, channels_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(self.downsample(x))
        total = x + self.fu(x)
        if self.lfu is not None:
            height, width = x.shape[-2:]
            quadrants = x[:, : x.shape[1] // 4]
            quadrants = torch.cat(torch.split(quadrants, height // 2, dim=2), dim=1)
            quadrants = torch.cat(torch.split(quadrants, width // 2, dim=3), dim=1)
            total = total + self.lfu(quadrants).repeat(1, 1, 2, 2)
        return cast(Tensor, self.conv2(total))


class FFC(nn.Module):
    """One fast Fourier convolution.

    local  = conv(local) + conv(global)
    global = conv(local) + spectral(global)

    Args:
        ratio_in, ratio_out: share of the channels that is global; the global count is
            `int(channels * ratio)`.
        norm: batch norms inside the spectral transform; without them the spatial convolutions
            carry a bias.
        local_unit: see `SpectralTransform`.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        ratio_in: float,
        ratio_out: float,
        *,
        stride: int = 1,
        padding: int = 0,
        padding_mode: PaddingMode = "reflect",
        norm: bool = True,
        local_unit: bool = False,
    ) -> None:
        super().__init__()
        global_in, global_out = int(channels_in * ratio_in), int(channels_out * ratio_out)
        local_in, local_out = channels_in - global_in, channels_out - global_out

        def conv(narrow: int, wide: int) -> nn.Module:
            # An absent path has no weights, hence no keys.
            if not narrow or not wide:
                return nn.Identity()
            return nn.Conv2d(
                narrow, wide, kernel, stride, padding, bias=not norm, padding_mode=padding_mode
            )

        self.has_local_out, self.has_global_out = local_out > 0, global_out > 0
        self.convl2l = conv(local_in, local_out)
        self.convl2g = conv(local_in, global_out)
        self.convg2l = conv(global_in, local_out)
        self.convg2g: nn.Module = (
            SpectralTransform(global_in, global_out, stride, norm=norm, local_unit=local_unit)
            if global_in and global_out
            else nn.Identity()
        )

    def forward(self, local: Tensor | None, wide: Tensor | None) -> tuple[Tensor | None, ...]:
        out_local: Tensor | None = None
        out_global: Tensor | None = None
        if self.has_local_out:
            parts = [
                path(x)
                for path, x in ((self.convl2l, local), (self.convg2l, wide))
                if x is not None
            ]
            out_local = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        if self.has_global_out:
            parts = [
                path(x)
                for path, x in ((self.convl2g, local), (self.convg2g, wide))
                if x is not None
            ]
            out_global = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return out_local, out_global


class FFCBlock(nn.Module):
    """FFC, then batch norm and ReLU for each part. `norm=False` leaves all batch norms out."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        ratio_in: float,
        ratio_out: float,
        *,
        stride: int = 1,
        padding: int = 0,
        padding_mode: PaddingMode = "reflect",
        norm: bool = True,
        local_unit: bool = False,
    ) -> None:
        super().__init__()
        self.ffc = FFC(
            channels_in,
            channels_out,
            kernel,
            ratio_in,
            ratio_out,
            stride=stride,
            padding=padding,
            padding_mode=padding_mode,
            norm=norm,
            local_unit=local_unit,
        )
        wide = int(channels_out * ratio_out)
        self.bn_l: nn.Module = (
            nn.BatchNorm2d(channels_out - wide) if norm and wide < channels_out else nn.Identity()
        )
        self.bn_g: nn.Module = nn.BatchNorm2d(wide) if norm and wide else nn.Identity()

    def forward(self, local: Tensor | None, wide: Tensor | None) -> tuple[Tensor | None, ...]:
        local, wide = self.ffc(local, wide)
        return (
            None if local is None else torch.relu(self.bn_l(local)),
            None if wide is None else torch.relu(self.bn_g(wide)),
        )


class FFCResidualBlock(nn.Module):
    """Two FFC blocks, the input added to both parts after the second ReLU."""

    def __init__(
        self, channels: int, ratio: float, *, norm: bool = True, local_unit: bool = False
    ) -> None:
        super().__init__()

        def block() -> FFCBlock:
            return FFCBlock(
                channels, channels, 3, ratio, ratio, padding=1, norm=norm, local_unit=local_unit
            )

        self.conv1 = block()
        self.conv2 = block()

    def forward(self, local: Tensor | None, wide: Tensor | None) -> tuple[Tensor | None, ...]:
        new_local, new_wide = self.conv2(*self.conv1(local, wide))
        return (
            None if local is None else local + new_local,
            None if wide is None else wide + new_wide,
        )


def use_fourier_transform(network: nn.Module, transform: Transform) -> nn.Module:
    """Let every Fourier unit of `network` use one `FourierUnit.transform`."""
    for module in network.modules():
        if isinstance(module, FourierUnit):
            module.transform = transform
    return network
