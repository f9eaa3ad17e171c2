"""StyleRetoucher's blend."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revisage import kernels
from revisage.errors import DeviceError, OptionError, ShapeError
from tests.kernels.fuzzing import Block

NAMES = ("style", "image", "spatial_logits", "channel_logits")
TOLERANCE = 2e-6  # of the larger feature: a few roundings, and exp of two libraries


def random_inputs(
    random: np.random.Generator, n: int, c: int, h: int, w: int
) -> dict[str, np.ndarray]:
    shapes = [(n, c, h, w), (n, c, h, w), (n, 2, h, w), (n, 2, c)]
    return {
        name: (random.standard_normal(shape) * 3).astype(np.float32)
        for name, shape in zip(NAMES, shapes, strict=True)
    }


def textbook_blend(
    style: np.ndarray,
    image: np.ndarray,
    spatial_logits: np.ndarray,
    channel_logits: np.ndarray,
    strength: float,
) -> np.ndarray:
    """The three steps of the contract with plain softmaxes, in the dtype of the inputs."""

    def softmax_first(logits: np.ndarray) -> np.ndarray:
        powers = np.exp(logits)
        return powers[:, 0] / powers.sum(axis=1)

    ms = softmax_first(spatial_logits)[:, None]
    mc = strength * softmax_first(channel_logits)[:, :, None, None]
    return ms * mc * style + (1 - ms) * (1 - mc) * image


def with_masks(spatial: float, channel: float) -> dict[str, np.ndarray]:
    """Style 8, image 4, and logits whose softmax is (spatial, 1 - spatial), ..."""
    pair = {"spatial_logits": spatial, "channel_logits": channel}
    with np.errstate(divide="ignore"):
        logits = {
            name: np.log(np.array([value, 1 - value], np.float32)).clip(-200, 0)
            for name, value in pair.items()
        }
    return {
        "style": np.full((1, 2, 3, 4), 8, np.float32),
        "image": np.full((1, 2, 3, 4), 4, np.float32),
        "spatial_logits": np.tile(logits["spatial_logits"][None, :, None, None], (1, 1, 3, 4)),
        "channel_logits": np.tile(logits["channel_logits"][None, :, None], (1, 1, 2)),
    }


@pytest.mark.parametrize(
    ("spatial", "channel", "strength", "expected"),
    [
        (1.0, 1.0, 1.0, 8.0),  # all style
        (0.0, 0.0, 1.0, 4.0),  # all image
        (0.5, 0.5, 1.0, 3.0),  # a quarter of each: the weights do not sum to 1
        (1.0, 0.0, 1.0, 0.0),
        (0.0, 1.0, 0.0, 4.0),  # strength 0 turns the channel mask off
        (1.0, 1.0, 0.5, 4.0),
    ],
)
def test_obvious_masks(
    impl: str, spatial: float, channel: float, strength: float, expected: float
) -> None:
    inputs = with_masks(spatial, channel)
    result = kernels.feature_blend(**inputs, strength=strength, impl=impl)
    assert np.abs(result - expected).max() < 1e-5


def test_is_a_softmax_over_two_entries(impl: str) -> None:
    """Against the textbook softmax, in float64, on one pixel."""
    inputs = random_inputs(np.random.default_rng(5), 1, 1, 1, 1)
    expected = textbook_blend(*(array.astype(float) for array in inputs.values()), 0.7)
    result = kernels.feature_blend(**inputs, strength=0.7, impl=impl)
    assert np.abs(result - expected).max() < 1e-6


def test_huge_logits_do_not_overflow(impl: str) -> None:
    inputs = with_masks(0.5, 0.5)
    inputs["spatial_logits"][:, 0] = 3e38
    inputs["channel_logits"][:, 1] = 3e38
    inputs["channel_logits"][:, 0] = -3e38
    with np.errstate(over="ignore"):  # the difference of the logits may be infinite
        result = kernels.feature_blend(**inputs, impl=impl)
    assert np.abs(result).max() < 1e-30


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(
        st.integers(1, 3), st.integers(1, 20), st.integers(1, 120), st.integers(1, 120)
    ),
    strength=st.floats(0, 2),
)
def test_native_agrees_with_reference(
    seed: int, shape: tuple[int, int, int, int], strength: float
) -> None:
    if not kernels.HAS_NATIVE:
        pytest.skip("the native kernels are not built")
    inputs = random_inputs(np.random.default_rng(seed), *shape)
    native = kernels.feature_blend(**inputs, strength=strength, impl="native")
    twin = kernels.feature_blend(**inputs, strength=strength, impl="reference")
    largest = max(1, np.abs(inputs["style"]).max(), np.abs(inputs["image"]).max())
    assert np.abs(native - twin).max() <= TOLERANCE * largest * max(1, strength)
    for threads in (1, 2, 5):
        again = kernels.feature_blend(**inputs, strength=strength, threads=threads)
        assert np.array_equal(again, native)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 5, 7, 9), (2, 33, 13, 17), (1, 3, 150, 81)])
def test_every_instruction_set(
    isa: str, shape: tuple[int, int, int, int], random: np.random.Generator
) -> None:
    inputs = random_inputs(random, *shape)
    grad = random.standard_normal(shape).astype(np.float32)
    native = kernels.feature_blend(**inputs, strength=0.8)
    twin = kernels.feature_blend(**inputs, strength=0.8, impl="reference")
    assert np.abs(native - twin).max() <= TOLERANCE * np.abs(twin).max() * 3
    gradients = kernels.feature_blend_backward(grad, **inputs, strength=0.8)
    expected = kernels.feature_blend_backward(grad, **inputs, strength=0.8, impl="reference")
    for gradient, wanted in zip(gradients, expected, strict=True):
        assert np.abs(gradient - wanted).max() <= 1e-5 * max(1, np.abs(wanted).max())


def placed(shape: tuple[int, ...], skip: int) -> np.ndarray:
    """An array of NaN that ends at a page without access, `skip` floats from the page's start."""
    size = 4 * int(np.prod(shape))
    block = Block(size + (-size - 4 * skip) % 64, at_end=True)
    array = block.view(np.dtype(np.float32), shape, 0)
    array[...] = np.nan
    return array


