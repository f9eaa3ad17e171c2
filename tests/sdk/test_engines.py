"""Engines: what they compute, what they refuse, and that garbage is caught at load."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from revisage.bundle import Bundle, shipped_bundle, shipped_names
from revisage.engines import Engine, device_status, open_engine
from revisage.engines.driver import Gpu, find_gpu
from revisage.engines.onnxruntime import OnnxRuntimeEngine
from revisage.engines.probe import check_probe, contrast, expect, probe_array, probe_inputs
from revisage.errors import (
    BundleError,
    DeviceError,
    EngineError,
    OptionError,
    ShapeError,
)
from revisage.manifest import Probe, ProbeInput, TensorSpec, Tolerance
from tests.sdk.toy_bundle import FACTOR, scaling_model, sha256, write_toy_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_toy_bundle(tmp_path / "toy")


@pytest.fixture
def engine(folder: Path) -> Iterator[Engine]:
    with open_engine(folder, "cpu", threads=1) as opened:
        yield opened


@pytest.fixture
def image(rng: np.random.Generator) -> Any:
    return rng.random((2, 3, 16, 24), dtype=np.float32)


def cuda_usable() -> bool:
    return any(status.usable for status in device_status() if status.device == "cuda")


# --- running -------------------------------------------------------------------------------------


def test_it_computes_what_the_graph_says(engine: Engine, image: Any) -> None:
    found = engine.infer({"image": image})
    assert list(found) == ["scaled"]
    np.testing.assert_array_equal(found["scaled"], image * np.float32(FACTOR))


def test_it_says_what_it_is(engine: Engine) -> None:
    assert engine.name == "onnxruntime-cpu"
    assert engine.device == "cpu"
    assert engine.precision == "fp32"
    assert engine.active
    assert "asked for" in engine.reason
    assert engine.bundle.name == "toy"


def test_strided_input_is_taken(engine: Engine, image: Any) -> None:
    strided = np.repeat(image, 2, axis=3)[..., ::2]
    assert not strided.flags.c_contiguous
    np.testing.assert_array_equal(engine.infer({"image": strided})["scaled"], image * 3)


def test_any_batch_and_size_of_the_multiple(engine: Engine) -> None:
    for shape in ((1, 3, 8, 8), (5, 3, 8, 64), (2, 3, 64, 16)):
        assert engine.infer({"image": np.ones(shape, np.float32)})["scaled"].shape == shape


def test_outputs_are_the_callers_own(engine: Engine, image: Any) -> None:
    first = engine.infer({"image": image})["scaled"]
    kept = first.copy()
    engine.infer({"image": image * 0})
    np.testing.assert_array_equal(first, kept)
    first[...] = -1
    np.testing.assert_array_equal(engine.infer({"image": image})["scaled"], kept)


def test_life_cycle(folder: Path, image: Any) -> None:
    engine = open_engine(folder, "cpu")
    engine.activate()  # a second time does nothing
    engine.deactivate()
    assert not engine.active
    with pytest.raises(EngineError, match="activate it"):
        engine.infer({"image": image})
    engine.deactivate()
    with engine:
        assert engine.infer({"image": image})["scaled"].shape == image.shape
    assert not engine.active


def test_many_threads_share_one_engine(engine: Engine, rng: np.random.Generator) -> None:
    images = [rng.random((1, 3, 32, 32), dtype=np.float32) for _ in range(8)]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(20):
            found = engine.infer({"image": images[index]})["scaled"]
            if not np.array_equal(found, images[index] * np.float32(FACTOR)):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_engines_of_several_networks_run_side_by_side(rng: np.random.Generator) -> None:
    """Sessions in threads: two engines of each network, two threads each, the bits of one alone."""
    work = []
    for name in ("face_finder", "face_landmarks", "wrinkle_segmenter", "wrinkle_filler"):
        side = 128 if name == "face_landmarks" else 96
        with open_engine(shipped_bundle(name), "cpu", threads=1) as alone:
            inputs = {
                spec.name: rng.random((2, spec.shape[1], side, side), dtype=np.float32)
                for spec in alone.manifest.inputs
            }
            wanted = alone.infer(inputs)
        engines = [open_engine(shipped_bundle(name), "cpu", threads=n) for n in (1, 2)]
        work += [(engine, inputs, wanted) for engine in engines for _ in range(2)]
    wrong: list[str] = []

    def run(engine: Engine, inputs: Any, wanted: Any) -> None:
        for _ in range(5):
            found = engine.infer(inputs)
            wrong.extend(n for n, a in wanted.items() if a.tobytes() != found[n].tobytes())

    threads = [threading.Thread(target=run, args=each) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for engine in {id(engine): engine for engine, _, _ in work}.values():
        engine.deactivate()
    assert wrong == []


def test_a_tensor_of_torch_comes_back_as_one(engine: Engine, image: Any) -> None:
    torch = pytest.importorskip("torch")
    found = engine.infer({"image": torch.from_numpy(image)})["scaled"]
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found.numpy(), image * np.float32(FACTOR))
    with pytest.raises(ShapeError, match="detach it"):
        engine.infer({"image": torch.from_numpy(image).requires_grad_()})
    with pytest.raises(OptionError, match="on the CPU"):
        engine.infer({"image": image}, stream=1)


# --- refusing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "expected the inputs image, got none"),
        ({"picture": np.ones((1, 3, 8, 8), np.float32)}, "got picture"),
        ({"image": np.ones((1, 3, 8, 8))}, "expected dtype float32, got float64"),
        ({"image": np.ones((1, 3, 8, 8), ">f4")}, "dtype"),
        ({"image": np.ones((1, 3, 8, 8), np.uint8)}, "got uint8"),
        ({"image": [[1.0]]}, "must be an array .*, got list; wrap it with numpy.asarray"),
        ({"image": np.ones((3, 8, 8), np.float32)}, r"expected \[N, 3, H, W\], got \[3, 8, 8\]"),
        ({"image": np.ones((1, 4, 8, 8), np.float32)}, r"got \[1, 4, 8, 8\]"),
        ({"image": np.ones((0, 3, 8, 8), np.float32)}, r"got \[0, 3, 8, 8\]"),
        ({"image": np.ones((1, 3, 12, 8), np.float32)}, "H is 12, which is no multiple of 8"),
        ({"image": np.ones((1, 3, 8, 9), np.float32)}, r"W is 9.*pad the input \(reflect\)"),
    ],
)
def test_a_wrong_input_is_refused(engine: Engine, inputs: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        engine.infer(inputs)


def test_unknown_options_are_refused(folder: Path) -> None:
    with pytest.raises(OptionError, match="'tpu' is not one of auto, cpu, cuda"):
        open_engine(folder, "tpu")
    with pytest.raises(OptionError, match="precision 'fp8'"):
        open_engine(folder, precision="fp8")
    for threads in (0, -1, 10_000):
        with pytest.raises(OptionError, match="threads"):
            open_engine(folder, threads=threads)


def test_a_device_without_a_tolerance_is_refused(tmp_path: Path) -> None:
    tolerances = {"tensorrt": {"fp32": Tolerance(1e-3, 1e-4)}}
    with pytest.raises(BundleError, match=r"no tolerance for onnxruntime-cpu.*tensorrt fp32"):
        open_engine(write_toy_bundle(tmp_path / "toy", tolerances=tolerances), "cpu")


def test_a_precision_is_a_graph_with_a_tolerance_of_its_own(tmp_path: Path, image: Any) -> None:
    made = {"graphs": {"int8": scaling_model(3.04).SerializeToString()}}
    tolerances = {"onnxruntime-cpu": {"fp32": Tolerance(1e-5, 1e-6), "int8": Tolerance(0.05, 0.02)}}
    folder = write_toy_bundle(tmp_path / "toy", **made, tolerances=tolerances)
    with open_engine(folder, "cpu", precision="int8") as engine:
        assert engine.precision == "int8"
        np.testing.assert_array_equal(
            engine.infer({"image": image})["scaled"], image * np.float32(3.04)
        )
    with open_engine(folder, "cpu") as engine:
        np.testing.assert_array_equal(engine.infer({"image": image})["scaled"], image * 3)
    with pytest.raises(BundleError, match="no graph at fp16; it has: fp32, int8"):
        open_engine(folder, "cpu", precision="fp16")
    tolerances["onnxruntime-cpu"]["int8"] = Tolerance(0.01, 0.01)
    folder = write_toy_bundle(tmp_path / "strict", **made, tolerances=tolerances)
    with pytest.raises(EngineError, match="probe's output 'scaled' is off"):
        open_engine(folder, "cpu", precision="int8")


def test_a_graph_with_other_tensors_is_refused(tmp_path: Path) -> None:
    model = scaling_model()
    model.graph.output[0].name = model.graph.node[0].output[0] = "other"
    with pytest.raises(EngineError, match="other"):
        open_engine(write_toy_bundle(tmp_path / "toy", model.SerializeToString()), "cpu")


def test_a_graph_that_does_not_load_is_refused(tmp_path: Path) -> None:
    model = scaling_model()
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(EngineError, match="cannot load the graph on CPUExecutionProvider"):
        open_engine(write_toy_bundle(tmp_path / "toy", model.SerializeToString()), "cpu")


# --- devices -------------------------------------------------------------------------------------


def test_auto_takes_what_works_and_says_why(folder: Path, image: Any) -> None:
    with open_engine(folder) as engine:
        if cuda_usable():
            assert engine.device == "cuda"
        else:
            assert engine.device == "cpu"
            assert "the best that works here; not " in engine.reason
            assert "onnxruntime-cuda: no NVIDIA driver" in engine.reason
        np.testing.assert_allclose(engine.infer({"image": image})["scaled"], image * 3, rtol=1e-6)


def test_cuda_that_cannot_run_is_an_error_with_a_remedy(folder: Path) -> None:
    if cuda_usable():
        pytest.skip("CUDA works here")
    with pytest.raises(DeviceError, match=r"'cuda' cannot run here: .*(pip install|driver|smi)"):
        open_engine(folder, "cuda")
    with pytest.raises(
        DeviceError, match=r"engine 'onnxruntime-cuda' cannot run here: .*(pip install|driver|smi)"
    ):
        open_engine(folder, engine="onnxruntime-cuda")


def test_a_precision_that_only_other_engines_have_is_an_error_that_says_so() -> None:
    bundle = shipped_bundle("wrinkle_segmenter")
    if any(status.usable for status in device_status() if status.device == "cuda"):
        pytest.skip("a GPU runs it")
    with pytest.raises(
        DeviceError, match=r"is made for onnxruntime-cpu at fp16, fp32, int8, not at bf16"
    ):
        open_engine(bundle, precision="bf16")


def test_every_engine_says_whether_it_runs_and_what_to_do() -> None:
    statuses = {status.engine: status for status in device_status()}
    assert list(statuses)[-1] == "onnxruntime-cpu"  # best first
    assert statuses["onnxruntime-cpu"].usable
    for status in statuses.values():
        assert status.device == ("cpu" if status.engine == "onnxruntime-cpu" else "cuda")
        if not status.usable:
            assert re.search("install|nvidia-smi", status.reason)


def test_an_engine_that_was_named_is_taken(folder: Path) -> None:
    with open_engine(folder, engine="onnxruntime-cpu") as engine:
        assert engine.name == "onnxruntime-cpu"
        assert engine.reason == "engine 'onnxruntime-cpu' was asked for"
    with pytest.raises(OptionError, match="runs on 'cuda', not on 'cpu'"):
        open_engine(folder, "cpu", engine="onnxruntime-cuda")
    with pytest.raises(OptionError, match=r"'onnxruntime' is not one of .*onnxruntime-cpu"):
        open_engine(folder, engine="onnxruntime")


def test_auto_leaves_out_engines_without_a_tolerance(tmp_path: Path) -> None:
    tolerances = {"onnxruntime-cpu": {"fp32": Tolerance(1e-3, 1e-4)}}
    with open_engine(write_toy_bundle(tmp_path / "toy", tolerances=tolerances)) as engine:
        assert engine.name == "onnxruntime-cpu"
        assert "onnxruntime-cuda" not in engine.reason


def test_auto_goes_past_an_engine_that_computes_garbage_and_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from revisage.engines import selection

    def load(provider: str) -> Any:
        raise EngineError(f"{provider} computes something else here")

    garbage = selection._Kind("cuda", "a GPU", lambda: "", lambda *_, **__: load("cuda"))
    monkeypatch.setitem(selection._KINDS, "onnxruntime-cuda", garbage)
    with open_engine(folder) as engine:
        assert engine.device == "cpu"
        assert "onnxruntime-cuda: cuda computes something else here" in engine.reason
    with pytest.raises(EngineError, match="cuda computes something else"):
        open_engine(folder, "cuda")  # and never the CPU


def test_a_missing_driver_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(_: str) -> Any:
        raise OSError("not found")

    monkeypatch.setattr("revisage.engines.driver.ctypes.CDLL", no_library)
    with pytest.raises(DeviceError, match=r"libcuda\.so\.1.*install the driver"):
        open_engine(folder, "cuda")


def test_a_driver_without_a_gpu_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = SimpleNamespace(cuInit=lambda _: 100)
    monkeypatch.setattr("revisage.engines.driver.ctypes.CDLL", lambda _: driver)
    with pytest.raises(DeviceError, match=r"CUDA error 100.*nvidia-smi"):
        open_engine(folder, "cuda")


@pytest.mark.parametrize(
    ("management", "version"), [(0, "580.65.06"), (9, "CUDA 13.0"), (None, "CUDA 13.0")]
)
def test_the_gpu_as_its_driver_describes_it(
    management: int | None, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver's two libraries without a GPU; `management`: the second one's answer."""

    def give(value: Any) -> Callable[..., int]:
        def call(target: Any, *_: Any) -> int:
            getattr(target, "_obj", target).value = value
            return 0

        return call

    cuda = SimpleNamespace(
        cuInit=lambda _: 0,
        cuDeviceGetCount=give(2),
        cuDeviceGet=give(0),
        cuDeviceGetName=give(b"NVIDIA GeForce RTX 4090"),
        cuDeviceGetAttribute=lambda target, which, _: give({75: 8, 76: 9}[which])(target),
        cuDriverGetVersion=give(13000),
    )
    nvml = SimpleNamespace(
        nvmlInit_v2=lambda: management,
        nvmlSystemGetDriverVersion=give(b"580.65.06"),
        nvmlShutdown=lambda: 0,
    )

    def library(name: str) -> Any:
        if "nvml" in name or "nvidia-ml" in name:
            if management is None:
                raise OSError("not found")
            return nvml
        return cuda

    monkeypatch.setattr("revisage.engines.driver.ctypes.CDLL", library)
    assert find_gpu() == Gpu("NVIDIA GeForce RTX 4090", "8.9", "13.0", version)


