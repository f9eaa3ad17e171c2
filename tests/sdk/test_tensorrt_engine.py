"""The engine that runs what TensorRT built: its bookkeeping on stand-ins, itself on a GPU."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from revisage.bundle import Bundle
from revisage.engines import building, open_engine, tensorrt, tensorrt_engine
from revisage.engines.background import Background
from revisage.engines.building import cached_engine
from revisage.engines.cache import ANY_DRIVER, EngineCache, EngineKey
from revisage.engines.driver import Gpu
from revisage.engines.profile import Profile
from revisage.engines.tensorrt import tensorrt_obstacle
from revisage.engines.tensorrt_engine import TensorRTEngine
from revisage.errors import DeviceError, EngineError, OptionError, ShapeError
from revisage.manifest import Tolerance
from tests.sdk import cupy_stand_in, tensorrt_stand_in
from tests.sdk.toy_bundle import FACTOR, write_toy_bundle
from tests.support import needs_tensorrt_rtx

TOLERANCES = {name: {"fp32": Tolerance(1e-4, 1e-5)} for name in tensorrt.ENGINES}
KEY = EngineKey("0" * 64, "", "fp32", "tensorrt-rtx", "1.2.3", "8.9", ANY_DRIVER, "0.1")
CARD = Gpu("Test RTX 4090", "8.9", "13.0", "580.65.06")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(write_toy_bundle(tmp_path / "toy", tolerances=TOLERANCES))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tensorrt_stand_in.Library:
    """A machine with a GPU, as far as the engine can see."""
    monkeypatch.setenv("REVISAGE_CACHE", str(tmp_path / "engines"))
    made = tensorrt_stand_in.Library()
    cupy_stand_in.install(monkeypatch)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, made)
    for module in (tensorrt, tensorrt_engine):
        monkeypatch.setattr(module, "find_gpu", lambda: CARD)
    monkeypatch.setattr(tensorrt, "gpu_obstacle", lambda: "")
    monkeypatch.setattr("revisage.engines.gpu.gpu_obstacle", lambda: "")
    set_content(monkeypatch, tensorrt_stand_in.CONTENT)
    return made


def set_content(monkeypatch: pytest.MonkeyPatch, content: bytes) -> list[dict[str, Any]]:
    """What the cache holds for every key; gives what it was asked for."""
    asked: list[dict[str, Any]] = []

    def cached(_: Bundle, **options: Any) -> Any:
        asked.append(options)
        return building.CachedEngine(content, KEY, Path("cached"), None)

    monkeypatch.setattr(tensorrt_engine, "cached_engine", cached)
    return asked


def toy_engine(
    bundle: Bundle, engine: str = "tensorrt-rtx", batch: tuple[int, int, int] = (1, 4, 8)
) -> TensorRTEngine:
    profile = Profile.of(bundle.manifest, batch, (16, 64, 128))
    return TensorRTEngine(bundle, engine=engine, profile=profile)


def picture(rng: np.random.Generator, batch: int, height: int = 64, width: int = 64) -> Any:
    return rng.random((batch, 3, height, width), dtype=np.float32)


@pytest.mark.parametrize("name", tensorrt.ENGINES)
def test_it_runs_any_shape_of_its_profile(
    name: str, bundle: Bundle, library: Any, rng: np.random.Generator
) -> None:
    with toy_engine(bundle, name) as engine:
        assert (engine.name, engine.device, engine.precision) == (name, "cuda", "fp32")
        for batch, height, width in ((1, 16, 24), (3, 64, 64), (8, 128, 16), (8, 64, 64)):
            image = picture(rng, batch, height, width)
            found = engine.infer({"image": image})["scaled"]
            np.testing.assert_array_equal(found, image * np.float32(FACTOR))


def test_the_engine_comes_from_the_cache_for_this_card(
    bundle: Bundle, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = set_content(monkeypatch, tensorrt_stand_in.CONTENT)
    with toy_engine(bundle) as engine:
        assert asked == [
            {
                "engine": "tensorrt-rtx",
                "precision": "fp32",
                "profile": engine.profile,
                "compute_capability": "8.9",
            }
        ]


# --- CUDA graphs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "bucket"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8)])
def test_the_usual_sides_are_recorded_once_and_replayed(
    batch: int, bucket: int, bundle: Bundle, library: Any, rng: np.random.Generator
) -> None:
    with toy_engine(bundle) as engine:
        probed = library.contexts[0]().runs
        for _ in range(3):
            image = picture(rng, batch)
            found = engine.infer({"image": image})["scaled"]
            assert found.shape == image.shape  # cropped again
            np.testing.assert_array_equal(found, image * np.float32(FACTOR))
        assert engine.cuda_graphs == {bucket: ""}
        any_shape, recorded = (made() for made in library.contexts)
        assert (any_shape.specialization, recorded.specialization) == ("none", "eager")
        assert any_shape.runs == probed + 1  # the comparison
        assert recorded.runs == 2  # to compile, and to record
        assert recorded.shape == (bucket, 3, 64, 64)
        assert any_shape.scratch == recorded.scratch


def test_other_sides_are_not_recorded(
    bundle: Bundle, library: Any, rng: np.random.Generator
) -> None:
    with toy_engine(bundle) as engine:
        engine.infer({"image": picture(rng, 2, 64, 72)})
        assert engine.cuda_graphs == {}


def test_a_batch_with_no_bucket_runs_unrecorded(
    bundle: Bundle, library: Any, rng: np.random.Generator
) -> None:
    with toy_engine(bundle, batch=(1, 2, 6)) as engine:
        image = picture(rng, 5)
        np.testing.assert_array_equal(engine.infer({"image": image})["scaled"], image * 3)
        assert engine.cuda_graphs == {}
        engine.infer({"image": image[:3]})
        assert engine.cuda_graphs == {4: ""}


def test_what_cannot_be_recorded_runs_unrecorded_and_says_so(
    bundle: Bundle, library: Any, rng: np.random.Generator
) -> None:
    library.fails = lambda context, recording: recording
    with toy_engine(bundle) as engine:
        probed = library.contexts[0]().runs
        for _ in range(2):
            image = picture(rng, 2)
            np.testing.assert_array_equal(engine.infer({"image": image})["scaled"], image * 3)
        assert "out of luck" in engine.cuda_graphs[2]
        assert library.contexts[0]().runs == probed + 2


@pytest.mark.parametrize("factor", [3.1, float("nan")])
def test_a_recorded_graph_that_computes_something_else_is_not_used(
    factor: float, bundle: Bundle, library: Any, rng: np.random.Generator
) -> None:
    library.factor = lambda context, recording: factor if recording else 3.0
    with toy_engine(bundle) as engine:
        image = picture(rng, 2)
        np.testing.assert_array_equal(engine.infer({"image": image})["scaled"], image * 3)
        assert "is off by" in engine.cuda_graphs[2]


# --- kernels that were compiled ------------------------------------------------------------------


def kept_kernels() -> list[EngineKey | None]:
    return [entry.key for entry in EngineCache().entries()]


def test_what_was_compiled_is_found_at_the_next_load(
    bundle: Bundle, library: Any, rng: np.random.Generator
) -> None:
    image = picture(rng, 2)
    with toy_engine(bundle) as engine:
        engine.infer({"image": image})
        assert kept_kernels() == [KEY.kernels(CARD.driver)]  # a killed process has them, too
    assert library.compiled == ["any shape", "(2, 3, 64, 64)"]
    with toy_engine(bundle) as engine:
        engine.infer({"image": image})
        assert len(library.compiled) == 2
        engine.infer({"image": picture(rng, 7)})
    with toy_engine(bundle) as engine:
        for batch in (2, 8):
            engine.infer({"image": picture(rng, batch)})
    assert library.compiled[2:] == ["(8, 3, 64, 64)"]
    assert len(kept_kernels()) == 1


def test_unrecorded_kernels_are_kept_when_the_engine_is_let_go_of(
    bundle: Bundle, library: Any
) -> None:
    with toy_engine(bundle):
        assert kept_kernels() == []
    assert kept_kernels() == [KEY.kernels(CARD.driver)]
    (entry,) = EngineCache().entries()
    assert entry.about == {"model": "toy"}


def test_kernels_of_another_driver_or_library_are_compiled_again(
    bundle: Bundle, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load() -> int:
        before = len(library.compiled)
        with toy_engine(bundle):
            return len(library.compiled) - before

    assert (load(), load()) == (1, 0)
    newer = Gpu(CARD.name, CARD.compute_capability, CARD.cuda, "590.1")
    monkeypatch.setattr(tensorrt_engine, "find_gpu", lambda: newer)
    assert (load(), load()) == (1, 0)
    library.__version__ = "1.2.4"  # which a library may refuse, whatever the key says
    assert (load(), load()) == (1, 0)
    EngineCache().path(KEY.kernels("590.1")).write_bytes(b"damaged")
    assert (load(), load()) == (1, 0)


def test_kernels_with_which_the_engine_fails_its_probe_are_thrown_away(
    bundle: Bundle, library: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with toy_engine(bundle):
        pass
    library.factor = lambda context, recording: 0.0 if context.kernels.lines else 3.0
    with pytest.raises(EngineError, match="probe"):
        toy_engine(bundle).activate()
    assert kept_kernels() == []
    assert "the engine failed its probe with it" in caplog.text


def test_only_tensorrt_for_rtx_compiles_as_it_runs(bundle: Bundle, library: Any) -> None:
    with toy_engine(bundle, "tensorrt"):
        pass
    assert kept_kernels() == library.compiled == []


def test_the_library_has_what_is_asked_of_its_kernel_cache() -> None:
    """Making one takes an engine, and that takes a GPU."""
    needs_tensorrt_rtx()
    import tensorrt_rtx

    for holder, methods in (
        (tensorrt_rtx.ICudaEngine, ("create_runtime_config",)),
        (tensorrt_rtx.IRuntimeConfig, ("create_runtime_cache", "set_runtime_cache")),
        (tensorrt_rtx.IRuntimeCache, ("serialize", "deserialize")),
    ):
        assert set(methods) <= set(dir(holder))


# --- arrays, threads, memory ---------------------------------------------------------------------


def test_arrays_on_the_gpu_stay_there_in_order_with_the_callers_stream(
    bundle: Bundle, library: Any, rng: np.random.Generator
) -> None:
    journal = cupy_stand_in.Stream.journal
    with toy_engine(bundle) as engine:
        image = picture(rng, 2)
        for _ in range(2):  # the first time it is recorded
            journal.clear()
            found = engine.infer({"image": cupy_stand_in.Array(image)}, stream=77)["scaled"]
            np.testing.assert_array_equal(found.host, image * np.float32(FACTOR))
        ours = engine._stream.ptr
        assert journal == [f"{ours} waits for 77", f"77 waits for {ours}"]


def test_many_threads_share_one_engine(
    bundle: Bundle, library: Any, rng: np.random.Generator
) -> None:
    images = [picture(rng, batch) for batch in (1, 2, 3, 4, 7, 8)]
    wrong: list[int] = []
    with toy_engine(bundle) as engine:

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
        assert engine.cuda_graphs == dict.fromkeys((1, 2, 4, 8), "")
        assert len(library.contexts) == 5


def alive() -> int:
    gc.collect()
    return len(tensorrt_stand_in.ALIVE)


def test_deactivate_lets_go_of_everything(
    bundle: Bundle, library: Any, rng: np.random.Generator
) -> None:
    before = alive()
    engine = toy_engine(bundle)
    for _ in range(2):
        with engine:
            engine.infer({"image": picture(rng, 2)})
            assert alive() == before + 4  # an engine, its kernels and two contexts
        assert alive() == before
        assert engine.cuda_graphs == {}


@pytest.mark.parametrize("content", [b"2.9 image scaled", b"3.0 image other", b"garbage"])
def test_an_engine_that_is_refused_leaves_nothing_behind(
    content: bytes, bundle: Bundle, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = alive()
    set_content(monkeypatch, content)
    message = {
        b"2.9 image scaled": "probe's output 'scaled' is off",
        b"3.0 image other": "has the tensors image, other, which are not those of its manifest",
        b"garbage": r"toy: TensorRT for RTX 1\.2\.3 cannot load the engine: magic tag",
    }[content]
    engine = toy_engine(bundle)
    with pytest.raises(EngineError, match=message):
        engine.activate()
    assert not engine.active
    assert alive() == before


# --- refusing ------------------------------------------------------------------------------------


def test_shapes_outside_of_the_profile_are_refused(
    bundle: Bundle, library: Any, rng: np.random.Generator
) -> None:
    with toy_engine(bundle) as engine:
        for shape in ((9, 64, 64), (1, 8, 64), (1, 64, 136)):
            with pytest.raises(ShapeError, match=r"toy: .*built for 1x3x16x16 to 8x3x128x128"):
                engine.infer({"image": picture(rng, *shape)})


def test_a_profile_that_the_probes_do_not_fit_is_refused(bundle: Bundle) -> None:
    with pytest.raises(ShapeError, match=r"toy: input 'image' is 1x3x16x24; .*profile"):
        TensorRTEngine(bundle, profile=Profile.of(bundle.manifest))


def test_a_run_that_fails_says_what_the_library_says(
    bundle: Bundle, library: Any, rng: np.random.Generator
) -> None:
    with toy_engine(bundle) as engine:
        library.fails = lambda context, recording: True
        for _ in range(2):  # each error has its own words only
            with pytest.raises(EngineError, match=r"TensorRT for RTX 1\.2\.3 failed: out of luck$"):
                engine.infer({"image": picture(rng, 1)})


def test_an_unknown_engine_is_refused(bundle: Bundle) -> None:
    with pytest.raises(OptionError, match="'onnx' is not one of tensorrt, tensorrt-rtx"):
        TensorRTEngine(bundle, engine="onnx")


Break = Callable[[pytest.MonkeyPatch], None]


@pytest.mark.parametrize(
    ("engine", "break_it", "message"),
    [
        (
            "tensorrt-rtx",
            lambda patch: patch.setitem(sys.modules, "tensorrt_rtx", None),
            r"pip install 'revisage\[tensorrt-rtx\]'",
        ),
        (
            "tensorrt",
            lambda patch: patch.setitem(sys.modules, "tensorrt", None),
            r"pip install 'revisage\[tensorrt\]'",
        ),
        (
            "tensorrt-rtx",
            lambda patch: patch.setattr(tensorrt, "gpu_obstacle", lambda: "no NVIDIA driver"),
            "no NVIDIA driver",
        ),
        (
            "tensorrt-rtx",
            lambda patch: patch.setitem(sys.modules, "cupy", None),
            r"CuPy .*pip install 'revisage\[gpu\]'",
        ),
        (
            "tensorrt-rtx",
            lambda patch: patch.setattr(
                tensorrt, "find_gpu", lambda: Gpu("Test H100", "9.0", "13.0", "580.65.06")
            ),
            r"capability 8\.6, 8\.9, 12\.0, and the Test H100 has 9\.0: take the engine 'tensorrt'",
        ),
    ],
)
def test_what_cannot_run_here_says_why_and_what_to_do(
    engine: str,
    break_it: Break,
    message: str,
    bundle: Bundle,
    library: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert tensorrt_obstacle(engine) == ""
    break_it(monkeypatch)
    with pytest.raises(DeviceError, match=message):
        toy_engine(bundle, engine).activate()


@pytest.mark.parametrize("name", tensorrt.ENGINES)
def test_it_is_opened_by_name(
    name: str,
    bundle: Bundle,
    library: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    default = Profile.of(bundle.manifest, sides=(16, 64, 64))
    monkeypatch.setattr(Profile, "of", lambda _: default)
    with open_engine(bundle, engine=name) as engine:
        assert (engine.name, engine.device, engine.operators) == (name, "cuda", {})
        assert "was asked for" in engine.reason


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.01)


@pytest.mark.parametrize("name", tensorrt.ENGINES)
def test_another_engine_serves_until_it_is_built_and_found_ever_after(
    name: str,
    tmp_path: Path,
    library: Any,
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
) -> None:
    tolerances = TOLERANCES | {"onnxruntime-cpu": {"fp32": Tolerance(1e-5, 1e-6)}}
    bundle = Bundle.open(write_toy_bundle(tmp_path / "toy", tolerances=tolerances))
    profile = Profile.of(bundle.manifest, sides=(16, 64, 64))
    monkeypatch.setattr(Profile, "of", lambda _: profile)
    monkeypatch.setattr(tensorrt_engine, "cached_engine", cached_engine)  # the true one
    monkeypatch.setattr(building, "find_gpu", lambda: CARD)
    go_on, builds = threading.Event(), []

    def build(model: bytes, **options: Any) -> tensorrt.BuiltEngine:
        builds.append(options["compute_capabilities"])
        options["progress"]("timing kernels", 1, 2)
        assert go_on.wait(30)
        report = tensorrt.BuildReport(name, "1", ("8.9",), "", 1, 1, 1, 1, 0.1, ())
        return tensorrt.BuiltEngine(tensorrt_stand_in.CONTENT, report)

    monkeypatch.setattr(building, "build_in_child", build)
    serving = Background(
        f"toy on {name}",
        lambda: open_engine(bundle, engine=name),
        lambda: open_engine(bundle, engine="onnxruntime-cpu"),
    )
    image = picture(rng, 2)
    assert serving.now.name == "onnxruntime-cpu"
    wait_until(lambda: "timing" in serving.waiting)
    end = time.monotonic() + 30
    while "waiting for its turn" in serving.waiting:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert serving.waiting == f"toy on {name} is being built (timing kernels, 1 of 2)"
    before = serving.now.infer({"image": image})["scaled"]
    go_on.set()
    wait_until(lambda: serving.now.name == name)
    np.testing.assert_array_equal(serving.now.infer({"image": image})["scaled"], before)
    for engine in serving.close():
        engine.deactivate()
    go_on.clear()  # whoever builds now fails
    with open_engine(bundle, engine=name) as engine:
        assert engine.name == name
    assert builds == [["8.9"]]


@pytest.mark.parametrize("name", tensorrt.ENGINES)
def test_a_machine_without_a_gpu_is_told_what_is_missing(name: str, bundle: Bundle) -> None:
    if not tensorrt_obstacle(name):
        pytest.skip("it runs here")
    with pytest.raises(DeviceError, match=rf"'{name}' cannot run here: .*(install|nvidia-smi)"):
        open_engine(bundle, engine=name)


# --- the real thing ------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.parametrize("name", tensorrt.ENGINES)
def test_it_gives_the_certified_output_on_a_gpu(
    name: str,
    bundle: Bundle,
    rng: np.random.Generator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    obstacle = tensorrt_obstacle(name)
    if obstacle and os.environ.get("REVISAGE_REQUIRE_CUDA") != "1":
        pytest.skip(obstacle)
    monkeypatch.setenv("REVISAGE_CACHE", str(tmp_path / "cache"))
    with toy_engine(bundle, name) as engine:
        for batch in (1, 3, 3, 8):
            image = picture(rng, batch)
            found = engine.infer({"image": image})["scaled"]
            np.testing.assert_allclose(found, image * FACTOR, rtol=1e-5)
        assert set(engine.cuda_graphs.values()) == {""}
