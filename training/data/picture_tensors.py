"""Pictures as tensors, in the two ranges that networks use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["eight_bit", "pictures_tensor", "signed_pictures", "unit_range"]


def pictures_tensor(pictures: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
    """[H, W, 3] uint8 pictures as [N, 3, H, W] float32 in [0, 1]."""
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return stacked.contiguous().float().div_(255)


def signed_pictures(images: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
    """[H, W, 3] uint8 each -> [N, 3, H, W] float32 in [-1, 1]."""
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return (stacked.float() / 127.5 - 1).contiguous()


def unit_range(pictures: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], float32; what lies outside stays outside."""
    return (pictures.float() + 1) / 2


def eight_bit(picture: Tensor) -> npt.NDArray[np.uint8]:
    """[1, 3, H, W] in [0, 1], values outside cut off, as the picture [H, W, 3] that is saved."""
    values = picture[0].permute(1, 2, 0).clamp(0, 1).float().cpu().numpy()
    levels: npt.NDArray[np.uint8] = np.rint(255 * values).astype(np.uint8)
    return levels
