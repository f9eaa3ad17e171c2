"""WarpNet: from a degraded face and a guide to the field that lays the guide over the face.

Source: Li et al. 2018, "Learning Warped Guidance for Blind Face Restoration" (ECCV).
Layers as in the authors' PyTorch code (csxmli2016/GFRNet_WarpNet): `WarpNet` is its first version,
which the authors present as the paper's, `PyramidWarpNet` the later one in the manner of
FlowNet2-SD (Ilg et al. 2017). Attribute names give the state-dict keys; the code is our own.

Note [Sampling grids]
    A field is an absolute position for every pixel, not an offset: channel 0 is x, channel 1 is y,
    -1 is the centre of the first pixel and +1 that of the last (`align_corners=True`), so pixel =
    (g + 1) (size - 1) / 2. Samples outside the guide are 0. The published Lua network puts y first:
    swap the channels of its fields. The published PyTorch code leaves `align_corners` to the torch
    version; its landmark targets x / 255 * 2 - 1 fit True only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from revisage.training.ops import flow_warp

__all__ = ["PyramidWarpNet", "WarpNet", "flow_of_grid", "grid_of_flow", "identity_grid", "warp"]


def identity_grid(height: int, width: int, like: Tensor | None = None) -> Tensor:
    """The grid that samples every pixel at its own place: [1, 2, H, W]."""
    y, x = _centred(height, like), _centred(width, like)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])[None]


def _centred(size: int, like: Tensor | None) -> Tensor:
    """`size` steps from -1 to 1; of tensors only, so that an exported graph follows any size."""
    device, dtype = (None, torch.float32) if like is None else (like.device, like.dtype)
    step = torch.arange(size, device=device, dtype=dtype)
    return (2 * step - step[-1:]) / step[-1:].clamp_min(1)


def grid_of_flow(flow: Tensor) -> Tensor:
    """Offsets in pixels, [N, H, W, 2] (x, y), as an absolute grid [N, 2, H, W]."""
    height, width = flow.shape[1:3]
    steps = flow.new_tensor([2 / max(1, width - 1), 2 / max(1, height - 1)])
    return identity_grid(height, width, flow) + (flow * steps).permute(0, 3, 1, 2)


def flow_of_grid(grid: Tensor) -> Tensor:
    """The inverse of `grid_of_flow`: [N, 2, H, W] -> offsets in pixels, [N, H, W, 2]."""
    height, width = grid.shape[-2:]
    moved = grid - identity_grid(height, width, grid)
    return torch.stack([moved[:, 0] * ((width - 1) / 2), moved[:, 1] * ((height - 1) / 2)], dim=-1)


def warp(image: Tensor, grid: Tensor, *, align_corners: bool = True) -> Tensor:
    """Sample a picture at a grid, see Note [Sampling grids].

    An exported ONNX graph has our operator `FlowWarp` for it, where picture and grid are one size.

    Args:
        image: [N, C, H, W].
        grid: [N, 2, h, w] in -1 .. 1, x first.
        align_corners: False gives what the published PyTorch code does on torch 1.3 and later.

    Returns:
        [N, C, h, w]; 0 where the grid points outside.
    """
    if torch.onnx.is_in_onnx_export() and align_corners and image.shape[-2:] == grid.shape[-2:]:
        return flow_warp(image, flow_of_grid(grid), padding="zero")
    places = grid.permute(0, 2, 3, 1)  # [N, h, w, 2]
    return functional.grid_sample(
        image, places, mode="bilinear", padding_mode="zeros", align_corners=align_corners
    )


class WarpNet(nn.Module):
    """The paper's WarpNet, an encoder-decoder without skips: degraded, guide -> grid [N, 2, H, W].

    Both pictures are [N, 3, H, W] (paper: 256 x 256, in [0, 1]; the bottleneck is then 1 x 1) with
    sides that are multiples of 2 ** levels. Every position comes out of the bottleneck, as there is
    no skip: the field is smooth, and may point anywhere.

    Args:
        ngf: channels of the first convolution; they double up to 16 times that.
        levels: how often the size is halved; 8 in the paper.
    """

    def __init__(self, ngf: int = 64, levels: int = 8) -> None:
        super().__init__()
        if ngf < 1 or levels < 2:
            raise ValueError(f"ngf must be at least 1 and levels at least 2, not {ngf}, {levels}")
        self.multiple_of = 2**levels
        widths = [ngf * min(16, 2**level) for level in range(levels)]
        encoder: list[nn.Module] = [nn.Conv2d(6, ngf, 4, 2, 1)]
        for level in range(1, levels):
            encoder += [nn.LeakyReLU(0.2), nn.Conv2d(widths[level - 1], widths[level], 4, 2, 1)]
            if level < levels - 1:
                encoder.append(nn.BatchNorm2d(widths[level]))
        decoder: list[nn.Module] = []
        for level in range(levels - 1, 0, -1):
            decoder += [
                nn.ReLU(),
                nn.ConvTranspose2d(widths[level], widths[level - 1], 4, 2, 1),
                nn.BatchNorm2d(widths[level - 1]),
            ]
        decoder += [nn.ReLU(), nn.ConvTranspose2d(ngf, 2, 4, 2, 1), nn.Tanh()]
        self.warpNet = nn.Sequential(nn.Sequential(*encoder), nn.Sequential(*decoder))
        self._initialise()

    def _initialise(self) -> None:
        """Normal(0, 0.04): the published helper asks for 0.02, but its default of 0.04 wins."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0.0, 0.04)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.04)

    @classmethod
    def paper(cls) -> WarpNet:
        """256 px, 64 channels behind the first convolution."""
        return cls()

    @classmethod
    def compact(cls) -> WarpNet:
        """256 px, an eighth of the paper's channels."""
        return cls(ngf=8)

    def forward(self, degraded: Tensor, guide: Tensor) -> Tensor:
        pair = torch.cat([degraded, guide], dim=1)  # [N, 6, H, W]
        _check_sides(pair, self.multiple_of)
        grid: Tensor = self.warpNet(pair)  # [N, 2, H, W]
        return grid


