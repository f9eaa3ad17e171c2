"""Export: a portable graph, a parity gate that refuses, and a folder that is whole or not there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from revisage.bundle import Bundle
from revisage.engines import open_engine
from revisage.errors import (
    BundleError,
    CheckpointError,
    EngineError,
    OptionError,
    OutputError,
    ParityError,
)
from revisage.export import export_bundle, export_named
from revisage.export.bundle_from_onnx import write_bundle
from revisage.export.compare import check_parity, run_torch, statistics
from revisage.export.onnx_from_torch import OPSET, check_portable
from revisage.export.reference_set import reference_masks, reference_pictures
from revisage.manifest import Tolerance
from tests.export.toy_network import FILLED, IMAGE, MASK, ToyFiller, toy_fields, toy_references
from tests.support import machine_traces


def toy() -> ToyFiller:
    torch.manual_seed(0)
    network = ToyFiller()
    nn.init.normal_(network.norm.running_mean)
    nn.init.normal_(network.spectrum.bn.running_mean)
    nn.init.uniform_(network.spectrum.bn.running_var, 0.5, 2.0)
    return network.eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_bundle(toy(), toy_fields(), toy_references(), tmp_path_factory.mktemp("bundles"))


# --- the bundle ----------------------------------------------------------------------------------


def test_the_engine_computes_what_torch_computes(
    exported: Bundle, rng: np.random.Generator
) -> None:
    """Batches and sizes, square or not, that the exporter never saw."""
    reference = toy()
    with open_engine(exported, "cpu", threads=1) as engine:
        for batch, height, width in ((1, 64, 64), (3, 16, 40), (2, 72, 24)):
            image = rng.random((batch, 3, height, width), dtype=np.float32)
            mask = (rng.random((batch, 1, height, width)) > 0.7).astype(np.float32)
            found = engine.infer({"image": image, "mask": mask})["filled"]
            with torch.inference_mode():
                true = reference(torch.from_numpy(image), torch.from_numpy(mask)).numpy()
            assert np.abs(found - true).max() < 1e-5


def test_the_certificate_states_what_was_measured(exported: Bundle) -> None:
    errors = exported.certificate.errors["onnxruntime-cpu"]["fp32"]["filled"]
    assert 0 < errors["max_abs"] < 1e-5
    assert errors["mean_abs"] <= errors["rms"] <= errors["max_abs"]
    assert errors["psnr_db"] > 90
    assert exported.certificate.reference_count == 3
    assert exported.certificate.versions["torch"] == torch.__version__
    assert exported.manifest.opset == OPSET


def test_the_graph_is_portable_and_tells_nothing_of_the_machine(exported: Bundle) -> None:
    content = exported.read()
    model = onnx.load_from_string(content)
    check_portable(model)
    assert {e.domain: e.version for e in model.opset_import} == {"": OPSET, "revisage": 1}
    ours = {n.op_type for n in model.graph.node if n.domain == "revisage"}
    assert ours == {body.name for body in model.functions} == {"FftConv", "FourierMatrices"}
    inside = [node for body in model.functions for node in body.node]
    operators = {node.op_type for node in (*model.graph.node, *inside)}
    assert "MatMul" in operators
    assert not operators & {"DFT", "If", "Loop", "Scan", "Dropout"}
    for part in (model, model.graph, *model.graph.node, *model.functions, *inside):
        assert not part.doc_string
        assert not part.metadata_props
    assert not machine_traces(content)
    shape = [d.dim_param or d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    assert shape == ["N", 3, "H", "W"]


def test_nothing_is_left_beside_the_bundle(exported: Bundle) -> None:
    assert [p.name for p in exported.path.parent.iterdir()] == ["toy"]
    assert sorted(p.name for p in exported.path.iterdir()) == [
        "certificate.json",
        "manifest.json",
        "model.onnx",
    ]
    assert exported.path.stat().st_mode & 0o777 == 0o755


# --- the gate ------------------------------------------------------------------------------------


def test_a_graph_that_drifts_is_refused_and_nothing_is_written(
    exported: Bundle, tmp_path: Path
) -> None:
    """The graph of one network against another's outputs: one bias differs by a thousandth."""
    drifted = toy()
    with torch.no_grad():
        drifted.up.bias[1] += 1e-3
    references = toy_references()
    truths = [run_torch(drifted, inputs, (IMAGE, MASK), (FILLED,)) for inputs in references]
    with pytest.raises(ParityError, match=r"'filled' differs from float32 torch by 0\.000\d+"):
        write_bundle(
            exported.read(),
            toy_fields(),
            exported.certificate.probes,
            references,
            truths,
            tmp_path,
        )
    assert list(tmp_path.iterdir()) == []


def test_an_old_bundle_survives_a_refused_export(exported: Bundle, tmp_path: Path) -> None:
    references = toy_references(1)
    truths = [run_torch(toy(), inputs, (IMAGE, MASK), (FILLED,)) for inputs in references]
    rest = (exported.certificate.probes, references, truths, tmp_path)
    old = write_bundle(exported.read(), toy_fields(), *rest)
    impossible = {"onnxruntime-cpu": {"fp32": Tolerance(1e-12, 1e-12)}}
    with pytest.raises(ParityError, match="tolerance is 1e-12"):
        write_bundle(exported.read(), toy_fields(tolerances=impossible), *rest, force=True)
    assert Bundle.open(tmp_path / "toy") == old
    assert [p.name for p in tmp_path.iterdir()] == ["toy"]


