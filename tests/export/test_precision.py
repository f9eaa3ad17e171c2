"""Graphs at fp16, bf16 and int8: typed, close, chosen by layer, and searched within bounds."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import nn
from torch.nn import functional

from revisage.bundle import MODEL, Bundle, shipped_bundle, shipped_names
from revisage.engines import open_engine
from revisage.errors import BundleError, OptionError, ParityError
from revisage.export import ManifestFields, export_bundle, stated_tolerances
from revisage.export.bundle_from_onnx import EMULATION
from revisage.export.calibration import calibration_inputs, face_squares
from revisage.export.compare import (
    PICTURE_LIMITS,
    check_parity,
    excess,
    run_onnx,
    statistics_of,
    with_outputs,
)
from revisage.export.drift import comparable_graphs, first_drift, layer_errors
from revisage.export.onnx_from_torch import check_portable, onnx_from_torch
from revisage.export.pictures import PROBABILITY_TOLERANCES
from revisage.export.precision import emulated, float_graph, low_graph, low_layers
from revisage.export.precision_search import layers_to_keep
from revisage.export.quantise import Quantiser, chosen_range, sampled
from revisage.export.reference_set import reference_faces, reference_pictures
from revisage.manifest import TensorSpec, Tolerance
from tests.export.toy_network import IMAGE, MASK, ToyFiller, toy_fields, toy_references

LOW = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
TOLERANCES = stated_tolerances(
    Tolerance(1e-5, 1e-6),
    Tolerance(1e-4, 1e-5),
    fp16=Tolerance(4e-3, 5e-4),
    bf16=Tolerance(2e-2, 4e-3),
    int8=Tolerance(3e-2, 6e-3),
)


class ToyConvolutions(nn.Module):
    """[N, 3, H, W] -> the same: what a compact network is made of, wide enough for int8."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 16, 3, 2, 1)
        self.middle = nn.Conv2d(16, 16, 3, 1, 1)
        self.join = nn.Conv2d(32, 16, 1)
        self.leave = nn.Conv2d(16, 3, 3, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.enter(image))
        y = functional.relu(self.middle(x))
        z = functional.relu(self.join(torch.cat([x, y], dim=1)))
        large = functional.interpolate(z, scale_factor=2.0, mode="nearest")
        return torch.sigmoid(self.leave(large))


def convolution_fields(**changes: object) -> ManifestFields:
    picture = TensorSpec("picture", "float32", ("N", 3, "H", "W"), "NCHW", "RGB", (0.0, 1.0))
    return toy_fields(
        name="convolutions", inputs=(IMAGE,), outputs=(picture,), tolerances=TOLERANCES, **changes
    )


