"""From torch networks to certified bundles: ONNX, parity gate, manifest.

`export_bundle` is the one way into a bundle; every network has an exporter that calls it (see
README.md beside this file for how to add one).
"""

from __future__ import annotations

from revisage.export.bundle_from_onnx import (
    ExportOptions,
    ManifestFields,
    export_bundle,
    stated_tolerances,
)
from revisage.export.exporters import EXPORTERS, export_named

__all__ = [
    "EXPORTERS",
    "ExportOptions",
    "ManifestFields",
    "export_bundle",
    "export_named",
    "stated_tolerances",
]
