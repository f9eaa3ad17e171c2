"""The contract between export and runtime: what a bundle's `manifest.json` and certificate say.

A bundle is a folder with `manifest.json` (a `Manifest`), `model.onnx` and `certificate.json` (a
`Certificate`). Export writes these values, the runtime reads them, and neither trusts the file: an
unknown key, a wrong type or an absurd size is a `BundleError` that names the field. This module is
a leaf: standard library, `revisage.errors` and `revisage.strict_json` only.

Note [Shapes in a manifest]
A dimension is a positive integer, or a symbol: `N` (batch), `H` and `W` (rows and columns, both a
multiple of `multiple_of`), a symbol divided by a number (`H/4`, for outputs at a stride), or any
other capitalised name (`K`) for a count that is only known after the run. One symbol has one value
throughout a call.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from revisage.errors import BundleError
from revisage.strict_json import (
    Fields,
    dump,
    load,
    mapping_of,
    read_integer,
    read_number,
    read_plain_number,
    read_text,
    tuple_of,
)

__all__ = [
    "DTYPES",
    "ENGINES",
    "PRECISIONS",
    "SCHEMA",
    "Certificate",
    "Expected",
    "Manifest",
    "Probe",
    "ProbeInput",
    "RecipeOrigin",
    "TensorSpec",
    "Tolerance",
]

SCHEMA = 2  # of manifest.json and certificate.json; a reader refuses every other one

DTYPES = ("float32", "float16", "int64", "int32", "uint8", "bool")
SIZES = ("compact", "paper", "live")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")  # of a graph; int8: quantised, the rest float32
# What runs a graph: library and, where it has several, its provider.
ENGINES = (
    "onnxruntime-cpu",
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
    "tensorrt",
    "tensorrt-rtx",
)
PADDINGS = ("none", "reflect", "border", "zero")
PROBE_KINDS = ("picture", "face", "lines", "mask", "uniform")

# A manifest is written by hand-sized numbers; anything beyond these is damage or an attack.
MAX_TENSORS = 64
MAX_RANK = 8
MAX_DIMENSION = 1 << 20
MAX_WORKING_SIZE = 16384
MAX_MULTIPLE = 1024

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_TENSOR_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,63}")
_SYMBOL = re.compile(r"[A-Z][A-Za-z0-9]{0,15}(/[1-9][0-9]{0,3})?")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){0,3}")

Dimension = int | str
Setting = bool | int | float | str | tuple[float, ...] | tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One named input or output of a network. See Note [Shapes in a manifest]."""

    name: str
    dtype: str  # one of DTYPES
    shape: tuple[Dimension, ...]
    layout: str = ""  # "NCHW", "NHWC"; "" where the axes carry no picture
    colour: str = ""  # "RGB", "GRAY", "mask"; "" where the values are no picture
    range: tuple[float, float] | None = None  # smallest and largest value; None: unbounded


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """Largest error against float32 torch with which an engine enters the bundle."""

    max_abs: float
    mean_abs: float


