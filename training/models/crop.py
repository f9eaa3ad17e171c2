"""Boxes cut out of a batch of pictures, as critics of a part of the picture need them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["crop_resized"]


def crop_resized(image: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Cut a box out of each picture and resize it bilinearly (corners aligned); differentiable.

    A box of `size` pixels is copied. What lies outside the picture is 0.

    Args:
        image: [N, C, H, W].
        boxes: [N, 4] as x0, y0, x1, y1: the pixel centres that become the corners of the crop.

    Returns:
        [N, C, size, size].
    """
    height, width = image.shape[-2:]
    low, high = boxes[:, :2], boxes[:, 2:]  # [N, 2]
    share = torch.linspace(0, 1, size, device=image.device, dtype=image.dtype)
    places = low[:, None] + share[:, None] * (high - low)[:, None]  # [N, size, 2] in pixels
    places = places * places.new_tensor([2 / (width - 1), 2 / (height - 1)]) - 1
    x = places[:, None, :, 0].expand(-1, size, -1)  # [N, size, size]
    y = places[:, :, None, 1].expand(-1, -1, size)
    grid = torch.stack([x, y], dim=-1).to(image.dtype)
    return functional.grid_sample(image, grid, align_corners=True)