# --- the probe -----------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.0, 2.9999, -3.0, float("nan"), float("inf")])
def test_an_engine_that_computes_something_else_is_caught_at_load(
    tmp_path: Path, factor: float
) -> None:
    model = scaling_model(factor).SerializeToString()
    folder = write_toy_bundle(tmp_path / "toy", model, certified_factor=FACTOR)
    with pytest.raises(EngineError, match="probe's output 'scaled' is off"):
        open_engine(folder, "cpu")


class FaultyEngine(OnnxRuntimeEngine):
    """An engine whose every call goes wrong in some way."""

    def __init__(self, bundle: Bundle, fault: str) -> None:
        super().__init__(bundle, threads=1)
        self._fault = fault
        self._last: dict[str, Any] = {}

    def _infer_impl(self, inputs: Any) -> dict[str, Any]:
        if self._fault == "other_axes":
            inputs = {n: np.swapaxes(a, 2, 3).reshape(a.shape) for n, a in inputs.items()}
        true = super()._infer_impl({name: np.ascontiguousarray(a) for name, a in inputs.items()})
        last, self._last = self._last, true
        return {name: self._spoil(a, last.get(name, a)) for name, a in true.items()}

    def _spoil(self, true: Any, last: Any) -> Any:
        if self._fault == "zeros":
            return np.zeros_like(true)
        if self._fault == "one_nan":
            return np.where(np.arange(true.size).reshape(true.shape) == 1234, np.nan, true)
        if self._fault == "transposed":
            return np.ascontiguousarray(np.swapaxes(true, 2, 3))
        if self._fault == "swapped_samples":
            return true[::-1].copy()
        if self._fault == "first_sample_only":
            return np.repeat(true[:1], len(true), axis=0)
        if self._fault == "stale":  # the buffer still holds what the call before left there
            return (
                last.reshape(-1)[: true.size].reshape(true.shape)
                if last.size >= true.size
                else true
            )
        return true


