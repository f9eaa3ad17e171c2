"""How much an edit flickers from frame to frame, beside the flicker that the input has itself.

The warping error of video papers (Lai et al. 2018, "Learning Blind Video Temporal Consistency",
section 4.1): a frame against the one before it, moved along the optical flow.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["flicker", "pan_flow", "warp_previous", "warping_error"]


def pan_flow(frames: Tensor, right: float, down: float) -> Tensor:
    """Flow [T - 1, 2, H, W] of a still whose content moves by so many pixels from frame to frame.

    Args:
        frames: [T, C, H, W], for the size.
        right, down: movement of the content; (0, 0) for a static shot.
    """
    count, _, height, width = frames.shape
    flow = torch.empty(count - 1, 2, height, width, dtype=frames.dtype, device=frames.device)
    flow[:, 0], flow[:, 1] = -right, -down
    return flow


def warp_previous(frames: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Every frame but the last, moved to where its successor shows the same thing.

    Args:
        frames: [T, C, H, W].
        flow: [T - 1, 2, H, W] x and y offsets in pixels: frame t + 1 shows at p what frame t shows
            at p + flow[t](p), as `revisage.kernels.flow_warp` reads it.

    Returns:
        [T - 1, C, H, W] moved frames (bilinear), and [T - 1, 1, H, W] bool, whether a pixel came
        from inside the frame.
    """
    height, width = frames.shape[-2:]
    rows = torch.arange(height, dtype=frames.dtype, device=frames.device)[:, None]
    columns = torch.arange(width, dtype=frames.dtype, device=frames.device)[None]
    x, y = columns + flow[:, 0], rows + flow[:, 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], dim=3)
    moved = functional.grid_sample(frames[:-1], grid, padding_mode="border", align_corners=True)
    return moved, inside[:, None]


def warping_error(frames: Tensor, flow: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """Mean absolute difference of each frame to the one before it, moved along the flow.

    Args:
        frames: [T, C, H, W] in [0, 1], two frames or more.
        flow: see `warp_previous`; None for a static shot.
        mask: [T - 1, 1, H, W], pixels above 0.5 count, for example those that are not occluded.

    Returns:
        [T - 1].

    Raises:
        ValueError: shapes do not fit, or no pixel is left to compare.
    """
    if frames.ndim != 4 or len(frames) < 2 or not frames.is_floating_point():
        raise ValueError(f"frames must be [T, C, H, W] with T of 2 or more, got {frames.shape}")
    steps, (height, width) = len(frames) - 1, frames.shape[-2:]
    if flow is None:
        flow = pan_flow(frames, 0, 0)
    if tuple(flow.shape) != (steps, 2, height, width):
        raise ValueError(f"the flow must be {[steps, 2, height, width]}, got {list(flow.shape)}")
    moved, counted = warp_previous(frames, flow)
    if mask is not None:
        if tuple(mask.shape) != (steps, 1, height, width):
            raise ValueError(
                f"the mask must be {[steps, 1, height, width]}, got {list(mask.shape)}"
            )
        counted = counted & (mask > 0.5)
    weight = counted.to(frames)
    pixels = weight.sum(dim=(1, 2, 3))
    if bool((pixels == 0).any()):
        raise ValueError("no pixel is left to compare: the flow leads out of the frame")
    difference = (frames[1:] - moved).abs().mean(dim=1, keepdim=True)
    return (difference * weight).sum(dim=(1, 2, 3)) / pixels


def flicker(
    result: Tensor, source: Tensor, flow: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Warping error of a result less that of its input, [T - 1].

    0: as steady as the input, whose noise and occlusions cancel; above 0 the edit flickers; below,
    it calms. In units of the picture: 1/255 is one step of 8 bits in the mean.

    Args:
        result, source: [T, C, H, W] in [0, 1].
        flow, mask: see `warping_error`.
    """
    if result.shape != source.shape:
        raise ValueError(
            f"result and source differ in shape: {list(result.shape)} and {list(source.shape)}"
        )
    return warping_error(result, flow, mask) - warping_error(source, flow, mask)
