"""The CUDA kernels of the warp, emulated on the CPU and (marked `cuda`) on a GPU."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from emulated_cuda import EmulatedError
from hypothesis import given, settings
from hypothesis import strategies as st

from revisage import kernels

DTYPES = ["uint8", "uint16", "float16", "bfloat16", "float32"]
PADDINGS = ["border", "zero", "reflect"]


def random_image(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """bfloat16 as its bits in uint16."""
    if dtype.startswith("u"):
        return random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    values = random.standard_normal(shape).astype(np.float32)
    return to_bfloat16(values) if dtype == "bfloat16" else values.astype(dtype)


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def twin(image: np.ndarray, dtype: str, flow: np.ndarray | None, **call: Any) -> np.ndarray:
    """What the twin gives; for bfloat16 its float32 result on the same samples, rounded once."""
    if dtype != "bfloat16":
        return kernels.flow_warp(image, flow, impl="reference", **call)
    return to_bfloat16(kernels.flow_warp(from_bfloat16(image), flow, impl="reference", **call))


def same(first: np.ndarray, second: np.ndarray) -> bool:
    return first.dtype == second.dtype and np.array_equal(
        first, second, equal_nan=first.dtype.kind == "f"
    )


def emulate(
    op: Any,
    image: np.ndarray,
    dtype: str,
    flow: np.ndarray | None,
    expected: np.ndarray,
    *,
    matrix: Any = None,
    padding: str = "border",
    layout: str = "hwc",
    alignment: int = 256,
) -> None:
    """Asserts that the emulated kernel fills an output with exactly `expected`."""
    arrays = {
        "out": op.array(np.full_like(expected, 77), alignment),
        "image": op.array(image, alignment),
        "flow": None if flow is None else op.array(flow, max(4, alignment)),
    }
    numbers = np.eye(2, 3) if matrix is None else np.asarray(matrix, float)
    op(
        arrays,
        PADDINGS.index(padding),
        layout == "hwc",
        *numbers.ravel(),
        dtypes={"out": dtype, "image": dtype},
    )
    assert same(arrays["out"], expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["hwc", "chw"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_emulated_kernel_equals_the_twin(
    emulated_cuda: Any, random: np.random.Generator, dtype: str, layout: str, channels: int
) -> None:
    """Sizes beyond a block in both directions, several images, and a flow with bad values."""
    sides = [(2, *((channels, h, w) if layout == "chw" else (h, w, channels)))
             for h, w in ((19, 70), (21, 75))]  # fmt: skip
    image = random_image(random, sides[0], dtype)
    flow = random.standard_normal((2, 21, 75, 2)).astype(np.float32) * 4
    flow[0, 3, 4], flow[1, 5, 6] = np.nan, np.inf
    for padding in PADDINGS:
        call: dict[str, Any] = {"padding": padding, "layout": layout}
        expected = twin(image, dtype, flow, size=(21, 75), **call)
        emulate(emulated_cuda("flow_warp"), image, dtype, flow, expected, **call)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(DTYPES),
    padding=st.sampled_from(PADDINGS),
    layout=st.sampled_from(["hwc", "chw"]),
    shape=st.tuples(st.integers(1, 2), st.integers(1, 20), st.integers(1, 90), st.integers(1, 5)),
    size=st.tuples(st.integers(1, 20), st.integers(1, 140)),
    kind=st.sampled_from(["flow", "low", "matrix"]),
    alignment=st.sampled_from([4, 8, 256]),
)
def test_emulated_kernel_on_random_shapes(
    emulated_cuda: Any,
    seed: int,
    dtype: str,
    padding: str,
    layout: str,
    shape: tuple[int, int, int, int],
    size: tuple[int, int],
    kind: str,
    alignment: int,
) -> None:
    random = np.random.default_rng(seed)
    n, height, width, channels = shape
    planar = (n, channels, height, width)
    image = random_image(random, planar if layout == "chw" else shape, dtype)
    call: dict[str, Any] = {"padding": padding, "layout": layout}
    flow = None
    if kind == "matrix":
        call["matrix"] = np.eye(2, 3) + random.standard_normal((2, 3))
    else:
        low = (random.integers(1, size[0] + 1), random.integers(1, size[1] + 1))
        sides = size if kind == "flow" else low
        flow = random.standard_normal((*sides, 2)).astype(np.float32) * 8
    expected = twin(image, dtype, flow, size=size, **call)
    emulate(emulated_cuda("flow_warp"), image, dtype, flow, expected, alignment=alignment, **call)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("offset", [1, 2, 3])
def test_arrays_that_begin_anywhere(
    emulated_cuda: Any, random: np.random.Generator, dtype: str, channels: int, offset: int
) -> None:
    """Views into larger arrays: aligned to a sample, and to nothing more."""
    op = emulated_cuda("flow_warp")
    image = random_image(random, (7, 66, channels), dtype)
    flow = random.standard_normal((7, 66, 2)).astype(np.float32) * 3
    expected = twin(image, dtype, flow)
    arrays = {"out": np.zeros_like(image), "image": image, "flow": flow}
    for name, values in arrays.items():
        whole = op.array(np.concatenate([np.zeros(offset, values.dtype), values.ravel()]))
        arrays[name] = whole[offset:].reshape(values.shape)
    op(arrays, 0, True, *np.eye(2, 3).ravel())
    assert same(arrays["out"], expected)


FLOATS = ["float32", "float16", "bfloat16"]


def as_float32(array: np.ndarray, dtype: str) -> np.ndarray:
    return from_bfloat16(array) if dtype == "bfloat16" else array.astype(np.float32)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", ["hwc", "chw"])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(
    "flow_size", [(2, 21, 75), (21, 75), (2, 21, 9), (3, 75), (1, 1), (20, 74)]
)
def test_emulated_gradients_equal_the_twin(
    emulated_cuda: Any,
    random: np.random.Generator,
    dtype: str,
    layout: Any,
    padding: Any,
    flow_size: tuple[int, ...],
) -> None:
    """A flow of each kind: for each image or shared, dense or smaller along one side or both."""
    image, grad = (
        random_image(random, (2, *((3, h, w) if layout == "chw" else (h, w, 3))), dtype)
        for h, w in ((19, 70), (21, 75))
    )
    flow = random.standard_normal((*flow_size, 2)).astype(np.float32) * 3
    if flow.size > 1000:
        flow[..., 3, 4, 0], flow[..., 5, 6, :] = np.nan, np.inf
        flow[..., 8:12, 20:50, :] = 1.25  # neighbours that share taps
    op = emulated_cuda("flow_warp")
    expected = kernels.flow_warp_backward(
        *(as_float32(a, dtype) for a in (grad, image)),
        flow,
        padding=padding,
        layout=layout,
        impl="reference",
    )
    arrays = {
        "grad_image": op.array(np.full(image.shape, np.nan, np.float32)),
        "grad_flow": op.array(np.full(flow.shape, np.nan, np.float32)),
        "grad": op.array(grad),
        "image": op.array(image),
        "flow": op.array(flow),
    }
    call: dict[str, Any] = {
        "dtypes": {"grad": dtype, "image": dtype},
        "entry": "flow_warp_backward",
    }
    numbers = PADDINGS.index(padding), layout == "hwc"
    op(arrays, *numbers, **call)
    both = arrays["grad_image"].copy(), arrays["grad_flow"].copy()
    for result, wanted in zip(both, expected, strict=True):
        bound = 2e-6 * max(1.0, float(np.abs(wanted).max()))
        np.testing.assert_allclose(result, wanted, atol=10 * bound)
    for index, name in enumerate(("grad_image", "grad_flow")):
        arrays[name][...] = np.nan
        op({**arrays, ("grad_flow", "grad_image")[index]: None}, *numbers, **call)
        assert same(arrays[name], both[index])  # the emulator's order of sums is fixed


def claimed_array(address: int, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 memory that nobody has and nobody may touch."""
    byte = np.frombuffer((ctypes.c_ubyte * 1).from_address(address), np.uint8)
    return np.lib.stride_tricks.as_strided(byte, shape, (0,) * len(shape))


