"""Triton model repositories: what Triton's schema takes, and what the graph in them really does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format

from revisage.bundle import Bundle, shipped_bundle, shipped_names
from revisage.bundle_archive import pack
from revisage.cli import main
from revisage.engines import builder_process, tensorrt
from revisage.errors import BundleError, OutputError
from revisage.manifest import TensorSpec, Tolerance
from revisage.triton_repository import model_config, write_models, write_plan
from tests.sdk.toy_bundle import MANIFEST, scaling_model, write_toy_bundle
from tests.sdk.triton_schema import parse_model_config

LIMIT = Tolerance(1e-3, 1e-4)
DTYPES = {"TYPE_FP32": np.float32}


def toy(folder: Path, **changes: Any) -> Bundle:
    return Bundle.open(write_toy_bundle(folder / "toy", **changes))


def named(enum: Any, message: Any, field: str) -> str:
    values = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number
    return str(values[enum].name)


@pytest.mark.parametrize("name", shipped_names())
def test_a_server_can_serve_what_ships(name: str, tmp_path: Path) -> None:
    """The graphs take every shape that their configurations promise, alone and in a full batch."""
    bundle = shipped_bundle(name)
    places = write_models(bundle, tmp_path)
    served = [precision for precision in bundle.manifest.graphs if precision != "bf16"]
    assert {p.name for p in places} == {name if s == "fp32" else f"{name}_{s}" for s in served}
    for place in places:
        check_model(place)


def check_model(place: Path) -> None:
    config = parse_model_config((place / "config.pbtxt").read_text())
    assert place.name == config.name
    assert (config.backend, config.default_model_filename) == ("onnxruntime", "model.onnx")
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    assert [named(g.kind, g, "kind") for g in config.instance_group] == [
        "KIND_CPU" if place.name.endswith("_int8") else "KIND_AUTO"
    ]
    session = onnxruntime.InferenceSession(
        place / "1" / config.default_model_filename, providers=["CPUExecutionProvider"]
    )
    assert {i.name for i in config.input} == {i.name for i in session.get_inputs()}
    for batch in (1, config.max_batch_size):
        inputs = {
            tensor.name: np.zeros(
                (batch, *(64 if d < 0 else d for d in tensor.dims)),
                DTYPES[named(tensor.data_type, tensor, "data_type")],
            )
            for tensor in config.input
        }
        found = session.run([o.name for o in config.output], inputs)
        for tensor, array in zip(config.output, found, strict=True):
            dims = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
            assert array.dtype == DTYPES[named(tensor.data_type, tensor, "data_type")]
            assert array.shape[0] == batch
            assert len(array.shape) == 1 + len(dims)
            assert all(d in (-1, size) for d, size in zip(dims, array.shape[1:], strict=True))
    (warmup,) = config.model_warmup
    assert {pair.key for pair in warmup.inputs} == set(inputs)
    assert all(min(pair.value.dims) > 0 for pair in warmup.inputs)


def test_text_that_triton_would_not_read_does_not_pass_here(tmp_path: Path) -> None:
    text = model_config(toy(tmp_path))
    for right, wrong in (
        ("max_batch_size", "max_batchsize"),
        ("TYPE_FP32", "TYPE_FLOAT"),
        ("KIND_AUTO", '"KIND_AUTO"'),
        ("dims: [3, -1, -1]", 'dims: ["3"]'),
    ):
        assert right in text
        with pytest.raises(text_format.ParseError):
            parse_model_config(text.replace(right, wrong))


@pytest.mark.parametrize(
    ("engines", "kind", "accelerators"),
    [
        (["onnxruntime-cpu"], "KIND_CPU", []),
        (["onnxruntime-cuda"], "KIND_GPU", ["cuda"]),
        (["onnxruntime-cpu", "onnxruntime-cuda"], "KIND_AUTO", ["cuda"]),
        (["onnxruntime-tensorrt", "onnxruntime-cuda"], "KIND_GPU", ["tensorrt", "cuda"]),
    ],
)
def test_only_certified_engines_serve(
    engines: list[str], kind: str, accelerators: list[str], tmp_path: Path
) -> None:
    bundle = toy(tmp_path, tolerances={engine: {"fp32": LIMIT} for engine in engines})
    config = parse_model_config(model_config(bundle))
    (group,) = config.instance_group
    assert named(group.kind, group, "kind") == kind
    given = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert [accelerator.name for accelerator in given] == accelerators
    options = {p.key: p.value for a in given for p in a.parameters}
    assert options.get("use_tf32", "0") == "0"
    assert options.get("precision_mode", "FP32") == "FP32"


def test_a_graph_at_another_precision_is_a_model_of_its_own(tmp_path: Path) -> None:
    content = scaling_model().SerializeToString()
    folder = write_toy_bundle(
        tmp_path / "toy",
        graphs={"int8": content, "bf16": content},
        tolerances={"onnxruntime-cpu": {"fp32": LIMIT, "int8": LIMIT}, "tensorrt": {"bf16": LIMIT}},
    )
    places = write_models(Bundle.open(folder), tmp_path / "repository")
    assert [place.name for place in places] == ["toy", "toy_int8"]  # nothing serves bf16
    for place in places:
        assert parse_model_config((place / "config.pbtxt").read_text()).name == place.name
        assert (place / "1" / "model.onnx").read_bytes() == content


def test_a_bundle_that_no_engine_of_triton_runs_is_refused(tmp_path: Path) -> None:
    bundle = toy(tmp_path, tolerances={"tensorrt-rtx": {"fp32": LIMIT}})
    with pytest.raises(BundleError, match="states no engine of ONNX Runtime"):
        write_models(bundle, tmp_path / "repository")


def test_tensors_without_a_batch_are_stated_whole(tmp_path: Path) -> None:
    anchors = TensorSpec("anchors", "int64", ("K", 4))
    manifest = dataclasses.replace(MANIFEST, outputs=(*MANIFEST.outputs, anchors))
    bundle = dataclasses.replace(toy(tmp_path), manifest=manifest)
    config = parse_model_config(model_config(bundle))
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert [list(t.dims) for t in config.input] == [[-1, 3, -1, -1]]
    assert [list(t.dims) for t in config.output] == [[-1, 3, -1, -1], [-1, 4]]
    (warmup,) = config.model_warmup
    assert [list(pair.value.dims) for pair in warmup.inputs] == [[1, 3, 64, 64]]


def test_what_exists_is_replaced_only_when_told_to(tmp_path: Path) -> None:
    bundle = toy(tmp_path)
    (place,) = write_models(bundle, tmp_path / "models")
    (place / "1" / "stale").write_text("")
    with pytest.raises(OutputError, match="exists already"):
        write_models(bundle, tmp_path / "models")
    assert (place / "1" / "stale").exists()
    write_models(bundle, tmp_path / "models", force=True)
    assert not (place / "1" / "stale").exists()
    assert [p.name for p in (tmp_path / "models").iterdir()] == ["toy"]


def test_a_plan_is_a_model_of_the_tensorrt_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in of the builder, which needs a GPU."""
    built = []

    def build(model: bytes, **options: Any) -> tensorrt.BuiltEngine:
        built.append((model, options))
        return tensorrt.BuiltEngine(b"plan", report=None)  # type: ignore[arg-type]

    monkeypatch.setattr(builder_process, "build_in_child", build)
    monkeypatch.setattr(tensorrt, "supported_capabilities", lambda engine: ("9.0",))
    bundle = toy(tmp_path, tolerances={"tensorrt": {"fp32": LIMIT}})
    place = write_plan(bundle, tmp_path / "models")
    assert (place / "1" / "model.plan").read_bytes() == b"plan"
    config = parse_model_config((place / "config.pbtxt").read_text())
    assert (config.name, config.platform) == ("toy_tensorrt", "tensorrt_plan")
    ((model, options),) = built
    assert model == bundle.read()
    assert (options["engine"], options["compute_capabilities"]) == ("tensorrt", ("9.0",))
    assert config.max_batch_size == options["profile"].shapes["image"][2][0]
    for spec in config.optimization.cuda.graph_spec:
        (pair,) = spec.input
        options["profile"].check({pair.key: (spec.batch_size, *pair.value.dim)})
    with pytest.raises(BundleError, match="states no tolerance for tensorrt"):
        write_plan(shipped_bundle("face_finder"), tmp_path / "models", precision="int8")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = toy(tmp_path)
    file, models = pack(bundle, tmp_path / "toy.zip"), tmp_path / "models"
    assert main(["export", str(file), "--triton", str(models)]) == 0
    assert "ONNX Runtime backend" in capsys.readouterr().out
    assert (models / "toy" / "1" / "model.onnx").read_bytes() == bundle.read()
    assert main(["export", str(file), "--triton", str(models)]) == 2
    assert main(["export", "--triton", str(tmp_path / "all")]) == 0
    assert set(shipped_names()) < {place.name for place in (tmp_path / "all").iterdir()}
    for wrong in (
        ["export", "wrinkle_filler"],
        ["export", "-o", str(tmp_path)],
        ["export", "a", "b", "--weights", "x", "-o", str(tmp_path)],
        ["export", "wrinkle_filler", "--plan", "-o", str(tmp_path)],
    ):
        capsys.readouterr()
        assert main(wrong) == 2
        assert capsys.readouterr().err.startswith("revisage: error: ")
