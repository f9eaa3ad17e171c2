"""Bundles: opened whole or refused with the file's or field's name."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from revisage.bundle import Bundle, shipped_bundle, shipped_names
from revisage.errors import BundleError
from revisage.onnx_guard import check_model_bytes
from tests.sdk.toy_bundle import scaling_model, sha256, write_toy_bundle
from tests.support import ROOT, machine_traces


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_toy_bundle(tmp_path / "toy")


def edit_manifest(folder: Path, **fields: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_good_bundle_opens(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert bundle.name == "toy"
    assert bundle.digest == sha256((folder / "manifest.json").read_bytes())
    assert bundle.model_digest == sha256(bundle.read())
    assert Bundle.open(str(folder)) == bundle


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "certificate.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=name):
        Bundle.open(folder)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "certificate.json"])
def test_a_changed_file_is_named(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(BundleError, match=name):
        Bundle.open(folder)


def test_a_flipped_bit_is_found(folder: Path) -> None:
    path = folder / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.onnx: its sha256"):
        Bundle.open(folder)


def test_a_file_that_changes_after_opening_is_not_used(folder: Path) -> None:
    bundle = Bundle.open(folder)
    (folder / "model.onnx").write_bytes(scaling_model(5.0).SerializeToString())
    with pytest.raises(BundleError, match="sha256"):
        bundle.read()


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle folder"):
        Bundle.open(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["../outside.bin", "/etc/hostname", "sub/file", "..", ".hidden"])
def test_a_path_out_of_the_folder_is_refused(folder: Path, name: str) -> None:
    (folder.parent / "outside.bin").write_bytes(b"secret")
    digests = json.loads((folder / "manifest.json").read_text())["digests"]
    edit_manifest(folder, digests={**digests, name: sha256(b"secret")})
    with pytest.raises(BundleError, match="plain file name"):
        Bundle.open(folder)


def test_reading_an_unlisted_file_is_refused(folder: Path) -> None:
    (folder / "notes.txt").write_text("hello")
    with pytest.raises(BundleError, match="lists no file"):
        Bundle.open(folder).read("notes.txt")
    with pytest.raises(BundleError, match="lists no file"):
        Bundle.open(folder).read("../toy/model.onnx")


def test_a_pipe_in_place_of_a_file_does_not_hang(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")
    with pytest.raises(BundleError, match="no regular file"):
        Bundle.open(folder)


def test_an_oversized_file_is_refused_before_it_is_read(folder: Path) -> None:
    with (folder / "certificate.json").open("r+b") as file:
        file.truncate(1 << 40)  # sparse: it takes no room on the disk
    with pytest.raises(BundleError, match="larger than"):
        Bundle.open(folder)


def test_too_many_files_are_refused(folder: Path) -> None:
    digests = json.loads((folder / "manifest.json").read_text())["digests"]
    edit_manifest(folder, digests=digests | {f"f{i}": "0" * 64 for i in range(40)})
    with pytest.raises(BundleError, match="more than"):
        Bundle.open(folder)


def test_a_certificate_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = write_toy_bundle(tmp_path / "a")
    model = scaling_model(9.0).SerializeToString()
    (folder / "model.onnx").write_bytes(model)
    digests = json.loads((folder / "manifest.json").read_text())["digests"]
    edit_manifest(folder, digests={**digests, "model.onnx": sha256(model)})
    with pytest.raises(BundleError, match="certifies another"):
        Bundle.open(folder)


# --- the graph itself ----------------------------------------------------------------------------


def external(tensor: TensorProto) -> TensorProto:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    return tensor


def with_external_initializer() -> onnx.ModelProto:
    model = scaling_model()
    external(model.graph.initializer[0])
    return model


def with_external_constant() -> onnx.ModelProto:
    model = scaling_model()
    value = external(numpy_helper.from_array(np.ones(1, np.float32), "c"))
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=value))
    return model


def with_external_in_function() -> onnx.ModelProto:
    model = scaling_model()
    value = external(numpy_helper.from_array(np.ones(1, np.float32), "c"))
    node = helper.make_node("Constant", [], ["c"], value=value)
    model.functions.append(
        helper.make_function("own", "F", [], ["c"], [node], [helper.make_opsetid("", 18)])
    )
    return model


@pytest.mark.parametrize(
    "make",
    [
        with_external_initializer,
        with_external_constant,
        with_external_in_function,
    ],
)
def test_external_data_is_refused_wherever_it_hides(tmp_path: Path, make: object) -> None:
    model = make().SerializeToString()  # type: ignore[operator]
    with pytest.raises(BundleError, match="external data"):
        Bundle.open(write_toy_bundle(tmp_path / "toy", model))


def constant(value: TensorProto | None = None, **attributes: object) -> onnx.NodeProto:
    value = value or numpy_helper.from_array(np.ones(1, np.float32), "c")
    return helper.make_node("Constant", [], ["c"], value=value, **attributes)


def initializer(**changes: object) -> bytes:
    """A model whose one weight is another."""
    model = scaling_model()
    weight = model.graph.initializer[0]
    for field, value in changes.items():
        weight.ClearField(field)
        if isinstance(value, list):
            getattr(weight, field).extend(value)
        else:
            setattr(weight, field, value)
    return bytes(model.SerializeToString())


def with_subgraphs(depth: int) -> bytes:
    graph = helper.make_graph([], "leaf", [], [])
    for _ in range(depth):
        node = helper.make_node("Scan", ["c"], ["y"], body=graph, num_scan_inputs=1)
        graph = helper.make_graph([node], "g", [], [])
    return bytes(helper.make_model(graph).SerializeToString())


def with_functions(calls: dict[str, list[str]], nodes: int = 1) -> bytes:
    """Functions by name and what each calls; the graph calls the first."""
    model = scaling_model()
    for name, called in calls.items():
        body = [helper.make_node(c, ["x"], [f"y{i}"], domain="own") for i, c in enumerate(called)]
        opset = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
        model.functions.append(helper.make_function("own", name, ["x"], ["y0"], body, opset))
    for index in range(nodes):
        call = helper.make_node(next(iter(calls)), ["image"], [f"z{index}"], domain="own")
        model.graph.node.append(call)
    return bytes(model.SerializeToString())


def with_node(node: onnx.NodeProto) -> bytes:
    model = scaling_model()
    model.graph.node.append(node)
    return bytes(model.SerializeToString())


def with_two_values() -> bytes:
    """Two messages of one field are one to a parser: their shapes are put together."""
    model = scaling_model()
    node = constant()
    attribute = node.attribute[0]
    once = attribute.SerializeToString()
    attribute.ClearField("t")
    value = numpy_helper.from_array(np.ones(1, np.float32), "c").SerializeToString()
    twice = once + b"\x2a" + bytes([len(value)]) + value  # field 5, bytes
    model.graph.node.append(node)
    found = model.SerializeToString()
    plain = attribute.SerializeToString()
    assert plain in found
    body = bytes([len(twice)]) + twice
    node_before = node.SerializeToString()
    node_after = node_before.replace(bytes([len(plain)]) + plain, body)
    graph = model.graph.SerializeToString().replace(
        bytes([len(node_before)]) + node_before, bytes([len(node_after)]) + node_after
    )
    model.ClearField("graph")
    size = len(graph)
    return bytes(model.SerializeToString() + b"\x3a" + bytes([size & 127 | 128, size >> 7]) + graph)


def with_sparse() -> bytes:
    model = scaling_model()
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    sparse = helper.make_sparse_tensor(values, indices, [1 << 20, 1 << 20])
    model.graph.sparse_initializer.append(sparse)
    return bytes(model.SerializeToString())


def with_stated_shape(*shape: int) -> bytes:
    model = scaling_model()
    model.graph.value_info.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, shape))
    return bytes(model.SerializeToString())


def with_training() -> bytes:
    model = scaling_model()
    model.training_info.add()
    return bytes(model.SerializeToString())


HOSTILE_MODELS: dict[str, tuple[Callable[[], bytes], str]] = {
    "huge initialiser": (lambda: initializer(dims=[1 << 20, 1 << 20]), "absurd shape"),
    "huge dimension": (lambda: initializer(dims=[1 << 40, 0]), "absurd shape"),
    "negative dimension": (lambda: initializer(dims=[-1]), "absurd shape"),
    "rank": (lambda: initializer(dims=[1] * 40), "absurd shape"),
    "declared larger": (lambda: initializer(dims=[1 << 20]), "needs 4194304 bytes and holds 4"),
    "declared smaller": (lambda: initializer(raw_data=bytes(1 << 20)), "needs 4 bytes and holds"),
    "no values": (lambda: initializer(raw_data=b"", dims=[5]), "needs 20 bytes and holds 0"),
    "two lists": (lambda: initializer(float_data=[1.0]), "needs 4 bytes"),
    "type": (lambda: initializer(data_type=99), "no type that a network has"),
    "strings": (lambda: initializer(string_data=[b"x"], data_type=8), "strings"),
    "sparse": (with_sparse, "sparse"),
    "stated shape": (lambda: with_stated_shape(1 << 30, 1 << 30), "absurd shape"),
    "control flow": (lambda: with_subgraphs(1), "control flow"),
    "bottomless": (lambda: with_subgraphs(30), "control flow"),
    "training": (with_training, "training"),
    "calls itself": (lambda: with_functions({"F": ["F"]}), "'F' calls itself"),
    "ring": (lambda: with_functions({"F": ["G"], "G": ["F"]}), "calls itself"),
    "twins": (lambda: with_functions({"F": []}) + with_functions({"F": []}), "same name"),
    "laughs": (
        lambda: with_functions({f"F{i}": [f"F{i + 1}"] * 2 for i in range(40)} | {"F40": []}),
        "once its functions are inlined",
    ),
    "functions": (lambda: with_functions({f"F{i}": [] for i in range(200)}), "functions"),
    "long text": (
        lambda: with_node(helper.make_node("Pad", ["x"], ["y"], mode="x" * (1 << 21))),
        "absurd",
    ),
    "long name": (lambda: with_node(helper.make_node("Relu", ["x" * (1 << 21)], ["y"])), "absurd"),
    "fields": (lambda: scaling_model().SerializeToString() + b"\x28\x01" * (1 << 20), "fields"),
    "two graphs": (lambda: scaling_model().SerializeToString() * 2, "more than one graph"),
    "two values": (with_two_values, "two values"),
}


@pytest.mark.parametrize("attack", HOSTILE_MODELS)
def test_a_hostile_model_is_refused_soon(attack: str) -> None:
    make, message = HOSTILE_MODELS[attack]
    content = make()
    start = time.process_time()
    with pytest.raises(BundleError, match=message):
        check_model_bytes(content, "model.onnx")
    assert time.process_time() - start < 10


def test_what_networks_have_is_let_through() -> None:
    model = scaling_model()
    for dtype in (np.float16, np.float64, np.int8, np.uint8, np.int32, np.int64, np.bool_):
        array = np.zeros((2, 3), dtype)
        model.graph.initializer.append(numpy_helper.from_array(array, np.dtype(dtype).name))
    lists = {
        TensorProto.FLOAT: [1.5, 2.5],
        TensorProto.INT64: [-1, 1 << 40],
        TensorProto.INT8: [-3, 3],
        TensorProto.BFLOAT16: [1.0, 2.0],
    }
    for kind, values in lists.items():
        model.graph.initializer.append(helper.make_tensor(f"list{kind}", kind, [2], values))
    model.graph.initializer.append(helper.make_tensor("int4", TensorProto.INT4, [3], [1, 2, 3]))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(3), "scalar"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(0, np.float32), "empty"))
    check_model_bytes(model.SerializeToString(), "model.onnx")
    check_model_bytes(with_functions({"F": ["G", "G"], "G": []}, nodes=50), "model.onnx")


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"hello world, this is no model", b"\xff" * 64, b"PK\x03\x04" + b"\x00" * 60],
    ids=["empty", "zero", "text", "ones", "zip"],
)
def test_bytes_that_are_no_model_are_refused(content: bytes) -> None:
    with pytest.raises(BundleError, match="not an ONNX model"):
        check_model_bytes(content, "model.onnx")


def test_every_truncation_of_a_model_is_refused_or_read() -> None:
    content = scaling_model().SerializeToString()
    check_model_bytes(content, "model.onnx")
    refused = 0
    for length in range(len(content)):
        try:
            check_model_bytes(content[:length], "model.onnx")
        except BundleError:
            refused += 1
    assert refused > len(content) * 0.9


def test_random_damage_is_refused_or_harmless() -> None:
    """No crash, no hang, no runaway memory: see `bundle_fuzzing`."""
    command = [sys.executable, "-m", "tests.sdk.bundle_fuzzing", "--calls", "60"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout[-200:] + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["refused"] > 150
    assert found["certified"] > 0
    assert found["slowest"] < 20
    assert found["peak_mb"] < 300


# --- what ships ----------------------------------------------------------------------------------


def test_an_unknown_shipped_name_lists_the_known_ones() -> None:
    with pytest.raises(BundleError, match="no bundle 'nothing' came"):
        shipped_bundle("nothing")


def test_every_shipped_bundle_opens_under_its_own_name() -> None:
    for name in shipped_names():
        bundle = shipped_bundle(name)
        assert bundle.name == name
        assert not machine_traces(bundle.read())
        assert dataclasses.asdict(bundle.manifest.recipe)["name"]


def test_shipped_bundles_together_stay_under_24_megabytes() -> None:
    total = sum((shipped_bundle(n).path / "model.onnx").stat().st_size for n in shipped_names())
    assert total <= 24e6
