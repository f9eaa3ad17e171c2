"""The live network: wrinkles and blemishes in one small pass, for real-time video.

Own design, distilled from the compact networks (`tasks/live.py`). One U-Net at 256 px predicts a
change and where it applies:

    result = image + mask * delta

It is made to be run in 8-bit integers: 3x3 and 1x1 convolutions whose batch norms fold into them,
ReLU6, additions and nearest upsampling, nothing else. Both outputs are made by a ReLU6 too, so
their ranges are known without calibration, and a pixel that nothing shall happen to gets a mask
of exactly 0, not of nearly 0 as from a sigmoid.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["LiveRetoucher"]


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class _Residual(nn.Module):
    """ReLU6(x + norm(conv(ReLU6(norm(conv(x))))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(width, width),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu6(x + self.body(x))


class _Up(nn.Module):
    """The deeper map narrowed and doubled, plus the skip, smoothed."""

    def __init__(self, deeper: int, skip: int) -> None:
        super().__init__()
        self.narrow = _conv(deeper, skip, 1)
        self.smooth = _conv(skip, skip)

    def forward(self, deeper: Tensor, skip: Tensor) -> Tensor:
        up = functional.interpolate(self.narrow(deeper), scale_factor=2.0, mode="nearest")
        out: Tensor = self.smooth(up + skip)
        return out


class LiveRetoucher(nn.Module):
    """RGB in [0, 1], [N, 3, H, W] -> delta [N, 3, H, W] in [-1, 1], mask [N, 1, H, W] in [0, 1].

    Made for aligned squares of 256 px; H and W are multiples of `multiple_of`. Before training
    delta is 0 and the mask 1/2, so the result is the picture.

    Args:
        widths: channels at 1/2, 1/4, 1/8, ... of the size.
        blocks: residual blocks at 1/4, 1/8, ...
        head: channels at full size.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64, 96),
        blocks: Sequence[int] = (1, 2, 2),
        head: int = 8,
    ) -> None:
        super().__init__()
        if len(widths) < 2 or len(blocks) != len(widths) - 1 or min(*widths, head) < 1:
            raise ValueError(
                "two widths or more, a number of blocks for each but the first, and head at least "
                f"1; not {list(widths)}, {list(blocks)}, {head}"
            )
        self.multiple_of = 2 ** len(widths)
        self.stem = _conv(3, widths[0], 3, 2)  # 1/2
        self.down = nn.ModuleList(
            nn.Sequential(_conv(wide, deeper, 3, 2), *(_Residual(deeper) for _ in range(count)))
            for (wide, deeper), count in zip(itertools.pairwise(widths), blocks, strict=True)
        )
        self.up = nn.ModuleList(
            _Up(deeper, wide) for wide, deeper in reversed(list(itertools.pairwise(widths)))
        )
        self.narrow = _conv(widths[0], head, 1)
        self.fine = _conv(head + 3, head)  # sees the pixels themselves
        self.head = nn.Conv2d(head, 4, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    @classmethod
    def compact(cls) -> LiveRetoucher:
        """The size that ships: at most 0.6 billion multiply-adds at 256 x 256."""
        return cls()

    def features(self, centred: Tensor) -> Tensor:
        """[N, 3, H, W] in [-1, 1] -> [N, widths[0], H / 2, W / 2]."""
        skips = [self.stem(centred)]
        for down in self.down:
            skips.append(down(skips[-1]))
        x: Tensor = skips.pop()
        for up in self.up:
            x = up(x, skips.pop())
        return x

    def raw(self, image: Tensor) -> Tensor:
        """[N, 4, H, W]: what becomes delta, and the logit of the mask, before their ReLU6.

        Raises:
            ValueError: sides are no multiples of `multiple_of`.
        """
        if image.shape[-2] % self.multiple_of or image.shape[-1] % self.multiple_of:
            raise ValueError(
                f"sides must be multiples of {self.multiple_of}, not {list(image.shape[-2:])}"
            )
        centred = 2 * image - 1
        x = self.narrow(self.features(centred))
        x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        out: Tensor = self.head(self.fine(torch.cat([x, centred], dim=1)))
        return out

    @staticmethod
    def ranged(raw: Tensor) -> tuple[Tensor, Tensor]:
        """Delta and mask of what `raw` returns: lines of slope 1/3 and 1/6, cut off."""
        return functional.relu6(raw[:, :3] + 3) / 3 - 1, functional.relu6(raw[:, 3:] + 3) / 6

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.ranged(self.raw(image))
