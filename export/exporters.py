"""The networks that `revisage export NAME` knows, each with the function that exports it.

An exporter is `function(weights: Path, folder: Path, **options: Unpack[ExportOptions]) -> Bundle`.
It builds the network from a safetensors file, says what the manifest has to say, and hands the
options on to `export_bundle`.
It is named here as text and imported when it is used, so that one network's missing dependency does
not stop the others.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Protocol, Unpack

from revisage.bundle import Bundle
from revisage.errors import CheckpointError, OptionError
from revisage.export.bundle_from_onnx import ExportOptions

__all__ = ["EXPORTERS", "Exporter", "default_weights", "export_named"]


class Exporter(Protocol):
    """Turns a weights file into the bundle `folder/<name>`."""

    def __call__(self, weights: Path, folder: Path, **options: Unpack[ExportOptions]) -> Bundle:
        """Export; see `export_bundle` for what it raises."""


EXPORTERS = {
    "face_finder": "revisage.export.faces:face_finder",
    "face_landmarks": "revisage.export.faces:face_landmarks",
    "wrinkle_segmenter": "revisage.export.wrinkles:wrinkle_segmenter",
    "wrinkle_filler": "revisage.export.wrinkles:wrinkle_filler",
    "unetpp": "revisage.export.wrinkles:unetpp",
    "unmask": "revisage.export.unmask:unmask",
    "unmask_paper": "revisage.export.unmask:unmask_paper",
    "inpainting": "revisage.export.inpaint:inpainting",
    "inpaint_free_form": "revisage.export.inpaint:inpaint_free_form",
    "inpaint_free_form_paper": "revisage.export.inpaint:inpaint_free_form_paper",
    "skip_inpainting": "revisage.export.inpaint:skip_inpainting",
    "skip_inpainting_paper": "revisage.export.inpaint:skip_inpainting_paper",
    "lama": "revisage.export.inpaint:lama",
    "dmfn": "revisage.export.inpaint:dmfn",
    "gfrnet": "revisage.export.restore:gfrnet",
    "gfrnet_paper": "revisage.export.restore:gfrnet_paper",
    "gfrnet_warpnet": "revisage.export.restore:gfrnet_warpnet",
    "gfrnet_pyramid_warpnet": "revisage.export.restore:gfrnet_pyramid_warpnet",
    "style_retoucher": "revisage.export.blemishes:style_retoucher",
    "style_retoucher_paper": "revisage.export.blemishes:style_retoucher_paper",
    "stylegan2": "revisage.export.blemishes:stylegan2",
    "live": "revisage.export.live:live",
}


def default_weights(name: str) -> Path:
    """Where the trained weights of a shipped network lie in a source checkout."""
    import revisage.training.models as models

    return Path(models.__file__).parents[1] / "weights" / f"{name}.safetensors"


def export_named(
    name: str,
    folder: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    **options: Unpack[ExportOptions],
) -> Bundle:
    """Export the network `name` as the bundle `folder/<name>`.

    Args:
        weights: a safetensors file; None means the trained weights of the source checkout.
        options: see `ExportOptions`.

    Raises:
        OptionError: no network has this name, or it cannot be exported with these options.
        CheckpointError: there are no such weights.
    """
    if name not in EXPORTERS:
        raise OptionError(f"no network {name!r} to export; there are: {', '.join(EXPORTERS)}")
    path = Path(weights) if weights is not None else default_weights(name)
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such weights; give a safetensors file with --weights "
            "(`revisage import` makes one from a published checkpoint)"
        )
    module_name, _, function = EXPORTERS[name].partition(":")
    exporter: Exporter = getattr(importlib.import_module(module_name), function)
    return exporter(path, Path(folder), **options)
