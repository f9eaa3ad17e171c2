"""Exporters of GFRNet, which rebuilds a degraded face from another photo of the same person.

The guide is warped by our operator `FlowWarp`, so it runs natively where its kernel is, and as
GridSample everywhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import torch
from torch import nn

from revisage.bundle import Bundle
from revisage.export.bundle_from_onnx import ExportOptions, ManifestFields, export_bundle
from revisage.export.compare import Arrays
from revisage.export.pictures import PAPER_REFERENCES, REFERENCES, TOLERANCES, picture_tensor
from revisage.export.reference_set import degraded, reference_guides, reference_pictures
from revisage.export.weights import file_digest, imported_arguments, load_weights, recipe_origin
from revisage.manifest import RecipeOrigin, TensorSpec
from revisage.training.models.gfrnet import GFRNet, predicted_grid
from revisage.training.models.gfrnet_warpnet import PyramidWarpNet, WarpNet, warp

__all__ = ["gfrnet", "gfrnet_paper", "gfrnet_pyramid_warpnet", "gfrnet_warpnet"]

WORKING_SIZE = 256
RESTORED, WARPED = picture_tensor("restored"), picture_tensor("warped")


class _Restored(nn.Module):
    """The restored face, and the guide as it was laid over the face."""

    def __init__(self, network: GFRNet) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, degraded: torch.Tensor, guide: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.network(degraded, guide)
        return found.restored, found.warped


class _Warped(nn.Module):
    """WarpNet alone: the guide laid over the face."""

    def __init__(self, warpnet: nn.Module) -> None:
        super().__init__()
        self.warpnet = warpnet

    def forward(self, degraded: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
        return warp(guide, predicted_grid(self.warpnet, degraded, guide))


def gfrnet(weights: Path, folder: Path, **options: Unpack[ExportOptions]) -> Bundle:
    """Export the compact GFRNet."""
    network = GFRNet.compact()
    load_weights(network, weights)
    fields = _fields("gfrnet", "compact", (RESTORED, WARPED), network.multiple_of, weights)
    return export_bundle(_Restored(network), fields, _pairs(REFERENCES), folder, **options)


def gfrnet_paper(weights: Path, folder: Path, **options: Unpack[ExportOptions]) -> Bundle:
    """Export GFRNet at paper size, of recipe `gfrnet_paper`."""
    network = GFRNet.paper()
    load_weights(network, weights)
    fields = _fields("gfrnet_paper", "paper", (RESTORED, WARPED), network.multiple_of, weights)
    return export_bundle(_Restored(network), fields, _pairs(PAPER_REFERENCES), folder, **options)


def gfrnet_warpnet(weights: Path, folder: Path, **options: Unpack[ExportOptions]) -> Bundle:
    """Export the first published WarpNet that `revisage import` took from a checkpoint."""
    network = WarpNet(**imported_arguments(weights, "gfrnet_warpnet"))
    return _export_warpnet("gfrnet_warpnet", network, weights, folder, options)


def gfrnet_pyramid_warpnet(weights: Path, folder: Path, **options: Unpack[ExportOptions]) -> Bundle:
    """Export the later published WarpNet that `revisage import` took from a checkpoint."""
    network = PyramidWarpNet(**imported_arguments(weights, "gfrnet_pyramid_warpnet"))
    return _export_warpnet("gfrnet_pyramid_warpnet", network, weights, folder, options)


def _export_warpnet(
    name: str,
    network: WarpNet | PyramidWarpNet,
    weights: Path,
    folder: Path,
    options: ExportOptions,
) -> Bundle:
    load_weights(network, weights)
    fields = _fields(name, "paper", (WARPED,), network.multiple_of, weights)
    fields["description"] = "Lays a guide over a degraded face (WarpNet of a published checkpoint)."
    fields["licence"] = "LicenseRef-of-the-checkpoint"
    fields["recipe"] = RecipeOrigin(name)
    return export_bundle(_Warped(network), fields, _pairs(PAPER_REFERENCES), folder, **options)


def _fields(
    name: str, size: str, outputs: tuple[TensorSpec, ...], multiple_of: int, weights: Path
) -> ManifestFields:
    return ManifestFields(
        name=name,
        operation="restore",
        version="1",
        size=size,
        description="Rebuilds a degraded face from another photo of the same person (GFRNet).",
        inputs=(picture_tensor("degraded"), picture_tensor("guide")),
        outputs=outputs,
        working_size=WORKING_SIZE,
        multiple_of=multiple_of,
        padding="reflect",
        tolerances=TOLERANCES,
        licence="Apache-2.0",
        recipe=recipe_origin(name),
        weights_digest=file_digest(weights),
    )


def _pairs(count: int) -> list[Arrays]:
    """Degraded faces, and guides of which the warp is known."""
    faces = reference_pictures(count, WORKING_SIZE)
    pairs = zip(degraded(faces), reference_guides(faces), strict=True)
    return [{"degraded": face[None], "guide": guide[None]} for face, guide in pairs]
