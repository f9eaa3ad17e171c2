"""The compositor: the residual contract, exact in every depth."""

from __future__ import annotations

import importlib
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revisage import kernels
from revisage.errors import DeviceError, OptionError, ShapeError
from revisage.kernels import _dispatch
from tests.kernels.fuzzing import Block

IDENTITY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
DTYPES = ["uint8", "uint16", "float16", "float32"]


def bits(array: np.ndarray) -> np.ndarray:
    return array.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[array.itemsize])


def random_photo(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if dtype.startswith("u"):
        return random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    return (random.standard_normal(shape) * 2).astype(dtype)


def random_edit(
    random: np.random.Generator, rows: int, columns: int, channels: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    delta = (random.standard_normal((rows, columns, channels)) * 0.3).astype(np.float32)
    mask = random.standard_normal((rows, columns)).clip(0, 1).astype(np.float32)
    return delta, mask


def placement(
    random: np.random.Generator, photo: tuple[int, int], square: tuple[int, int]
) -> np.ndarray:
    """A turned and scaled square somewhere on or beside the photo."""
    angle, zoom = random.uniform(0, 2 * np.pi), 10 ** random.uniform(-0.7, 0.7)
    linear = zoom * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = np.array([photo[1], photo[0]]) * random.uniform(-0.2, 1.2, 2)
    return np.c_[linear, np.array([square[1], square[0]]) / 2 - linear @ centre]


def test_smoke(impl: str) -> None:
    photo = np.full((6, 7, 3), 100, np.uint8)
    delta, mask = np.full((2, 2, 3), 10 / 255, np.float32), np.ones((2, 2), np.float32)
    matrix = np.array([[1.0, 0.0, -3.0], [0.0, 1.0, -2.0]])
    result = kernels.composite(photo, delta, mask, matrix, 1.0, impl=impl)
    expected = photo.copy()
    expected[2:4, 3:5] = 110
    assert np.array_equal(result, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_full_range_units(impl: str, dtype: str) -> None:
    """Delta 1.0 turns black into white, -1.0 white into black, in every depth."""
    white = np.iinfo(dtype).max if dtype.startswith("u") else 1
    photo = np.array([[[0], [white]]], dtype)
    delta = np.array([[[1.0], [-1.0]]], np.float32)
    result = kernels.composite(photo, delta, np.ones((1, 2), np.float32), IDENTITY, impl=impl)
    assert result.ravel().tolist() == [white, 0]


def test_rounds_half_to_even_and_clamps(impl: str) -> None:
    photo = np.array([[10, 11, 12, 250, 3]], np.uint8)[..., None]
    delta = (np.array([0.5, 0.5, -0.5, 30, -30], np.float32) / 255).reshape(1, 5, 1)
    result = kernels.composite(photo, delta, np.ones((1, 5), np.float32), IDENTITY, impl=impl)
    assert result.ravel().tolist() == [10, 12, 12, 255, 0]


def test_floats_are_never_clamped(impl: str) -> None:
    photo = np.array([[2.5, -1.0]], np.float32)
    delta = np.array([1.0, -0.5], np.float32).reshape(1, 2, 1)
    result = kernels.composite(photo, delta, np.ones((1, 2), np.float32), IDENTITY, impl=impl)
    assert result.tolist() == [[3.5, -1.5]]


def test_half_pixel_shift_is_the_mean_of_neighbours(impl: str) -> None:
    photo = np.zeros((1, 4), np.float32)
    delta = np.array([0.0, 1.0, 0.0, 0.0], np.float32).reshape(1, 4, 1)
    matrix = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]])
    result = kernels.composite(photo, delta, np.ones((1, 4), np.float32), matrix, impl=impl)
    # The last position mixes with the zeros outside the square, in delta and in mask.
    assert result.tolist() == [[0.5, 0.5, 0.0, 0.0]]


