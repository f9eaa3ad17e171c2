"""The gradients of the warp: obvious ones, finite differences, torch; then twin and native."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revisage import kernels
from revisage.errors import DeviceError, OptionError, ShapeError

PADDINGS = ["border", "zero", "reflect"]


def constant_flow(rows: int, columns: int, dx: float, dy: float) -> np.ndarray:
    return np.broadcast_to(np.array([dx, dy], np.float32), (rows, columns, 2)).copy()


def smooth_flow(random: np.random.Generator, shape: tuple[int, ...], reach: float) -> np.ndarray:
    return (random.standard_normal(shape) * reach).astype(np.float32)


@pytest.mark.parametrize("padding", PADDINGS)
def test_identity(impl: str, padding: Any, random: np.random.Generator) -> None:
    """grad_image is grad; grad_flow the differences to the right and lower neighbours."""
    image, grad = (random.standard_normal((6, 5)).astype(np.float32) for _ in range(2))
    flow = constant_flow(6, 5, 0, 0)
    grad_image, grad_flow = kernels.flow_warp_backward(
        grad, image, flow, padding=padding, impl=impl
    )
    assert np.array_equal(grad_image, grad)
    inner = (slice(None, -1), slice(None, -1))
    right = (grad * (np.roll(image, -1, axis=1) - image))[inner]
    below = (grad * (np.roll(image, -1, axis=0) - image))[inner]
    np.testing.assert_allclose(grad_flow[(*inner, 0)], right, rtol=1e-6)
    np.testing.assert_allclose(grad_flow[(*inner, 1)], below, rtol=1e-6)


@pytest.mark.parametrize(
    ("padding", "image_grad", "flow_grad"),
    [
        # Output pixels read columns 2, 3, 4 and 5 of an image with the columns 0 to 3.
        ("border", [0, 0, 1, 7], [2, 0, 0, 0]),
        ("zero", [0, 0, 1, 2], [2, -2 * 7, 0, 0]),
        ("reflect", [0, 4, 1 + 3, 2], [2, 2 * -2, 3 * -2, 4 * -3]),
    ],
)
def test_padding(impl: str, padding: Any, image_grad: list[int], flow_grad: list[int]) -> None:
    image = np.array([[0, 3, 5, 7]], np.float32)
    grad = np.array([[1, 2, 3, 4]], np.float32)
    if padding == "border":
        image_grad = [0, 0, 1, 2 + 3 + 4]
    result = kernels.flow_warp_backward(
        grad, image, constant_flow(1, 4, 2, 0), padding=padding, impl=impl
    )
    assert result[0].tolist() == [image_grad]
    assert result[1][..., 0].tolist() == [flow_grad]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**30, -(2.0**31)])
@pytest.mark.parametrize("padding", PADDINGS)
def test_positions_far_outside_have_no_derivative(impl: str, value: float, padding: Any) -> None:
    image = np.arange(12, dtype=np.float32).reshape(3, 4)
    flow = constant_flow(3, 4, 0, 0)
    flow[1, 2, 0] = value
    grad_image, grad_flow = kernels.flow_warp_backward(
        np.ones_like(image), image, flow, padding=padding, impl=impl
    )
    assert grad_flow[1, 2, 0] == 0
    assert np.isfinite(grad_flow).all()
    assert grad_image.sum() == (11 if padding == "zero" else 12)


def bilinear(image: np.ndarray, flow: np.ndarray, padding: str) -> np.ndarray:
    """A third opinion on the forward, in float64, one pixel and one tap at a time."""
    height, width = image.shape
    out = np.zeros(flow.shape[:2])
    for y, x in np.ndindex(*out.shape):
        u, v = x + flow[y, x, 0], y + flow[y, x, 1]
        for r in (int(np.floor(v)), int(np.floor(v)) + 1):
            for c in (int(np.floor(u)), int(np.floor(u)) + 1):
                weight = (1 - abs(u - c)) * (1 - abs(v - r))
                if padding == "zero" and not (0 <= r < height and 0 <= c < width):
                    continue
                if padding == "border":
                    at = min(max(r, 0), height - 1), min(max(c, 0), width - 1)
                else:
                    at = tuple(
                        int(np.pad(np.arange(n), 3 * n, mode="reflect")[i + 3 * n])
                        for i, n in ((r, height), (c, width))
                    )
                out[y, x] += weight * image[at]
    return out


@pytest.mark.parametrize("padding", PADDINGS)
def test_finite_differences(impl: str, padding: Any, random: np.random.Generator) -> None:
    image = random.standard_normal((5, 6)).astype(np.float32)
    grad = random.standard_normal((4, 7)).astype(np.float32)
    # Kinks are at whole numbers: fractions stay 0.1 away from them.
    flow = random.integers(-4, 4, (4, 7, 2)) + random.uniform(0.1, 0.9, (4, 7, 2))
    flow = flow.astype(np.float32)
    grad_image, grad_flow = kernels.flow_warp_backward(
        grad, image, flow, padding=padding, impl=impl
    )

    def loss(image: np.ndarray, flow: np.ndarray) -> float:
        return float((grad * bilinear(image, flow, padding)).sum())

    for array, gradient in ((image, grad_image), (flow, grad_flow)):
        for index in np.ndindex(*array.shape):
            change = np.zeros(array.shape)
            change[index] = 1e-3
            moved = [array + sign * change for sign in (1, -1)]
            pair = [(m, flow) if array is image else (image, m) for m in moved]
            expected = (loss(*pair[0]) - loss(*pair[1])) / 2e-3
            assert abs(gradient[index] - expected) < 1e-5, index


@pytest.mark.parametrize("padding", PADDINGS)
def test_torch_grid_sample_agrees(impl: str, padding: Any, random: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    n, channels, height, width, rows, columns = 2, 3, 11, 13, 9, 16
    image = random.standard_normal((n, channels, height, width)).astype(np.float32)
    grad = random.standard_normal((n, channels, rows, columns)).astype(np.float32)
    whole = random.integers(-6, 6, (n, rows, columns, 2))
    flow = (whole + random.uniform(0.05, 0.95, whole.shape)).astype(np.float32)
    result = kernels.flow_warp_backward(grad, image, flow, padding=padding, layout="chw", impl=impl)
    tensor = torch.from_numpy(image).double().requires_grad_()
    step = torch.from_numpy(flow).double().requires_grad_()
    x = (step[..., 0] + torch.arange(columns)) * 2 / (width - 1) - 1
    y = (step[..., 1] + torch.arange(rows)[:, None]) * 2 / (height - 1) - 1
    mode = {"border": "border", "zero": "zeros", "reflect": "reflection"}[padding]
    out = torch.nn.functional.grid_sample(
        tensor, torch.stack([x, y], dim=-1), padding_mode=mode, align_corners=True
    )
    out.backward(torch.from_numpy(grad).double())
    np.testing.assert_allclose(result[0], tensor.grad.numpy(), atol=2e-5)
    np.testing.assert_allclose(result[1], step.grad.numpy(), atol=2e-5)


def test_smaller_flow_takes_the_sum_over_what_it_moves(
    impl: str, random: np.random.Generator
) -> None:
    """The gradient in a smaller flow is that of the dense flow, through torch's own upsampling."""
    torch = pytest.importorskip("torch")
    image, grad = (random.standard_normal((24, 20, 3)).astype(np.float32) for _ in range(2))
    low = torch.from_numpy(smooth_flow(random, (7, 5, 2), 3)).requires_grad_()
    dense = torch.nn.functional.interpolate(
        low.permute(2, 0, 1)[None], size=(24, 20), mode="bilinear", align_corners=False
    )[0].permute(1, 2, 0)
    grad_image, grad_flow = kernels.flow_warp_backward(grad, image, low.detach().numpy(), impl=impl)
    full_flow = np.ascontiguousarray(dense.detach().numpy())
    full = kernels.flow_warp_backward(grad, image, full_flow, impl=impl)
    dense.backward(torch.from_numpy(full[1]))
    np.testing.assert_allclose(grad_image, full[0], atol=1e-4)
    np.testing.assert_allclose(grad_flow, low.grad.numpy(), atol=1e-3)


