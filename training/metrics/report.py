"""The figures of a validation, under the names that all tasks use."""

from __future__ import annotations

from torch import Tensor

from revisage.training.metrics.errors import batch_psnr, l1, l2
from revisage.training.metrics.lpips import FeatureDistance, Lpips
from revisage.training.metrics.pictures import check_mask, check_pair
from revisage.training.metrics.ssim import MS_SSIM_WEIGHTS, least_side, ms_ssim, ssim

__all__ = ["LARGEST_PSNR", "image_figures"]

LARGEST_PSNR = 100.0  # dB; what equal pictures count in a mean


def image_figures(
    result: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    distance: Lpips | FeatureDistance | None = None,
) -> dict[str, float]:
    """Means over a batch of pictures of every figure that compares a result with the truth.

    `l1`, `l2` and `psnr` (decibels, at most `LARGEST_PSNR` for one picture) are of the masked
    pixels where there is a mask; what looks at neighbourhoods is of the whole picture: `ssim` from
    11 pixels up, `ms_ssim` from 161 up, and the distance under its own name, `lpips` or
    `lpips_stand_in`.

    Args:
        result, target: [N, 3, H, W] RGB in [0, 1]; values outside are cut off, as a saved picture
            would be.
        mask: [N, 1, H, W], pixels that are not 0 count.
        distance: of `lpips_network`; None leaves it out.

    Raises:
        ValueError: shapes do not fit, or a mask is empty.
    """
    check_pair(result, target)
    if mask is not None:
        check_mask(mask, result)
    result, target = result.detach().float().clamp(0, 1), target.detach().float().clamp(0, 1)
    figures = {
        "l1": l1(result, target, mask),
        "l2": l2(result, target, mask),
        "psnr": batch_psnr(result, target, mask).clamp(max=LARGEST_PSNR),
    }
    side = min(result.shape[-2:])
    if side >= least_side(1):
        figures["ssim"] = ssim(result, target)
    if side >= least_side(len(MS_SSIM_WEIGHTS)):
        figures["ms_ssim"] = ms_ssim(result, target)
    if distance is not None:
        figures[distance.name] = distance(2 * result - 1, 2 * target - 1)
    return {name: float(values.mean()) for name, values in figures.items()}
