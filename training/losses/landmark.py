"""Losses that tell a warp where the landmarks of the face have to come from.

Source: Li et al. 2018, "Learning Warped Guidance for Blind Face Restoration" (ECCV), the
landmark loss of its objective: the field has to carry every landmark of the guide to that of the
face. Pixels and normaliser are those of the authors' code (csxmli2016/GFRNet_WarpNet), and so is
the symmetry loss (later version). Grids are those of Note [Sampling grids] in
`models/gfrnet_warpnet.py`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["face_axes", "landmark_loss", "landmark_targets", "symmetry_loss"]


def landmark_targets(
    landmarks: Tensor, guide_landmarks: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Where the grid is bound, and to what.

    The four pixels around each landmark of the degraded face (floor and ceiling of x and y; fewer
    where a coordinate is whole) are bound to that landmark of the guide. Where two landmarks claim
    a pixel, the later one has it. Landmarks outside the picture are left out. Computed on the CPU:
    call it where batches are made.

    Args:
        landmarks, guide_landmarks: [N, P, 2], x and y in pixels of the degraded face and the guide.

    Returns:
        mask [N, 1, H, W] of 0 and 1, and target [N, 2, H, W] in grid units, 0 where the mask is.
    """
    if landmarks.shape != guide_landmarks.shape or landmarks.shape[-1] != 2:
        raise ValueError(
            f"landmarks must both be [N, P, 2], got {tuple(landmarks.shape)} and "
            f"{tuple(guide_landmarks.shape)}"
        )
    count, points = landmarks.shape[:2]
    places = landmarks.detach().cpu().numpy().astype(np.float64)
    scale = np.array([2 / max(1, width - 1), 2 / max(1, height - 1)])
    wanted = guide_landmarks.detach().cpu().numpy().astype(np.float64) * scale - 1  # [N, P, 2]
    low, high = np.floor(places).astype(np.int64), np.ceil(places).astype(np.int64)
    # [N, P, 4]: the corners of one landmark behind each other, so that the later landmark wins.
    x = np.stack([low[..., 0], low[..., 0], high[..., 0], high[..., 0]], axis=-1)
    y = np.stack([low[..., 1], high[..., 1], low[..., 1], high[..., 1]], axis=-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    sample, point = np.broadcast_to(np.arange(count)[:, None, None], x.shape), np.arange(points)
    point = np.broadcast_to(point[None, :, None], x.shape)
    chosen = sample[inside], y[inside], x[inside]
    mask = np.zeros((count, height, width), np.float32)
    target = np.zeros((count, height, width, 2), np.float32)
    mask[chosen] = 1
    target[chosen] = wanted[sample[inside], point[inside]]
    return (
        torch.from_numpy(mask)[:, None].to(landmarks.device),
        torch.from_numpy(target).permute(0, 3, 1, 2).contiguous().to(landmarks.device),
    )


def landmark_loss(grid: Tensor, mask: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of grid and target, counted where the mask is 1.

    The mean is over *all* elements of the map, as in the authors' code: with 68 landmarks at 256 px
    about 270 of 65536 pixels count, which is part of the published weight of 10.

    Args:
        grid, target: [N, 2, H, W].
        mask: [N, 1, H, W] or [N, 2, H, W].
    """
    return functional.mse_loss(grid * mask, target * mask)


def face_axes(landmarks: Tensor) -> Tensor:
    """The direction along which a face is symmetric, chin to nose bridge: unit vectors [N, 2].

    From landmark 8 (chin) to 27 (root of the nose), x right and y down.

    Args:
        landmarks: [N, 68, 2] in pixels.
    """
    return functional.normalize(landmarks[:, 27] - landmarks[:, 8], dim=1)


def symmetry_loss(grid: Tensor, axes: Tensor, guide_axes: Tensor, shift: float = 10.0) -> Tensor:
    """A walk along the face's axis has to walk along the guide's axis.

    For each pixel p the grid at p + shift * axis less the grid at p must be parallel to the guide's
    axis: the loss is the mean square of their cross product, over the pixels for which p + shift *
    axis lies in the picture. The published code rounds the step to whole pixels; here it is
    sampled bilinearly.

    Args:
        grid: [N, 2, H, W].
        axes, guide_axes: [N, 2] unit vectors of degraded face and guide (`face_axes`).
        shift: length of the step in pixels; 10 in the re-implementation, 3 in the later code.
    """
    height, width = grid.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=grid.device, dtype=grid.dtype),
        torch.arange(width, device=grid.device, dtype=grid.dtype),
        indexing="ij",
    )
    step = shift * axes.to(grid.dtype)
    places = torch.stack([x, y], dim=-1)[None] + step[:, None, None]  # [N, H, W, 2] in pixels
    limits = places.new_tensor([width - 1, height - 1])
    inside = ((places >= 0) & (places <= limits)).all(dim=-1)  # [N, H, W]
    ahead = functional.grid_sample(grid, 2 * places / limits - 1, align_corners=True)
    moved = ahead - grid  # [N, 2, H, W]
    direction = guide_axes.to(grid.dtype)[:, :, None, None]
    cross = moved[:, 0] * direction[:, 1] - moved[:, 1] * direction[:, 0]  # [N, H, W]
    return (cross.square() * inside).sum() / inside.sum().clamp(min=1)