def test_large_outputs_at_any_alignment(isa: str, random: np.random.Generator) -> None:
    """What is written past the caches has the bits of what is not, wherever it lies."""
    shape = (1, 9, 500, 501)
    inputs = random_inputs(random, *shape)
    expected = inputs["style"].copy()
    in_place = {**inputs, "style": expected}
    kernels.feature_blend_into(expected, **in_place, strength=0.7)
    for skip in (0, 1, 7, 15):
        out = placed(shape, skip)
        assert out.ctypes.data % 64 == 4 * skip
        kernels.feature_blend_into(out, **inputs, strength=0.7)
        assert np.array_equal(out, expected)


def test_large_gradients_at_any_alignment(isa: str, random: np.random.Generator) -> None:
    shape = (2, 3, 500, 501)
    inputs = random_inputs(random, *shape)
    grad = random.standard_normal(shape).astype(np.float32)
    expected = kernels.feature_blend_backward(grad, **inputs, strength=0.7)
    small = [array[:1].copy() for array in inputs.values()]  # one image: ordinary stores
    first = kernels.feature_blend_backward(grad[:1], *small, strength=0.7)
    assert all(np.array_equal(a, b[:1]) for a, b in zip(first, expected, strict=True))
    for skips in [(0, 0), (1, 1), (15, 15), (3, 8)]:
        out = tuple(
            placed(array.shape, skip)
            for array, skip in zip(inputs.values(), (*skips, 0, 0), strict=True)
        )
        kernels.feature_blend_backward_into(out, grad, **inputs, strength=0.7, threads=2)
        assert all(np.array_equal(a, b) for a, b in zip(out, expected, strict=True))