def pictures(count: int = 3) -> list[dict[str, NDArray[np.float32]]]:
    return [{"image": picture[None]} for picture in reference_pictures(count, 64)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The toy filler, with its Fourier unit, at every floating precision."""
    torch.manual_seed(0)
    return export_bundle(
        ToyFiller().eval(),
        toy_fields(tolerances=TOLERANCES),
        toy_references(),
        tmp_path_factory.mktemp("low"),
        precisions=("fp16", "bf16"),
    )


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    return export_bundle(
        ToyConvolutions().eval(),
        convolution_fields(),
        pictures(),
        tmp_path_factory.mktemp("int8"),
        precisions=("int8",),
    )


# --- bundles of several precisions ---------------------------------------------------------------


def test_a_bundle_holds_a_certified_graph_for_every_precision(bundle: Bundle) -> None:
    assert dict(bundle.manifest.graphs) == {
        "fp32": MODEL,
        "fp16": "model.fp16.onnx",
        "bf16": "model.bf16.onnx",
    }
    certificate = bundle.certificate
    for precision in ("fp16", "bf16"):
        assert certificate.graph_digests[precision] == bundle.graph_digest(precision)
        error = certificate.errors[EMULATION][precision]["filled"]
        assert 0 < error["max_abs"] <= TOLERANCES["tensorrt-rtx"][precision].max_abs
        assert error["ssim"] > PICTURE_LIMITS["ssim"]
        assert error["levels_mean"] < 1
        assert certificate.layers[precision]["low"] > 0
    # ONNX Runtime's CPU provider runs fp16 and was measured; it runs no bf16 and claims none.
    assert set(certificate.errors["onnxruntime-cpu"]) == {"fp32", "fp16"}
    assert "bf16" not in bundle.manifest.tolerances["onnxruntime-cpu"]
    assert "int8" not in bundle.manifest.tolerances["onnxruntime-cpu"]  # was not asked for


def test_the_same_weights_give_the_same_graphs(bundle: Bundle, tmp_path: Path) -> None:
    torch.manual_seed(0)
    again = export_bundle(
        ToyFiller().eval(),
        toy_fields(tolerances=TOLERANCES),
        toy_references(),
        tmp_path,
        precisions=("bf16", "fp16"),
    )
    for file in bundle.manifest.digests:
        assert again.read(file) == bundle.read(file)


def test_a_graph_that_the_certificate_does_not_know_is_refused(
    bundle: Bundle, tmp_path: Path
) -> None:
    from hashlib import sha256
    from shutil import copytree

    folder = copytree(bundle.path, tmp_path / "toy")
    certificate = json.loads((folder / "certificate.json").read_text())
    del certificate["graph_digests"]["fp16"]
    text = json.dumps(certificate)
    (folder / "certificate.json").write_text(text)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["digests"]["certificate.json"] = sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"does not certify model\.fp16\.onnx"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("precisions", "message"),
    [(("fp8",), "'fp8' is not one of"), (("int8",), "states no tolerance at int8, only at fp32")],
)
def test_a_precision_that_cannot_be_is_refused_at_once(
    precisions: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=message):
        export_bundle(ToyFiller(), toy_fields(), toy_references(1), tmp_path, precisions=precisions)
    assert list(tmp_path.iterdir()) == []


# --- fp16 and bf16 -------------------------------------------------------------------------------


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    values = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    return values | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_convolutions_are_low_and_sizes_are_not(bundle: Bundle, precision: str) -> None:
    model = onnx.load_from_string(bundle.read_graph(precision))
    check_portable(model)
    assert not model.functions
    types = element_types(model)
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    by_kind: dict[str, set[int]] = {}
    for node in model.graph.node:
        for name in node.input[:2]:
            if name in types:
                by_kind.setdefault(node.op_type, set()).add(types[name])
    assert by_kind["Conv"] == {LOW[precision]}
    assert LOW[precision] in by_kind["MatMul"]  # the transform of the data
    # Angles of the transform count up to the number of pixels.
    assert by_kind["Cos"] == by_kind["Sin"] == {TensorProto.FLOAT}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_layers_that_are_kept_stay_float(bundle: Bundle, precision: str) -> None:
    whole = float_graph(onnx.load_from_string(bundle.read_graph()), precision)
    kept = [n.name for n in whole.graph.node if n.op_type == "Conv"]
    assert set(kept) < set(low_layers(whole, precision))
    low = low_graph(whole, precision, kept)
    check_portable(low)
    types = element_types(low)
    for node in low.graph.node:
        if node.name in kept:
            assert {types[name] for name in node.input} == {TensorProto.FLOAT}
    nothing_low = low_graph(whole, precision, low_layers(whole, precision))
    inputs = toy_references(1)
    (found,) = run_onnx(nothing_low.SerializeToString(), inputs)
    (true,) = run_onnx(whole.SerializeToString(), inputs)
    np.testing.assert_array_equal(found["filled"], true["filled"])


def rounded(values: NDArray[np.float32], precision: str) -> NDArray[np.float32]:
    kind = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.from_numpy(values).to(kind).float().numpy()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_an_emulation_rounds_what_the_graph_stores(
    precision: str, rng: np.random.Generator
) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "w"], ["a"], "scale"),
            helper.make_node("Add", ["a", "x"], ["y"], "sum"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor("w", TensorProto.FLOAT, [1], [1.2345678])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    low = low_graph(float_graph(model, precision), precision)
    x = rng.normal(0, 100, 500).astype(np.float32)
    (found,) = run_onnx(emulated(low).SerializeToString(), [{"x": x}])
    inside, weight = rounded(x, precision), rounded(np.array([1.2345678], np.float32), precision)
    expected = rounded(rounded(inside * weight, precision) + inside, precision)
    np.testing.assert_array_equal(found["y"], expected)
    assert np.abs(expected - (x * np.float32(1.2345678) + x)).max() > 0.01


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed"
)
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_strongly_typed_builder_takes_the_graph(bundle: Bundle, precision: str) -> None:
    from revisage.engines.profile import Profile
    from revisage.engines.tensorrt import build_engine

    built = build_engine(
        bundle.read_graph(precision),
        engine="tensorrt-rtx",
        profile=Profile.of(bundle.manifest, batch=(1, 2, 4), sides=None),
        compute_capabilities=["8.9"],
    )
    assert len(built.content) > 10_000


# --- int8 ----------------------------------------------------------------------------------------


def test_an_int8_graph_is_made_of_integer_convolutions(quantised: Bundle) -> None:
    model = onnx.load_from_string(quantised.read_graph("int8"))
    check_portable(model)
    assert [entry.domain for entry in model.opset_import] == [""]
    made_by = {name: node for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    integer = [n for n in convolutions if made_by[n.input[0]].op_type == "DequantizeLinear"]
    assert len(integer) == 4  # the last one makes cells of 2 x 2 pixels: 12 channels
    # What stands between them is integer too, or every border would cost two conversions.
    for kind in ("Concat", "Relu"):
        for node in (n for n in model.graph.node if n.op_type == kind):
            assert made_by[node.input[0]].op_type == "DequantizeLinear"
    weights = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert all(weights[made_by[n.input[1]].input[0]] == TensorProto.INT8 for n in integer)
    error = quantised.certificate.errors["onnxruntime-cpu"]["int8"]["picture"]
    assert 0 < error["mean_abs"] < TOLERANCES["onnxruntime-cpu"]["int8"].mean_abs
    with open_engine(quantised, "cpu", precision="int8", threads=1) as engine:
        assert engine.infer(pictures(1)[0])["picture"].shape == (1, 3, 64, 64)


def test_ranges_come_from_the_calibration_inputs(quantised: Bundle) -> None:
    model = onnx.load_from_string(quantised.read_graph())
    wide = [{"image": inputs["image"] * 4} for inputs in pictures()]
    narrow, wider = Quantiser(model, pictures()), Quantiser(model, wide)
    graphs = [quantiser.graph() for quantiser in (narrow, wider)]
    assert narrow.graph().SerializeToString() == graphs[0].SerializeToString()
    kept = narrow.graph(narrow.layers)
    scales = [
        [onnx.numpy_helper.to_array(t) for t in graph.graph.initializer if t.name == "image_scale"]
        for graph in graphs
    ]
    assert scales[1][0] == pytest.approx(4 * scales[0][0], rel=1e-5)
    assert not [n for n in kept.graph.node if n.op_type == "QuantizeLinear"]


def test_a_range_cuts_outliers_off_where_that_loses_less(rng: np.random.Generator) -> None:
    values = rng.normal(0, 1, 100_000).astype(np.float32)
    low, high = chosen_range([sampled(values)])
    assert values.min() <= low < -3 < 3 < high <= values.max()
    spread = np.abs([low, high]).max()
    low, high = chosen_range([sampled(np.append(values, np.float32(4 * spread)))])
    assert high < 3 * spread  # one value in a hundred thousand is not worth two bits of all others
    assert chosen_range([sampled(np.zeros(4, np.float32))]) == (0, 0)
    assert (
        chosen_range([sampled(np.full(4, 2, np.float32))])[0] == 0
    )  # zero has to have a value of its own


def test_channels_before_a_norm_fill_the_range(rng: np.random.Generator) -> None:
    """The norm takes their scales out again, so the float32 graph gives the same."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.InstanceNorm2d(16), nn.Conv2d(16, 3, 3, padding=1)
    ).eval()
    with torch.no_grad():
        network[0].weight *= torch.logspace(1, 3, 16)[:, None, None, None]
        network[0].bias += 7
    outputs = convolution_fields()["outputs"]
    model = onnx_from_torch(network, {"image": torch.rand(2, 3, 64, 64)}, (IMAGE,), outputs)
    quantiser = Quantiser(model, pictures())
    kept = quantiser.graph(quantiser.layers)
    (true,) = run_onnx(model.SerializeToString(), pictures(1))
    (found,) = run_onnx(kept.SerializeToString(), pictures(1))
    np.testing.assert_allclose(found["picture"], true["picture"], atol=2e-3)
    before = next(n for n in kept.graph.node if n.op_type == "InstanceNormalization").input[0]
    values = [x[before] for x in run_onnx(with_outputs(kept, [before]), pictures())]
    most = np.max(values)
    assert np.max(values, axis=(0, 1, 3, 4)) == pytest.approx(np.full(16, most), rel=1e-3)
    assert np.min(values, axis=(0, 1, 3, 4)) == pytest.approx(np.full(16, -most), rel=1e-3)