def test_a_shared_flow_takes_the_sum_over_the_batch(impl: str, random: np.random.Generator) -> None:
    image, grad = (random.standard_normal((3, 9, 8, 2)).astype(np.float32) for _ in range(2))
    flow = smooth_flow(random, (4, 3, 2), 2)
    grad_image, grad_flow = kernels.flow_warp_backward(grad, image, flow, impl=impl)
    each = [kernels.flow_warp_backward(grad[i], image[i], flow, impl=impl) for i in range(3)]
    np.testing.assert_allclose(grad_image, np.stack([e[0] for e in each]), atol=1e-6)
    np.testing.assert_allclose(grad_flow, sum(e[1] for e in each), atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    padding=st.sampled_from(PADDINGS),
    layout=st.sampled_from(["hwc", "chw"]),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), st.integers(1, 5)),
    size=st.tuples(st.integers(1, 24), st.integers(1, 40)),
    low=st.booleans(),
    shared=st.booleans(),
)
def test_native_equals_reference(
    seed: int,
    padding: Any,
    layout: Any,
    shape: tuple[int, int, int, int],
    size: tuple[int, int],
    low: bool,
    shared: bool,
) -> None:
    if not kernels.HAS_NATIVE:
        pytest.skip("the native kernels are not built")
    random = np.random.default_rng(seed)
    n, height, width, channels = shape
    sides = [(n, channels, h, w) if layout == "chw" else (n, h, w, channels)
             for h, w in ((height, width), size)]  # fmt: skip
    image, grad = (random.standard_normal(s).astype(np.float32) for s in sides)
    flow_size = (random.integers(1, size[0], endpoint=True),
                 random.integers(1, size[1], endpoint=True)) if low else size  # fmt: skip
    flow = smooth_flow(random, (*(() if shared else (n,)), *flow_size, 2), 8)
    call: dict[str, Any] = {"padding": padding, "layout": layout}
    expected = kernels.flow_warp_backward(grad, image, flow, impl="reference", **call)
    results = [
        kernels.flow_warp_backward(grad, image, flow, impl="native", threads=threads, **call)
        for threads in (1, 3)
    ]
    for one, three, wanted in zip(*results, expected, strict=True):
        assert np.array_equal(one, three), "threads changed bits"
        # No sum has more absolute value than the whole of them.
        bound = 1e-5 * max(1.0, float(np.abs(grad).sum() * np.abs(image).max()) ** 0.5 * 10)
        np.testing.assert_allclose(one, wanted, atol=bound)