@pytest.mark.parametrize(
    "fault",
    [
        *("zeros", "one_nan", "transposed", "other_axes", "swapped_samples", "first_sample_only"),
        "stale",
    ],
)
def test_every_fault_is_caught_at_load(folder: Path, fault: str) -> None:
    engine = FaultyEngine(Bundle.open(folder), fault)
    with pytest.raises(EngineError, match="'scaled'"):
        engine.activate()
    assert not engine.active


def test_an_engine_without_a_fault_loads(folder: Path) -> None:
    with FaultyEngine(Bundle.open(folder), "none") as engine:
        assert engine.active


def test_the_same_probe_on_every_machine() -> None:
    """The exact bytes: a change here makes every certificate that was ever written invalid."""
    spec = TensorSpec("image", "float32", ("N", 3, "H", "W"), "NCHW", "RGB", (0.0, 1.0))
    digests = {
        kind: sha256(probe_array(ProbeInput(kind, 5, (1, 2, 24, 40)), spec).tobytes())[:16]
        for kind in ("picture", "mask", "uniform")
    }
    assert digests == {
        "picture": "563768bead4e5025",
        "mask": "af373797900b81c7",
        "uniform": "31855dac1de041a0",
    }


def test_probe_arrays_fill_their_range_and_shape() -> None:
    spec = TensorSpec("x", "float32", ("N", 3, "H", "W"), "NCHW", "", (-1.0, 1.0))
    made = probe_array(ProbeInput("uniform", 1, (2, 3, 32, 32)), spec)
    assert made.shape == (2, 3, 32, 32)
    assert -1 <= made.min() < -0.9
    assert 0.9 < made.max() <= 1
    mask = probe_array(ProbeInput("mask", 1, (1, 1, 64, 64)), spec)
    assert set(np.unique(mask)) == {-1.0, 1.0}
    byte = TensorSpec("x", "uint8", ("N", "H", "W", 3), "NHWC", "RGB", (0.0, 255.0))
    picture = probe_array(ProbeInput("picture", 1, (1, 32, 48, 3)), byte)
    assert picture.dtype == np.uint8
    assert picture.shape == (1, 32, 48, 3)
    assert picture.max() - picture.min() > 100
    vector = probe_array(ProbeInput("uniform", 1, (4,)), spec)
    assert vector.shape == (4,)


