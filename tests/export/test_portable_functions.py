"""The bodies of our operators: what they compute without our kernels, and who runs when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.nn import functional

from revisage import kernels
from revisage.bundle import Bundle
from revisage.engines import open_engine
from revisage.errors import DeviceError, EngineError, OptionError
from revisage.export import export_bundle
from revisage.export.onnx_from_torch import OPSET, check_portable
from revisage.export.portable_functions import attach_functions
from revisage.export.torch_export import exported_model
from revisage.onnx_guard import function_names
from revisage.training.ops import feature_blend, fft_conv, flow_warp
from tests.export.toy_network import ToyFiller, toy_fields, toy_references

needs_library = pytest.mark.skipif(
    kernels.onnxruntime_library() is None,
    reason="built without ONNX Runtime's headers, so there are no custom operators",
)


def one_node(operator: str, inputs: dict[str, list[Any]], **attributes: Any) -> onnx.ModelProto:
    node = helper.make_node(operator, list(inputs), ["y"], domain="revisage", **attributes)
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["A", "B", "C", "D"])
    graph = helper.make_graph([node], "one_node", infos, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    attach_functions(model)
    check_portable(model)
    return model


def portable(model: onnx.ModelProto) -> Any:
    """A session that knows standard operators only."""
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def test_the_body_of_the_fourier_unit(rng: np.random.Generator) -> None:
    shapes = {"x": ["N", "C", "H", "W"], "weight": ["R", "K"], "scale": ["R"], "shift": ["R"]}
    session = portable(one_node("FftConv", shapes))
    sizes = [(1, 1), (1, 8), (9, 1), (2, 2), (5, 7), (6, 5), (24, 40), (33, 45), (64, 64)]
    for n, c, d, size in [(1 + i % 3, 2 + i % 4, 1 + i % 5, s) for i, s in enumerate(sizes)]:
        feeds = {
            "x": rng.standard_normal((n, c, *size), np.float32),
            "weight": rng.standard_normal((2 * d, 2 * c), np.float32),
            "scale": rng.uniform(0.5, 1.5, 2 * d).astype(np.float32),
            "shift": rng.standard_normal(2 * d, np.float32),
        }
        true = kernels.fft_conv(**feeds, impl="reference")
        (found,) = session.run(None, feeds)
        assert np.abs(found - true).max() <= 1e-5 * np.abs(true).max()


@pytest.mark.parametrize(
    ("padding", "mode"), [("border", "border"), ("zero", "zeros"), ("reflect", "reflection")]
)
def test_the_body_of_the_warp(padding: Any, mode: str, rng: np.random.Generator) -> None:
    shapes = {"image": ["N", "C", "H", "W"], "flow": ["N", "h", "w", 2]}
    session = portable(one_node("FlowWarp", shapes, padding_mode=mode))
    for size, small in [((9, 7), (9, 7)), ((16, 33), (4, 5)), ((2, 2), (1, 1)), ((40, 30), (8, 8))]:
        image = rng.standard_normal((2, 3, *size), np.float32)
        flow = 3 * rng.standard_normal((2, *small, 2), np.float32)
        true = kernels.flow_warp(image, flow, padding=padding, layout="chw", impl="reference")
        (found,) = session.run(None, {"image": image, "flow": flow})
        # GridSample's positions are relative to the size, and lose some of a float's digits.
        np.testing.assert_allclose(found, true, atol=2e-4)


def test_the_body_of_the_blend(rng: np.random.Generator) -> None:
    features = ["N", "C", "H", "W"]
    shapes: dict[str, list[Any]] = {
        "style": features,
        "image": features,
        "spatial_logits": ["N", 2, "H", "W"],
        "channel_logits": ["N", 2, "C"],
        "strength": [],
    }
    session = portable(one_node("FeatureBlend", shapes))
    feeds = {
        "style": rng.standard_normal((2, 5, 6, 7), np.float32),
        "image": rng.standard_normal((2, 5, 6, 7), np.float32),
        "spatial_logits": rng.standard_normal((2, 2, 6, 7), np.float32),
        "channel_logits": rng.standard_normal((2, 2, 5), np.float32),
    }
    true = kernels.feature_blend(**feeds, strength=0.25, impl="reference")
    (found,) = session.run(None, {**feeds, "strength": np.array(0.25, np.float32)})
    np.testing.assert_allclose(found, true, atol=1e-6)


# --- exported from torch -------------------------------------------------------------------------


class AllThree(nn.Module):
    """[N, 4, H, W] -> [N, 4, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8) / 4)
        self.scale, self.shift = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.zeros(8))
        self.flow = nn.Conv2d(4, 2, 3, padding=1, stride=2)

    def forward(self, x: Tensor, strength: Tensor) -> Tensor:
        wide = fft_conv(x, self.weight, self.scale, self.shift)
        moved = flow_warp(x, 3 * self.flow(x).permute(0, 2, 3, 1), padding="reflect")
        moved = flow_warp(moved, moved[0, :2].permute(1, 2, 0))
        channels = x.mean((2, 3))[:, None].expand(-1, 2, -1)
        return feature_blend(moved, wide, x[:, :2], channels, strength=strength)  # type: ignore[arg-type]


