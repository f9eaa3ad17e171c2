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
from revisage.alignment import square_matrix, transform_points
from revisage.engines.driver import gpu_obstacle
from revisage.errors import (
    BundleError,
    DeviceError,
    MissingExtraError,
    NoFaceError,
    OptionError,
    ShapeError,
)
from revisage.operations.folds import grow_through, keep_folds, spectacle_region, wears_spectacles
from revisage.operations.region import (
    convex_hull,
    dilate,
    erode,
    fill_polygon,
    label_components,
    lengths_and_widths,
    skin_region,
    soften_inside,
)
from revisage.operations.square import sample_square
from revisage.operations.wrinkles import Wrinkles, wrinkle_hole
from revisage.pixels import open_pixels
from revisage.session import EngineChoice, Parts, Session
from tests.sdk import cupy_stand_in
from tests.sdk.stand_ins import (
    StandInEngine,
    StandInParts,
    average_landmarks,
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


# --- the square ----------------------------------------------------------------------------------


def test_identity_square_is_the_photo(rng: np.random.Generator) -> None:
    photo = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    square = sample_square(photo, np.array([[1.0, 0, 0], [0, 1.0, 0]]), 32)
    np.testing.assert_allclose(square * 255, photo, atol=1e-4)


@pytest.mark.parametrize("pitch", [1.5, 2.0, 2.5, 3.7, 8.0])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_dense_photo_is_averaged_not_skipped(pitch: float, dtype: str) -> None:
    side = int(40 * pitch) + 8
    y, x = np.mgrid[0:side, 0:side]
    full = 255 if dtype == "uint8" else 1
    photo = ((x + y) % 2 * full).astype(dtype)  # aliases to anything where pixels are skipped
    matrix = np.array([[1 / pitch, 0.0, 0.1], [0.0, 1 / pitch, 0.2]])
    inner = sample_square(photo, matrix, 40)[4:-4, 4:-4]
    np.testing.assert_allclose(inner, 0.5, atol=0.13)


@pytest.mark.parametrize("pitch", [0.4, 1.0, 1.7, 2.0, 3.3])
def test_the_square_lies_where_the_matrix_says(pitch: float) -> None:
    """A slope stays the same slope, whatever the averaging: half pixels are right."""
    y, x = np.mgrid[0:200, 0:240].astype(np.float32)
    photo = np.stack([x / 400, y / 400, (x + y) / 800], axis=-1)
    matrix = np.array([[0.9, 0.2, -60.0], [-0.2, 0.9, 10.0]]) / pitch
    size = int(60 / pitch)
    square = sample_square(photo, matrix, size)
    from revisage.alignment import invert_affine

    points = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1)
    where = transform_points(invert_affine(matrix), points)
    np.testing.assert_allclose(square[..., 0], where[..., 0] / 400, atol=2e-5)
    np.testing.assert_allclose(square[..., 1], where[..., 1] / 400, atol=2e-5)


def test_beyond_the_photo_its_edge_is_repeated_even_far_away() -> None:
    photo = np.full((6, 5, 4), 51, dtype=np.uint8)
    far = np.array([[1.0, 0, -500.0], [0, 1.0, 900.0]])
    np.testing.assert_allclose(sample_square(photo, far, 16), 0.2, atol=1e-6)


# --- regions -------------------------------------------------------------------------------------