def portraits(folder: Path, count: int = 3) -> Path:
    from PIL import Image

    landmarks = np.random.RandomState(0).uniform(40, 160, (68, 2))
    landmarks[36:42], landmarks[42:48] = (70, 80), (130, 80)  # eyes
    landmarks[48], landmarks[54] = (80, 140), (120, 140)  # mouth
    lines = []
    for index in range(count):
        colour = np.zeros((200, 200, 3), np.uint8)
        colour[..., 0], colour[80:, :, 1] = 40 * index, 255
        Image.fromarray(colour).save(folder / f"{index}.png")
        lines.append(json.dumps({"file": f"{index}.png", "landmarks": landmarks.tolist()}))
    (folder / "annotations.jsonl").write_text("\n".join(lines))
    return folder


def test_portraits_are_aligned_and_their_masks_are_those_of_the_references(tmp_path: Path) -> None:
    squares = face_squares(portraits(tmp_path), 64, count=8)
    assert squares.shape == (3, 3, 64, 64)
    assert squares.dtype == np.float32
    np.testing.assert_allclose(squares[:, 0].mean(axis=(1, 2)) * 255, [0, 40, 80], atol=0.1)
    # The eyes lie at 80 of the photo, where green begins: in the FFHQ square that is a row near
    # the middle, and the same one in every column.
    rows = (squares[0, 1] > 0.5).argmax(axis=0)
    assert rows.min() == rows.max()
    assert 20 < rows[0] < 36
    inputs = calibration_inputs(toy_references(2), (IMAGE, MASK), tmp_path)
    assert len(inputs) == 3
    np.testing.assert_array_equal(inputs[2]["image"][0], squares[2])
    np.testing.assert_array_equal(inputs[2]["mask"], toy_references(2)[0]["mask"])