def _check_sides(x: Tensor, multiple: int) -> None:
    height, width = x.shape[-2:]
    if height % multiple or width % multiple:
        raise ValueError(f"sides must be multiples of {multiple}, not {height} x {width}: resize")


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "instance":
        return nn.InstanceNorm2d(channels)
    raise ValueError(f"norm is batch or instance, not {kind!r}")


def _conv(inputs: int, outputs: int, norm: str, stride: int = 1) -> nn.Sequential:
    layers = nn.Conv2d(inputs, outputs, 3, stride, 1), _norm(norm, outputs), nn.LeakyReLU(0.2)
    return nn.Sequential(*layers)


def _up(inputs: int, outputs: int, norm: str) -> nn.Sequential:
    convolution = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)
    return nn.Sequential(convolution, _norm(norm, outputs), nn.LeakyReLU(0.2))


class PyramidWarpNet(nn.Module):
    """The authors' later WarpNet: a grid at every scale, refined from coarse to fine.

    degraded, guide [N, 3, H, W] -> grids at full, half and quarter size, [N, 2, H, W] and so on.
    The published weights take RGB in [-1, 1]; sides are multiples of 64. The warp uses the first.

    Args:
        ngf: channels at full size, 4 or more; 32 in the published code.
        norm: "batch" (published) or "instance".
        at_rest: start with grids of about 0, not with the published random shift: for a network
            that says how far pixels move instead of where they are.
    """

    multiple_of = 64

    def __init__(self, ngf: int = 32, norm: str = "batch", *, at_rest: bool = False) -> None:
        super().__init__()
        if ngf < 4:
            raise ValueError(f"ngf must be at least 4, not {ngf}")
        n = ngf
        self.conv0 = _conv(6, n, norm)  # full size
        self.conv1, self.conv1_1 = _conv(n, n, norm, 2), _conv(n, 2 * n, norm)  # 1/2
        self.conv2, self.conv2_1 = _conv(2 * n, 2 * n, norm, 2), _conv(2 * n, 2 * n, norm)  # 1/4
        self.conv3, self.conv3_1 = _conv(2 * n, 4 * n, norm, 2), _conv(4 * n, 4 * n, norm)  # 1/8
        self.conv4, self.conv4_1 = _conv(4 * n, 8 * n, norm, 2), _conv(8 * n, 8 * n, norm)  # 1/16
        self.conv5, self.conv5_1 = _conv(8 * n, 8 * n, norm, 2), _conv(8 * n, 8 * n, norm)  # 1/32
        self.conv6, self.conv6_1 = _conv(8 * n, 16 * n, norm, 2), _conv(16 * n, 16 * n, norm)

        # Channels of the concatenations: skip (none below level 3), up-sampled map, coarser grid.
        widths = {5: 8 * n, 4: 4 * n, 3: 2 * n, 2: n, 1: n // 2, 0: n // 4}
        skips = {5: 8 * n, 4: 8 * n, 3: 4 * n, 2: 0, 1: 0, 0: 0}
        joined = {level: skips[level] + widths[level] + 2 for level in widths}
        for level in range(5, -1, -1):
            inputs = 16 * n if level == 5 else joined[level + 1]
            self.add_module(f"deconv{level}", _up(inputs, widths[level], norm))
        for level in range(5, -1, -1):
            self.add_module(f"inter_conv{level}", _conv(joined[level], widths[level], norm))
        for level in range(6, -1, -1):
            inputs = 16 * n if level == 6 else widths[level]
            predict = nn.Sequential(nn.Conv2d(inputs, 2, 3, 1, 1), nn.Tanh())
            self.add_module(f"predict_flow{level}", predict)
        for level in range(6, 0, -1):
            up = nn.ConvTranspose2d(2, 2, 4, 2, 1)
            self.add_module(f"upsampled_flow{level}_to_{level - 1}", up)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.uniform_(module.bias)
                if at_rest and module.out_channels == 2:
                    nn.init.zeros_(module.bias)

    @classmethod
    def paper(cls) -> PyramidWarpNet:
        """The published size: 32 channels."""
        return cls()

    @classmethod
    def compact(cls) -> PyramidWarpNet:
        """A quarter of the channels."""
        return cls(ngf=8)

    def forward(self, degraded: Tensor, guide: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pair = torch.cat([degraded, guide], dim=1)  # [N, 6, H, W]
        _check_sides(pair, self.multiple_of)
        x = self.conv1_1(self.conv1(self.conv0(pair)))
        x = self.conv2_1(self.conv2(x))
        skips = {}
        for level in (3, 4, 5):
            x = self.get_submodule(f"conv{level}")(x)
            x = skips[level] = self.get_submodule(f"conv{level}_1")(x)
        x = self.conv6_1(self.conv6(x))  # 1/64
        grids = [self.get_submodule("predict_flow6")(x)]
        for level in range(5, -1, -1):
            coarser = self.get_submodule(f"upsampled_flow{level + 1}_to_{level}")(grids[-1])
            parts = [self.get_submodule(f"deconv{level}")(x), coarser]
            x = torch.cat([skips[level], *parts] if level in skips else parts, dim=1)
            refined = self.get_submodule(f"inter_conv{level}")(x)
            grids.append(self.get_submodule(f"predict_flow{level}")(refined))
        return grids[-1], grids[-2], grids[-3]
