"""Engines on a GPU: the part that runs on the CPU, with stand-ins for CuPy and the provider.

Tests marked `cuda` run the real thing.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from revisage.bundle import shipped_bundle, shipped_names
from revisage.engines import device_status, onnxruntime_gpu, open_engine
from revisage.engines.cache import EngineCache
from revisage.engines.driver import Gpu
from revisage.engines.gpu import Turns
from revisage.engines.onnxruntime_gpu import OnnxRuntimeGpuEngine, tensorrt_settings
from revisage.engines.profile import Profile
from revisage.errors import DeviceError, EngineError, OptionError, ShapeError
from revisage.manifest import Tolerance
from tests.sdk import cupy_stand_in
from tests.sdk.cupy_stand_in import Array
from tests.sdk.toy_bundle import FACTOR, MANIFEST, write_toy_bundle

SIDE = MANIFEST.working_size
GPU = Gpu("NVIDIA GeForce RTX 4090", "8.9", "13.0", "580.65.06")
TOLERANCES = {
    engine: {"fp32": Tolerance(1e-4, 1e-5)}
    for engine in ("onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-cpu")
}


class Runtime:
    """ONNX Runtime whose CUDA provider is the CPU's; it notes what it was asked for."""

    def __init__(self) -> None:
        self.sessions: list[Any] = []
        self.elsewhere: list[tuple[str, str]] = []  # (provider, operator) beside the GPU's
        self.dropped = False  # whether the provider is dropped at load, as where CUDA is missing
        self.spoil: Callable[[], None] = lambda: None  # before each replay of a recorded graph

    def make(self, model: bytes, *, sess_options: Any, providers: Any, enable_fallback: int) -> Any:
        assert enable_fallback == 0
        real = onnxruntime.InferenceSession(
            model, sess_options=sess_options, providers=["CPUExecutionProvider"]
        )
        self.sessions.append(Session(self, real, providers))
        return self.sessions[-1]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = ModuleType("onnxruntime")
        for name in dir(onnxruntime):
            setattr(fake, name, getattr(onnxruntime, name))
        everything: dict[str, Any] = {
            "InferenceSession": self.make,
            "preload_dlls": lambda: print("Failed to load libcudnn.so.9: not found"),
            "cuda_version": "13.0",
            "get_available_providers": lambda: [*onnxruntime_gpu.PROVIDERS.values()],
        }
        for name, value in everything.items():
            setattr(fake, name, value)
        monkeypatch.setitem(sys.modules, "onnxruntime", fake)
        monkeypatch.setattr(onnxruntime_gpu, "_MEMORY", "cpu")