def test_flip(impl: str) -> None:
    """A matrix that mirrors the square mirrors the edit."""
    random = np.random.default_rng(3)
    photo = np.zeros((5, 6, 2), np.float32)
    delta = random.standard_normal((5, 6, 2)).astype(np.float32)
    matrix = np.array([[-1.0, 0.0, 5.0], [0.0, -1.0, 4.0]])
    result = kernels.composite(photo, delta, np.ones((5, 6), np.float32), matrix, impl=impl)
    assert np.array_equal(result, delta[::-1, ::-1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_alpha_is_copied(impl: str, dtype: str, random: np.random.Generator) -> None:
    photo = random_photo(random, (20, 20, 4), dtype)
    delta, mask = random_edit(random, 20, 20)
    result = kernels.composite(photo, delta, mask, IDENTITY, impl=impl)
    assert np.array_equal(bits(result[..., 3].copy()), bits(photo[..., 3].copy()))
    assert not np.array_equal(result[..., :3], photo[..., :3])


def special_floats(dtype: str) -> np.ndarray:
    """NaNs with payloads, signalling ones too, infinities, -0.0 and subnormals."""
    if dtype == "float16":
        patterns = [0x7E01, 0x7C01, 0xFE7F, 0xFD55, 0x7C00, 0xFC00, 0x8000, 0x0001, 0x8001]
        return np.array(patterns, np.uint16).view(np.float16)
    patterns32 = [0x7FC00001, 0x7F800001, 0xFFC12345, 0xFFA00001, 0x7F800000, 0x80000000, 1]
    return np.array(patterns32, np.uint32).view(np.float32)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("case", ["strength 0", "mask 0", "outside"])
def test_untouched_samples_keep_their_bits(impl: str, dtype: str, case: str) -> None:
    special = special_floats(dtype)
    photo = np.tile(special, (4, 1))[..., None].copy()
    delta = np.full((4, len(special), 1), 0.5, np.float32)
    mask = np.full((4, len(special)), 0.0 if case == "mask 0" else 1.0, np.float32)
    matrix = IDENTITY.copy()
    matrix[0, 2] = 1000 if case == "outside" else 0
    strength = 0.0 if case == "strength 0" else 1.0
    result = kernels.composite(photo, delta, mask, matrix, strength, impl=impl)
    assert np.array_equal(bits(result), bits(photo))
    in_place = photo.copy()
    kernels.composite_into(in_place, in_place, delta, mask, matrix, strength, impl=impl)
    assert np.array_equal(bits(in_place), bits(photo))


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(DTYPES),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5)),
    square=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    strength=st.sampled_from([0.0, 1e-30, 0.3, 1.0, 2.5]),
)
def test_native_equals_reference_bit_for_bit(
    seed: int, dtype: str, size: tuple[int, int, int], square: tuple[int, int], strength: float
) -> None:
    if not kernels.HAS_NATIVE:
        pytest.skip("the native kernels are not built")
    random = np.random.default_rng(seed)
    photo = random_photo(random, size, dtype)
    if dtype.startswith("f"):
        photo.ravel()[random.integers(0, photo.size)] = np.inf
    delta, mask = random_edit(random, *square, channels=int(random.integers(1, size[2] + 1)))
    matrix = placement(random, size[:2], square)
    native = kernels.composite(photo, delta, mask, matrix, strength, impl="native")
    twin = kernels.composite(photo, delta, mask, matrix, strength, impl="reference")
    assert np.array_equal(bits(native), bits(twin))
    for threads in (1, 2, 7):
        again = kernels.composite(photo, delta, mask, matrix, strength, threads=threads)
        assert np.array_equal(bits(again), bits(native))


PLACEMENTS = {
    "covers the photo": [[0.13, 0.0, 0.2], [0.0, 0.2, 0.1]],
    "mirrored": [[-0.3, 0.0, 38.0], [0.0, 0.5, -3.0]],
    "turned": [[0.31, 0.06, -4.0], [-0.06, 0.31, 5.0]],
    "turned far": [[0.4, 0.35, -9.0], [-0.35, 0.4, 20.0]],
    "upright": [[0.0, 0.5, 3.0], [-0.2, 0.0, 40.0]],
    "shrunk": [[1.7, 0.1, -30.0], [-0.1, 1.7, 2.0]],
    "whole pixels": [[1.0, 0.0, -5.0], [0.0, 1.0, -2.0]],
}