def test_not_a_number_stays_where_it_is(isa: str, random: np.random.Generator) -> None:
    """A NaN logit spoils its own pixel or channel; infinite ones choose, or are NaN as a pair."""
    inputs = random_inputs(random, 1, 4, 5, 23)
    inputs["spatial_logits"][0, 0, 2, 3] = np.nan
    inputs["spatial_logits"][0, :, 0, 22] = np.inf
    inputs["spatial_logits"][0, 1, 4, 7] = -np.inf
    inputs["channel_logits"][0, 1, 2] = np.nan
    inputs["channel_logits"][0, 0, 3] = np.inf
    grad = random.standard_normal((1, 4, 5, 23)).astype(np.float32)
    with np.errstate(invalid="ignore"):
        twin = kernels.feature_blend(**inputs, impl="reference")
        expected = kernels.feature_blend_backward(grad, **inputs, impl="reference")
    assert np.isnan(twin).sum() == 23 * 5 + 3 * 2
    results = (kernels.feature_blend(**inputs), *kernels.feature_blend_backward(grad, **inputs))
    for result, wanted in zip(results, (twin, *expected), strict=True):
        assert np.allclose(result, wanted, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_in_place(impl: str, random: np.random.Generator) -> None:
    inputs = random_inputs(random, 2, 3, 9, 8)
    expected = kernels.feature_blend(**inputs, impl=impl)
    for name in ("style", "image"):
        copies = {key: array.copy() for key, array in inputs.items()}
        kernels.feature_blend_into(copies[name], **copies, impl=impl)
        assert np.array_equal(copies[name], expected)


def test_torch_comes_back_as_torch(impl: str, random: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    inputs = random_inputs(random, 1, 4, 6, 5)
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    result = kernels.feature_blend(**tensors, impl=impl)
    assert isinstance(result, torch.Tensor)
    assert np.array_equal(result.numpy(), kernels.feature_blend(**inputs, impl=impl))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("style", np.zeros((2, 4, 4), np.float32), "style must be [N, C, H, W]"),
        ("image", np.zeros((1, 3, 4, 5), np.float32), "image must be [1, 3, 4, 4]"),
        ("spatial_logits", np.zeros((1, 1, 4, 4), np.float32), "spatial_logits must be [1, 2,"),
        ("channel_logits", np.zeros((1, 3, 2), np.float32), "channel_logits must be [1, 2, 3]"),
        ("image", np.zeros((1, 3, 4, 4)), "image must be float32"),
    ],
)
def test_shape_errors(name: str, array: np.ndarray, message: str) -> None:
    inputs: dict[str, Any] = random_inputs(np.random.default_rng(0), 1, 3, 4, 4)
    with pytest.raises(ShapeError, match=re.escape(message)):
        kernels.feature_blend(**{**inputs, name: array})


def test_option_errors() -> None:
    inputs = random_inputs(np.random.default_rng(0), 1, 3, 4, 4)
    for strength in (-1.0, float("inf")):
        with pytest.raises(OptionError, match="strength"):
            kernels.feature_blend(**inputs, strength=strength)


def test_out_must_not_overlap_logits() -> None:
    shared = np.zeros((1, 2, 4, 4), np.float32)
    inputs = [shared.copy(), shared.copy(), shared, np.zeros((1, 2, 2), np.float32)]
    with pytest.raises(ShapeError, match="overlaps spatial_logits"):
        kernels.feature_blend_into(shared, *inputs)


def test_cuda_host_side_checks(native: str, fake_cuda: Any) -> None:
    shapes = [(1, 3, 4, 4), (1, 3, 4, 4), (1, 2, 4, 4), (1, 2, 3)]
    arrays = [fake_cuda(shape, data=(4096 * (i + 2), True)) for i, shape in enumerate(shapes)]
    with pytest.raises(ShapeError, match="out must be float32"):
        kernels.feature_blend_into(fake_cuda((1, 3, 4, 5)), *arrays)
    if "cuda:0" not in kernels.available_devices():
        with pytest.raises(DeviceError, match="copy the arrays to the host"):
            kernels.feature_blend_into(fake_cuda((1, 3, 4, 4)), *arrays)


