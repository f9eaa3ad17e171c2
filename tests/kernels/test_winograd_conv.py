"""The 3x3 convolution by Winograd's minimal filtering."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from revisage import kernels
from revisage.errors import DeviceError, OptionError, ShapeError

TOLERANCE = 1e-6  # times sqrt(9 C) * the largest |x| * the largest |weight|, as documented
LOST = {"zero": 0, "reflect": 0, "none": 2}
LEAST = {"zero": 1, "reflect": 2, "none": 3}


def normal(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)


def relative_error(found: np.ndarray, true: np.ndarray, x: np.ndarray, weight: np.ndarray) -> float:
    terms = np.sqrt(weight[0].size) * np.abs(x).max() * np.abs(weight).max()
    return float(np.abs(found.astype(np.float64) - true).max() / terms)


def test_the_middle_of_the_kernel_copies(impl: str, random: np.random.Generator) -> None:
    x, weight = normal(random, 2, 3, 7, 9), np.zeros((3, 3, 3, 3), np.float32)
    weight[range(3), range(3), 1, 1] = 1
    found = kernels.winograd_conv(x, weight, impl=impl)
    np.testing.assert_allclose(found, x, atol=2e-6)


def test_shifts_show_what_lies_around(impl: str) -> None:
    """A kernel of one corner moves the picture, and the padding moves in."""
    x = np.arange(1, 13, dtype=np.float32).reshape(1, 1, 3, 4)
    weight = np.zeros((1, 1, 3, 3), np.float32)
    weight[0, 0, 0, 0] = 1
    zero = [[0, 0, 0, 0], [0, 1, 2, 3], [0, 5, 6, 7]]
    reflect = [[6, 5, 6, 7], [2, 1, 2, 3], [6, 5, 6, 7]]
    for padding, true in (("zero", zero), ("reflect", reflect), ("none", [[1, 2]])):
        found = kernels.winograd_conv(x, weight, padding=padding, impl=impl)
        np.testing.assert_allclose(found[0, 0], true, atol=2e-5)


def test_the_order_of_what_is_added(impl: str, random: np.random.Generator) -> None:
    """skip + activation(convolution + bias + residual), one pixel at a time."""
    x, weight = normal(random, 1, 2, 1, 1), normal(random, 3, 2, 3, 3)
    bias, residual, skip = normal(random, 3), normal(random, 1, 3, 1, 1), normal(random, 1, 3, 1, 1)
    plain = weight[:, :, 1, 1] @ x[0, :, 0, 0]
    for slope, ceiling in ((1, np.inf), (0, np.inf), (0.2, np.inf), (0, 0.5)):
        total = plain + bias + residual[0, :, 0, 0]
        true = np.minimum(np.where(total < 0, slope * total, total), ceiling) + skip[0, :, 0, 0]
        found = kernels.winograd_conv(
            x, weight, bias, residual, skip, slope=slope, ceiling=ceiling, impl=impl
        )
        np.testing.assert_allclose(found[0, :, 0, 0], true, atol=1e-5)


@pytest.mark.parametrize("padding", LOST)
def test_agrees_with_torch_in_float64(impl: str, padding: str, random: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x, weight, bias = (
        normal(random, 2, 19, 21, 34),
        normal(random, 23, 19, 3, 3),
        normal(random, 23),
    )
    found = kernels.winograd_conv(
        torch.from_numpy(x), weight, bias, padding=padding, slope=0.1, impl=impl
    )
    assert isinstance(found, torch.Tensor)
    around = torch.from_numpy(x).double()
    if padding != "none":
        mode = "constant" if padding == "zero" else "reflect"
        around = functional.pad(around, (1, 1, 1, 1), mode=mode)
    weights = torch.from_numpy(weight).double()
    true = functional.conv2d(around, weights, torch.from_numpy(bias).double())
    true = functional.leaky_relu(true, 0.1).numpy()
    assert relative_error(found.numpy(), true, x, weight) < TOLERANCE


# Whole vectors of tiles, ragged ones, several rows of tiles in a vector, lines and single pixels.
SIDES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17, 31, 32, 33, 63, 64, 65, 66, 130]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**32 - 1),
    sides=st.tuples(st.sampled_from(SIDES), st.sampled_from(SIDES)),
    n=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 35), st.integers(1, 35)),
    padding=st.sampled_from(["zero", "reflect", "none"]),
    given=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    slope=st.sampled_from([1.0, 0.0, 0.2]),
)
@example(0, (64, 64), 1, (16, 16), "zero", (True, True, True), 0.0)
@example(0, (1, 1), 3, (1, 1), "zero", (False, False, False), 1.0)
@example(0, (2, 2), 2, (3, 15), "reflect", (True, False, True), 0.2)
@example(0, (3, 3), 2, (3, 15), "none", (True, True, False), 0.2)
def test_native_agrees_with_reference(
    isa: str,
    seed: int,
    sides: tuple[int, int],
    n: int,
    channels: tuple[int, int],
    padding: str,
    given: tuple[bool, bool, bool],
    slope: float,
) -> None:
    random = np.random.default_rng(seed)
    (c, d), (h, w) = channels, (max(side, LEAST[padding]) for side in sides)
    result = (n, d, h - LOST[padding], w - LOST[padding])
    x, weight = normal(random, n, c, h, w), normal(random, d, c, 3, 3)
    shapes = ((d,), result, result)
    more = [
        normal(random, *shape) if wanted else None
        for shape, wanted in zip(shapes, given, strict=True)
    ]
    options: dict[str, Any] = {"padding": padding, "slope": slope}
    native = kernels.winograd_conv(x, weight, *more, **options, impl="native")
    twin = kernels.winograd_conv(x, weight, *more, **options, impl="reference")
    assert relative_error(native, twin, x, weight) < TOLERANCE
    for threads in (1, 2, 5):
        again = kernels.winograd_conv(x, weight, *more, **options, threads=threads)
        assert np.array_equal(again, native)


@pytest.mark.parametrize("shape", [(1, 700, 9, 11, 5), (1, 3, 5, 6, 300), (1, 64, 8, 8, 64)])
def test_many_channels(
    isa: str, shape: tuple[int, int, int, int, int], random: np.random.Generator
) -> None:
    n, c, h, w, d = shape
    x, weight = normal(random, n, c, h, w), normal(random, d, c, 3, 3)
    twin = kernels.winograd_conv(x, weight, impl="reference")
    for threads in (1, 8):
        native = kernels.winograd_conv(x, weight, impl="native", threads=threads)
        assert relative_error(native, twin, x, weight) < TOLERANCE


def test_batch_does_not_change_bits(isa: str, random: np.random.Generator) -> None:
    x, weight = normal(random, 5, 17, 12, 10), normal(random, 18, 17, 3, 3)
    together = kernels.winograd_conv(x, weight, impl="native")
    for index in range(5):
        alone = kernels.winograd_conv(x[index : index + 1], weight, impl="native")
        assert np.array_equal(alone[0], together[index])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_near(impl: str, value: float) -> None:
    """Pixels whose tile does not see it are as without it; those next to it are not finite."""
    x, weight = np.ones((1, 2, 24, 24), np.float32), np.ones((2, 2, 3, 3), np.float32)
    clean = kernels.winograd_conv(x, weight, impl=impl)
    x[0, 1, 9, 9] = value
    found = kernels.winograd_conv(x, weight, impl=impl)
    assert not np.isfinite(found[:, :, 8:11, 8:11]).any()
    far = np.ones((24, 24), bool)
    far[4:16, 4:16] = False
    np.testing.assert_array_equal(found[:, :, far], clean[:, :, far])


def test_into_and_calls_from_many_threads(native: str, random: np.random.Generator) -> None:
    from concurrent.futures import ThreadPoolExecutor

    x, weight = normal(random, 1, 16, 40, 40), normal(random, 16, 16, 3, 3)
    expected = kernels.winograd_conv(x, weight, impl=native)

    def call(_: int) -> bool:
        out = np.empty_like(expected)
        kernels.winograd_conv_into(out, x, weight, impl=native, threads=3)
        return bool(np.array_equal(out, expected))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(100)))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x": (3, 8, 8)}, ShapeError, "x must be"),
        ({"x": (1, 3, 0, 8)}, ShapeError, "x is empty"),
        ({"x": (1, 3, 8, 1)}, ShapeError, "at least 2 pixels a side with padding 'reflect'"),
        ({"weight": (4, 2, 3, 3)}, ShapeError, "weight must be"),
        ({"weight": (4, 3, 5, 5)}, ShapeError, "weight must be"),
        ({"bias": (3,)}, ShapeError, "bias must be"),
        ({"residual": (1, 4, 8, 7)}, ShapeError, "residual must be"),
        ({"skip": (1, 4, 8)}, ShapeError, "skip must be"),
        ({"padding": "border"}, OptionError, "padding must be one of none, zero, reflect"),
        ({"slope": np.inf}, OptionError, "slope must be a finite"),
        ({"slope": "steep"}, OptionError, "slope must be a number"),
        ({"ceiling": np.nan}, OptionError, "ceiling must be a number"),
    ],
)
def test_wrong_arguments_are_errors(
    impl: str,
    changed: dict[str, Any],
    error: type[Exception],
    message: str,
    random: np.random.Generator,
) -> None:
    shapes = {"x": (1, 3, 8, 8), "weight": (4, 3, 3, 3)}
    arrays = {n: s for n, s in {**shapes, **changed}.items() if isinstance(s, tuple)}
    options = {n: v for n, v in changed.items() if n not in arrays}
    options = {"padding": "reflect", "impl": impl, **options}
    with pytest.raises(error, match=message):
        kernels.winograd_conv(**{n: normal(random, *s) for n, s in arrays.items()}, **options)


def test_outputs_and_devices_are_checked(
    impl: str, random: np.random.Generator, fake_cuda: Any
) -> None:
    x, weight = normal(random, 1, 3, 8, 8), normal(random, 3, 3, 3, 3)
    with pytest.raises(ShapeError, match="out overlaps x"):
        kernels.winograd_conv_into(x, x, weight, impl=impl)
    with pytest.raises(ShapeError, match="out must be"):
        kernels.winograd_conv_into(normal(random, 1, 3, 8, 9), x, weight, impl=impl)
    with pytest.raises(ShapeError, match="x must be float32"):
        kernels.winograd_conv(x.astype(np.float64), weight, impl=impl)
    with pytest.raises(DeviceError, match="runs on the CPU, and x lies on a GPU"):
        kernels.winograd_conv(fake_cuda((1, 3, 8, 8)), weight, impl=impl)