@pytest.mark.parametrize("text", [None, "", "{}", "not json"])
def test_a_folder_without_a_list_of_portraits_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "annotations.jsonl").write_text(text)
    with pytest.raises(OptionError, match=r"annotations\.jsonl"):
        face_squares(tmp_path, 64)


# --- the search ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [set(), {17}, {3, 40, 41}, set(range(60, 75)), {0, 99}])
def test_the_search_keeps_what_has_to_stay_and_little_else(bad: set[int]) -> None:
    layers = [f"layer{i}" for i in range(100)]
    calls = 0

    def excess_of(keep: Collection[str]) -> float:
        nonlocal calls
        calls += 1
        return 0.3 + 2.0 * sum(f"layer{i}" not in keep for i in bad)

    result = layers_to_keep(layers, excess_of, max_runs=64)
    assert {f"layer{i}" for i in bad} <= set(result.keep_float)
    assert len(result.keep_float) <= 2 * len(bad) + 2
    assert list(result.keep_float) == sorted(result.keep_float, key=layers.index)
    assert result.runs == calls <= 64
    assert result == layers_to_keep(layers, excess_of, max_runs=64)


def test_the_search_is_bounded_and_says_when_nothing_can_be_low() -> None:
    calls = []

    def never(keep: Collection[str]) -> float:
        calls.append(keep)
        return float("nan")

    with pytest.raises(ParityError, match="none of the 40 layers can be low"):
        layers_to_keep([f"l{i}" for i in range(40)], never, max_runs=20)
    assert len(calls) <= 20


