"""The landmark network: 68 points, a face score and the pose from a 128 px crop.

Points are read from 32 x 32 heat maps by their expectation (Sun et al. 2018, "Integral Human Pose
Regression"), which gives sub-cell precision and needs few training pictures. The encoder is made of
inverted residuals (Sandler et al. 2018, "MobileNetV2"), a top-down path brings context back to the
32 x 32 grid (Lin et al. 2017, "Feature Pyramid Networks").
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

__all__ = ["FaceLandmarks", "InvertedResidual"]


def _convolution(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm and ReLU, [N, C, H, W] -> [N, outside, H/stride, W/stride]."""
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
    )


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3, linear 1x1, with a skip where the shape allows."""

    def __init__(self, inside: int, outside: int, expansion: int, stride: int = 1) -> None:
        super().__init__()
        hidden = inside * expansion
        self.skip = inside == outside and stride == 1
        self.expand = _convolution(inside, hidden, 1)
        self.depthwise = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
        )
        self.project = nn.Sequential(
            nn.Conv2d(hidden, outside, 1, bias=False), nn.BatchNorm2d(outside)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.project(self.depthwise(self.expand(features)))
        return features + out if self.skip else out


class FaceLandmarks(nn.Module):
    """[N, 3, 128, 128] RGB in [0, 1] -> landmarks, score logit and pose.

    Args:
        widths: channels at 1/4, 1/8, 1/16 and 1/32 of the input size.
    """

    size = 128  # side of the input crop in pixels
    centres: torch.Tensor  # [32] of the heat map's cells, in crop pixels
    points = 68

    def __init__(self, widths: tuple[int, int, int, int] = (48, 80, 128, 160)) -> None:
        super().__init__()
        a, b, c, d = widths
        self.stem = nn.Sequential(_convolution(3, 16, 3, 2), _convolution(16, a, 3, 2))
        self.stage4 = InvertedResidual(a, a, 2)
        self.stage8 = nn.Sequential(
            InvertedResidual(a, b, 3, 2), InvertedResidual(b, b, 3), InvertedResidual(b, b, 3)
        )
        self.stage16 = nn.Sequential(
            InvertedResidual(b, c, 3, 2), InvertedResidual(c, c, 3), InvertedResidual(c, c, 3)
        )
        self.stage32 = nn.Sequential(InvertedResidual(c, d, 3, 2), InvertedResidual(d, d, 2))
        self.down32 = nn.Conv2d(d, c, 1)
        self.merge16 = InvertedResidual(c, c, 2)
        self.down16 = nn.Conv2d(c, b, 1)
        self.merge8 = InvertedResidual(b, b, 2)
        self.down8 = nn.Conv2d(b, a, 1)
        self.merge4 = InvertedResidual(a, a, 2)
        self.heat = nn.Conv2d(a, self.points, 1)
        self.summary = nn.Sequential(nn.Linear(d + a, 64), nn.ReLU(inplace=True), nn.Linear(64, 3))
        grid = torch.arange(self.size // 4, dtype=torch.float32)
        # Cell i covers the crop pixels 4i .. 4i + 3 (pixel centres at integers).
        self.register_buffer("centres", grid * 4 + 1.5, persistent=False)

    def heat_maps(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [N, 68, 32, 32] of the heat maps, and summary [N, 3] (score logit, yaw, pitch)."""
        f4 = self.stage4(self.stem(image - 0.5))
        f8 = self.stage8(f4)
        f16 = self.stage16(f8)
        f32 = self.stage32(f16)
        f16 = self.merge16(f16 + functional.interpolate(self.down32(f32), scale_factor=2.0))
        f8 = self.merge8(f8 + functional.interpolate(self.down16(f16), scale_factor=2.0))
        f4 = self.merge4(f4 + functional.interpolate(self.down8(f8), scale_factor=2.0))
        pooled = torch.cat([f32.mean(dim=(2, 3)), f4.mean(dim=(2, 3))], dim=1)
        return self.heat(f4), self.summary(pooled)

    def expectation(self, logits: torch.Tensor) -> torch.Tensor:
        """Expected position [N, 68, 2] (x, y) in crop pixels of heat-map logits [N, 68, 32, 32]."""
        n, points, height, width = logits.shape
        share = functional.softmax(logits.float().reshape(n, points, height * width), dim=2)
        share = share.reshape(n, points, height, width)
        x = (share.sum(dim=2) * self.centres).sum(dim=2)
        y = (share.sum(dim=3) * self.centres).sum(dim=2)
        return torch.stack([x, y], dim=2)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Landmarks [N, 68, 2] in crop pixels, score logit [N], pose [N, 2] (yaw, pitch, degrees).

        Yaw and pitch follow the annotation of the training portraits.
        """
        logits, summary = self.heat_maps(image)
        return self.expectation(logits), summary[:, 0], summary[:, 1:] * 30.0