def test_polygons_and_discs_have_obvious_answers() -> None:
    box = fill_polygon([(1.5, 2.5), (5.5, 2.5), (5.5, 6.5), (1.5, 6.5)], 9)
    expected = np.zeros((9, 9), bool)
    expected[3:7, 2:6] = True
    np.testing.assert_array_equal(box, expected)
    np.testing.assert_array_equal(fill_polygon([(-5, -5), (20, -5), (20, 20), (-5, 20)], 9), True)
    dot = np.zeros((11, 11), bool)
    dot[5, 5] = True
    y, x = np.mgrid[-5:6, -5:6]
    for radius in (1.0, 2.5, 4.0):
        np.testing.assert_array_equal(dilate(dot, radius), x * x + y * y <= radius * radius)
    np.testing.assert_array_equal(erode(dilate(dot, 3.0), 3.0), dot)
    np.testing.assert_array_equal(dilate(dot, 0.5), dot)
    hull = convex_hull([(0, 0), (4, 0), (2, 1), (4, 4), (0, 4), (2, 2)])
    assert {tuple(corner) for corner in hull} == {(0, 0), (4, 0), (4, 4), (0, 4)}


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_soft_edges_stay_inside(width: int) -> None:
    region = np.zeros((40, 40), bool)
    region[8:32, 8:32] = True
    region[10:12, 2:20] = True
    soft = soften_inside(region, width)
    assert (soft[~region] == 0).all()
    assert soft.max() == 1.0
    assert soft[20, 20] == 1.0
    edge = soft[20, 8 : 8 + 2 * width + 1]
    assert (np.diff(edge) > 0).all()
    assert edge[0] < 0.5
    assert edge[-1] == 1.0


def test_parts_are_numbered_as_scipy_does(rng: np.random.Generator) -> None:
    from scipy import ndimage

    for density in (0.05, 0.3, 0.45, 0.6):
        region = rng.random((70, 90)) < density
        labels, count = label_components(region)
        expected, expected_count = ndimage.label(region, np.ones((3, 3)))
        assert count == expected_count
        pairs = {(int(a), int(b)) for a, b in zip(labels.flat, expected.flat, strict=True)}
        assert len(pairs) == count + 1  # one to one
    assert label_components(np.zeros((4, 4), bool))[1] == 0


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (0, 1), (1, 1), (3, -1)])
def test_length_and_width_of_a_bar(dx: int, dy: int) -> None:
    y, x = np.mgrid[0:200, 0:200].astype(float)
    norm = np.hypot(dx, dy)
    along = ((x - 100) * dx + (y - 100) * dy) / norm
    across = ((x - 100) * -dy + (y - 100) * dx) / norm
    bar = (np.abs(along) <= 40) & (np.abs(across) <= 5)
    labels, count = label_components(bar)
    lengths, widths = lengths_and_widths(labels, count)
    assert lengths[0] == pytest.approx(80, abs=2)
    assert widths[0] == pytest.approx(10, abs=1.5)


def test_sure_lines_are_followed_where_they_grow_faint() -> None:
    likely = np.zeros((9, 30), bool)
    likely[2, 3:25] = likely[6, 3:25] = True
    sure = np.zeros_like(likely)
    sure[2, 10:12] = True
    expected = np.zeros_like(likely)
    expected[2, 3:25] = True
    np.testing.assert_array_equal(grow_through(sure, likely), expected)
    np.testing.assert_array_equal(grow_through(sure, sure & False), sure)


SKIN = np.array([0.75, 0.55, 0.45])


def test_folds_are_kept_and_spots_hair_and_frames_are_not() -> None:
    square = np.broadcast_to(SKIN, (512, 512, 3)).astype(np.float32).copy()
    marks = {
        "fold": ((100, 104, 60, 140), SKIN * (0.85, 0.8, 0.76)),
        "mole": ((200, 209, 60, 69), SKIN * (0.8, 0.75, 0.7)),
        "frame": ((300, 304, 60, 140), np.array([0.08, 0.08, 0.08])),
        "gray hair": ((400, 403, 60, 140), np.array([0.55, 0.5, 0.48])),
        "speck": ((450, 452, 60, 63), SKIN * 0.85),
    }
    found = np.zeros((512, 512), bool)
    for (y0, y1, x0, x1), colour in marks.values():
        square[y0:y1, x0:x1] = colour
        found[y0:y1, x0:x1] = True
    skin = np.ones_like(found)
    kept = keep_folds(found, square, skin)
    (y0, y1, x0, x1), _ = marks["fold"]
    expected = np.zeros_like(found)
    expected[y0:y1, x0:x1] = True
    np.testing.assert_array_equal(kept, expected)
    np.testing.assert_array_equal(keep_folds(found[::-1], square[::-1], skin), expected[::-1])
    nothing = np.zeros_like(found)
    np.testing.assert_array_equal(keep_folds(nothing, square, skin), nothing)