def test_more_pixels_than_a_grid_has_blocks(emulated_cuda: Any) -> None:
    """Refused by arithmetic, before any memory is touched."""
    op = emulated_cuda("flow_warp")
    image = op.array(np.zeros((4096, 1, 1, 1), np.uint8))
    out = claimed_array(1 << 46, (4096, 2**23, 64, 1))
    with pytest.raises(EmulatedError, match="out has more pixels than one call"):
        op({"out": out, "image": image, "flow": None}, 0, True, *np.eye(2, 3).ravel())


@pytest.mark.parametrize(
    "shape",
    [
        (26754, 26754, 3),  # the last image whose samples 31 bits count, and the first beyond
        (26755, 26755, 3),
        (46341, 46341, 1),
        (23171, 23171, 4),
    ],
)
def test_images_around_two_to_the_31_samples(
    emulated_cuda: Any, random: np.random.Generator, shape: tuple[int, ...]
) -> None:
    """Only the far corner is touched, so the rest costs no memory."""
    image = np.zeros(shape, np.uint8)
    corner = (slice(-12, None), slice(-80, None))
    image[corner] = random_image(random, image[corner].shape, "uint8")
    matrix = [[1, 0, shape[1] - 77.5], [0, 1, shape[0] - 9.25]]
    expected = twin(image, "uint8", None, matrix=matrix, size=(12, 90), padding="zero")
    out = np.full_like(expected, 77)
    op = emulated_cuda("flow_warp")
    op({"out": out, "image": image, "flow": None}, 1, True, *np.ravel(matrix))
    assert same(out, expected)