class Session:
    def __init__(self, runtime: Runtime, real: Any, providers: Any) -> None:
        self.runtime, self.real, self.providers = runtime, real, providers
        self.settings = dict(providers[0][1])
        self.runs: list[tuple[int, str]] = []  # thread, whether ONNX Runtime was told not to wait

    @property
    def recorded(self) -> bool:
        return bool(self.settings.get("enable_cuda_graph") == "1")

    def get_inputs(self) -> Any:
        return self.real.get_inputs()

    def get_outputs(self) -> Any:
        return self.real.get_outputs()

    def get_providers(self) -> list[str]:
        return [] if self.runtime.dropped else [name for name, _ in self.providers]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        parts = [(self.providers[0][0], "Mul"), *self.runtime.elsewhere]
        return [
            SimpleNamespace(
                ep_name=name, get_nodes=lambda op=op: [SimpleNamespace(op_type=op, name="n")]
            )
            for name, op in parts
        ]

    def io_binding(self) -> Any:
        return self.real.io_binding()

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        told = options.get_run_config_entry("disable_synchronize_execution_providers")
        self.runs.append((threading.get_ident(), told))
        if self.recorded:
            self.runtime.spoil()
        self.real.run_with_iobinding(binding, options)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    made = Runtime()
    made.install(monkeypatch)
    return made


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    for module in ("gpu", "selection"):
        monkeypatch.setattr(f"revisage.engines.{module}.gpu_obstacle", lambda: "")
    for module in ("onnxruntime_gpu", "selection"):
        monkeypatch.setattr(f"revisage.engines.{module}.find_gpu", lambda: GPU)
    return cupy_stand_in.install(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_toy_bundle(tmp_path / "toy", tolerances=TOLERANCES)


@pytest.fixture
def engine(folder: Path, runtime: Runtime, journal: list[str]) -> Iterator[OnnxRuntimeGpuEngine]:
    with open_engine(folder, "cuda", engine="onnxruntime-cuda") as opened:
        assert isinstance(opened, OnnxRuntimeGpuEngine)
        yield opened


def image(batch: int = 1, side: int = 16, seed: int = 0) -> Any:
    random = np.random.default_rng(seed)
    return random.random((batch, 3, side, side + (8 if side != SIDE else 0)), dtype=np.float32)


# --- arrays in and out ---------------------------------------------------------------------------


def test_numpy_goes_through_pinned_memory_and_comes_back(
    engine: OnnxRuntimeGpuEngine, journal: list[str]
) -> None:
    journal.clear()
    made = image()
    found = engine.infer({"image": made})["scaled"]
    np.testing.assert_array_equal(found, made * np.float32(FACTOR))
    assert type(found) is np.ndarray
    assert journal == [f"the CPU waits for {engine._stream.ptr}"]


def test_gpu_arrays_come_back_on_the_gpu_in_order_with_the_callers_stream(
    engine: OnnxRuntimeGpuEngine, journal: list[str]
) -> None:
    journal.clear()
    made = image()
    found = engine.infer({"image": Array(made)}, stream=77)["scaled"]
    assert isinstance(found, Array)
    np.testing.assert_array_equal(found.host, made * np.float32(FACTOR))
    own = engine._stream.ptr
    assert journal == [f"{own} waits for 77", f"77 waits for {own}"]  # and the CPU for nothing


def test_the_current_stream_is_the_default(
    engine: OnnxRuntimeGpuEngine, journal: list[str]
) -> None:
    journal.clear()
    with cupy_stand_in.Stream(55):
        engine.infer({"image": Array(image())})
    assert journal[0] == f"{engine._stream.ptr} waits for 55"


def test_another_librarys_arrays_come_back_as_such(
    engine: OnnxRuntimeGpuEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tensor(Array):
        pass

    Tensor.__module__ = "other_library"
    library = ModuleType("other_library")
    library.from_dlpack = lambda array: Tensor(array.host)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "other_library", library)
    assert isinstance(engine.infer({"image": Tensor(image())})["scaled"], Tensor)


def test_a_strided_gpu_array_is_taken(engine: OnnxRuntimeGpuEngine) -> None:
    made = np.repeat(image(), 2, axis=3)[..., ::2]
    found = engine.infer({"image": Array(made)})["scaled"]
    np.testing.assert_array_equal(found.host, made * np.float32(FACTOR))


def test_wrong_gpu_arrays_are_refused(engine: OnnxRuntimeGpuEngine) -> None:
    with pytest.raises(ShapeError, match="expected dtype float32, got float64"):
        engine.infer({"image": Array(image().astype(np.float64))})
    with pytest.raises(ShapeError, match="multiple of 8"):
        engine.infer({"image": Array(image(side=12))})
    with pytest.raises(DeviceError, match="lies on GPU 1, the engine is on GPU 0"):
        engine.infer({"image": Array(image(), device=1)})
    with pytest.raises(OptionError, match="stream must be an address"):
        engine.infer({"image": Array(image())}, stream="fast")


def test_the_cpu_engine_refuses_gpu_arrays(folder: Path, journal: list[str]) -> None:
    with (
        open_engine(folder, "cpu") as engine,
        pytest.raises(DeviceError, match=r"lie on a GPU.*runs on the CPU; copy"),
    ):
        engine.infer({"image": Array(image())})


# --- CUDA graphs ---------------------------------------------------------------------------------


def test_working_sizes_replay_a_recorded_graph_per_batch(
    engine: OnnxRuntimeGpuEngine, runtime: Runtime
) -> None:
    for batch in (1, 2, 3, 4, 5, 8, 3, 9):
        for make in (lambda a: a, Array):
            made = image(batch, SIDE, seed=batch)
            found = engine.infer({"image": make(made)})["scaled"]
            np.testing.assert_array_equal(getattr(found, "host", found), made * np.float32(FACTOR))
    assert engine.cuda_graphs == {1: "", 2: "", 4: "", 8: ""}
    recorded = [session for session in runtime.sessions if session.recorded]
    assert [session.real.get_inputs()[0].shape[0] for session in recorded] == [1, 2, 4, 8]
    for session in recorded:
        threads = {thread for thread, _ in session.runs}
        assert len(threads) == 1  # a graph belongs to the thread that recorded it
        assert threads != {threading.get_ident()}


def test_other_sizes_run_in_the_session_of_any_shape(
    engine: OnnxRuntimeGpuEngine, runtime: Runtime
) -> None:
    engine.infer({"image": image(side=32)})
    assert engine.cuda_graphs == {1: ""}  # made at load
    assert len(runtime.sessions) == 2


def test_a_graph_that_cannot_be_recorded_is_not_used_and_says_so(
    engine: OnnxRuntimeGpuEngine, runtime: Runtime
) -> None:
    def fail() -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    runtime.spoil = fail
    made = image(2, SIDE)
    for _ in range(2):
        np.testing.assert_array_equal(engine.infer({"image": made})["scaled"], made * 3)
    assert "cannot be recorded: operation not permitted" in engine.cuda_graphs[2]
    assert len(runtime.sessions) == 3  # it is not tried again


def test_a_graph_that_replays_old_data_is_not_used(
    engine: OnnxRuntimeGpuEngine, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = Session.run_with_iobinding

    def stale(self: Session, binding: Any, options: Any) -> None:
        if not self.recorded or not self.runs:
            true(self, binding, options)

    monkeypatch.setattr(Session, "run_with_iobinding", stale)
    made = image(2, SIDE)
    np.testing.assert_array_equal(engine.infer({"image": made})["scaled"], made * 3)
    assert "the recorded graph is off by" in engine.cuda_graphs[2]


def test_a_recorded_session_has_nothing_on_the_cpu(
    folder: Path, runtime: Runtime, journal: list[str]
) -> None:
    runtime.elsewhere = [("CPUExecutionProvider", "Shape")]
    with open_engine(folder, engine="onnxruntime-cuda") as engine:
        assert isinstance(engine, OnnxRuntimeGpuEngine)
        engine.infer({"image": image(1, SIDE)})
        assert "Shape on CPUExecutionProvider" in engine.cuda_graphs[1]
        assert {told for _, told in runtime.sessions[0].runs} == {"0"}  # it is left to wait


def test_recordings_have_the_gpu_for_themselves() -> None:
    turns, running, seen = Turns(), [0, 0], []

    def work(index: int) -> None:
        block = turns.record if index % 5 == 0 else turns.run
        for _ in range(50):
            with block():
                which = int(index % 5 == 0)
                running[which] += 1
                seen.append(tuple(running))
                running[which] -= 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 500
    assert not [s for s in seen if s[1] > 1 or (s[1] and s[0])]


# --- no silent fallback --------------------------------------------------------------------------


def test_settings_of_the_cuda_provider(engine: OnnxRuntimeGpuEngine, runtime: Runtime) -> None:
    (provider, settings), *others = runtime.sessions[0].providers
    assert provider == "CUDAExecutionProvider"
    assert not others  # in particular not the CPU
    assert settings["use_tf32"] == "0"
    assert settings["user_compute_stream"] == str(engine._stream.ptr)
    assert {told for _, told in runtime.sessions[0].runs} == {"1"}  # nothing waits


def test_a_node_on_the_cpu_is_an_error(folder: Path, runtime: Runtime, journal: list[str]) -> None:
    runtime.elsewhere = [("CPUExecutionProvider", op) for op in ("Shape", "Conv", "GridSample")]
    with pytest.raises(EngineError, match="would run Conv, GridSample on CPUExecutionProvider"):
        open_engine(folder, engine="onnxruntime-cuda")


def test_a_provider_that_was_dropped_is_an_error_with_the_reason(
    folder: Path, runtime: Runtime, journal: list[str]
) -> None:
    runtime.dropped = True
    with pytest.raises(
        DeviceError, match=r"could not load its CUDAExec.*libcudnn\.so\.9.*pip install"
    ):
        open_engine(folder, engine="onnxruntime-cuda")


def test_a_usable_engine_names_the_gpu(runtime: Runtime, journal: list[str]) -> None:
    statuses = {status.engine: status for status in device_status()}
    cuda = statuses["onnxruntime-cuda"]
    assert cuda.usable
    assert cuda.reason == (
        "ONNX Runtime, CUDA provider on NVIDIA GeForce RTX 4090 (8.9), driver for CUDA 13.0"
    )


def test_a_driver_that_is_too_old_is_named(
    folder: Path, runtime: Runtime, journal: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Gpu("NVIDIA GeForce RTX 3090", "8.6", "12.4", "550.54.14")
    monkeypatch.setattr("revisage.engines.onnxruntime_gpu.find_gpu", lambda: old)
    with pytest.raises(DeviceError, match=r"serves CUDA 12\.4, .* needs CUDA 13\.0: update"):
        open_engine(folder, "cuda", engine="onnxruntime-cuda")


def test_a_card_without_kernels_is_named(
    folder: Path, runtime: Runtime, journal: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError(
            "CUDA error cudaErrorNoKernelImageForDevice: no kernel image is available"
        )

    monkeypatch.setattr(Session, "run_with_iobinding", fail)
    with pytest.raises(DeviceError, match=r"no code for the compute capability 8\.9 of the NVIDIA"):
        open_engine(folder, engine="onnxruntime-cuda")


def test_a_missing_cupy_is_named(
    folder: Path, runtime: Runtime, journal: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError, match=r"CuPy cannot be used .*pip install 'revisage\[gpu\]'"):
        open_engine(folder, engine="onnxruntime-cuda")


@pytest.mark.usefixtures("tensorrt")
def test_photos_of_any_size_go_to_engines_that_take_them(
    tmp_path: Path, runtime: Runtime, journal: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The face finder, where TensorRT was asked for: its network sees photos of any size."""
    from revisage.faces import FaceFinder

    for name in ("face_finder", "face_landmarks"):
        write_toy_bundle(tmp_path / name, name=name, tolerances=TOLERANCES)
    monkeypatch.setattr("revisage.bundle._SHIPPED", tmp_path)
    with FaceFinder(engine="onnxruntime-tensorrt") as finder:
        assert finder.engine("face_finder").name == "onnxruntime-cuda"
        assert finder.engine("face_landmarks").name == "onnxruntime-tensorrt"


def test_native_operators_are_refused_on_the_gpu(runtime: Runtime, journal: list[str]) -> None:
    bundle = shipped_bundle("wrinkle_filler")
    with pytest.raises(
        DeviceError, match="FftConv, WinogradConv on onnxruntime-cuda: our kernels run"
    ):
        open_engine(bundle, engine="onnxruntime-cuda", operators="native")


# --- the TensorRT provider -----------------------------------------------------------------------


def provider_library(tmp_path: Path, content: bytes) -> Path:
    capi = tmp_path / "onnxruntime" / "capi"
    capi.mkdir(parents=True)
    (capi / "libonnxruntime_providers_tensorrt.so").write_bytes(content)
    return capi.parent


def test_the_tensorrt_that_the_provider_needs_is_named(tmp_path: Path) -> None:
    package = provider_library(tmp_path, b"\x7fELF..\0libnvinfer.so.10\0libcudart.so.13\0")
    obstacle = onnxruntime_gpu._tensorrt_obstacle(package)
    assert "linked with libnvinfer.so.10 (TensorRT 10), which is not installed" in obstacle
    assert "pip install 'tensorrt-cu13>=10,<11'" in obstacle
    assert "'tensorrt-rtx'" in obstacle


def test_a_provider_whose_libraries_are_there_has_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = provider_library(tmp_path, b"libnvinfer.so.10\0")
    loaded = []
    monkeypatch.setattr(
        "revisage.engines.onnxruntime_gpu.ctypes.CDLL", lambda path, mode: loaded.append(path)
    )
    assert onnxruntime_gpu._tensorrt_obstacle(package) == ""
    assert loaded == ["libnvinfer.so.10"]


def test_settings_of_the_tensorrt_provider(tmp_path: Path) -> None:
    settings = tensorrt_settings(Profile.of(MANIFEST), tmp_path)
    assert settings["trt_profile_min_shapes"] == f"image:1x3x{SIDE}x{SIDE}"
    assert settings["trt_profile_max_shapes"] == f"image:8x3x{SIDE}x{SIDE}"
    assert settings["trt_fp16_enable"] == settings["trt_bf16_enable"] == "0"
    assert settings["trt_engine_cache_path"] == str(tmp_path)


@pytest.mark.parametrize("name", shipped_names())
def test_what_runs_on_sizes_is_known(name: str) -> None:
    """Nodes that vanish when a graph's sizes are fixed are those that a GPU leaves to the CPU."""
    bundle = shipped_bundle(name)

    def operators(sizes: dict[str, int]) -> Counter[str]:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        for symbol, size in sizes.items():
            options.add_free_dimension_override_by_name(symbol, size)
        session = onnxruntime.InferenceSession(bundle.read_graph(), options)
        parts = session.get_provider_graph_assignment_info()
        return Counter(node.op_type for part in parts for node in part.get_nodes())

    fixed = operators(dict.fromkeys("HW", bundle.manifest.working_size) | {"N": 1})
    assert fixed
    assert set(operators({}) - fixed) <= onnxruntime_gpu.ON_SIZES


@pytest.fixture
def tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A card and a TensorRT, as far as the engine asks for them."""
    monkeypatch.setenv("REVISAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(onnxruntime_gpu, "_tensorrt_obstacle", lambda package: "")
    monkeypatch.setattr(onnxruntime_gpu, "_tensorrt_versions", lambda: "1.31 101302")
    monkeypatch.setattr(onnxruntime_gpu, "find_gpu", lambda: GPU)


@pytest.mark.usefixtures("tensorrt")
def test_tensorrt_takes_all_nodes_or_none(
    folder: Path, runtime: Runtime, journal: list[str]
) -> None:
    with open_engine(folder, engine="onnxruntime-tensorrt") as engine:
        assert engine.name == "onnxruntime-tensorrt"
        np.testing.assert_array_equal(
            engine.infer({"image": image(2, SIDE)})["scaled"].shape, (2, 3, SIDE, SIDE)
        )
        names = [name for name, _ in runtime.sessions[0].providers]
        assert names == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    runtime.elsewhere = [("CUDAExecutionProvider", "Resize")]
    with pytest.raises(EngineError, match="would run Resize on CUDAExecutionProvider"):
        open_engine(folder, engine="onnxruntime-tensorrt")


@pytest.mark.usefixtures("tensorrt")
def test_what_tensorrt_built_comes_back_out_of_the_cache(
    folder: Path, runtime: Runtime, journal: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in of the provider: it writes into its folder, or finds what it had written."""
    found: list[bool] = []
    start = OnnxRuntimeGpuEngine._start_session

    def start_session(engine: Any, options: Any, providers: Any) -> Any:
        place = Path(dict(providers)["TensorrtExecutionProvider"]["trt_engine_cache_path"])
        found.append((place / "network_sm89.engine").exists())
        (place / "network_sm89.engine").write_bytes(b"code")
        return start(engine, options, providers)

    monkeypatch.setattr(OnnxRuntimeGpuEngine, "_start_session", start_session)
    sessions = 0
    for _ in range(2):
        with open_engine(folder, engine="onnxruntime-tensorrt"):
            sessions = sessions or len(found)
    assert found == [False] * sessions + [True] * sessions
    entries = EngineCache().entries()
    assert len(entries) == sessions  # one of any shape, and one for each recorded batch
    for entry in entries:
        assert entry.key is not None
        assert (entry.key.engine, entry.key.driver) == ("onnxruntime-tensorrt", "580.65.06")
        assert entry.about == {"model": "toy"}


# --- on a GPU ------------------------------------------------------------------------------------


def gpu_engine(name: str, bundle: Any) -> OnnxRuntimeGpuEngine:
    """An engine on the real GPU; skips without one, unless it is required."""
    (status,) = (status for status in device_status() if status.engine == name)
    if not status.usable and os.environ.get("REVISAGE_REQUIRE_CUDA") != "1":
        pytest.skip(status.reason)
    opened = open_engine(bundle, engine=name)
    assert isinstance(opened, OnnxRuntimeGpuEngine)
    return opened


@pytest.mark.cuda
@pytest.mark.parametrize("name", shipped_names())
def test_a_gpu_gives_what_the_cpu_gives_recorded_or_not(name: str) -> None:
    bundle = shipped_bundle(name)
    with gpu_engine("onnxruntime-cuda", bundle) as engine, open_engine(bundle, "cpu") as cpu:
        limit = bundle.manifest.tolerance(engine.name, "fp32").max_abs
        for batch in (1, 3, 8):
            made = {n: a.get() for n, a in engine._example(batch, 3).items()}
            wanted = cpu.infer(made)
            for _ in range(2):
                for output, array in engine.infer(made).items():
                    assert np.abs(array - wanted[output]).max() <= limit
        assert set(engine.cuda_graphs.values()) == {""}


@pytest.mark.cuda
def test_a_gpu_takes_cupy_arrays_on_the_callers_stream(folder: Path) -> None:
    with gpu_engine("onnxruntime-cuda", folder) as engine:
        import cupy

        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            made = cupy.random.random((2, 3, SIDE, SIDE), dtype=cupy.float32)
            found = [engine.infer({"image": made + k})["scaled"] for k in range(20)]
            for k, array in enumerate(found):
                assert isinstance(array, cupy.ndarray)
                cupy.testing.assert_allclose(array, (made + k) * 3, rtol=1e-5)


@pytest.mark.cuda
def test_a_gpu_serves_several_engines_in_threads(folder: Path) -> None:
    engines = [gpu_engine("onnxruntime-cuda", folder) for _ in range(3)]
    wrong: list[int] = []

    def work(index: int) -> None:
        for k in range(20):
            made = image(1 + k % 3, SIDE, seed=100 * index + k)
            found = engines[index].infer({"image": made})["scaled"]
            if not np.allclose(found, made * 3, rtol=1e-5):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    for engine in engines:
        engine.deactivate()