def test_lines_in_a_beard_are_not_folds(rng: np.random.Generator) -> None:
    square = np.broadcast_to(SKIN, (512, 512, 3)).astype(np.float32).copy()
    square *= 1 + 0.01 * rng.standard_normal((512, 512, 1), dtype=np.float32)
    square[300:] *= 1 + 0.1 * rng.standard_normal((212, 512, 1), dtype=np.float32)
    found = np.zeros((512, 512), bool)
    for top in (100, 400):
        square[top : top + 4, 60:140] *= 0.85
        found[top : top + 4, 60:140] = True
    kept = keep_folds(found, square, np.ones_like(found))
    assert kept[100:104, 60:140].all()
    assert not kept[300:].any()


def test_spectacles_are_seen_on_the_nose_and_their_band_is_left_alone() -> None:
    points = average_landmarks()
    square = np.broadcast_to(SKIN, (512, 512, 3)).astype(np.float32).copy()
    square += np.linspace(-0.1, 0.1, 512, dtype=np.float32)[:, None, None]  # shading
    assert not wears_spectacles(square, points)
    everywhere = np.ones((512, 512))
    bare = wrinkle_hole(everywhere, 0.5, square, points)
    square[250:256, 150:362] = 0.1
    assert wears_spectacles(square, points)
    band = spectacle_region(points, 512)
    assert bare[band].any()
    worn = wrinkle_hole(everywhere, 0.5, square, points)
    assert not worn[band].any()
    assert worn[~band].any()


@pytest.mark.parametrize("factor", [0.2, 1.0, 1.3])
def test_exposure_does_not_matter_to_folds_and_spectacles(factor: float) -> None:
    """What is judged on a dark skin is judged as on a light one."""
    points = average_landmarks()
    square = np.broadcast_to(SKIN * factor, (512, 512, 3)).astype(np.float32).copy()
    square[100:104, 60:140] *= 0.8
    found = np.zeros((512, 512), bool)
    found[100:104, 60:140] = True
    np.testing.assert_array_equal(keep_folds(found, square, np.ones_like(found)), found)
    assert not wears_spectacles(square, points)


@pytest.mark.parametrize("turn", [0.0, 0.5, -2.0])
def test_only_skin_is_ever_touched(turn: float) -> None:
    """A segmenter that sees wrinkles everywhere may still not reach eyes, brows or lips."""
    face = face_at(400, 380, 600, turn)
    matrix = square_matrix(face.landmarks, 512)
    points = transform_points(matrix, face.landmarks)
    plain = np.full((512, 512, 3), 0.5, np.float32)
    hole = wrinkle_hole(np.ones((512, 512)), 0.5, plain, points)
    skin = skin_region(points, 512)
    assert not hole[~skin].any()
    assert 0.15 < skin.mean() < 0.4
    for part in (slice(17, 22), slice(22, 27), slice(36, 42), slice(42, 48), slice(48, 60)):
        inside = dilate(fill_polygon(points[part], 512), 3)
        assert inside.any()
        assert not hole[inside].any()
    for x, y in points[31:36]:
        assert not hole[round(y), round(x)]
    forehead = points[17:27].mean(axis=0) - (0, 40)
    cheek = (points[2] + points[31]) / 2
    for x, y in (forehead, cheek):
        assert hole[round(y), round(x)]


def test_stand_in_landmarks_are_a_face() -> None:
    """The tests above are worth as much as these points."""
    points = average_landmarks()
    assert points.shape == (68, 2)
    matrix = square_matrix(points, 512)
    np.testing.assert_allclose(transform_points(matrix, points), points, atol=25)
