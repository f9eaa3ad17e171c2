"""Bundles from networks: export, certify, and only then put the folder in its place.

The folder is written beside its place under a temporary name, opened exactly as the runtime opens
it, measured by the parity gate, completed, opened again, and renamed. A bundle that exists was
certified; a failed or killed export leaves the old one untouched.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from revisage.bundle import CERTIFICATE, MANIFEST, MODEL, Bundle
from revisage.bundle_archive import put_in_place
from revisage.engines import device_status, open_engine
from revisage.errors import OutputError, ParityError
from revisage.export.compare import Arrays, ErrorStatistics, check_parity, measure, run_torch
from revisage.export.onnx_from_torch import OPSET, onnx_from_torch
from revisage.export.probes import make_probes
from revisage.export.reference_set import REFERENCE
from revisage.kernels import onnxruntime_library
from revisage.manifest import (
    Certificate,
    Manifest,
    Probe,
    RecipeOrigin,
    Setting,
    TensorSpec,
    Tolerance,
)

__all__ = ["ManifestFields", "export_bundle", "write_bundle"]


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
) -> Bundle:
    """Export a network as the bundle `folder/<name>`, through the parity gate.

    Args:
        network: float32; `forward` takes the manifest's inputs in order and returns one tensor or
            a tuple of them in the manifest's order. It is put into eval mode.
        manifest_fields: what the manifest says; see `ManifestFields`.
        reference_inputs: what the gate runs; one mapping of named arrays per call.
        folder: where the bundle's own folder is made.
        force: replace an existing bundle.

    Returns:
        The bundle, opened from its final place.

    Raises:
        OutputError: it exists already, or the folder cannot be written.
        EngineError: the graph cannot be exported, or is not portable.
        ParityError: an engine is further from torch than the tolerance, or no probe tells enough.
        BundleError: a field of the manifest is impossible.
    """
    network = network.eval()
    specs_in, specs_out = manifest_fields["inputs"], manifest_fields["outputs"]
    # What can be refused at once is refused before the slow part.
    _stated_manifest(manifest_fields, {})
    _prepare(Path(folder), manifest_fields["name"], force)
    multiple_of = manifest_fields["multiple_of"]
    examples = {
        spec.name: _example(reference_inputs[0][spec.name], spec, multiple_of) for spec in specs_in
    }
    model = onnx_from_torch(network, examples, specs_in, specs_out, multiple_of=multiple_of)
    probes = make_probes(network, specs_in, specs_out, multiple_of, manifest_fields["tolerances"])
    truths = [run_torch(network, inputs, specs_in, specs_out) for inputs in reference_inputs]
    return write_bundle(
        model.SerializeToString(deterministic=True),
        manifest_fields,
        probes,
        reference_inputs,
        truths,
        folder,
        force=force,
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
) -> Bundle:
    """Certify a graph against true outputs and write its bundle; see `export_bundle`.

    Args:
        model: the bytes of `model.onnx`.
        probes: small inputs with their true outputs.
        truths: the network's outputs for `reference_inputs`.
    """
    root = Path(folder)
    place = root / manifest_fields["name"]
    _prepare(root, manifest_fields["name"], force)
    temporary = Path(tempfile.mkdtemp(prefix=f".{manifest_fields['name']}-", dir=root))
    try:
        digest = hashlib.sha256(model).hexdigest()
        (temporary / MODEL).write_bytes(model)
        certificate = Certificate(
            model_digest=digest,
            reference=REFERENCE,
            reference_count=sum(len(next(iter(inputs.values()))) for inputs in reference_inputs),
            versions=_versions(),
            errors={},
            probes=probes,
        )
        manifest = _stated_manifest(manifest_fields, {MODEL: digest})
        errors = _measure_engines(temporary, manifest, certificate, reference_inputs, truths)
        certificate = dataclasses.replace(certificate, errors=errors)
        _write_texts(temporary, manifest, certificate)
        for engine in _usable_engines():
            for precision in manifest.tolerances.get(engine, {}):
                with open_engine(temporary, engine=engine, precision=precision):
                    pass  # opening repeats the probe within the stated tolerance
        temporary.chmod(0o755)  # mkdtemp makes it private
        put_in_place(temporary, place)
    except OSError as error:
        raise OutputError(f"{place}: cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Bundle.open(place)


def _stated_manifest(manifest_fields: ManifestFields, digests: Mapping[str, str]) -> Manifest:
    """The manifest, checked; and whether any engine of it can be certified on this machine."""
    manifest = Manifest(**manifest_fields, opset=OPSET, digests=digests)
    if not set(manifest.tolerances) & set(_usable_engines()):
        raise ParityError(
            f"{manifest.name}: none of its engines ({', '.join(manifest.tolerances) or '-'}) runs "
            "on this machine, so nothing could be certified"
        )
    return manifest


def _prepare(root: Path, name: str, force: bool) -> None:
    """Make the folder of bundles; refuse to replace one unless told to."""
    if (root / name).exists() and not force:
        raise OutputError(f"{root / name} exists already: remove it, or export with --force")
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
                check_parity(errors, tolerance, f"{manifest.name} on {name} at {precision}")
                measured.setdefault(name, {})[precision] = {
                    output: _plain(error) for output, error in errors.items()
                }
    return measured


def _plain(error: ErrorStatistics) -> dict[str, float]:
    """Three significant digits: enough to judge, and stable between equal runs."""
    plain: dict[str, Any] = dataclasses.asdict(error)
    return {name: float(f"{value:.3g}") for name, value in plain.items()}