@pytest.mark.parametrize("name", PLACEMENTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_instruction_set_gives_the_same_bits(
    isa: str, dtype: str, name: str, random: np.random.Generator
) -> None:
    """Between guard pages, in place and not, with every number of channels."""
    delta, mask = random_edit(random, 37, 41, channels=5)
    delta[5:9, 10:30] = 0
    for channels, edited in [(1, 1), (2, 1), (3, 3), (3, 2), (4, 3), (4, 4), (5, 5), (3, 1)]:
        photo = random_photo(random, (67, 129, channels), dtype)
        edit = delta[..., :edited].copy(), mask, np.array(PLACEMENTS[name]), 0.9
        expected = kernels.composite(photo, *edit, impl="reference")
        assert not np.array_equal(bits(expected), bits(photo))
        for at_end, threads in [(True, 1), (False, 3)]:
            block = Block(photo.nbytes, at_end)
            placed = block.view(photo.dtype, photo.shape)
            placed[...] = photo
            kernels.composite_into(placed, placed, *edit, threads=threads)
            assert np.array_equal(bits(placed), bits(expected))
            kernels.composite_into(placed, photo, *edit, threads=threads)
            assert np.array_equal(bits(placed), bits(expected))


@pytest.mark.parametrize("dtype", DTYPES)
def test_changes_that_are_no_numbers(isa: str, dtype: str, random: np.random.Generator) -> None:
    """The public function refuses them; the kernel keeps to the note: NaN touches nothing."""
    delta, mask = random_edit(random, 12, 40)
    delta[3, 5:30:7] = np.nan
    delta[6, ::9] = np.inf
    mask[8, 10:14] = np.nan
    photo = random_photo(random, (60, 130, 3), dtype)
    matrix = (0.3, 0.0, 0.4, 0.0, 0.2, 0.1)
    native, twin = photo.copy(), photo.copy()
    reference = importlib.import_module("revisage.kernels.composite")._reference
    with np.errstate(invalid="ignore"):
        reference(twin, photo, delta, mask, matrix, 0.5)
    _dispatch._native.composite_into(native, native, delta, mask, matrix, 0.5, 1, 0)
    assert np.array_equal(bits(native), bits(twin))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(DTYPES),
    strengths=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_larger_strength_never_moves_a_sample_less(
    seed: int, dtype: str, strengths: tuple[float, float]
) -> None:
    random = np.random.default_rng(seed)
    photo = random_photo(random, (12, 13, 3), dtype)
    delta, mask = random_edit(random, 9, 9)
    matrix = placement(random, (12, 13), (9, 9))
    moved = []
    for strength in sorted(strengths):
        result = kernels.composite(photo, delta, mask, matrix, strength)
        moved.append(np.abs(result.astype(np.float64) - photo.astype(np.float64)))
    assert (moved[0] <= moved[1]).all()


def test_half_conversion_rounds_like_numpy(native: str) -> None:
    """Every finite half, moved by amounts that land between halves."""
    photo = np.arange(65536, dtype=np.uint16).view(np.float16)
    photo = photo[np.isfinite(photo)].reshape(1, -1)
    for amount in (1.0, 2.0**-11, 3e-8, -(2.0**-14), 60000.0):
        delta = np.full((1, photo.size, 1), amount, np.float32)
        mask = np.ones((1, photo.size), np.float32)
        result = kernels.composite(photo, delta, mask, IDENTITY, impl=native)
        with np.errstate(over="ignore"):
            expected = (photo.astype(np.float32) + np.float32(amount)).astype(np.float16)
        assert np.array_equal(bits(result), bits(expected))


def test_only_the_box_of_the_square_is_written_in_place(impl: str) -> None:
    """In place, a mapped file stays clean outside the face: rows outside are not even read."""
    photo = np.arange(10000, dtype=np.uint16).reshape(100, 100)
    delta, mask = np.full((8, 8, 1), 0.1, np.float32), np.ones((8, 8), np.float32)
    matrix = np.array([[1.0, 0.0, -50.0], [0.0, 1.0, -60.0]])
    expected = photo.copy()
    expected[60:68, 50:58] = np.rint(expected[60:68, 50:58] + np.float32(0.1) * np.float32(65535))
    kernels.composite_into(photo, photo, delta, mask, matrix, impl=impl)
    assert np.array_equal(photo, expected)


def test_more_delta_channels_than_a_vector(impl: str, random: np.random.Generator) -> None:
    photo = np.zeros((6, 6, 7), np.float32)
    delta = random.standard_normal((6, 6, 7)).astype(np.float32)
    result = kernels.composite(photo, delta, np.ones((6, 6), np.float32), IDENTITY, impl=impl)
    assert np.array_equal(result, delta)


def test_strided_inputs_are_copied(impl: str, random: np.random.Generator) -> None:
    photo = random_photo(random, (20, 10, 3), "uint8")
    delta, mask = random_edit(random, 10, 10)
    strided = kernels.composite(photo[::2], delta, mask.T, IDENTITY, impl=impl)
    packed = kernels.composite(photo[::2].copy(), delta, mask.T.copy(), IDENTITY, impl=impl)
    assert np.array_equal(strided, packed)


def test_torch_comes_back_as_torch(impl: str, random: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    photo = random_photo(random, (12, 10, 3), "uint8")
    delta, mask = random_edit(random, 10, 10)
    expected = kernels.composite(photo, delta, mask, IDENTITY, 0.5, impl=impl)
    arrays = [torch.from_numpy(array) for array in (photo, delta, mask)]
    result = kernels.composite(*arrays, IDENTITY, 0.5, impl=impl)
    assert isinstance(result, torch.Tensor)
    assert np.array_equal(result.numpy(), expected)
    kernels.composite_into(arrays[0], *arrays, IDENTITY, 0.5, impl=impl)
    assert np.array_equal(arrays[0].numpy(), expected)


def arguments(**changes: Any) -> dict[str, Any]:
    usual = {
        "original": np.zeros((4, 5, 3), np.uint8),
        "delta": np.zeros((6, 6, 3), np.float32),
        "mask": np.zeros((6, 6), np.float32),
        "matrix": IDENTITY,
        "strength": 1.0,
    }
    return {**usual, **changes}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"original": np.zeros((4, 5, 3), np.int32)}, ShapeError, "original must be uint8"),
        ({"original": np.zeros((4, 5, 3), ">u2")}, ShapeError, "native byte order"),
        ({"original": np.zeros(4, np.uint8)}, ShapeError, "[H, W]"),
        ({"original": np.zeros((0, 5, 3), np.uint8)}, ShapeError, "empty"),
        ({"original": [[1, 2], [3, 4]]}, ShapeError, "numpy.asarray"),
        ({"delta": np.zeros((6, 6, 3))}, ShapeError, "delta must be float32"),
        ({"delta": np.zeros((6, 6, 4), np.float32)}, ShapeError, "delta has 4 channels"),
        ({"delta": np.zeros((6, 6), np.float32)}, ShapeError, "delta must be [S, T, D]"),
        ({"mask": np.zeros((6, 5), np.float32)}, ShapeError, "mask must be [6, 6]"),
        ({"mask": np.full((6, 6), np.nan, np.float32)}, OptionError, "mask must be finite"),
        ({"delta": np.full((6, 6, 3), np.inf, np.float32)}, OptionError, "delta must be finite"),
        ({"matrix": np.zeros((2, 3))}, OptionError, "singular"),
        ({"matrix": np.full((2, 3), np.nan)}, OptionError, "finite"),
        ({"matrix": np.eye(3)}, ShapeError, "matrix must be [2, 3]"),
        ({"strength": -0.1}, OptionError, "strength"),
        ({"strength": float("nan")}, OptionError, "strength"),
        ({"impl": "fast"}, OptionError, "impl must be"),
        ({"threads": 0}, OptionError, "threads"),
        ({"stream": 1}, OptionError, "stream is for CUDA"),
    ],
)
def test_errors(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        kernels.composite(**arguments(**changes))


def test_bad_outputs_are_refused(impl: str) -> None:
    given_arguments = arguments(impl=impl)
    photo = given_arguments["original"]
    read_only = photo.copy()
    read_only.flags.writeable = False
    for out, message in [
        (np.zeros((4, 5, 4), np.uint8), "out must be uint8 of shape [4, 5, 3]"),
        (np.zeros((4, 5, 3), np.uint16), "out must be uint8"),
        (np.zeros((8, 5, 3), np.uint8)[::2], "C-contiguous"),
        (read_only, "read-only"),
    ]:
        with pytest.raises(ShapeError, match=re.escape(message)):
            kernels.composite_into(out, **given_arguments)
    memory = np.zeros(4 * 5 * 3 + 1, np.uint8)
    shifted = memory[1:].reshape(4, 5, 3)
    with pytest.raises(ShapeError, match="overlaps original"):
        kernels.composite_into(
            memory[:-1].reshape(4, 5, 3), **{**given_arguments, "original": shifted}
        )


def test_thread_count_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVISAGE_NUM_THREADS", "2")
    kernels.composite(**arguments())
    monkeypatch.setenv("REVISAGE_NUM_THREADS", "many")
    with pytest.raises(OptionError, match="REVISAGE_NUM_THREADS"):
        kernels.composite(**arguments())


def test_cuda_arrays_where_cuda_cannot_run(fake_cuda: Any) -> None:
    if "cuda:0" in kernels.available_devices():
        pytest.skip("a CUDA device is here")
    out, photo = fake_cuda((4, 5, 3), "|u1"), fake_cuda((4, 5, 3), "|u1", data=(8192, True))
    delta = fake_cuda((6, 6, 3), data=(16384, True))
    mask = fake_cuda((6, 6), data=(32768, True))
    with pytest.raises(DeviceError, match="copy the arrays to the host"):
        kernels.composite_into(out, photo, delta, mask, IDENTITY)
    with pytest.raises(DeviceError, match="impl='reference' computes on the CPU"):
        kernels.composite_into(out, photo, delta, mask, IDENTITY, impl="reference")
    with pytest.raises(DeviceError, match="one device"):
        kernels.composite_into(out, photo, np.zeros((6, 6, 3), np.float32), mask, IDENTITY)
    with pytest.raises(DeviceError, match="ends in _into"):
        kernels.composite(photo, delta, mask, IDENTITY)


def test_cuda_host_side_checks(native: str, fake_cuda: Any) -> None:
    """What is wrong with a CUDA array is found before CUDA is asked for anything."""
    photo = fake_cuda((4, 5, 3), "|u1", data=(8192, True))
    delta = fake_cuda((6, 6, 3), data=(16384, True))
    mask = fake_cuda((6, 6), data=(32768, True))

    def refused(out: Any, match: str, **changes: Any) -> None:
        call = {"original": photo, "delta": delta, "mask": mask, "matrix": IDENTITY, **changes}
        with pytest.raises(ShapeError, match=match):
            kernels.composite_into(out, **call)

    refused(fake_cuda((4, 5, 4), "|u1"), "out must be uint8")
    refused(fake_cuda((4, 5, 3), "|u1", data=(4096, True)), "read-only")
    refused(fake_cuda((4, 5, 3), "|u1", strides=(30, 6, 2)), "C-contiguous")
    refused(fake_cuda((4, 5, 3), "|u1", data=(8200, False)), "overlaps original")
    out = fake_cuda((4, 5, 3), "|u1")
    refused(out, "delta must be float32", delta=fake_cuda((6, 6, 3), "<f8"))
    refused(out, "null pointer", delta=fake_cuda((6, 6, 3), data=(0, True)))
    refused(out, "not aligned", delta=fake_cuda((6, 6, 3), data=(16386, True)))
    refused(out, "masked", mask=fake_cuda((6, 6), data=(32768, True), mask=photo))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_equals_reference_bit_for_bit(
    dtype: str, random: np.random.Generator, to_cuda: Any, to_host: Any
) -> None:
    photo = random_photo(random, (201, 163, 4), dtype)
    delta, mask = random_edit(random, 64, 64)
    matrix = placement(random, (201, 163), (64, 64))
    expected = kernels.composite(photo, delta, mask, matrix, 0.7, impl="reference")
    arrays = [to_cuda(array) for array in (photo, delta, mask)]
    result = to_host(kernels.composite(*arrays, matrix, 0.7))
    assert np.array_equal(bits(result), bits(expected))