def test_gradients_are_finite_differences(impl: str, random: np.random.Generator) -> None:
    """Every gradient against central differences of the textbook blend, in float64."""
    inputs = random_inputs(random, 2, 3, 4, 5)
    grad = random.standard_normal((2, 3, 4, 5)).astype(np.float32)
    gradients = kernels.feature_blend_backward(grad, **inputs, strength=0.75, impl=impl)
    exact = [array.astype(np.float64) for array in inputs.values()]

    def loss() -> float:
        return float((grad * textbook_blend(*exact, 0.75)).sum())

    step = 1e-5
    for values, gradient in zip(exact, gradients, strict=True):
        assert gradient.shape == values.shape
        assert gradient.dtype == np.float32
        difference = np.empty_like(values)
        for index in np.ndindex(values.shape):
            at = values[index]
            values[index] = at + step
            above = loss()
            values[index] = at - step
            difference[index] = (above - loss()) / (2 * step)
            values[index] = at
        assert np.abs(gradient - difference).max() < 2e-6 * max(1, np.abs(difference).max())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(
        st.integers(1, 3), st.integers(1, 20), st.integers(1, 120), st.integers(1, 120)
    ),
    strength=st.floats(0, 2),
)
def test_native_gradients_agree_with_reference(
    seed: int, shape: tuple[int, int, int, int], strength: float
) -> None:
    if not kernels.HAS_NATIVE:
        pytest.skip("the native kernels are not built")
    random = np.random.default_rng(seed)
    inputs = random_inputs(random, *shape)
    grad = random.standard_normal(shape).astype(np.float32)
    native = kernels.feature_blend_backward(grad, **inputs, strength=strength, impl="native")
    twin = kernels.feature_blend_backward(grad, **inputs, strength=strength, impl="reference")
    terms = np.abs(grad) * (np.abs(inputs["style"]) + np.abs(inputs["image"]))
    largest = (1, 1, terms.sum(axis=1).max(), terms.sum(axis=(2, 3)).max())
    for one, other, scale in zip(native, twin, largest, strict=True):
        assert np.abs(one - other).max() <= 1e-5 * max(1, strength) * max(1, scale)
    for threads in (1, 2, 5):
        again = kernels.feature_blend_backward(grad, **inputs, strength=strength, threads=threads)
        assert all(np.array_equal(a, b) for a, b in zip(again, native, strict=True))


def test_gradient_outputs_are_checked(impl: str, random: np.random.Generator) -> None:
    inputs = random_inputs(random, 1, 2, 4, 4)
    grad = random.standard_normal((1, 2, 4, 4)).astype(np.float32)
    expected = kernels.feature_blend_backward(grad, **inputs, impl=impl)
    out = [np.full_like(array, np.nan) for array in inputs.values()]
    kernels.feature_blend_backward_into(tuple(out), grad, **inputs, impl=impl)
    assert all(np.array_equal(a, b) for a, b in zip(out, expected, strict=True))
    for wrong, message in [
        ([grad, *out[1:]], "grad_style overlaps grad"),
        ([out[0], out[0], *out[2:]], "grad_style overlaps grad_image"),
        ([*out[:2], out[2][:, :1], out[3]], "grad_spatial_logits must be float32 of shape [1, 2"),
        ([*out[:3], out[3].astype(np.float64)], "grad_channel_logits must be float32"),
    ]:
        with pytest.raises(ShapeError, match=re.escape(message)):
            kernels.feature_blend_backward_into(tuple(wrong), grad, **inputs, impl=impl)
    with pytest.raises(ShapeError, match=re.escape("grad must be [1, 2, 4, 4]")):
        kernels.feature_blend_backward(grad[:, :1], **inputs, impl=impl)


@pytest.mark.cuda
def test_cuda_agrees_with_reference(
    random: np.random.Generator, to_cuda: Any, to_host: Any
) -> None:
    inputs = random_inputs(random, 2, 19, 33, 47)
    expected = kernels.feature_blend(**inputs, strength=0.6, impl="reference")
    on_device = {name: to_cuda(array) for name, array in inputs.items()}
    result = to_host(kernels.feature_blend(**on_device, strength=0.6))
    assert np.abs(result - expected).max() < 1e-5