@pytest.mark.parametrize("layout", ["hwc", "chw"])
def test_threads_never_change_a_bit(native: str, layout: Any, random: np.random.Generator) -> None:
    shape = (200, 150, 3) if layout == "hwc" else (3, 200, 150)
    image, grad = (random.standard_normal(shape).astype(np.float32) for _ in range(2))
    flow = smooth_flow(random, (50, 30, 2), 40)
    results = [
        kernels.flow_warp_backward(grad, image, flow, layout=layout, threads=threads)
        for threads in (1, 2, 5, 16)
    ]
    for result in results[1:]:
        assert np.array_equal(result[0], results[0][0])
        assert np.array_equal(result[1], results[0][1])


def test_one_gradient_alone(impl: str, random: np.random.Generator) -> None:
    image, grad = (random.standard_normal((8, 9, 3)).astype(np.float32) for _ in range(2))
    flow = smooth_flow(random, (8, 9, 2), 2)
    both = kernels.flow_warp_backward(grad, image, flow, impl=impl)
    out = np.full_like(image, np.nan), np.full_like(flow, np.nan)
    kernels.flow_warp_backward_into((out[0], None), grad, image, flow, impl=impl)
    kernels.flow_warp_backward_into((None, out[1]), grad, image, flow, impl=impl)
    assert np.array_equal(out[0], both[0])
    assert np.array_equal(out[1], both[1])


IMAGE = np.zeros((5, 6, 3), np.float32)
FLOW = np.zeros((5, 6, 2), np.float32)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"padding": "wrap"}, OptionError, "padding must be"),
        ({"layout": "nhwc"}, OptionError, "layout must be"),
        ({"image": IMAGE.astype(np.uint8)}, ShapeError, "image must be float32"),
        ({"grad": IMAGE.astype(np.float16)}, ShapeError, "grad must be float32"),
        ({"grad": IMAGE[..., :2]}, ShapeError, "grad must be [H, W, 3]"),
        ({"flow": FLOW.astype(float)}, ShapeError, "flow must be float32"),
        ({"flow": np.zeros((6, 6, 2), np.float32)}, ShapeError, "larger than the result"),
    ],
)
def test_errors(change: dict[str, Any], error: type[Exception], message: str) -> None:
    call: dict[str, Any] = {"grad": IMAGE, "image": IMAGE.copy(), "flow": FLOW, **change}
    with pytest.raises(error, match=re.escape(message)):
        kernels.flow_warp_backward(**call)


def test_bad_outputs_are_refused(impl: str) -> None:
    image, grad = IMAGE.copy(), IMAGE.copy()
    for out, message in [
        ((np.zeros((5, 6), np.float32), None), "grad_image must be float32"),
        ((None, np.zeros((5, 6, 3), np.float32)), "grad_flow must be float32"),
        ((grad, None), "grad_image overlaps grad"),
        ((None, FLOW), "grad_flow overlaps flow"),
    ]:
        with pytest.raises(ShapeError, match=message):
            kernels.flow_warp_backward_into(out, grad, image, FLOW, impl=impl)


def test_cuda_host_side_checks(native: str, fake_cuda: Any) -> None:
    arrays = [fake_cuda((5, 6, 3), data=(1 << shift, False)) for shift in (20, 21, 22)]
    flow, grad_flow = (fake_cuda((5, 6, 2), data=(1 << shift, False)) for shift in (23, 24))
    half = fake_cuda((5, 6, 3), "<f2", data=(1 << 25, False))
    with pytest.raises(ShapeError, match="grad must be float16"):
        kernels.flow_warp_backward_into((arrays[0], grad_flow), arrays[1], half, flow)
    overlapping = fake_cuda((5, 6, 3), data=(1 << 24, True))
    with pytest.raises(ShapeError, match="grad_flow overlaps image"):
        kernels.flow_warp_backward_into((None, grad_flow), arrays[1], overlapping, flow)
    if "cuda:0" not in kernels.available_devices():
        with pytest.raises(DeviceError, match="copy the arrays to the host"):
            kernels.flow_warp_backward_into((arrays[0], grad_flow), arrays[1], arrays[2], flow)
