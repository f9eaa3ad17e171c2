"""Seeded weights and pictures for networks that are compared with segmentation_models.pytorch."""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch

__all__ = ["fill_by_key", "rippled_picture"]


def fill_by_key(network: torch.nn.Module) -> torch.nn.Module:
    """Give every tensor values that follow from its key alone, and return the network in eval mode.

    Two implementations with the same keys get the same weights by it.
    """
    for key, value in network.state_dict().items():
        if not value.is_floating_point():
            continue
        random = np.random.RandomState(zlib.crc32(key.encode()))
        shape = tuple(value.shape)
        if value.ndim > 1:
            drawn = random.standard_normal(shape) / math.sqrt(value[0].numel())
        elif key.endswith(("running_var", "weight")):
            drawn = random.uniform(0.5, 1.5, shape)
        else:
            drawn = random.uniform(-0.2, 0.2, shape)
        value.copy_(torch.from_numpy(drawn))
    return network.eval()


def rippled_picture(channels: int, height: int, width: int) -> torch.Tensor:
    """[1, channels, height, width] in [-1, 1]."""
    ramp = torch.linspace(-1, 1, channels * height * width).sin()
    return (ramp * 50).sin().reshape(1, channels, height, width)