def test_a_replaced_bundle_is_the_new_one(exported: Bundle, tmp_path: Path) -> None:
    references = toy_references(1)
    truths = [run_torch(toy(), inputs, (IMAGE, MASK), (FILLED,)) for inputs in references]
    rest = (exported.certificate.probes, references, truths, tmp_path)
    old = write_bundle(exported.read(), toy_fields(), *rest)
    new = write_bundle(exported.read(), toy_fields(version="2"), *rest, force=True)
    assert (old.manifest.version, new.manifest.version) == ("1", "2")
    assert Bundle.open(tmp_path / "toy") == new
    assert [p.name for p in tmp_path.iterdir()] == ["toy"]


def test_an_existing_bundle_is_only_replaced_when_told(exported: Bundle) -> None:
    with pytest.raises(OutputError, match="--force"):
        export_bundle(toy(), toy_fields(), toy_references(1), exported.path.parent)


def test_a_bundle_that_no_engine_here_can_certify_is_refused(tmp_path: Path) -> None:
    elsewhere = {"tensorrt": {"fp32": Tolerance(1e-3, 1e-4)}}
    with pytest.raises(ParityError, match="nothing could be certified"):
        export_bundle(toy(), toy_fields(tolerances=elsewhere), toy_references(1), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_impossible_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="padding"):
        export_bundle(toy(), toy_fields(padding="wrap"), toy_references(1), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="cannot be written"):
        export_bundle(toy(), toy_fields(), toy_references(1), tmp_path / "file")


# --- the graph -----------------------------------------------------------------------------------


def model_with(node: onnx.NodeProto) -> onnx.ModelProto:
    shapes = {"x": ["N", 4], "y": ["N", 4], "x4": [1, 8, 8, 1], "y4": [1, 8, 8, 2]}
    image, out = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes.get(name, ["N", 4]))
        for name in (node.input[0], node.output[0])
    )
    graph = helper.make_graph([node], "g", [image], [out])
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("own", 1)]
    )


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (helper.make_node("DFT", ["x4"], ["y4"]), "DFT is refused: slow"),
        (helper.make_node("RandomNormalLike", ["x"], ["y"]), "random"),
        (helper.make_node("Dropout", ["x"], ["y"]), "eval"),
        (helper.make_node("Magic", ["x"], ["y"], domain="own"), "not standard"),
        (helper.make_node("Relu", ["x", "x"], ["y"]), "not valid ONNX"),
    ],
)
def test_a_graph_that_is_not_portable_is_refused(node: onnx.NodeProto, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        check_portable(model_with(node))


# --- statistics ----------------------------------------------------------------------------------


def test_statistics_of_obvious_errors(rng: np.random.Generator) -> None:
    true = rng.random((2, 3, 10, 10), dtype=np.float32)
    none = statistics(true, true)
    assert (none.max_abs, none.mean_abs, none.rms, none.psnr_db) == (0, 0, 0, 999)
    shifted = statistics(true, true + np.float32(0.5))
    assert shifted.max_abs == pytest.approx(0.5, rel=1e-5)
    assert shifted.rms == pytest.approx(0.5, rel=1e-5)
    one = true.copy()
    one[0, 0, 0, 0] += 6
    single = statistics(true, one)
    assert single.max_abs == pytest.approx(6, rel=1e-5)
    assert single.mean_abs == pytest.approx(0.01, rel=1e-4)
    assert single.p99_abs == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_never_pass(bad: float) -> None:
    true = np.zeros((1, 4), np.float32)
    found = true.copy()
    found[0, 2] = bad
    error = statistics(true, found)
    assert error.max_abs == np.inf
    with pytest.raises(ParityError):
        check_parity({"y": error}, Tolerance(1e30, 1e30), "toy")


def test_the_reference_set_is_the_same_everywhere() -> None:
    pictures, masks = reference_pictures(8, 32), reference_masks(8, 32)
    assert pictures.shape == (8, 3, 32, 32)
    assert pictures.dtype == np.float32
    assert 0 <= pictures.min() < pictures.max() <= 1
    np.testing.assert_array_equal(pictures, reference_pictures(8, 32))
    assert set(np.unique(masks)) == {0.0, 1.0}
    assert masks[6].max() == 0
    assert masks[7].min() == 1
    assert len({p.tobytes() for p in pictures}) == 8


# --- by name -------------------------------------------------------------------------------------


def test_export_by_name_refuses_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"there are: .*wrinkle_filler"):
        export_named("nothing", tmp_path)
    with pytest.raises(CheckpointError, match="no such weights"):
        export_named("wrinkle_filler", tmp_path, weights=tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(CheckpointError, match="not a readable safetensors"):
        export_named("wrinkle_filler", tmp_path, weights=tmp_path / "bad.safetensors")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not the weights of this network"):
        export_named("wrinkle_segmenter", tmp_path, weights=tmp_path / "other.safetensors")


def test_the_manifest_repeats_the_exporters_fields(exported: Bundle) -> None:
    fields = toy_fields()
    for name in ("operation", "inputs", "outputs", "working_size", "multiple_of", "tolerances"):
        assert getattr(exported.manifest, name) == fields[name]  # type: ignore[literal-required]
    assert dataclasses.replace(exported.manifest).digests == exported.manifest.digests
