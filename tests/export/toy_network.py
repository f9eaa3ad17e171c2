"""A tiny filler with all that is hard to export: strides, reflection, a Fourier unit."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from revisage.export import ManifestFields
from revisage.export.compare import Arrays
from revisage.export.reference_set import reference_masks, reference_pictures
from revisage.manifest import RecipeOrigin, TensorSpec, Tolerance
from revisage.training.models.ffc import FourierUnit

IMAGE = TensorSpec("image", "float32", ("N", 3, "H", "W"), "NCHW", "RGB", (0.0, 1.0))
MASK = TensorSpec("mask", "float32", ("N", 1, "H", "W"), "NCHW", "mask", (0.0, 1.0))
FILLED = TensorSpec("filled", "float32", ("N", 3, "H", "W"), "NCHW", "RGB", (0.0, 1.0))


class ToyFiller(nn.Module):
    """[N, 3, H, W] and [N, 1, H, W] -> [N, 3, H, W]; H and W multiples of 8."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.down = nn.Conv2d(4, width, 3, 2, 1, padding_mode="reflect")
        self.norm = nn.BatchNorm2d(width)
        self.spectrum = FourierUnit(width, width)
        self.up = nn.ConvTranspose2d(2 * width, 3, 4, 2, 1)
        self.drop = nn.Dropout(0.5)  # must be gone in eval mode

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        known = torch.cat([image * (1 - mask), mask], dim=1)
        x = functional.relu(self.norm(self.down(known)))
        x = torch.cat([self.drop(x), self.spectrum(x)], dim=1)
        return torch.sigmoid(self.up(x))


def toy_fields(**changes: object) -> ManifestFields:
    fields = ManifestFields(
        name="toy",
        operation="wrinkles",
        version="1",
        size="compact",
        description="A toy.",
        inputs=(IMAGE, MASK),
        outputs=(FILLED,),
        working_size=64,
        multiple_of=8,
        padding="reflect",
        tolerances={"onnxruntime-cpu": {"fp32": Tolerance(1e-5, 1e-6)}},
        licence="Apache-2.0",
        recipe=RecipeOrigin("toy"),
        weights_digest="0" * 64,
    )
    fields.update(changes)  # type: ignore[typeddict-item]
    return fields


def toy_references(count: int = 3, size: int = 64) -> list[Arrays]:
    pairs = zip(reference_pictures(count, size), reference_masks(count, size), strict=True)
    return [{"image": np.asarray(p[None]), "mask": np.asarray(m[None])} for p, m in pairs]