class Loud(nn.Module):
    """A layer whose values half precision cannot hold, between two that it can."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        loud = self.first(image) * 5e4 * 50
        return torch.sigmoid(self.second(loud / 5e4 / 50))


def test_a_layer_that_overflows_stays_float(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = export_bundle(
        Loud().eval(), convolution_fields(), pictures(2), tmp_path, precisions=("fp16",)
    )
    layers = made.certificate.layers["fp16"]
    assert layers["float"] >= 2  # the product and the division behind it
    assert layers["low"] >= 2
    error = made.certificate.errors[EMULATION]["fp16"]["picture"]
    assert error["max_abs"] < TOLERANCES["tensorrt-rtx"]["fp16"].max_abs


# --- drift ---------------------------------------------------------------------------------------


def test_the_layer_that_was_damaged_drifts_first(quantised: Bundle) -> None:
    true = float_graph(onnx.load_from_string(quantised.read_graph()), "fp16")
    damaged = onnx.ModelProto()
    damaged.CopyFrom(true)
    nodes = [node for node in damaged.graph.node if node.op_type == "Conv"]
    (bias,) = [t for t in damaged.graph.initializer if t.name == nodes[1].input[2]]
    values = onnx.numpy_helper.to_array(bias).copy()
    values[3] += 0.5
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    found = first_drift(true, damaged, pictures(1), Tolerance(1e-3, 1e-4))
    assert found is not None
    assert found.node == nodes[1].name
    assert found.error.max_abs == pytest.approx(0.5, abs=1e-4)
    assert f"{nodes[1].name} (Conv), off by 0.5 of a range of" in str(found)
    assert first_drift(true, true, pictures(1), Tolerance(1e-3, 1e-4)) is None
    shares = {e.node: e.share for e in layer_errors(true, damaged, pictures(1))}
    assert shares[nodes[0].name] == 0 < shares[nodes[1].name]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_every_layer_of_a_bundle_can_be_compared(bundle: Bundle, precision: str) -> None:
    true, other = comparable_graphs(bundle, precision)
    errors = layer_errors(true, other, toy_references(1))
    assert len(errors) >= len(low_layers(true, precision))
    assert 0 < max(error.share for error in errors) < 0.1


def test_a_refused_precision_names_the_layer_that_drifts_first(tmp_path: Path) -> None:
    tight = stated_tolerances(
        Tolerance(1e-5, 1e-6), Tolerance(1e-4, 1e-5), bf16=Tolerance(1e-7, 1e-8)
    )
    torch.manual_seed(0)
    fields = convolution_fields() | {"tolerances": tight}
    with pytest.raises(
        ParityError, match=r"at bf16: none of .*; first to drift is \S+ \(\w+\), off by"
    ):
        export_bundle(ToyConvolutions().eval(), fields, pictures(2), tmp_path, precisions=("bf16",))
    assert list(tmp_path.iterdir()) == []


# --- pictures ------------------------------------------------------------------------------------


def test_a_picture_is_judged_as_the_retoucher_gets_it(rng: np.random.Generator) -> None:
    inputs = toy_references(1)[0]
    true = {"filled": rng.random(inputs["image"].shape, dtype=np.float32)}
    outside = {"filled": true["filled"] + 0.3 * (1 - inputs["mask"])}
    filled = toy_fields()["outputs"]
    error = statistics_of([true], [outside], [inputs], filled)["filled"]
    assert error.max_abs == pytest.approx(0.3, rel=1e-5)
    assert error.picture["levels_max"] == 0  # nothing of it is pasted
    assert error.picture["ssim"] == pytest.approx(1)
    inside = {"filled": np.clip(true["filled"] + 3 / 255 * inputs["mask"], 0, 1)}
    error = statistics_of([true], [inside], [inputs], filled)["filled"]
    assert error.picture["levels_max"] == 3
    assert error.picture["changed_share"] == pytest.approx(inputs["mask"].mean(), rel=0.1)
    noise = rng.normal(0, 0.2, true["filled"].shape).astype(np.float32)
    error = statistics_of([true], [{"filled": true["filled"] + noise}], [inputs], filled)["filled"]
    with pytest.raises(ParityError, match=r"makes another picture.*SSIM"):
        check_parity({"filled": error}, Tolerance(10, 10), "toy")


@pytest.mark.parametrize("colour", ["RGB", "mask"])
def test_one_value_that_is_not_finite_is_an_infinite_error(colour: str) -> None:
    output = TensorSpec("y", "float32", ("N", 1, "H", "W"), "NCHW", colour, (0.0, 1.0))
    trues = [{"y": np.full((1, 1, 16, 16), 0.5, np.float32)} for _ in range(3)]
    found = [{"y": true["y"].copy()} for true in trues]
    for place in range(3):
        for value in (np.nan, np.inf):
            found[place]["y"][0, 0, 3, 4] = value
            error = statistics_of(trues, found, [{}] * 3, [output])
            found[place]["y"][0, 0, 3, 4] = 0.5
            assert error["y"].max_abs == np.inf == excess(error, Tolerance(10, 10))
            with pytest.raises(ParityError, match="differs from float32 torch by inf"):
                check_parity(error, Tolerance(10, 10), "toy")


def test_ssim_is_that_of_a_known_library(rng: np.random.Generator) -> None:
    similarity = pytest.importorskip("skimage.metrics").structural_similarity
    first = np.rint(rng.random((1, 3, 40, 50)) * 255)
    second = np.clip(first + rng.normal(0, 20, first.shape), 0, 255).round()
    picture = TensorSpec("y", "float32", ("N", 3, "H", "W"), "NCHW", "RGB", (0.0, 1.0))
    found = statistics_of([{"y": first / 255}], [{"y": second / 255}], [{}], [picture])
    expected = similarity(
        first[0], second[0], channel_axis=0, data_range=255, use_sample_covariance=False
    )
    assert found["y"].picture["ssim"] == pytest.approx(expected, abs=1e-3)


def test_pixels_of_a_mask_that_change_sides_are_counted() -> None:
    mask = TensorSpec("p", "float32", ("N", 1, "H", "W"), "NCHW", "mask", (0.0, 1.0))
    true = np.full((1, 1, 10, 10), 0.49, np.float32)
    found = true.copy()
    found[0, 0, 0, :3] = 0.51
    error = statistics_of([{"p": true}], [{"p": found}], [{}], [mask])
    assert error["p"].picture["flipped_share"] == pytest.approx(0.03)
    with pytest.raises(ParityError, match="3 % of a mask flipped"):
        check_parity(error, Tolerance(1, 1), "toy")


def test_a_mask_of_thin_lines_that_misses_them_is_refused() -> None:
    """Few pixels change sides, and the average hardly changes: what is shared tells."""
    mask = TensorSpec("p", "float32", ("N", 1, "H", "W"), "NCHW", "mask", (0.0, 1.0))
    limits = PROBABILITY_TOLERANCES["onnxruntime-cpu"]["int8"]
    true = np.zeros((1, 1, 512, 512), np.float32)
    true[..., 100, 100:220] = 1
    beside = np.roll(true, 1, axis=-2)
    for found in (np.zeros_like(true), beside):
        error = statistics_of([{"p": true}], [{"p": found}], [{}], [mask])
        assert error["p"].picture["flipped_share"] < PICTURE_LIMITS["flipped_share"]
        assert error["p"].max_abs <= limits.max_abs
        with pytest.raises(ParityError, match=r"intersection over union 0\.000"):
            check_parity(error, limits, "toy")
    shorter = true.copy()
    shorter[..., 217:220] = 0
    error = statistics_of([{"p": true}], [{"p": shorter}], [{}], [mask])
    assert error["p"].picture["iou"] == pytest.approx(117 / 120)
    check_parity(error, limits, "toy")


def test_drawn_faces_are_taken_for_faces() -> None:
    faces = reference_faces(4, 128)
    np.testing.assert_array_equal(faces, reference_faces(4, 128))
    with open_engine(shipped_bundle("face_landmarks"), "cpu", threads=1) as engine:
        score = engine.infer({"image": faces})["score"]
        others = engine.infer({"image": reference_pictures(4, 128)})["score"]
    assert score.min() > 3 > others.max()


# --- what ships ----------------------------------------------------------------------------------


def test_every_shipped_bundle_is_certified_at_its_precisions_and_all_are_small() -> None:
    files = 0
    for name in shipped_names():
        found = shipped_bundle(name)
        files += sum(p.stat().st_size for p in found.path.iterdir())
        errors = found.certificate.errors
        # The largest one stores the weights of its float32 graph as halves already: at fp16 and
        # bf16 it would be as large twice more.
        half = set() if name == "inpainting" else {"fp16", "bf16"}
        assert set(found.manifest.graphs) == {"fp32", "int8"} | half
        stated = {p for tolerances in found.manifest.tolerances.values() for p in tolerances}
        assert stated == set(found.manifest.graphs)
        assert set(errors["onnxruntime-cpu"]) == set(found.manifest.tolerances["onnxruntime-cpu"])
        assert set(errors.get(EMULATION, ())) == half
    assert files < 24_000_000