def cuda_torch() -> Any:
    return pytest.importorskip("torch")


def cuda_tensor(array: np.ndarray, dtype: str) -> Any:
    torch = cuda_torch()
    if dtype == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).cuda()
    return torch.from_numpy(array).cuda()


def host_array(tensor: Any, dtype: str) -> np.ndarray:
    torch = cuda_torch()
    if dtype == "bfloat16":
        tensor = tensor.view(torch.int16)
        return np.asarray(tensor.cpu().numpy().view(np.uint16))
    return np.asarray(tensor.cpu().numpy())


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["hwc", "chw"])
@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_cuda_equals_the_twin(
    random: np.random.Generator, dtype: str, layout: Any, channels: int
) -> None:
    shape = (2, channels, 61, 130) if layout == "chw" else (2, 61, 130, channels)
    image = random_image(random, shape, dtype)
    for flow_size in ((70, 133), (9, 17)):
        flow = random.standard_normal((*flow_size, 2)).astype(np.float32) * 20
        flow[3, 4] = np.nan
        for padding in PADDINGS:
            call: dict[str, Any] = {"padding": padding, "layout": layout, "size": (70, 133)}
            result = kernels.flow_warp(cuda_tensor(image, dtype), cuda_tensor(flow, "float32"),
                                       **call)  # fmt: skip
            assert same(host_array(result, dtype), twin(image, dtype, flow, **call))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", ["hwc", "chw"])
@pytest.mark.parametrize("flow_size", [(2, 70, 133), (70, 133), (9, 17)])
def test_cuda_gradients_equal_the_twin(
    random: np.random.Generator, dtype: str, layout: Any, flow_size: tuple[int, ...]
) -> None:
    image, grad = (
        random_image(random, (2, *((3, h, w) if layout == "chw" else (h, w, 3))), dtype)
        for h, w in ((61, 130), (70, 133))
    )
    flow = random.standard_normal((*flow_size, 2)).astype(np.float32) * 10
    for padding in PADDINGS:
        call: dict[str, Any] = {"padding": padding, "layout": layout}
        expected = kernels.flow_warp_backward(
            *(as_float32(a, dtype) for a in (grad, image)), flow, impl="reference", **call
        )
        tensors = cuda_tensor(grad, dtype), cuda_tensor(image, dtype), cuda_tensor(flow, "float32")
        results = kernels.flow_warp_backward(*tensors, **call)
        for result, wanted in zip(results, expected, strict=True):
            bound = 2e-5 * max(1.0, float(np.abs(wanted).max()))
            np.testing.assert_allclose(host_array(result, "float32"), wanted, atol=bound)


@pytest.mark.cuda
def test_cuda_graph_and_stream(random: np.random.Generator) -> None:
    """Captured on a stream of its own, replayed with other values in the same memory."""
    torch = cuda_torch()
    first, second = (random_image(random, (33, 70, 3), "float32") for _ in range(2))
    flow = random.standard_normal((33, 70, 2)).astype(np.float32)
    image, steps = cuda_tensor(first, "float32"), cuda_tensor(flow, "float32")
    out = torch.empty_like(image)
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        kernels.flow_warp_into(out, image, steps)  # the stream is torch's current one
    stream.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        kernels.flow_warp_into(out, image, steps)
    image.copy_(cuda_tensor(second, "float32"))
    graph.replay()
    torch.cuda.synchronize()
    assert same(host_array(out, "float32"), twin(second, "float32", flow))
    kernels.flow_warp_into(out, image, steps, stream=torch.cuda.Stream())
    torch.cuda.synchronize()
    assert same(host_array(out, "float32"), twin(second, "float32", flow))


@pytest.mark.cuda
def test_cuda_arrays_on_a_device_that_is_not_current(random: np.random.Generator) -> None:
    torch = cuda_torch()
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    image = random_image(random, (9, 7, 3), "uint8")
    flow = random.standard_normal((9, 7, 2)).astype(np.float32)
    with torch.cuda.device(0):
        result = kernels.flow_warp(torch.from_numpy(image).to("cuda:1"),
                                   torch.from_numpy(flow).to("cuda:1"))  # fmt: skip
        assert torch.cuda.current_device() == 0
    assert same(result.cpu().numpy(), twin(image, "uint8", flow))
