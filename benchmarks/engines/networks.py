"""The networks of the engine benchmark: which exporters, with which weights.

Weights that ship are taken. Where none do, the network is built with a seed: what an engine costs
does not depend on the values, and how far it is from torch hardly does, but what a quantised graph
loses on real pictures does. The table says which weights a row has.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import save_file
from torch import nn

from revisage.bundle import Bundle, shipped_bundle, shipped_names
from revisage.errors import BundleError, ParityError
from revisage.export.exporters import export_named
from revisage.training.importers import read_network, save_imported

SEED = 0
WEIGHTS = Path(__file__).resolve().parents[2] / "training" / "weights"


@dataclass(frozen=True)
class Row:
    """One network of the table."""

    name: str  # of the exporter
    build: str = ""  # "module:Class.method" below `training.models`, where no weights ship
    arguments: Mapping[str, Any] = field(default_factory=dict)
    # Whether convolutions on 8-bit integers have to pay: not where weights depend on the picture.
    convolutional: bool = True
    imported: bool = False  # its exporter takes what `revisage import` writes
    settled: bool = False  # its batch norms get statistics, see `_settle`
    side: int = 0  # of the pictures that are timed; 0: the working size

    @property
    def paper(self) -> bool:
        """Whether the network is of a paper's size: shown, but nothing is required of it."""
        return self.imported or self.name.endswith("_paper")


ROWS = (
    # faces
    Row("face_finder"),
    Row("face_landmarks"),
    # wrinkles
    Row("wrinkle_segmenter"),
    Row("wrinkle_filler"),
    Row("unetpp", "unetpp:UNetPlusPlus", imported=True),
    # blemishes
    Row("style_retoucher", "style_retoucher:StyleRetoucher.compact", convolutional=False),
    Row(
        "style_retoucher_paper",
        "style_retoucher:StyleRetoucher.paper",
        convolutional=False,
        imported=True,
    ),
    # unmask
    Row("unmask", "masked_cyclegan:UnmaskGenerator.compact"),
    Row("unmask_paper", "masked_cyclegan:UnmaskGenerator.paper"),
    # inpaint
    Row("inpainting"),
    Row("inpaint_free_form", "lama:LamaGenerator", {"ngf": 20, "n_blocks": 6}, settled=True),
    Row("skip_inpainting", "skip_inpainting:SkipInpainting.compact"),
    Row("skip_inpainting_paper", "skip_inpainting:SkipInpainting.paper"),
    Row("lama", "lama:LamaGenerator", {"n_blocks": 18}, imported=True, side=256),
    # restore
    Row("gfrnet", "gfrnet:GFRNet.compact"),
    Row("gfrnet_paper", "gfrnet:GFRNet.paper", settled=True),
    # wrinkles and blemishes, live
    Row("live", "live:LiveRetoucher.compact"),
)


def weights_of(row: Row, folder: Path) -> tuple[Path, str]:
    """The weights file of a row, written into `folder` where none ships; and what they are."""
    shipped = WEIGHTS / f"{row.name}.safetensors"
    if shipped.is_file():
        return shipped, "trained"
    module, _, path = row.build.partition(":")
    made: Any = importlib.import_module(f"revisage.training.models.{module}")
    for name in path.split("."):
        made = getattr(made, name)
    torch.manual_seed(SEED)
    network: nn.Module = made(**row.arguments)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():  # a network that starts as one that changes nothing
                parameter.normal_(0, 0.1)
    file = folder / f"{row.name}.safetensors"
    _save(network, row, file)
    if row.settled:
        _settle(network, row, file)
        _save(network, row, file)
    return file, "random"


def _save(network: nn.Module, row: Row, file: Path) -> None:
    # Copies, because one tensor may have several names, which the format does not allow.
    tensors = {key: value.clone().contiguous() for key, value in network.state_dict().items()}
    save_file(tensors, file)
    if row.imported:
        save_imported(read_network(file, row.name.removesuffix("_paper")), file, force=True)


def _settle(network: nn.Module, row: Row, file: Path) -> None:
    """Give batch norms the statistics of the reference pictures, as training would.

    With those that they begin with, a deep network may answer every picture alike, and no probe
    could tell it from one that gives a constant; or its values grow from layer to layer, and so
    does their rounding: two ways of summing in float32 place the positions of `gfrnet_paper` apart.
    """
    (traced, examples, *_), _ = exporter_call(row, file)
    traced.eval()
    for module in traced.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the average of all that is seen
            module.reset_running_stats()
            module.train()
    with torch.no_grad():
        traced(*examples.values())
    settled = next(m for m in traced.modules() if type(m) is type(network))
    network.load_state_dict(settled.state_dict())


def bundle_of(row: Row, folder: Path, *, reuse: bool) -> Bundle:
    """The bundle that ships, else one exported to `folder`; with `reuse` an earlier one."""
    if row.name in shipped_names():
        return shipped_bundle(row.name)
    folder.mkdir(parents=True, exist_ok=True)
    if reuse:
        with suppress(BundleError):
            return Bundle.open(folder / row.name)
    weights, _ = weights_of(row, folder)
    # Ranges of int8 come from the reference pictures, as there may be no portraits at hand.
    precisions = ("int8",) if row.convolutional and not row.paper else ()
    try:
        return export_named(row.name, folder, weights=weights, force=True, precisions=precisions)
    except ParityError as error:
        if not precisions:
            raise
        print(f"no int8 graph: {error}", file=sys.stderr)  # and the table says so
        return export_named(row.name, folder, weights=weights, force=True)


class _FoundError(Exception):
    """Carries what an exporter traces out of it."""


def network_of(row: Row, folder: Path) -> nn.Module:
    """The very module that the exporter traces."""
    weights, _ = weights_of(row, folder)
    return exporter_call(row, weights)[0][0].eval().requires_grad_(False)


def exporter_call(row: Row, weights: Path) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the exporter of a row gives `onnx_from_torch`: the network, its examples, and the rest.

    Nothing is exported.
    """

    def catch(*arguments: Any, **options: Any) -> None:
        raise _FoundError(arguments, options)

    with (
        tempfile.TemporaryDirectory() as nowhere,
        mock.patch("revisage.export.bundle_from_onnx.onnx_from_torch", catch),
    ):
        try:
            export_named(row.name, nowhere, weights=weights)
        except _FoundError as found:
            arguments, options = found.args
            return arguments, options
    raise SystemExit(f"the exporter of {row.name} exports no torch network")