@dataclasses.dataclass(frozen=True)
class RecipeOrigin:
    """The training recipe that the weights come from: its name and the sha256 of its text."""

    name: str
    digest: str = ""  # "" where the weights came from outside (an imported checkpoint)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Everything the runtime may know about a model before it opens the graph."""

    name: str  # of the bundle: "wrinkle_filler"
    operation: str  # "wrinkles", "faces", ...
    version: str  # of the model: "1", "1.2"
    size: str  # "compact", "paper" or "live"
    description: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    working_size: int  # side of the aligned square that the network was made for, pixels
    multiple_of: int  # H and W of the inputs must be multiples of it
    padding: str  # how a caller should fill up to the multiple; one of PADDINGS
    opset: int
    tolerances: Mapping[str, Mapping[str, Tolerance]]  # engine -> precision -> tolerance
    licence: str  # SPDX expression of the weights
    recipe: RecipeOrigin
    weights_digest: str  # sha256 of the safetensors file that was exported
    settings: Mapping[str, Setting] = dataclasses.field(default_factory=dict)
    # Precision -> file of the graph that holds it; engines with strong typing read it there.
    graphs: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"fp32": "model.onnx"})
    digests: Mapping[str, str] = dataclasses.field(default_factory=dict)  # file -> sha256
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Freeze the mappings and check every field."""
        tolerances = {k: MappingProxyType(dict(v)) for k, v in self.tolerances.items()}
        object.__setattr__(self, "tolerances", MappingProxyType(tolerances))
        settings: dict[str, Any] = dict(self.settings)
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
        object.__setattr__(self, "settings", MappingProxyType(settings))
        object.__setattr__(self, "graphs", MappingProxyType(dict(self.graphs)))
        object.__setattr__(self, "digests", MappingProxyType(dict(self.digests)))
        _check_manifest(self)

    def tolerance(self, engine: str, precision: str) -> Tolerance:
        """The stated tolerance of an engine at a precision.

        Raises:
            BundleError: this bundle was not made for that engine at that precision.
        """
        try:
            return self.tolerances[engine][precision]
        except KeyError:
            known = ", ".join(f"{e} {p}" for e, ps in self.tolerances.items() for p in ps)
            raise BundleError(
                f"bundle {self.name!r} states no tolerance for {engine} at {precision}; "
                f"it is made for: {known}"
            ) from None

    def graph(self, precision: str) -> str:
        """The file of the graph at a precision.

        Raises:
            BundleError: this bundle has no such graph.
        """
        try:
            return self.graphs[precision]
        except KeyError:
            raise BundleError(
                f"bundle {self.name!r} has no graph at {precision}; it has: "
                f"{', '.join(self.graphs)}"
            ) from None

    def setting(self, key: str) -> Setting:
        """A runtime number or word that comes with the weights, such as a threshold."""
        try:
            return self.settings[key]
        except KeyError:
            raise BundleError(
                f"bundle {self.name!r} has no setting {key!r}; export it again with this version"
            ) from None

    def to_json(self) -> str:
        """Text of `manifest.json`: sorted keys, two spaces, a final newline."""
        return dump(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Read and check the text of a `manifest.json`."""
        fields = Fields(load(text, "manifest.json"), "manifest.json")
        schema = fields.take("schema", read_integer)
        if schema != SCHEMA:
            raise BundleError(
                f"manifest.json: schema {schema} is not the schema {SCHEMA} of this version of "
                f"Revisage; {'update Revisage' if schema > SCHEMA else 'export the model again'}"
            )
        manifest = cls(
            name=fields.take("name", read_text),
            operation=fields.take("operation", read_text),
            version=fields.take("version", read_text),
            size=fields.take("size", read_text),
            description=fields.take("description", read_text),
            inputs=fields.take("inputs", tuple_of(_tensor)),
            outputs=fields.take("outputs", tuple_of(_tensor)),
            working_size=fields.take("working_size", read_integer),
            multiple_of=fields.take("multiple_of", read_integer),
            padding=fields.take("padding", read_text),
            opset=fields.take("opset", read_integer),
            tolerances=fields.take("tolerances", mapping_of(mapping_of(_tolerance))),
            licence=fields.take("licence", read_text),
            recipe=fields.take("recipe", _recipe),
            weights_digest=fields.take("weights_digest", read_text),
            settings=fields.take("settings", mapping_of(_setting)),
            graphs=fields.take("graphs", mapping_of(read_text)),
            digests=fields.take("digests", mapping_of(read_text)),
        )
        fields.finish()
        return manifest


