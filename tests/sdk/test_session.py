"""The session: kinds of photos in and out, options, faces, receipts, threads."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import revisage as rv
from revisage.engines.driver import gpu_obstacle
from revisage.errors import (
    BundleError,
    DeviceError,
    MissingExtraError,
    NoFaceError,
    OptionError,
    ShapeError,
)
from revisage.operations.wrinkles import Wrinkles
from revisage.pixels import open_pixels
from revisage.session import EngineChoice, Parts, Session
from tests.sdk import cupy_stand_in
from tests.sdk.stand_ins import (
    StandInEngine,
    StandInParts,
    face_at,
    session_for,
)

FACE = face_at(60, 55, 100)
FULL = rv.Retouch(wrinkles=1.0)


@pytest.fixture
def photo(rng: np.random.Generator) -> Any:
    return rng.integers(0, 256, (110, 120, 3), dtype=np.uint8)


# --- photos in and out ---------------------------------------------------------------------------


def test_pil_comes_back_as_pil_with_its_info(photo: Any) -> None:
    image = Image.fromarray(photo)
    image.info["icc_profile"] = b"profile"
    result = session_for(FACE).retouch(image, FULL)
    assert isinstance(result.image, Image.Image)
    assert result.image.mode == "RGB"
    assert result.image.info["icc_profile"] == b"profile"
    expected = session_for(FACE).retouch(photo, FULL).image
    np.testing.assert_array_equal(np.asarray(result.image), expected)
    np.testing.assert_array_equal(np.asarray(image), photo)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16", "F"])
def test_other_pil_modes(photo: Any, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(photo[:, :, 0].astype(np.uint16) * 200)
    else:
        image = Image.fromarray(photo).convert(mode)
    result = session_for(FACE).retouch(image, FULL)
    assert result.image.mode == {"P": "RGB", "1": "L"}.get(mode, mode)
    assert result.image.size == image.size


def test_torch_comes_back_as_torch(photo: Any) -> None:
    torch = pytest.importorskip("torch")
    for tensor in (torch.from_numpy(photo.copy()), torch.from_numpy(photo / np.float32(255))):
        result = session_for(FACE).retouch(tensor, FULL)
        assert isinstance(result.image, torch.Tensor)
        assert result.image.dtype == tensor.dtype
        expected = session_for(FACE).retouch(tensor.numpy(), FULL).image
        np.testing.assert_array_equal(result.image.numpy(), expected)
    with pytest.raises(ShapeError, match="detach"):
        open_pixels(torch.zeros((4, 4, 3), requires_grad=True))


def test_array_interface_and_unusual_memory(photo: Any) -> None:
    class Holder:
        __array_interface__ = photo.__array_interface__

    expected = session_for(FACE).retouch(photo, FULL).image
    np.testing.assert_array_equal(session_for(FACE).retouch(Holder(), FULL).image, expected)
    fortran = np.asfortranarray(photo)
    np.testing.assert_array_equal(session_for(FACE).retouch(fortran, FULL).image, expected)
    foreign = photo.astype(">u2")
    back = session_for(FACE).retouch(foreign, FULL).image
    assert back.dtype == foreign.dtype


@pytest.mark.parametrize("kind", ["CuPy", "other library", "array interface"])
def test_a_photo_on_a_gpu_comes_back_there_on_the_callers_stream(
    kind: str, photo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = cupy_stand_in.install(monkeypatch)

    class Tensor(cupy_stand_in.Array):
        __module__ = "other_library"

    library = ModuleType("other_library")
    library.from_dlpack = lambda array: Tensor(array.host, array.device.id)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "other_library", library)
    given: Any = cupy_stand_in.Array(photo.copy(), device=1)
    if kind == "other library":
        given = Tensor(photo.copy(), device=1)
    elif kind == "array interface":
        # The interface is an address; who offers one keeps its memory.
        given = SimpleNamespace(
            __cuda_array_interface__=given.__cuda_array_interface__, memory=given
        )
    with cupy_stand_in.Stream(55):
        image = session_for(FACE).retouch(given, FULL).image
    assert type(image) is (Tensor if kind == "other library" else cupy_stand_in.Array)
    assert image.device.id == (0 if kind == "array interface" else 1)
    np.testing.assert_array_equal(image.host, session_for(FACE).retouch(photo, FULL).image)
    hole = np.zeros(photo.shape[:2], np.uint8)
    hole[40:50, 30:90] = 255
    filled = session_for(FACE).inpaint(given, cupy_stand_in.Array(hole)).image
    np.testing.assert_array_equal(filled.host, session_for(FACE).inpaint(photo, hole).image)
    if kind == "CuPy":
        assert journal[:2] == ["the CPU waits for 55", "the CPU waits for 0"]  # once a photo


@pytest.mark.cuda
def test_a_photo_on_a_real_gpu(photo: Any) -> None:
    if gpu_obstacle() and os.environ.get("REVISAGE_REQUIRE_CUDA") != "1":
        pytest.skip(gpu_obstacle())
    import cupy
    import torch

    expected = session_for(FACE).retouch(photo, FULL).image
    with cupy.cuda.Stream(non_blocking=True):
        image = session_for(FACE).retouch(cupy.asarray(photo), FULL).image
        np.testing.assert_array_equal(image.get(), expected)
    found = session_for(FACE).retouch(torch.from_numpy(photo).cuda(), FULL).image
    assert found.is_cuda
    np.testing.assert_array_equal(found.cpu().numpy(), expected)


def test_a_photo_on_a_gpu_that_cannot_be_read_is_a_clear_error(
    photo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cupy_stand_in.install(monkeypatch)
    with pytest.raises(ShapeError, match="dtype float64 is not understood"):
        open_pixels(cupy_stand_in.Array(photo / 255))

    class Elsewhere:
        def __dlpack__(self) -> None: ...
        def __dlpack_device__(self) -> tuple[int, int]:
            return (8, 0)

    with pytest.raises(DeviceError, match="neither CPU nor CUDA; copy it"):
        open_pixels(Elsewhere())
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'revisage\[gpu\]'"):
        open_pixels(cupy_stand_in.Array(photo))


@pytest.mark.parametrize(
    "wrong",
    [
        "mine.jpg",
        None,
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 3), np.int32),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        Image.new("CMYK", (4, 4)),
        Image.new("HSV", (4, 4)),
    ],
    ids=repr,
)
def test_what_is_no_photo_is_refused(wrong: Any) -> None:
    with pytest.raises(ShapeError) as caught:
        session_for(FACE).retouch(wrong, FULL)
    assert "\n" not in str(caught.value)


# --- options and faces ---------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan"), float("inf"), "much", None, True, [1]])
def test_strengths_are_checked(wrong: Any) -> None:
    with pytest.raises(OptionError, match="wrinkles"):
        rv.Retouch(wrinkles=wrong)


@pytest.mark.parametrize("name", ["blemishes", "unmask", "inpaint", "restore", "wrinkels"])
def test_operations_that_are_not_there_are_errors(name: str) -> None:
    with pytest.raises(OptionError, match=name):
        rv.Retouch(**{name: 0.5})


def test_retouch_is_a_value() -> None:
    assert rv.Retouch(wrinkles=np.float32(0.5)) == rv.Retouch(wrinkles=0.5)
    assert rv.Retouch() == rv.Retouch(wrinkles=0)
    assert rv.Retouch().strengths() == {}
    with pytest.raises(AttributeError):
        rv.Retouch().wrinkles = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    "options", [{"device": "tpu"}, {"threads": 0}, {"threads": 1.5}, {"threads": True}]
)
def test_session_options_are_checked(options: Any) -> None:
    with pytest.raises(OptionError):
        Session(**options)


def test_the_environment_sets_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVISAGE_NUM_THREADS", "3")
    assert Session().threads == 3
    assert Session(threads=2).threads == 2
    monkeypatch.setenv("REVISAGE_NUM_THREADS", "many")
    with pytest.raises(OptionError, match="REVISAGE_NUM_THREADS"):
        Session()


def test_options_must_be_a_retouch(photo: Any) -> None:
    with pytest.raises(OptionError, match="Retouch"):
        session_for(FACE).retouch(photo, 0.8)  # type: ignore[arg-type]


def test_no_face_is_an_error_unless_faces_are_given(photo: Any) -> None:
    with pytest.raises(NoFaceError):
        session_for().retouch(photo, FULL)
    result = session_for().retouch(photo, FULL, faces=[])
    np.testing.assert_array_equal(result.image, photo)
    assert session_for().retouch(photo, FULL, faces=[FACE]).faces == (FACE,)


def test_choosing_faces(photo: Any) -> None:
    small, large = face_at(30, 30, 40), face_at(70, 60, 80)
    session = session_for(small, large)
    assert session.find_faces(photo) == [small, large]
    assert session.retouch(photo, FULL).faces == (small, large)
    assert session.retouch(photo, FULL, faces="all").faces == (small, large)
    largest = session.retouch(photo, FULL, faces="largest")
    assert largest.faces == (large,)
    assert [edit.name for edit in largest.edits] == ["wrinkles_face1"]
    with pytest.raises(OptionError, match="smallest"):
        session.retouch(photo, FULL, faces="smallest")  # type: ignore[arg-type]


def test_strength_scales_the_same_edit(photo: Any) -> None:
    session = session_for(FACE)
    half, full = (session.retouch(photo, rv.Retouch(wrinkles=s)) for s in (0.5, 1.0))
    np.testing.assert_array_equal(half.edits[0].delta, full.edits[0].delta)
    again = full.edits[0].with_strength(0.5).apply(photo)
    np.testing.assert_array_equal(again, half.image)


# --- engines -------------------------------------------------------------------------------------


def test_engines_load_on_first_use_once_and_go_on_close(photo: Any) -> None:
    parts = StandInParts([FACE])
    with Session(parts=parts.parts()) as session:
        session.retouch(photo, rv.Retouch())
        assert parts.loads == []
        assert parts.faces.searches == 0
        session.retouch(photo, FULL)
        session.retouch(photo, FULL)
        assert sorted(parts.loads) == ["wrinkle_filler", "wrinkle_segmenter"]
        engines = list(parts.engines.values())
        assert all(engine.active for engine in engines)
    assert not any(engine.active for engine in engines)
    session.retouch(photo, FULL)  # loads again
    assert len(parts.loads) == 4


def test_many_threads_share_a_session(photo: Any) -> None:
    parts = StandInParts([FACE])
    session = Session(parts=parts.parts())
    results: list[Any] = []
    workers = [
        threading.Thread(target=lambda: results.append(session.retouch(photo, FULL)))
        for _ in range(6)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len({result.image.tobytes() for result in results}) == 1
    assert len(results) == 6
    assert len(parts.loads) == 2


def test_bundles_that_do_not_fit_are_named() -> None:
    segmenter, filler = (
        StandInEngine("wrinkle_segmenter", 512),
        StandInEngine("wrinkle_filler", 256),
    )
    with pytest.raises(BundleError, match="one size"):
        Wrinkles({"wrinkle_segmenter": segmenter, "wrinkle_filler": filler})
    segmenter.manifest.settings.clear()
    with pytest.raises(BundleError, match="threshold"):
        Wrinkles({"wrinkle_segmenter": segmenter, "wrinkle_filler": filler})


def test_errors_while_loading_reach_the_caller(photo: Any) -> None:
    def fails(bundle: str, choice: EngineChoice) -> Any:
        raise DeviceError("no such device")

    parts = StandInParts([FACE])
    session = Session(parts=Parts(faces=lambda choice: parts.faces, engine=fails))
    with pytest.raises(DeviceError, match="no such device"):
        session.retouch(photo, FULL)


def test_the_choice_of_an_engine_reaches_every_network(photo: Any) -> None:
    parts = StandInParts([FACE])
    chosen: list[EngineChoice] = []

    def faces(choice: EngineChoice) -> Any:
        chosen.append(choice)
        return parts.faces

    def engine(bundle: str, choice: EngineChoice) -> Any:
        chosen.append(choice)
        return StandInEngine(bundle, parts.size)

    session = Session(
        "cpu",
        3,
        engine="onnxruntime-cpu",
        precision="int8",
        parts=Parts(faces=faces, engine=engine),
    )
    session.retouch(photo, FULL)
    networks = EngineChoice("cpu", "onnxruntime-cpu", "int8", 3)
    assert chosen == [dataclasses.replace(networks, precision="fp32"), networks, networks]


def test_networks_may_differ_in_precision(photo: Any) -> None:
    parts = StandInParts([FACE])
    chosen: dict[str, str] = {}

    def engine(bundle: str, choice: EngineChoice) -> Any:
        chosen[bundle] = choice.precision
        return StandInEngine(bundle, parts.size)

    session = Session(
        precision={"wrinkle_segmenter": "int8"},
        parts=Parts(faces=lambda choice: parts.faces, engine=engine),
    )
    session.retouch(photo, FULL)
    assert chosen == {"wrinkle_segmenter": "int8", "wrinkle_filler": "fp32"}
    with pytest.raises(OptionError, match="precision 'int4' is not one of"):
        Session(precision={"wrinkle_segmenter": "int4"})
    with pytest.raises(OptionError, match=r"no_such is no bundle.*wrinkle_filler"):
        Session(precision={"no_such": "int8"})


def test_unknown_engines_and_precisions_are_refused() -> None:
    with pytest.raises(OptionError, match="engine 'onnx' is not one of onnxruntime-cpu"):
        Session(engine="onnx")
    with pytest.raises(OptionError, match="precision 'fp8' is not one of fp32"):
        Session(precision="fp8")


# --- results -------------------------------------------------------------------------------------


def test_receipt_says_where_networks_ran_differently(photo: Any) -> None:
    parts = StandInParts([FACE])
    session = Session(parts=parts.parts())
    session.retouch(photo, FULL)
    parts.engines["wrinkle_filler"].precision = "int8"  # type: ignore[misc]
    receipt = session.retouch(photo, FULL).receipt
    assert receipt.precision == "fp32, int8"
    assert receipt.engine == "stand-in"
    assert receipt.engines["wrinkle_filler"] == "stand-in int8"


def test_receipt_gives_each_reason_once(photo: Any) -> None:
    parts = StandInParts([FACE])
    session = Session(parts=parts.parts())
    session.retouch(photo, FULL)
    for name, why in (("wrinkle_segmenter", "a: old"), ("wrinkle_filler", "b: lost; c, a: old")):
        parts.engines[name].reason = f"the best; not {why}"  # type: ignore[misc]
    assert session.retouch(photo, FULL).receipt.reason == "the best; not b: lost; c, a: old"


def test_receipt_says_what_ran(photo: Any) -> None:
    result = session_for(FACE, threads=2).retouch(photo, FULL)
    receipt = result.receipt
    assert (receipt.device, receipt.engine, receipt.precision) == ("cpu", "stand-in", "fp32")
    assert set(receipt.models) == {"wrinkle_segmenter", "wrinkle_filler"}
    assert receipt.kernels in ("native", "reference")
    assert receipt.threads == 2
    assert list(receipt.milliseconds) == [
        *("load networks", "find faces", "align", "find wrinkles", "mask", "fill", "composite")
    ]
    assert all(ms >= 0 for ms in receipt.milliseconds.values())
    assert receipt.total_ms == pytest.approx(sum(receipt.milliseconds.values()))
    entries = json.loads(receipt.to_json())
    assert entries["models"] == dict(receipt.models)
    text = str(receipt.with_stages({"write": 3.0}))
    for word in ("cpu", "stand-in", "fp32", "wrinkle_filler", "composite", "write", "total"):
        assert word in text
    assert receipt.engines == dict.fromkeys(receipt.models, "stand-in fp32")
    assert entries["engines"] == receipt.engines
    assert "why    for a test" in text
    assert "120" in repr(result)
    assert "1 faces" in repr(result)


def test_receipt_without_networks(photo: Any) -> None:
    receipt = session_for(FACE).retouch(photo, rv.Retouch()).receipt
    assert receipt.engine == ""
    assert "no network ran" in str(receipt)
