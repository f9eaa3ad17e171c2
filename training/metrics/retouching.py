"""What a retoucher is worth: held-out blemished faces against their clean originals."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from revisage.training.metrics.lpips import FeatureDistance, Lpips
from revisage.training.metrics.report import image_figures

__all__ = ["retouch_figures", "retouch_sheet"]

Sample = tuple[Tensor, Tensor, Tensor]  # input, target [1, 3, S, S] in [0, 1]; mask [1, 1, S, S]


def retouch_figures(
    retouch: Callable[[Tensor], Tensor],
    samples: Iterable[Sample],
    *,
    device: torch.device,
    distance: Lpips | FeatureDistance | None = None,
) -> dict[str, float]:
    """Means over the samples of what `image_figures` has, and three more.

    `blemish_psnr` is of blemished pixels only; `input_psnr` and `input_blemish_psnr` are those of
    the input itself, which doing nothing would get.

    Args:
        retouch: input -> result, both [1, 3, S, S] in [0, 1].
    """
    sums: dict[str, list[float]] = {}
    for image, target, mask in samples:
        with torch.no_grad():
            found = retouch(image.to(device)).float().clamp(0, 1)
            figures = image_figures(found, target.to(device), distance=distance)
        figures["input_psnr"] = image_figures(image, target)["psnr"]
        if bool((mask > 0).any()):
            inside = (mask > 0).float()
            figures["blemish_psnr"] = image_figures(found.cpu(), target, inside)["psnr"]
            figures["input_blemish_psnr"] = image_figures(image, target, inside)["psnr"]
        for name, value in figures.items():
            sums.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in sums.items()}


def retouch_sheet(
    retouch: Callable[[Tensor], Tensor], samples: Iterable[Sample], *, device: torch.device
) -> npt.NDArray[np.uint8]:
    """Samples in columns: input, result, target; [3 S, N S, 3]."""
    columns = []
    for image, target, _ in samples:
        with torch.no_grad():
            found = retouch(image.to(device)).float().clamp(0, 1).cpu()
        columns.append(torch.cat([image, found, target], dim=2)[0])
    sheet = torch.cat(columns, dim=2).permute(1, 2, 0).numpy()
    return np.asarray(np.round(sheet * 255).astype(np.uint8))
