"""Bundles from networks: export, certify, and only then put the folder in its place.

The folder is written beside its place under a temporary name, opened exactly as the runtime opens
it, measured by the parity gate, completed, opened again, and renamed. A bundle that exists was
certified; a failed or killed export leaves the old one untouched.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from revisage.alignment import square_matrix
from revisage.bundle import CERTIFICATE, MANIFEST, MODEL, Bundle
from revisage.engines import device_status, open_engine
from revisage.engines.probe import probe_inputs
from revisage.errors import OptionError, OutputError, ParityError
from revisage.export.calibration import Framing, calibration_inputs
from revisage.export.compare import (
    Arrays,
    ErrorStatistics,
    check_parity,
    measure,
    run_onnx,
    run_torch,
    statistics_of,
)
from revisage.export.drift import comparable_graphs, first_drift
from revisage.export.half_storage import store_as_half
from revisage.export.lowering import LoweredGraph, lowered, serialised
from revisage.export.onnx_from_torch import OPSET, onnx_from_torch
from revisage.export.probes import KINDS, make_probes
from revisage.export.reference_set import REFERENCE
from revisage.export.winograd_convolutions import use_winograd
from revisage.kernels import onnxruntime_library
from revisage.manifest import (
    PRECISIONS,
    Certificate,
    Manifest,
    Probe,
    RecipeOrigin,
    Setting,
    TensorSpec,
    Tolerance,
)
from revisage.whole_folder import refuse_existing, whole_folder

__all__ = [
    "EMULATION",
    "ExportOptions",
    "ManifestFields",
    "export_bundle",
    "stated_tolerances",
    "write_bundle",
]

EMULATION = "emulation"  # in the place of an engine's name; see `Certificate.errors`


class ManifestFields(TypedDict):
    """What an exporter says about its network; the rest of the manifest is filled in here."""

    name: str
    operation: str
    version: str
    size: str
    description: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    working_size: int
    multiple_of: int
    padding: str
    tolerances: Mapping[str, Mapping[str, Tolerance]]
    licence: str
    recipe: RecipeOrigin
    weights_digest: str
    settings: NotRequired[Mapping[str, Setting]]


class ExportOptions(TypedDict, total=False):
    """What the caller of an exporter decides; exporters hand it on to `export_bundle`."""

    force: bool  # replace an existing bundle
    precisions: Sequence[str]  # beside fp32, which every bundle has
    calibration: Path | None  # folder of portraits for int8; None: the reference set


def stated_tolerances(
    cpu: Tolerance,
    gpu: Tolerance,
    *,
    fp16: Tolerance | None = None,
    bf16: Tolerance | None = None,
    int8: Tolerance | None = None,
) -> dict[str, dict[str, Tolerance]]:
    """Tolerances of every engine for `ManifestFields`, from one for each kind of arithmetic.

    int8 graphs are made for ONNX Runtime's CPU provider, which has no bfloat16 operators; its CUDA
    provider has no bfloat16 convolution. Precisions that an export leaves out drop out of its
    manifest.

    Args:
        cpu, gpu: at fp32; a GPU sums in other orders.
    """
    half = {} if fp16 is None else {"fp16": fp16}
    brain = {} if bf16 is None else {"bf16": bf16}
    quantised = {} if int8 is None else {"int8": int8}
    return {
        "onnxruntime-cpu": {"fp32": cpu, **half, **quantised},
        "onnxruntime-cuda": {"fp32": gpu, **half},
        "onnxruntime-tensorrt": {"fp32": gpu, **half, **brain},
        "tensorrt": {"fp32": gpu, **half, **brain},
        "tensorrt-rtx": {"fp32": gpu, **half, **brain},
    }


def _usable_engines() -> tuple[str, ...]:
    """Engines that can be measured on this machine."""
    return tuple(status.engine for status in device_status() if status.usable)


def _versions() -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }


def export_bundle(
    network: torch.nn.Module,
    manifest_fields: ManifestFields,
    reference_inputs: Sequence[Arrays],
    folder: str | os.PathLike[str],
    *,
    force: bool = False,
    precisions: Sequence[str] = ("fp32",),
    calibration: Path | None = None,
    framing: Framing = square_matrix,
    half_storage: bool = False,
    probe_kinds: Sequence[str] = KINDS,
) -> Bundle:
    """Export a network as the bundle `folder/<name>`, through the parity gate.

    Args:
        network: float32; `forward` takes the manifest's inputs in order and returns one tensor or
            a tuple of them in the manifest's order. It is put into eval mode.
        manifest_fields: what the manifest says; see `ManifestFields`.
        reference_inputs: what the gate runs; one mapping of named arrays per call.
        folder: where the bundle's own folder is made.
        force: replace an existing bundle.
        precisions: of the graphs beside fp32, which is always made. Layers whose error breaks the
            tolerance that the fields state for a precision stay float32.
        calibration: folder of portraits (`revisage.export.calibration`) from which int8 takes its
            ranges; None takes them from the reference inputs.
        framing: where the network expects the face of a portrait.
        half_storage: keep the fp32 graph's weights as float16 (`revisage.export.half_storage`).
        probe_kinds: which pictures may be probes (`revisage.export.probes`).

    Returns:
        The bundle, opened from its final place.

    Raises:
        OptionError: a precision is unknown, has no stated tolerance, or the folder of portraits is
            none.
        OutputError: it exists already, or the folder cannot be written.
        EngineError: the graph cannot be exported, or is not portable.
        ParityError: an engine is further from torch than the tolerance, or no probe tells enough.
        BundleError: a field of the manifest is impossible.
    """
    network = network.eval()
    specs_in, specs_out = manifest_fields["inputs"], manifest_fields["outputs"]
    # What can be refused at once is refused before the slow part.
    manifest_fields = _of_precisions(manifest_fields, precisions)
    manifest = _stated_manifest(manifest_fields, {}, {})
    _prepare(Path(folder), manifest_fields["name"], force)
    multiple_of = manifest_fields["multiple_of"]
    examples = {
        spec.name: _example(reference_inputs[0][spec.name], spec, multiple_of) for spec in specs_in
    }
    model = onnx_from_torch(network, examples, specs_in, specs_out, multiple_of=multiple_of)
    probes = make_probes(
        network, specs_in, specs_out, multiple_of, manifest_fields["tolerances"], probe_kinds
    )
    truths = [run_torch(network, inputs, specs_in, specs_out) for inputs in reference_inputs]
    portraits: list[dict[str, NDArray[Any]]] = []
    if "int8" in precisions:
        portraits = calibration_inputs(reference_inputs, specs_in, calibration, framing)
    probed = [probe_inputs(probe, manifest) for probe in probes]
    low = [
        lowered(
            model,
            precision,
            _strictest(manifest_fields, precision),
            reference_inputs,
            truths,
            specs_out,
            probes=(probed, [run_torch(network, x, specs_in, specs_out) for x in probed]),
            calibration=portraits,
        )
        for precision in PRECISIONS
        if precision in precisions and precision != "fp32"
    ]
    model = use_winograd(model, manifest_fields["working_size"])
    if half_storage:
        store_as_half(model)
    return write_bundle(
        serialised(model),
        manifest_fields,
        probes,
        reference_inputs,
        truths,
        folder,
        force=force,
        low=low,
    )


def _example(array: NDArray[Any], spec: TensorSpec, multiple_of: int) -> torch.Tensor:
    """A reference with at least two of everything: the exporter takes what it sees once as fixed.

    Two pictures in the batch, and two multiples of the sides that are dynamic.
    """
    for axis, dimension in enumerate(spec.shape):
        least = {"N": 2, "H": 2 * multiple_of, "W": 2 * multiple_of}.get(str(dimension), 0)
        if array.shape[axis] < least:
            array = np.concatenate([array, array], axis)
    return torch.from_numpy(array[:2])


def write_bundle(
    model: bytes,
    manifest_fields: ManifestFields,
    probes: tuple[Probe, ...],
    reference_inputs: Sequence[Arrays],
    truths: Sequence[Arrays],
    folder: str | os.PathLike[str],
    *,
    force: bool = False,
    low: Sequence[LoweredGraph] = (),
) -> Bundle:
    """Certify a graph against true outputs and write its bundle; see `export_bundle`.

    Args:
        model: the bytes of `model.onnx`.
        probes: small inputs with their true outputs.
        truths: the network's outputs for `reference_inputs`.
        low: the same graph at other precisions.
    """
    place = Path(folder) / manifest_fields["name"]
    contents = {"fp32": model, **{graph.precision: graph.model for graph in low}}
    manifest_fields = _of_precisions(manifest_fields, tuple(contents))
    with whole_folder(place, force=force, verb="export") as written:
        graphs = {p: MODEL if p == "fp32" else f"model.{p}.onnx" for p in contents}
        digests = {p: hashlib.sha256(content).hexdigest() for p, content in contents.items()}
        for precision, content in contents.items():
            (written / graphs[precision]).write_bytes(content)
        certificate = Certificate(
            model_digest=digests["fp32"],
            reference=REFERENCE,
            reference_count=sum(len(next(iter(inputs.values()))) for inputs in reference_inputs),
            versions=_versions(),
            errors={},
            probes=probes,
            graph_digests={graph.precision: digests[graph.precision] for graph in low},
            layers={graph.precision: _layer_counts(graph) for graph in low},
        )
        manifest = _stated_manifest(
            manifest_fields, graphs, {graphs[p]: digest for p, digest in digests.items()}
        )
        errors = _measure_engines(written, manifest, certificate, reference_inputs, truths)
        emulation = {
            graph.precision: _emulated_errors(graph, manifest_fields, reference_inputs, truths)
            for graph in low
            if graph.emulation is not None
        }
        if emulation:
            errors[EMULATION] = emulation
        certificate = dataclasses.replace(certificate, errors=errors)
        _write_texts(written, manifest, certificate)
        for engine in _usable_engines():
            for precision in manifest.tolerances.get(engine, {}):
                with open_engine(written, engine=engine, precision=precision):
                    pass  # opening repeats the probe within the stated tolerance
    return Bundle.open(place)


def _of_precisions(fields: ManifestFields, precisions: Sequence[str]) -> ManifestFields:
    """The fields with the tolerances of fp32 and `precisions` only."""
    stated = {p for by_precision in fields["tolerances"].values() for p in by_precision}
    for precision in precisions:
        if precision not in PRECISIONS:
            raise OptionError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
        if precision not in stated:
            raise OptionError(
                f"{fields['name']}: its exporter states no tolerance at {precision}, only at "
                f"{', '.join(p for p in PRECISIONS if p in stated)}"
            )
    wanted = {"fp32", *precisions}
    tolerances = {
        engine: {p: tolerance for p, tolerance in by_precision.items() if p in wanted}
        for engine, by_precision in fields["tolerances"].items()
    }
    return {**fields, "tolerances": tolerances}


def _strictest(fields: ManifestFields, precision: str) -> Tolerance:
    """The smallest tolerance that any engine has at a precision: one graph serves them all."""
    stated = [t[precision] for t in fields["tolerances"].values() if precision in t]
    return Tolerance(min(t.max_abs for t in stated), min(t.mean_abs for t in stated))


def _layer_counts(graph: LoweredGraph) -> dict[str, float]:
    kept = len(graph.search.keep_float)
    return {"low": graph.search.layers - kept, "float": kept, "runs": graph.search.runs}


def _emulated_errors(
    graph: LoweredGraph,
    fields: ManifestFields,
    reference_inputs: Sequence[Arrays],
    truths: Sequence[Arrays],
) -> dict[str, dict[str, float]]:
    """Pass an emulation through the gate."""
    assert graph.emulation is not None
    found = run_onnx(graph.emulation, reference_inputs)
    errors = statistics_of(truths, found, reference_inputs, fields["outputs"])
    where = f"{fields['name']} at {graph.precision}, emulated in float32"
    check_parity(errors, _strictest(fields, graph.precision), where)
    return {output: _plain(error) for output, error in errors.items()}


def _stated_manifest(
    manifest_fields: ManifestFields, graphs: Mapping[str, str], digests: Mapping[str, str]
) -> Manifest:
    """The manifest, checked; and whether any engine of it can be certified on this machine."""
    if not graphs:  # none is made yet
        graphs = {p: MODEL for t in manifest_fields["tolerances"].values() for p in ("fp32", *t)}
    manifest = Manifest(**manifest_fields, opset=OPSET, graphs=graphs, digests=digests)
    if not set(manifest.tolerances) & set(_usable_engines()):
        raise ParityError(
            f"{manifest.name}: none of its engines ({', '.join(manifest.tolerances) or '-'}) runs "
            "on this machine, so nothing could be certified"
        )
    return manifest


def _prepare(root: Path, name: str, force: bool) -> None:
    """Make the folder of bundles; refuse to replace one unless told to."""
    refuse_existing(root / name, force=force, verb="export")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root):
            pass
    except OSError as error:
        raise OutputError(f"{root}: cannot be written ({error.strerror})") from error


def _write_texts(folder: Path, manifest: Manifest, certificate: Certificate) -> None:
    text = certificate.to_json().encode()
    (folder / CERTIFICATE).write_bytes(text)
    digests = {**manifest.digests, CERTIFICATE: hashlib.sha256(text).hexdigest()}
    stated = dataclasses.replace(manifest, digests=digests)
    (folder / MANIFEST).write_bytes(stated.to_json().encode())


def _measure_engines(
    folder: Path,
    manifest: Manifest,
    certificate: Certificate,
    reference_inputs: Sequence[Arrays],
    truths: Sequence[Arrays],
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Pass every engine that the manifest states and this machine has through the gate."""
    # While it is measured, the bundle states no limit: the gate shall judge, with its statistics,
    # and not the probe at load.
    unlimited = Tolerance(1e30, 1e30)
    lax = {e: dict.fromkeys(precisions, unlimited) for e, precisions in manifest.tolerances.items()}
    _write_texts(folder, dataclasses.replace(manifest, tolerances=lax), certificate)
    measured: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for engine_name in _usable_engines():
        for precision, tolerance in manifest.tolerances.get(engine_name, {}).items():
            for operators in ("portable", "native"):
                on_cpu = engine_name == "onnxruntime-cpu"
                if operators == "native" and not (on_cpu and onnxruntime_library()):
                    continue
                with open_engine(
                    folder, engine=engine_name, precision=precision, operators=operators
                ) as engine:
                    if operators == "native" and not engine.operators:
                        continue  # the graph has none, so there is no second way to run it
                    errors: dict[str, ErrorStatistics] = measure(engine, reference_inputs, truths)
                name = engine_name if operators == "portable" else f"{engine_name}+native"
                check_parity(
                    errors,
                    tolerance,
                    f"{manifest.name} on {name} at {precision}",
                    functools.partial(
                        _drift, engine.bundle, precision, reference_inputs[:1], tolerance
                    ),
                )
                measured.setdefault(name, {})[precision] = {
                    output: _plain(error) for output, error in errors.items()
                }
    return measured


def _drift(bundle: Bundle, precision: str, inputs: Sequence[Arrays], tolerance: Tolerance) -> str:
    """Which layer drifts first, for the message of a refusal; "" where that cannot be told."""
    if precision == "fp32":  # nothing that is proven to compare it with
        return ""
    found = first_drift(*comparable_graphs(bundle, precision), inputs, tolerance)
    return "" if found is None else f"First to drift is {found}"


def _plain(error: ErrorStatistics) -> dict[str, float]:
    """Three significant digits: enough to judge, and stable between equal runs."""
    plain: dict[str, Any] = dataclasses.asdict(error)
    plain.update(plain.pop("picture"))
    return {name: float(f"{value:.3g}") for name, value in plain.items()}