@dataclasses.dataclass(frozen=True)
class ProbeInput:
    """Recipe of one input tensor, built again by `revisage.engines.probe.probe_inputs`."""

    kind: str  # one of PROBE_KINDS
    seed: int
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Expected:
    """What a probe must give for one output: its shape, statistics and some of its values."""

    shape: tuple[int, ...]
    mean: float
    std: float
    positions: tuple[int, ...]  # flat indices, C order
    values: tuple[float, ...]  # float32 torch at those positions


@dataclasses.dataclass(frozen=True)
class Probe:
    """A small input whose output is known: run after every load, so that garbage is caught."""

    inputs: Mapping[str, ProbeInput]
    outputs: Mapping[str, Expected]

    def __post_init__(self) -> None:
        """Freeze the mappings and check every field."""
        object.__setattr__(self, "inputs", MappingProxyType(dict(self.inputs)))
        object.__setattr__(self, "outputs", MappingProxyType(dict(self.outputs)))
        for name, made in self.inputs.items():
            where = f"certificate.json: probe input {name!r}"
            _require(made.kind in PROBE_KINDS, f"{where}: kind {made.kind!r} is unknown")
            _require(0 <= made.seed < 1 << 32, f"{where}: seed {made.seed} is out of range")
            _check_probe_shape(made.shape, where)
        for name, expected in self.outputs.items():
            where = f"certificate.json: probe output {name!r}"
            _check_probe_shape(expected.shape, where)
            count = math.prod(expected.shape)
            _require(
                0 < len(expected.positions) == len(expected.values),
                f"{where}: needs as many values as positions, and at least one",
            )
            _require(
                all(0 <= p < count for p in expected.positions),
                f"{where}: a position lies outside the {count} values",
            )


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Proof of the parity gate: what was measured, where, and the probes to repeat it."""

    model_digest: str  # sha256 of model.onnx, the graph at fp32
    reference: str  # how the reference set is made, in words
    reference_count: int
    versions: Mapping[str, str]  # of torch, onnx, onnxruntime at export
    errors: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]
    # engine -> precision -> output -> {"max_abs", "mean_abs", "rms", "p99_abs", "psnr_db", and of
    # pictures "levels_max", "levels_mean", "changed_share", "ssim", of masks "flipped_share",
    # "iou"}. An engine whose name ends in "+native" ran our own operators (Engine.operators).
    # "emulation" is no engine: float32 arithmetic that rounds where the graph at that precision
    # stores.
    probes: tuple[Probe, ...]
    graph_digests: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # precision -> sha256 of its graph, for every precision but fp32
    layers: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    # precision -> {"low", "float", "runs"}: what the search for layers that stay float32 came to
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Check the few fields that are not checked by their own type."""
        for precision, digest in self.graph_digests.items():
            _require(
                precision in PRECISIONS and _DIGEST.fullmatch(digest) is not None,
                f"certificate.json: graph_digests.{precision}: not a precision and its sha256",
            )
        _require(
            _DIGEST.fullmatch(self.model_digest) is not None,
            "certificate.json: model_digest is not a sha256 in lower-case hexadecimal",
        )
        _require(
            0 < len(self.probes) <= MAX_TENSORS, "certificate.json: probes: needs 1 to 64 of them"
        )

    def to_json(self) -> str:
        """Text of `certificate.json`."""
        return dump(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> Certificate:
        """Read and check the text of a `certificate.json`."""
        fields = Fields(load(text, "certificate.json"), "certificate.json")
        schema = fields.take("schema", read_integer)
        if schema != SCHEMA:
            raise BundleError(f"certificate.json: schema {schema} is not {SCHEMA}; export it again")
        errors = mapping_of(mapping_of(mapping_of(mapping_of(read_number))))
        certificate = cls(
            model_digest=fields.take("model_digest", read_text),
            reference=fields.take("reference", read_text),
            reference_count=fields.take("reference_count", read_integer),
            versions=fields.take("versions", mapping_of(read_text)),
            errors=fields.take("errors", errors),
            probes=fields.take("probes", tuple_of(_probe)),
            graph_digests=fields.take("graph_digests", mapping_of(read_text)),
            layers=fields.take("layers", mapping_of(mapping_of(read_number))),
        )
        fields.finish()
        return certificate


def is_plain_file_name(name: str) -> bool:
    """Whether a name is that of a file inside the bundle: no path, not hidden, ASCII."""
    return _FILE_NAME.fullmatch(name) is not None and ".." not in name


# --- checks of a whole manifest ------------------------------------------------------------------


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise BundleError(message)


def _check_manifest(manifest: Manifest) -> None:
    def check(condition: bool, field: str, message: str) -> None:
        _require(condition, f"manifest.json: {field}: {message}")

    for field in ("name", "operation"):
        value = getattr(manifest, field)
        check(_NAME.fullmatch(value) is not None, field, f"{value!r} is not a lower-case name")
    check(_VERSION.fullmatch(manifest.version) is not None, "version", "must look like 1.2")
    check(manifest.size in SIZES, "size", f"{manifest.size!r} is not one of {', '.join(SIZES)}")
    check(
        manifest.padding in PADDINGS,
        "padding",
        f"{manifest.padding!r} is not one of {', '.join(PADDINGS)}",
    )
    check(
        1 <= manifest.working_size <= MAX_WORKING_SIZE,
        "working_size",
        f"{manifest.working_size} is not within 1..{MAX_WORKING_SIZE}",
    )
    check(
        1 <= manifest.multiple_of <= MAX_MULTIPLE,
        "multiple_of",
        f"{manifest.multiple_of} is not within 1..{MAX_MULTIPLE}",
    )
    check(1 <= manifest.opset <= 100, "opset", f"{manifest.opset} is no ONNX opset")
    check(
        _DIGEST.fullmatch(manifest.weights_digest) is not None,
        "weights_digest",
        "is not a sha256 in lower-case hexadecimal",
    )
    check(
        manifest.recipe.digest == "" or _DIGEST.fullmatch(manifest.recipe.digest) is not None,
        "recipe.digest",
        "is not a sha256 in lower-case hexadecimal",
    )
    for field, tensors in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        check(1 <= len(tensors) <= MAX_TENSORS, field, f"needs 1 to {MAX_TENSORS} tensors")
        names = [tensor.name for tensor in tensors]
        check(len(set(names)) == len(names), field, "two tensors have the same name")
        for tensor in tensors:
            _check_tensor(tensor, f"manifest.json: {field}.{tensor.name}")
    check("fp32" in manifest.graphs, "graphs", "names no graph at fp32")
    for precision in manifest.graphs:
        check(precision in PRECISIONS, "graphs", f"{precision!r} is not one of {PRECISIONS}")
    for engine, precisions in manifest.tolerances.items():
        check(engine in ENGINES, "tolerances", f"engine {engine!r} is not one of {ENGINES}")
        for precision, tolerance in precisions.items():
            check(
                precision in manifest.graphs,
                f"tolerances.{engine}.{precision}",
                "is the tolerance of a graph that the bundle does not have",
            )
            for kind in ("max_abs", "mean_abs"):
                value = getattr(tolerance, kind)
                check(
                    math.isfinite(value) and value > 0,
                    f"tolerances.{engine}.{precision}.{kind}",
                    f"{value} is not a positive number",
                )
    for name, digest in manifest.digests.items():
        check(
            is_plain_file_name(name),
            "digests",
            f"{name!r} is not a plain file name inside the bundle",
        )
        check(
            _DIGEST.fullmatch(digest) is not None,
            f"digests.{name}",
            "is not a sha256 in lower-case hexadecimal",
        )
    for precision, file in manifest.graphs.items():
        check(
            not manifest.digests or file in manifest.digests,
            f"graphs.{precision}",
            f"{file!r} is not among the digests",
        )


def _check_tensor(tensor: TensorSpec, where: str) -> None:
    _require(_TENSOR_NAME.fullmatch(tensor.name) is not None, f"{where}: is not a tensor name")
    _require(
        tensor.dtype in DTYPES, f"{where}: dtype {tensor.dtype!r} is not one of {', '.join(DTYPES)}"
    )
    _require(len(tensor.shape) <= MAX_RANK, f"{where}: more than {MAX_RANK} dimensions")
    for dimension in tensor.shape:
        if isinstance(dimension, str):
            valid = _SYMBOL.fullmatch(dimension) is not None
        else:
            valid = 1 <= dimension <= MAX_DIMENSION
        _require(
            valid,
            f"{where}: dimension {dimension!r} is neither within 1..{MAX_DIMENSION} nor a symbol "
            "such as N, H or H/4",
        )
    if tensor.range is not None:
        low, high = tensor.range
        _require(
            math.isfinite(low) and math.isfinite(high) and low < high,
            f"{where}: range [{low}, {high}] is not an interval",
        )


def _check_probe_shape(shape: tuple[int, ...], where: str) -> None:
    _require(
        len(shape) <= MAX_RANK
        and all(1 <= dimension <= MAX_DIMENSION for dimension in shape)
        and math.prod(shape) <= 1 << 26,
        f"{where}: shape {list(shape)} is empty or absurdly large",
    )


# --- readers of JSON values ----------------------------------------------------------------------


def _dimension(value: Any, where: str) -> Dimension:
    return read_text(value, where) if isinstance(value, str) else read_integer(value, where)


def _setting(value: Any, where: str) -> Setting:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return read_text(value, where)
    if isinstance(value, list):
        texts = bool(value) and isinstance(value[0], str)
        items: tuple[Any, ...] = tuple_of(read_text if texts else read_plain_number)(value, where)
        return items
    return read_plain_number(value, where)


def _tensor(value: Any, where: str) -> TensorSpec:
    fields = Fields(value, where)
    limits = fields.take("range", lambda v, w: None if v is None else tuple_of(read_number)(v, w))
    if limits is not None and len(limits) != 2:
        raise BundleError(f"{where}: range: expected two numbers or null")
    spec = TensorSpec(
        name=fields.take("name", read_text),
        dtype=fields.take("dtype", read_text),
        shape=fields.take("shape", tuple_of(_dimension)),
        layout=fields.take("layout", read_text),
        colour=fields.take("colour", read_text),
        range=limits,
    )
    fields.finish()
    return spec


def _tolerance(value: Any, where: str) -> Tolerance:
    fields = Fields(value, where)
    tolerance = Tolerance(fields.take("max_abs", read_number), fields.take("mean_abs", read_number))
    fields.finish()
    return tolerance


def _recipe(value: Any, where: str) -> RecipeOrigin:
    fields = Fields(value, where)
    recipe = RecipeOrigin(fields.take("name", read_text), fields.take("digest", read_text))
    fields.finish()
    return recipe


def _probe_input(value: Any, where: str) -> ProbeInput:
    fields = Fields(value, where)
    made = ProbeInput(
        kind=fields.take("kind", read_text),
        seed=fields.take("seed", read_integer),
        shape=fields.take("shape", tuple_of(read_integer)),
    )
    fields.finish()
    return made


def _expected(value: Any, where: str) -> Expected:
    fields = Fields(value, where)
    expected = Expected(
        shape=fields.take("shape", tuple_of(read_integer)),
        mean=fields.take("mean", read_number),
        std=fields.take("std", read_number),
        positions=fields.take("positions", tuple_of(read_integer)),
        values=fields.take("values", tuple_of(read_number)),
    )
    fields.finish()
    return expected


def _probe(value: Any, where: str) -> Probe:
    fields = Fields(value, where)
    probe = Probe(
        inputs=fields.take("inputs", mapping_of(_probe_input)),
        outputs=fields.take("outputs", mapping_of(_expected)),
    )
    fields.finish()
    return probe
