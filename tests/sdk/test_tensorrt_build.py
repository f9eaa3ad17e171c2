"""Building engines with TensorRT for RTX, which needs neither a GPU nor a driver."""

from __future__ import annotations

import sys
import threading

import onnx
import pytest
from onnx import TensorProto, helper

from revisage.bundle import Bundle, shipped_bundle, shipped_names
from revisage.engines import tensorrt
from revisage.engines.profile import Profile
from revisage.engines.tensorrt import BuiltEngine, Cancel, Progress, build_engine
from revisage.errors import BuildCancelledError, EngineError, MissingExtraError, OptionError
from tests.sdk.toy_bundle import MANIFEST, scaling_model
from tests.support import needs_tensorrt_rtx

# Ampere, Ada and Blackwell: RTX 30, 40 and 50.
CARDS = ("8.6", "8.9", "12.0")
TOY = scaling_model().SerializeToString()


@pytest.fixture(autouse=True)
def _library() -> None:
    needs_tensorrt_rtx()


def build(
    model: bytes = TOY,
    cards: tuple[str, ...] = ("8.9",),
    profile: Profile | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> BuiltEngine:
    return build_engine(
        model,
        engine="tensorrt-rtx",
        profile=profile or Profile.of(MANIFEST),
        compute_capabilities=cards,
        progress=progress,
        cancel=cancel,
    )


def check(built: BuiltEngine, bundle: Bundle, precision: str, cards: tuple[str, ...]) -> None:
    """The report tells what was built, and its figures fit the graph."""
    report, profile = built.report, Profile.of(bundle.manifest)
    graph = onnx.load_from_string(bundle.read_graph(precision))
    weights = sum(len(tensor.raw_data) for tensor in graph.graph.initializer)
    assert report.engine == "tensorrt-rtx"
    assert report.compute_capabilities == cards
    assert report.profile == profile.text
    assert report.layers >= len(graph.graph.node) / 2
    assert 0.8 * weights < report.weights_bytes < 2.1 * weights + (1 << 20)
    # An engine holds the weights and the code of its kernels.
    assert report.engine_bytes == len(built.content)
    assert weights < report.engine_bytes < 3 * weights + (16 << 20)
    # More than the largest input, less than a small GPU has.
    largest = max(
        4 * shapes[2][0] * shapes[2][1] * shapes[2][2] * shapes[2][3]
        for shapes in profile.shapes.values()
        if len(shapes[2]) == 4
    )
    assert largest / 4 < report.activation_bytes < 4 << 30
    assert 0 < report.seconds < 120


def precisions(name: str) -> set[str]:
    """fp32, and what else the bundle is made for on this engine (int8 is for the CPU alone)."""
    return {"fp32", *shipped_bundle(name).manifest.tolerances.get("tensorrt-rtx", {})}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision"),
    [(name, precision) for name in shipped_names() for precision in sorted(precisions(name))],
)
def test_every_shipped_graph_builds(name: str, precision: str) -> None:
    bundle = shipped_bundle(name)
    profile = Profile.of(bundle.manifest)
    assert {shape[0] for shapes in profile.shapes.values() for shape in shapes} == {1, 4, 8}
    built = build(bundle.read_graph(precision), CARDS, profile)
    check(built, bundle, precision, CARDS)


@pytest.mark.parametrize("card", CARDS)
def test_one_card_alone(card: str) -> None:
    bundle = shipped_bundle("wrinkle_segmenter")
    built = build(bundle.read_graph(), (card,), Profile.of(bundle.manifest))
    check(built, bundle, "fp32", (card,))


def test_the_version_of_the_library_is_told() -> None:
    import tensorrt_rtx

    assert build().report.library_version == tensorrt_rtx.__version__
    assert tensorrt.library_version("tensorrt-rtx") == tensorrt_rtx.__version__


def test_progress_is_told_by_phase() -> None:
    said: list[tuple[str, int, int]] = []
    build(progress=lambda *step: said.append(step))
    assert all(0 <= done <= steps for _, done, steps in said)
    phases = {phase for phase, _, _ in said}
    assert len(phases) > 1
    for phase in phases:  # each comes to its end
        assert any(p == phase and done == steps for p, done, steps in said)


def test_a_build_can_be_cancelled_on_the_way() -> None:
    cancel = threading.Event()
    with pytest.raises(BuildCancelledError, match="was cancelled"):
        build(progress=lambda *_: cancel.set(), cancel=cancel)


def test_other_threads_go_on_during_a_build() -> None:
    bundle = shipped_bundle("wrinkle_segmenter")
    model, profile = bundle.read_graph(), Profile.of(bundle.manifest)
    thread = threading.Thread(target=build, args=(model, CARDS, profile))
    thread.start()
    turns = 0
    while thread.is_alive():
        thread.join(0.001)
        turns += 1
    assert turns > 20


# --- refusing ------------------------------------------------------------------------------------


def test_every_problem_of_a_graph_is_named_at_once() -> None:
    model = scaling_model()
    node = model.graph.node[0]
    for name in ("first", "second"):
        model.graph.node.append(
            helper.make_node("NoSuchOperator", [node.output[0]], [f"{name}_out"], name=name)
        )
    with pytest.raises(EngineError, match=r"2 problems.*'first' \(NoSuchOperator\), node 'second'"):
        build(model.SerializeToString())


def test_a_problem_inside_a_function_names_the_function() -> None:
    model = scaling_model()
    node = model.graph.node[0]
    node.op_type, node.domain, node.name = "Ours", "revisage", "caller"
    model.opset_import.add(domain="revisage", version=1)
    model.functions.append(
        helper.make_function(
            "revisage",
            "Ours",
            ["x", "factor"],
            ["y"],
            [helper.make_node("NoSuchOperator", ["x", "factor"], ["y"], name="inner")],
            [helper.make_opsetid("", 18)],
        )
    )
    with pytest.raises(EngineError, match=r"NoSuchOperator\) in caller \(Ours\)"):
        build(model.SerializeToString())


def test_a_file_that_is_no_graph_is_refused() -> None:
    with pytest.raises(EngineError, match=r"cannot take the graph: .*the file"):
        build(b"no graph at all")
    with pytest.raises(EngineError, match="inputs none"):
        build(b"")


def test_a_graph_that_its_profile_does_not_fit_is_refused() -> None:
    wrong = Profile({"picture": ((1, 3, 8, 8),) * 3})
    with pytest.raises(EngineError, match="inputs image, the profile is of picture"):
        build(profile=wrong)
    with pytest.raises(EngineError, match=r"cannot build the graph: .*min=4"):
        build(profile=Profile({"image": ((1, 4, 8, 8),) * 3}))


def test_a_graph_that_cannot_be_built_says_why() -> None:
    """Reshape to more values than there are: only the builder knows the shapes."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [7, 11])
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["image", "shape"], ["scaled"], name="impossible")],
        "toy",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("scaled", TensorProto.FLOAT, [7, 11])],
        [shape],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(EngineError, match=r"cannot build the graph: .*impossible"):
        build(model.SerializeToString())


@pytest.mark.parametrize("cards", [(), ("9.9",), ("8.9", "sm_86"), ("89",)])
def test_an_unknown_capability_is_refused(cards: tuple[str, ...]) -> None:
    with pytest.raises(OptionError, match=r"TensorRT for RTX builds here for 7\.5, 8\.0"):
        build(cards=cards)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(OptionError, match="'tensorflow' is not one of tensorrt, tensorrt-rtx"):
        tensorrt.library_version("tensorflow")


def test_a_library_that_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'revisage\[tensorrt-rtx\]'"):
        build()
