"""The kernels as custom operators inside ONNX Runtime, node by node against the NumPy twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from revisage import kernels

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

LIBRARY = kernels.onnxruntime_library()
pytestmark = pytest.mark.skipif(
    LIBRARY is None, reason="built without ONNX Runtime's headers, so there are no custom operators"
)

PADDINGS = {"border": "border", "zero": "zeros", "reflect": "reflection"}


def session(
    operator: str,
    inputs: dict[str, list[Any]],
    constants: dict[str, np.ndarray] | None = None,
    threads: int = 2,
    **attributes: Any,
) -> Any:
    """A session with one node, whose inputs have these shapes (a string is a symbol)."""
    helper, numbers = onnx.helper, onnx.TensorProto.FLOAT
    constants = constants or {}
    graph = helper.make_graph(
        [helper.make_node(operator, [*inputs, *constants], ["y"], domain="revisage", **attributes)],
        "one_node",
        [helper.make_tensor_value_info(name, numbers, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", numbers, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    versions = [helper.make_opsetid("", 18), helper.make_opsetid("revisage", 1)]
    model = helper.make_model(graph, opset_imports=versions, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(str(LIBRARY))
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(node: Any, **feeds: np.ndarray) -> np.ndarray:
    (found,) = node.run(None, feeds)
    return np.asarray(found)


def normal(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)


FOURIER = {
    "x": ["N", "C", "H", "W"],
    "weight": ["R", "K"],
    "scale": ["R"],
    "shift": ["R"],
}


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_fft_conv_for_many_shapes_in_one_session(
    constant: bool, threads: int, random: np.random.Generator
) -> None:
    weights = {
        "weight": normal(random, 2 * 7, 2 * 5),
        "scale": normal(random, 14),
        "shift": normal(random, 14),
    }
    inputs = {"x": FOURIER["x"]} if constant else FOURIER
    node = session("FftConv", inputs, weights if constant else None, threads)
    for n, h, w in [(1, 1, 1), (2, 5, 7), (3, 8, 8), (1, 31, 45), (16, 4, 6), (1, 64, 64)]:
        x = normal(random, n, 5, h, w)
        found = run(node, x=x, **({} if constant else weights))
        true = kernels.fft_conv(x, **weights, impl="reference")
        assert found.shape == true.shape
        assert np.abs(found - true).max() <= 1e-5 * np.abs(true).max()
        # The same bits as by ourselves, whoever's threads ran it.
        np.testing.assert_array_equal(found, kernels.fft_conv(x, **weights, impl="native"))


@pytest.mark.parametrize("padding", PADDINGS)
def test_flow_warp_for_many_shapes_in_one_session(
    padding: Any, random: np.random.Generator
) -> None:
    shapes = {"image": ["N", "C", "H", "W"], "flow": ["M", "h", "w", 2]}
    node = session("FlowWarp", shapes, padding_mode=PADDINGS[padding])
    for n, c, size, small in [
        (1, 3, (9, 7), (9, 7)),
        (2, 1, (16, 33), (4, 5)),
        (3, 4, (2, 2), (1, 1)),
    ]:
        image, flow = normal(random, n, c, *size), 5 * normal(random, n, *small, 2)
        flow[0, 0, 0] = np.nan, np.inf
        true = kernels.flow_warp(image, flow, padding=padding, layout="chw", impl="reference")
        np.testing.assert_array_equal(run(node, image=image, flow=flow), true)


def test_feature_blend_for_many_shapes_in_one_session(random: np.random.Generator) -> None:
    features = ["N", "C", "H", "W"]
    shapes = {
        "style": features,
        "image": features,
        "spatial_logits": ["N", 2, "H", "W"],
        "channel_logits": ["N", 2, "C"],
        "strength": [],
    }
    node = session("FeatureBlend", shapes)
    for n, c, h, w in [(1, 1, 1, 1), (2, 5, 7, 9), (1, 64, 32, 32), (4, 3, 16, 17)]:
        feeds = {
            "style": normal(random, n, c, h, w),
            "image": normal(random, n, c, h, w),
            "spatial_logits": normal(random, n, 2, h, w),
            "channel_logits": normal(random, n, 2, c),
        }
        strength = np.float32(random.uniform(0, 2))
        true = kernels.feature_blend(**feeds, strength=float(strength), impl="reference")
        found = run(node, **feeds, strength=np.array(strength))
        np.testing.assert_allclose(found, true, atol=1e-5)


@pytest.mark.parametrize("pad", ["", "Pad"])
@pytest.mark.parametrize(
    ("after", "options"),
    [
        ("", {}),
        ("Relu", {"slope": 0}),
        ("LeakyRelu", {"slope": 0.25}),
        ("Relu6", {"slope": 0, "ceiling": 6}),
        ("Add", {}),
        ("AddRelu", {"slope": 0}),
        ("AddReluAdd", {"slope": 0}),
        ("LeakyReluAdd", {"slope": 0.25}),
        ("AddRelu6Add", {"slope": 0, "ceiling": 6}),
    ],
)
def test_winograd_conv_for_many_shapes_in_one_session(
    pad: str, after: str, options: dict[str, float], random: np.random.Generator
) -> None:
    weights = {"weight": normal(random, 7, 5, 3, 3), "bias": normal(random, 7)}
    addends = ["residual"] * after.startswith("Add")
    addends += ["skip"] * (after.endswith("Add") and after != "Add")
    attributes = {"alpha": 0.25} if "Leaky" in after else {}
    name = f"{pad}WinogradConv{after}"
    inputs = dict.fromkeys(["x", *weights, *addends])
    node = session(name, inputs, **attributes)
    if not addends:  # packed once
        constant = session(name, {"x": ["N", "C", "H", "W"]}, weights, **attributes)
    options = {"padding": "reflect" if pad else "zero", **options}
    for n, h, w in [(1, 2, 2), (2, 5, 7), (3, 8, 8), (1, 31, 45), (1, 64, 64)]:
        x = normal(random, n, 5, h, w)
        more = {addend: normal(random, n, 7, h, w) for addend in addends}
        found = run(node, x=x, **weights, **more)
        true = kernels.winograd_conv(x, **weights, **more, **options, impl="reference")
        np.testing.assert_allclose(found, true, atol=1e-4)
        # The same bits as by ourselves, whoever's threads ran it.
        native = kernels.winograd_conv(x, **weights, **more, **options)
        np.testing.assert_array_equal(found, native)
        if not addends:
            np.testing.assert_array_equal(run(constant, x=x), native)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": (1, 5, 4)}, "x must be"),
        ({"x": (1, 4, 4, 4)}, "weight must be"),
        ({"x": (1, 5, 1, 4)}, "2 to 2\\^24 pixels"),
        ({"weight": (7, 5, 5, 5)}, "weight must be"),
        ({"bias": (6,)}, "bias must be"),
        ({"residual": (1, 7, 4, 1)}, "residual must be"),
    ],
)
def test_wrong_shapes_of_a_convolution_are_errors(
    changed: dict[str, tuple[int, ...]], message: str, random: np.random.Generator
) -> None:
    right = {"x": (1, 5, 4, 4), "weight": (7, 5, 3, 3), "bias": (7,), "residual": (1, 7, 4, 4)}
    node = session("PadWinogradConvAdd", dict.fromkeys(right))
    with pytest.raises(Exception, match=message):
        run(node, **{name: normal(random, *s) for name, s in {**right, **changed}.items()})
    feeds = {name: normal(random, *shape) for name, shape in right.items()}
    assert run(node, **feeds).shape == (1, 7, 4, 4)  # the session goes on


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": (1, 5, 4)}, "x must be"),
        ({"x": (1, 4, 4, 4)}, "x must be"),
        ({"weight": (13, 10)}, "even number of rows"),
        ({"weight": (14, 9)}, "even number of rows and columns"),
        ({"scale": (12,)}, "scale must be"),
        ({"shift": (14, 1)}, "shift must be"),
        ({"x": (0, 5, 4, 4)}, "x must be"),
    ],
)
def test_a_wrong_shape_is_an_error(
    changed: dict[str, tuple[int, ...]], message: str, random: np.random.Generator
) -> None:
    right = {"x": (1, 5, 4, 4), "weight": (14, 10), "scale": (14,), "shift": (14,)}
    shapes = {**right, **changed}
    # Ranks and sizes that the graph does not state, so that the kernel sees them.
    node = session("FftConv", dict.fromkeys(shapes))
    with pytest.raises(Exception, match=message):
        run(node, **{name: normal(random, *shape) for name, shape in shapes.items()})
    feeds = {name: normal(random, *shape) for name, shape in right.items()}
    assert run(node, **feeds).shape == (1, 7, 4, 4)  # the session goes on


def test_wrong_flows_blends_and_options_are_errors(random: np.random.Generator) -> None:
    warp = session("FlowWarp", {"image": None, "flow": None}, padding_mode="border")
    with pytest.raises(Exception, match="flow must be"):
        run(warp, image=normal(random, 1, 3, 8, 8), flow=normal(random, 1, 8, 8, 3))
    with pytest.raises(Exception, match="larger"):
        run(warp, image=normal(random, 1, 3, 8, 8), flow=normal(random, 1, 9, 8, 2))
    with pytest.raises(Exception, match="padding_mode must be"):
        session("FlowWarp", {"image": None, "flow": None}, padding_mode="wrap")
    names = ("style", "image", "spatial_logits", "channel_logits", "strength")
    blend = session("FeatureBlend", dict.fromkeys(names))
    shapes = ((1, 3, 4, 4), (1, 3, 4, 4), (1, 2, 4, 4), (1, 2, 3))
    feeds = {name: normal(random, *shape) for name, shape in zip(names[:4], shapes, strict=True)}
    for strength in (-1.0, np.nan):
        with pytest.raises(Exception, match="strength must be"):
            run(blend, **feeds, strength=np.array(strength, np.float32))
    feeds["channel_logits"] = normal(random, 1, 2, 4)
    with pytest.raises(Exception, match="channel_logits must be"):
        run(blend, **feeds, strength=np.array(1, np.float32))


def test_sessions_may_run_at_the_same_time(random: np.random.Generator) -> None:
    from concurrent.futures import ThreadPoolExecutor

    weights = (normal(random, 32, 32), normal(random, 32), normal(random, 32))
    constants = dict(zip(("weight", "scale", "shift"), weights, strict=True))
    nodes = [session("FftConv", {"x": FOURIER["x"]}, constants) for _ in range(2)]
    pictures = [normal(random, 1, 16, 12 + i, 20) for i in range(24)]
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(run, nodes[i % 2], x=x) for i, x in enumerate(pictures)]
        for x, job in zip(pictures, jobs, strict=True):
            np.testing.assert_array_equal(job.result(), kernels.fft_conv(x, *weights))
