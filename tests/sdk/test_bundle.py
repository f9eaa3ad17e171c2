"""Bundles: opened whole or refused with the file's or field's name."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from revisage.bundle import Bundle, shipped_bundle, shipped_names
from revisage.errors import BundleError
from revisage.onnx_guard import check_model_bytes
from tests.sdk.toy_bundle import scaling_model, sha256, write_toy_bundle
from tests.support import machine_traces


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


def with_external_in_subgraph() -> onnx.ModelProto:
    model = scaling_model()
    weight = external(numpy_helper.from_array(np.ones(1, np.float32), "w"))
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    branch = helper.make_graph([], "branch", [], [out], [weight])
    node = helper.make_node("If", ["condition"], ["y"], then_branch=branch, else_branch=branch)
    model.graph.node.append(node)
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
        with_external_in_subgraph,
        with_external_in_function,
    ],
)
def test_external_data_is_refused_wherever_it_hides(tmp_path: Path, make: object) -> None:
    model = make().SerializeToString()  # type: ignore[operator]
    with pytest.raises(BundleError, match="external data"):
        Bundle.open(write_toy_bundle(tmp_path / "toy", model))


def test_a_tensor_of_absurd_size_is_refused() -> None:
    model = scaling_model()
    model.graph.initializer[0].dims[:] = [1 << 20, 1 << 20]
    with pytest.raises(BundleError, match="absurd shape"):
        check_model_bytes(model.SerializeToString(), "model.onnx")


def test_bottomless_nesting_is_refused() -> None:
    graph = helper.make_graph([], "leaf", [], [])
    for _ in range(30):
        node = helper.make_node("Scan", ["c"], ["y"], body=graph, num_scan_inputs=1)
        graph = helper.make_graph([node], "g", [], [])
    model = helper.make_model(graph)
    with pytest.raises(BundleError, match="nested"):
        check_model_bytes(model.SerializeToString(), "model.onnx")


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
