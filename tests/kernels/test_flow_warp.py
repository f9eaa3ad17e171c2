"""The warp: exact on whole pixels, padded where it leaves the image, equal to its twin."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revisage import kernels
from revisage.errors import DeviceError, OptionError, ShapeError

DTYPES = ["uint8", "uint16", "float16", "float32"]
PADDINGS = ["border", "zero", "reflect"]


def random_image(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if dtype.startswith("u"):
        return random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    return random.standard_normal(shape).astype(dtype)


def constant_flow(rows: int, columns: int, dx: float, dy: float) -> np.ndarray:
    return np.broadcast_to(np.array([dx, dy], np.float32), (rows, columns, 2)).copy()


def same(first: np.ndarray, second: np.ndarray) -> bool:
    return first.dtype == second.dtype and np.array_equal(
        first, second, equal_nan=first.dtype.kind == "f"
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 3), (2, 9, 7, 4)])
def test_identity(impl: str, dtype: str, padding: Any, shape: tuple[int, ...]) -> None:
    image = random_image(np.random.default_rng(1), shape, dtype)
    flow = constant_flow(9, 7, 0, 0)
    assert same(kernels.flow_warp(image, flow, padding=padding, impl=impl), image)
    matrix = [[1, 0, 0], [0, 1, 0]]
    assert same(kernels.flow_warp(image, matrix=matrix, padding=padding, impl=impl), image)


@pytest.mark.parametrize("dtype", DTYPES)
def test_flips(impl: str, dtype: str, random: np.random.Generator) -> None:
    image = random_image(random, (6, 8, 3), dtype)
    flow = constant_flow(6, 8, 0, 0)
    flow[..., 0] = 7 - 2 * np.arange(8)
    assert same(kernels.flow_warp(image, flow, impl=impl), image[:, ::-1])
    matrix = [[1, 0, 0], [0, -1, 5]]
    assert same(kernels.flow_warp(image, matrix=matrix, impl=impl), image[::-1])


@pytest.mark.parametrize(
    ("padding", "expected"),
    [("border", [4, 5, 5, 5]), ("zero", [4, 5, 0, 0]), ("reflect", [4, 5, 4, 3])],
)
def test_whole_pixel_shift_and_padding(impl: str, padding: Any, expected: list[int]) -> None:
    image = np.array([[2, 3, 4, 5]], np.uint8)
    result = kernels.flow_warp(image, constant_flow(1, 4, 2, 0), padding=padding, impl=impl)
    assert result.tolist() == [expected]


def test_fractions_survive_far_from_the_origin(impl: str) -> None:
    """float32 cannot tell x from x + 1/1024 here; fractions are split off before x is added."""
    image = np.tile(np.array([0, 1], np.float32), 35000)[None]
    result = kernels.flow_warp(image, constant_flow(1, 70000, 1 / 1024, 0), impl=impl)
    assert (result[0, 60000:65000:2] == 1 / 1024).all()
    shifted = kernels.flow_warp(image, constant_flow(1, 70000, 1, 0), impl=impl)
    assert np.array_equal(shifted[0, :-1], image[0, 1:])


def test_half_pixel_shift_is_the_mean(impl: str) -> None:
    image = np.array([[0, 1, 3, 100]], np.uint8)
    result = kernels.flow_warp(image, constant_flow(1, 4, 0.5, 0), padding="zero", impl=impl)
    assert result.tolist() == [[1, 2, 52, 50]]  # 0.5, 2, 51.5, 50: halves upwards


def test_whole_pixels_do_not_touch_neighbours(impl: str) -> None:
    image = np.array([[1.0, np.inf, 2.0, np.nan]], np.float32)
    assert same(kernels.flow_warp(image, constant_flow(1, 4, 0, 0), impl=impl), image)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -1e30])
@pytest.mark.parametrize("padding", PADDINGS)
def test_wild_flows(impl: str, value: float, padding: Any) -> None:
    image = np.arange(1, 13, dtype=np.uint8).reshape(3, 4)
    flow = constant_flow(3, 4, value, value)
    result = kernels.flow_warp(image, flow, padding=padding, impl=impl)
    if padding == "zero":
        assert not result.any()
    elif padding == "border":
        assert (result == (12 if value > 0 else 1)).all()
    else:
        assert np.isin(result, image).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_agree(impl: str, dtype: str, random: np.random.Generator) -> None:
    image = random_image(random, (2, 11, 13, 5), dtype)
    flow = random.standard_normal((11, 13, 2)).astype(np.float32) * 3
    hwc = kernels.flow_warp(image, flow, impl=impl)
    planar = np.ascontiguousarray(image.transpose(0, 3, 1, 2))
    chw = kernels.flow_warp(planar, flow, layout="chw", impl=impl)
    assert same(chw.transpose(0, 2, 3, 1), hwc)
    single = kernels.flow_warp(image[1], flow, impl=impl)
    assert same(single, hwc[1])


def test_batch_with_own_flows(impl: str, random: np.random.Generator) -> None:
    images = random_image(random, (3, 8, 9, 2), "float32")
    flows = random.standard_normal((3, 8, 9, 2)).astype(np.float32)
    result = kernels.flow_warp(images, flows, impl=impl)
    for index in range(3):
        assert same(result[index], kernels.flow_warp(images[index], flows[index], impl=impl))


def test_low_resolution_flow(impl: str, random: np.random.Generator) -> None:
    """A constant flow stays constant; a linear one is read with half-pixel centres."""
    image = random_image(random, (12, 16), "float32")
    low = kernels.flow_warp(image, constant_flow(3, 4, 1, 2), impl=impl)
    assert same(low, kernels.flow_warp(image, constant_flow(12, 16, 1, 2), impl=impl))
    ramp = np.zeros((1, 4, 2), np.float32)
    ramp[0, :, 0] = [0, 4, 8, 12]
    wide = np.arange(64, dtype=np.float32)[None]
    result = kernels.flow_warp(wide, ramp, size=(1, 16), impl=impl)
    upsampled = ((np.arange(16) + 0.5) / 4 - 0.5).clip(0, 3) * 4
    assert np.array_equal(result[0], np.arange(16) + upsampled)


def test_size_and_matrix(impl: str) -> None:
    """Twice the size: output pixel x lies at x / 2."""
    image = np.array([[0, 10, 20]], np.float32)
    matrix = [[0.5, 0, 0], [0, 0.5, 0]]
    result = kernels.flow_warp(image, matrix=matrix, size=(1, 6), impl=impl)
    assert result.tolist() == [[0, 5, 10, 15, 20, 20]]
    assert kernels.flow_warp(image, matrix=matrix, size=(5, 2), impl=impl).shape == (5, 2)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(DTYPES),
    padding=st.sampled_from(PADDINGS),
    layout=st.sampled_from(["hwc", "chw"]),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 24), st.integers(1, 24), st.integers(1, 5)),
    size=st.tuples(st.integers(1, 30), st.integers(1, 300)),
    kind=st.sampled_from(["flow", "low", "matrix"]),
)
def test_native_equals_reference_bit_for_bit(
    seed: int,
    dtype: str,
    padding: Any,
    layout: Any,
    shape: tuple[int, int, int, int],
    size: tuple[int, int],
    kind: str,
) -> None:
    if not kernels.HAS_NATIVE:
        pytest.skip("the native kernels are not built")
    random = np.random.default_rng(seed)
    n, height, width, channels = shape
    planar = (n, channels, height, width)
    image = random_image(random, planar if layout == "chw" else shape, dtype)
    call: dict[str, Any] = {"padding": padding, "layout": layout, "size": size}
    if kind == "matrix":
        call["matrix"] = np.eye(2, 3) + random.standard_normal((2, 3))
    else:
        low = (int(random.integers(1, size[0] + 1)), int(random.integers(1, size[1] + 1)))
        flow = random.standard_normal((*(low if kind == "low" else size), 2)).astype(np.float32)
        flow *= np.float32(10 ** random.uniform(-1, 3))
        flow.ravel()[random.integers(0, flow.size)] = random.choice([np.nan, np.inf, -3e38])
        call["flow"] = flow
    native = kernels.flow_warp(image, **call, impl="native")
    assert same(native, kernels.flow_warp(image, **call, impl="reference"))
    for threads in (1, 2, 5):
        assert same(native, kernels.flow_warp(image, **call, threads=threads))


def some_calls(random: np.random.Generator, size: tuple[int, int]) -> list[dict[str, Any]]:
    """A flow that leaves the image here and there, a smaller one, a turn, and a large zoom out."""
    rows, columns = size
    flow = (random.standard_normal((rows, columns, 2)) * 4).astype(np.float32)
    flow[:, columns // 2 :] = np.rint(flow[:, columns // 2 :])
    flow[rows // 2, columns // 3] = np.nan, -np.inf
    low = flow[: (rows + 4) // 5, : (columns + 2) // 3]
    turn, zoom = [[0.9, 0.4, -3.3], [-0.4, 0.9, 7.1]], [[9, 0, -100.5], [0, -7, 90.25]]
    return [{"flow": flow}, {"flow": low.copy()}, {"matrix": turn}, {"matrix": zoom}]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["hwc", "chw"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_each_instruction_set_equals_reference(
    isa: str, dtype: str, layout: Any, channels: int, random: np.random.Generator
) -> None:
    image = random_image(random, (41, 67, channels), dtype)
    image = np.ascontiguousarray(image.transpose(2, 0, 1)) if layout == "chw" else image
    size = (23, 301)  # several chunks of a row, and a group that is not full
    for call in some_calls(random, size):
        for padding in PADDINGS:
            options: dict[str, Any] = {"padding": padding, "layout": layout, "size": size, **call}
            expected = kernels.flow_warp(image, **options, impl="reference")
            assert same(kernels.flow_warp(image, **options), expected), (padding, list(call))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 2), (2, 50), (50, 2), (3, 3)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_small_images(
    isa: str, dtype: str, padding: Any, shape: tuple[int, int], channels: int
) -> None:
    random = np.random.default_rng(3)
    image = random_image(random, (*shape, channels), dtype)
    for size in ((1, 1), (2, 17), shape):
        for call in some_calls(random, size):
            options: dict[str, Any] = {"padding": padding, "size": size, **call}
            expected = kernels.flow_warp(image, **options, impl="reference")
            assert same(kernels.flow_warp(image, **options), expected), (size, list(call))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_arrays_aligned_to_one_sample(
    isa: str, dtype: str, channels: int, random: np.random.Generator
) -> None:
    shape = (19, 45, channels)

    def off_by_one(values: np.ndarray) -> np.ndarray:
        memory = np.zeros(values.size + 1, values.dtype)
        memory[1:] = values.ravel()
        return memory[1:].reshape(values.shape)

    image = off_by_one(random_image(random, shape, dtype))
    flow = off_by_one(random.standard_normal((19, 45, 2)).astype(np.float32))
    out = off_by_one(np.zeros(shape, dtype))
    kernels.flow_warp_into(out, image, flow)
    assert same(out, kernels.flow_warp(image, flow, impl="reference"))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("kind", ["noise", "black and white", "checkers"])
def test_bytes_are_within_a_level_of_floats(
    impl: str, padding: Any, kind: str, random: np.random.Generator
) -> None:
    """And so near that half a level of rounding, and 0.04 of fixed point, is all."""
    image = random_image(random, (64, 96, 3), "uint8")
    if kind == "black and white":
        image = np.where(image < 128, np.uint8(0), np.uint8(255))
    elif kind == "checkers":
        y, x = np.indices((64, 96))
        image = np.repeat(((x + y) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    flow = random.uniform(-9, 9, (64, 96, 2)).astype(np.float32)
    flow[:32] = np.rint(flow[:32] * 2**14) / np.float32(2**14) + np.float32(2**-15)
    bytes_ = kernels.flow_warp(image, flow, padding=padding, impl=impl)
    floats = kernels.flow_warp(image.astype(np.float32), flow, padding=padding, impl=impl)
    assert np.abs(bytes_ - floats).max() <= 0.54
    assert np.abs(bytes_ - np.rint(floats)).max() <= 1


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_mixes_stay_between_their_taps(impl: str, dtype: str, random: np.random.Generator) -> None:
    top = np.iinfo(dtype).max
    flow = random.uniform(-50, 50, (200, 300, 2)).astype(np.float32)
    for low, high in ((top, top), (top - 1, top), (0, 1), (100, 101)):
        image = random.integers(low, high, (200, 300), dtype, endpoint=True)
        result = kernels.flow_warp(image, flow, impl=impl)
        assert result.min() >= low
        assert result.max() <= high


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_agrees_with_opencv(native: str, dtype: str, random: np.random.Generator) -> None:
    cv2 = pytest.importorskip("cv2")
    image = cv2.GaussianBlur(random.uniform(0, 255, (60, 80, 3)).astype(dtype), (0, 0), 2)
    flow = cv2.GaussianBlur(random.standard_normal((60, 80, 2)).astype(np.float32) * 40, (0, 0), 3)
    x, y = np.meshgrid(np.arange(80, dtype=np.float32), np.arange(60, dtype=np.float32))
    expected = cv2.remap(
        image,
        x + flow[..., 0],
        y + flow[..., 1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    result = kernels.flow_warp(image, flow, impl=native)
    # OpenCV rounds positions to 1/32 pixel, so it may be off by half of that times the steepest
    # step between neighbours, along each axis; and u8 rounds once more.
    steps = [np.abs(np.diff(image.astype(float), axis=axis)).max() for axis in (0, 1)]
    tolerance = sum(steps) / 64 + (1 if dtype == "uint8" else 1e-3)
    assert np.abs(result.astype(np.float64) - expected).max() <= tolerance


def test_torch_comes_back_as_torch(impl: str, random: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    image = random_image(random, (3, 10, 12), "float32")
    flow = random.standard_normal((10, 12, 2)).astype(np.float32)
    expected = kernels.flow_warp(image, flow, layout="chw", impl=impl)
    tensors = torch.from_numpy(image), torch.from_numpy(flow)
    result = kernels.flow_warp(*tensors, layout="chw", impl=impl)
    assert isinstance(result, torch.Tensor)
    assert same(result.numpy(), expected)
    out = torch.empty_like(result)
    kernels.flow_warp_into(out, *tensors, layout="chw", impl=impl)
    assert same(out.numpy(), expected)


IMAGE = np.zeros((5, 6, 3), np.uint8)
FLOW = np.zeros((5, 6, 2), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"image": IMAGE}, OptionError, "either flow or matrix"),
        ({"image": IMAGE, "flow": FLOW, "matrix": np.eye(2, 3)}, OptionError, "either flow"),
        ({"image": IMAGE, "flow": FLOW, "padding": "wrap"}, OptionError, "padding must be"),
        ({"image": IMAGE, "flow": FLOW, "layout": "nhwc"}, OptionError, "layout must be"),
        ({"image": IMAGE, "flow": FLOW, "size": (0, 4)}, OptionError, "size must be"),
        ({"image": IMAGE, "flow": FLOW, "size": 7}, OptionError, "size must be"),
        ({"image": IMAGE, "flow": FLOW, "size": (4, 6)}, ShapeError, "larger than the result"),
        ({"image": IMAGE, "flow": FLOW.astype(float)}, ShapeError, "flow must be float32"),
        ({"image": IMAGE, "flow": FLOW[..., :1]}, ShapeError, "flow must be [h, w, 2]"),
        ({"image": IMAGE.astype(float), "flow": FLOW}, ShapeError, "image must be uint8"),
        ({"image": IMAGE[0, 0], "flow": FLOW}, ShapeError, "image must be [H, W]"),
        ({"image": IMAGE[:0], "flow": FLOW}, ShapeError, "not empty"),
        ({"image": IMAGE[None], "flow": np.stack([FLOW] * 2)}, ShapeError, "flow must be [1,"),
        ({"image": IMAGE, "matrix": np.eye(2)}, ShapeError, "matrix must be [2, 3]"),
        ({"image": IMAGE, "matrix": np.full((2, 3), np.inf)}, OptionError, "finite"),
    ],
)
def test_errors(call: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        kernels.flow_warp(**call)


def test_bad_outputs_are_refused(impl: str) -> None:
    image = np.zeros((5, 6, 3), np.float32)
    for out, message in [
        (np.zeros((5, 6), np.float32), "out must have 3 axes"),
        (np.zeros((5, 6, 4), np.float32), "out must be float32"),
        (np.zeros((5, 12, 3), np.float32)[:, ::2], "C-contiguous"),
        (np.broadcast_to(np.float32(0), (5, 6, 3)), "read-only"),
        (image, "overlaps image"),
    ]:
        with pytest.raises(ShapeError, match=message):
            kernels.flow_warp_into(out, image, FLOW, impl=impl)


def test_cuda_host_side_checks(native: str, fake_cuda: Any) -> None:
    image, out = fake_cuda((5, 6, 3), data=(8192, True)), fake_cuda((7, 8, 3))
    flow = fake_cuda((5, 6, 2), data=(65536, True))
    with pytest.raises(ShapeError, match="out must be float32"):
        kernels.flow_warp_into(fake_cuda((7, 8, 4)), image, flow)
    with pytest.raises(ShapeError, match="out overlaps flow"):
        kernels.flow_warp_into(out, image, fake_cuda((5, 6, 2), data=(4100, True)))
    if "cuda:0" not in kernels.available_devices():
        with pytest.raises(DeviceError, match="copy the arrays to the host"):
            kernels.flow_warp_into(out, image, flow)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", PADDINGS)
def test_cuda_equals_reference_bit_for_bit(
    dtype: str, padding: Any, random: np.random.Generator, to_cuda: Any, to_host: Any
) -> None:
    image = random_image(random, (2, 61, 83, 3), dtype)
    flow = random.standard_normal((20, 30, 2)).astype(np.float32) * 20
    flow[3, 4] = np.nan
    call: dict[str, Any] = {"padding": padding, "size": (70, 90)}
    expected = kernels.flow_warp(image, flow, impl="reference", **call)
    result = kernels.flow_warp(to_cuda(image), to_cuda(flow), **call)
    assert same(to_host(result), expected)