def test_a_probe_checks_shape_statistics_and_names(rng: np.random.Generator) -> None:
    true = rng.random((1, 1000), dtype=np.float32)
    probe = Probe({}, {"y": expect(true)})
    tolerance = Tolerance(1e-4, 1e-5)
    check_probe(probe, {"y": true}, tolerance, "toy")
    with pytest.raises(EngineError, match="shape"):
        check_probe(probe, {"y": true.reshape(1000, 1)}, tolerance, "toy")
    with pytest.raises(EngineError, match="no output 'y'"):
        check_probe(probe, {}, tolerance, "toy")
    with pytest.raises(BundleError, match="knows no output z"):
        check_probe(probe, {"y": true, "z": true}, tolerance, "toy")
    # Right at every sampled place and wrong between them: the statistics see it.
    between = np.zeros_like(true)
    places = list(probe.outputs["y"].positions)
    between[0, places] = true[0, places]
    with pytest.raises(EngineError, match="statistics"):
        check_probe(probe, {"y": between}, tolerance, "toy")


# --- promise: the same bytes whatever the number of threads --------------------------------------


def convolutions() -> onnx.ModelProto:
    """Wide enough that ONNX Runtime splits the work."""
    random = np.random.RandomState(0)
    nodes, weights = [], []
    channels, name = 3, "image"
    for index, wide in enumerate((32, 48, 3)):
        kernel = random.normal(0, 0.1, (wide, channels, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{index}"))
        out = "scaled" if wide == 3 else f"x{index}"
        nodes.append(helper.make_node("Conv", [name, f"w{index}"], [out], pads=[1, 1, 1, 1]))
        channels, name = wide, out
    shape = ["N", 3, "H", "W"]
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scaled", TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    return model


def outputs_by_threads(bundle: Bundle, side: int) -> list[dict[str, Any]]:
    made = {
        name: ProbeInput(
            recipe.kind,
            recipe.seed,
            tuple(
                side if dimension in {"H", "W"} else size
                for size, dimension in zip(recipe.shape, spec.shape, strict=True)
            ),
        )
        for spec in bundle.manifest.inputs
        for name, recipe in bundle.certificate.probes[0].inputs.items()
        if name == spec.name
    }
    inputs = probe_inputs(Probe(made, {}), bundle.manifest)
    found = []
    for threads in (1, 2, 3, 5):
        with open_engine(bundle, "cpu", threads=threads) as engine:
            found.append(engine.infer(inputs))
    return found


def assert_same_bytes(results: list[dict[str, Any]]) -> None:
    for result in results[1:]:
        for name, array in results[0].items():
            assert array.tobytes() == result[name].tobytes()


def test_threads_do_not_change_a_bit(tmp_path: Path) -> None:
    content = convolutions().SerializeToString()
    folder = write_toy_bundle(
        tmp_path / "toy",
        content,
        # The toy certificate knows nothing of these weights; only the bytes matter here.
        tolerances={"onnxruntime-cpu": {"fp32": Tolerance(1e6, 1e6)}},
    )
    assert_same_bytes(outputs_by_threads(Bundle.open(folder), 128))


@pytest.mark.parametrize("name", shipped_names())
def test_threads_do_not_change_a_bit_of_what_ships(name: str) -> None:
    assert_same_bytes(outputs_by_threads(shipped_bundle(name), 128))


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_bundle_gives_its_certified_output(name: str) -> None:
    with open_engine(shipped_bundle(name), "cpu") as engine:
        assert engine.active


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_probe_tells_the_network_from_a_constant(name: str) -> None:
    bundle = shipped_bundle(name)
    limits = [t for per in bundle.manifest.tolerances.values() for t in per.values()]
    assert [probe.inputs["image"].shape[0] for probe in bundle.certificate.probes] == [1, 2]
    for probe in bundle.certificate.probes:
        for output in probe.outputs.values():
            assert min(contrast(output, limit) for limit in limits) > 2


def test_the_batch_does_not_change_a_bit(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = write_toy_bundle(
        tmp_path / "toy",
        convolutions().SerializeToString(),
        tolerances={"onnxruntime-cpu": {"fp32": Tolerance(1e6, 1e6)}},
    )
    batch = rng.random((4, 3, 64, 64), dtype=np.float32)
    with open_engine(folder, "cpu", threads=2) as engine:
        together = engine.infer({"image": batch})["scaled"]
        alone = [engine.infer({"image": batch[i : i + 1]})["scaled"] for i in range(4)]
    assert together.tobytes() == np.concatenate(alone).tobytes()