def test_operators_become_nodes_that_every_engine_runs(rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    network = AllThree().eval()
    height, width = (2 * torch.export.Dim(name) for name in ("H2", "W2"))
    model = exported_model(
        network,
        (torch.randn(2, 4, 8, 10), torch.tensor(0.5)),
        dynamic_shapes=({0: torch.export.Dim("N"), 2: height, 3: width}, {}),
        input_names=["x", "strength"],
        output_names=["y"],
    )
    attach_functions(model)
    check_portable(model)
    ours = [node.op_type for node in model.graph.node if node.domain == "revisage"]
    assert ours == ["FourierMatrices", "FftConv", "FlowWarp", "FlowWarp", "FeatureBlend"]
    assert [function.name for function in model.functions] == [
        "FeatureBlend",
        "FftConv",
        "FlowWarp",
        "FourierMatrices",
    ]
    session = portable(model)
    for n, h, w in ((1, 8, 8), (3, 6, 14)):
        x = rng.standard_normal((n, 4, h, w), np.float32)
        (found,) = session.run(None, {"x": x, "strength": np.array(0.7, np.float32)})
        with torch.inference_mode():
            true = network(torch.from_numpy(x), 0.7).numpy()
        np.testing.assert_allclose(found, true, atol=1e-4)


class UnitsOfTwoSizes(nn.Module):
    """Two Fourier units at full size, one at half: [N, 2, H, W] -> [N, 2, H / 2, W / 2]."""

    def forward(self, x: Tensor) -> Tensor:
        weight, scale, shift = torch.eye(4), torch.ones(4), torch.ones(4)
        for _ in range(2):
            x = x + fft_conv(x, weight, scale, shift)
        x = functional.avg_pool2d(x, 2)
        return x + fft_conv(x, weight, scale, shift)


def test_fourier_units_of_one_size_share_their_matrices(rng: np.random.Generator) -> None:
    network = UnitsOfTwoSizes().eval()
    height, width = (2 * torch.export.Dim(name) for name in ("H2", "W2"))
    model = exported_model(
        network,
        (torch.randn(2, 2, 8, 12),),
        dynamic_shapes=({0: torch.export.Dim("N"), 2: height, 3: width},),
        input_names=["x"],
        output_names=["y"],
    )
    attach_functions(model)
    check_portable(model)
    matrices = [list(n.output) for n in model.graph.node if n.op_type == "FourierMatrices"]
    units = [list(n.input)[4:] for n in model.graph.node if n.op_type == "FftConv"]
    assert len(matrices) == 2
    assert units == [matrices[0], matrices[0], matrices[1]]
    session = portable(model)
    for size in ((8, 12), (6, 10)):
        x = rng.standard_normal((3, 2, *size), np.float32)
        with torch.inference_mode():
            true = network(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(session.run(None, {"x": x})[0], true, atol=1e-5)


def test_a_node_of_ours_without_a_body_is_refused() -> None:
    model = one_node("FftConv", {"x": [1, 2, 4, 4], "w": [4, 4], "scale": [4], "shift": [4]})
    for function in list(model.functions):
        if function.name == "FftConv":
            model.functions.remove(function)
    with pytest.raises(EngineError, match="revisage::FftConv is not standard"):
        check_portable(model)


def test_a_function_of_another_domain_is_refused() -> None:
    model = one_node("FftConv", {"x": [1, 2, 4, 4], "w": [4, 4], "scale": [4], "shift": [4]})
    body = [helper.make_node("Relu", ["a"], ["b"])]
    versions = [helper.make_opsetid("", OPSET)]
    model.functions.append(helper.make_function("own", "Magic", ["a"], ["b"], body, versions))
    model.opset_import.add(domain="own", version=1)
    with pytest.raises(EngineError, match="function 'Magic'"):
        check_portable(model)


def test_the_runtime_finds_our_functions_and_no_others() -> None:
    model = one_node("FftConv", {"x": [1, 2, 4, 4], "w": [4, 4], "scale": [4], "shift": [4]})
    body = [helper.make_node("Relu", ["a"], ["b"])]
    versions = [helper.make_opsetid("", OPSET)]
    model.functions.append(helper.make_function("own", "FlowWarp", ["a"], ["b"], body, versions))
    assert function_names(model.SerializeToString(), "revisage") == {"FftConv", "FourierMatrices"}
    assert function_names(model.SerializeToString(), "own") == {"FlowWarp"}


# --- the CPU engine ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    network = ToyFiller(width=20).eval()
    return export_bundle(
        network, toy_fields(), toy_references(), tmp_path_factory.mktemp("bundles")
    )


def inputs(rng: np.random.Generator, batch: int, height: int, width: int) -> dict[str, Any]:
    mask = (rng.random((batch, 1, height, width)) > 0.7).astype(np.float32)
    return {"image": rng.random((batch, 3, height, width), dtype=np.float32), "mask": mask}


@needs_library
def test_native_and_portable_agree_and_both_are_certified(
    bundle: Bundle, rng: np.random.Generator
) -> None:
    errors = bundle.certificate.errors
    assert set(errors) == {"onnxruntime-cpu", "onnxruntime-cpu+native"}
    assert 0 < errors["onnxruntime-cpu+native"]["fp32"]["filled"]["max_abs"] < 1e-5
    with (
        open_engine(bundle, "cpu", operators="native", threads=2) as native,
        open_engine(bundle, "cpu", operators="portable", threads=2) as portable,
        open_engine(bundle, "cpu", threads=1) as auto,
    ):
        assert native.operators == auto.operators == {"FftConv": "native"}
        assert portable.operators == {"FftConv": "portable"}
        for shape in ((1, 64, 64), (3, 16, 40), (2, 72, 24)):
            feeds = inputs(rng, *shape)
            found, true = (e.infer(feeds)["filled"] for e in (native, portable))
            np.testing.assert_allclose(found, true, atol=1e-5)
            # Neither the number of threads nor the batch changes a bit.
            np.testing.assert_array_equal(auto.infer(feeds)["filled"], found)
            alone = {name: array[:1] for name, array in feeds.items()}
            np.testing.assert_array_equal(native.infer(alone)["filled"], found[:1])


def test_without_the_library_the_portable_graph_runs_and_says_so(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr("revisage.engines.onnxruntime.onnxruntime_library", lambda: None)
    with open_engine(bundle, "cpu") as engine:
        assert engine.operators == {"FftConv": "portable"}
        assert np.isfinite(engine.infer(inputs(rng, 1, 24, 32))["filled"]).all()
    with pytest.raises(DeviceError, match=r"operators='native' .* without ONNX Runtime's headers"):
        open_engine(bundle, "cpu", operators="native")


def test_a_library_that_does_not_load_is_an_error(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "librevisage_onnxruntime.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr("revisage.engines.onnxruntime.onnxruntime_library", lambda: broken)
    with pytest.raises(EngineError, match=r"librevisage_onnxruntime\.so.*REVISAGE_OPERATORS"):
        open_engine(bundle, "cpu")
    with open_engine(bundle, "cpu", operators="portable") as engine:
        assert engine.operators == {"FftConv": "portable"}


def test_the_variable_chooses(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVISAGE_OPERATORS", "portable")
    with open_engine(bundle, "cpu") as engine:
        assert engine.operators == {"FftConv": "portable"}
    monkeypatch.setenv("REVISAGE_OPERATORS", "sometimes")
    with pytest.raises(OptionError, match="REVISAGE_OPERATORS is 'sometimes'"):
        open_engine(bundle, "cpu")
    with pytest.raises(OptionError, match="operators 'never'"):
        open_engine(bundle, "cpu", operators="never")
