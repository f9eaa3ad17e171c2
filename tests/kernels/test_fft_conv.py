"""The Fourier unit."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from revisage import kernels
from revisage.errors import DeviceError, OptionError, ShapeError

TOLERANCE = 1e-5  # of the largest output


def random_inputs(
    random: np.random.Generator, n: int, c: int, d: int, h: int, w: int
) -> list[np.ndarray]:
    return [
        random.standard_normal((n, c, h, w)).astype(np.float32),
        random.standard_normal((2 * d, 2 * c)).astype(np.float32),
        random.uniform(0.5, 1.5, 2 * d).astype(np.float32),
        random.standard_normal(2 * d).astype(np.float32),
    ]


def relative_error(result: np.ndarray, expected: np.ndarray) -> float:
    # The terms of a sum are of size one. Where one or two pixels are the whole output they may
    # cancel, and rounding is judged against the terms, not against what is left.
    return float(np.abs(result - expected).max() / max(0.1, np.abs(expected).max()))


@pytest.mark.parametrize("size", [(1, 1), (1, 8), (5, 1), (4, 4), (7, 6), (6, 7), (31, 11)])
def test_lifted_identity(impl: str, size: tuple[int, int], random: np.random.Generator) -> None:
    """Identity weights and a shift above every spectrum: relu does nothing, and what the shift adds
    is the inverse transform of a constant."""
    x = random.standard_normal((2, 3, *size)).astype(np.float32)
    eye, ones = np.eye(6, dtype=np.float32), np.ones(6, np.float32)
    shift = np.full(6, 50, np.float32)
    constant = np.full((size[0], size[1] // 2 + 1), 50 + 50j)
    added = np.fft.irfft2(constant, s=size, norm="ortho")
    result = kernels.fft_conv(x, eye, ones, shift, impl=impl)
    assert relative_error(result, x + added) < TOLERANCE


def test_constant_image_has_one_frequency(impl: str) -> None:
    """A constant 3 has spectrum 3 * sqrt(HW) at 0; the weights double the real part."""
    x = np.full((1, 1, 4, 6), 3, np.float32)
    weight = np.array([[2, 0], [0, 2]], np.float32)
    ones, zeros = np.ones(2, np.float32), np.zeros(2, np.float32)
    result = kernels.fft_conv(x, weight, ones, zeros, impl=impl)
    assert np.abs(result - 6).max() < 1e-5
    negative = kernels.fft_conv(-x, weight, ones, zeros, impl=impl)
    assert np.abs(negative).max() < 1e-5  # relu


def test_channels_are_interleaved(impl: str, random: np.random.Generator) -> None:
    """Rows of the weight go (re, im) per channel: swapping two channels swaps pairs of rows."""
    x, weight, scale, shift = random_inputs(random, 1, 2, 2, 8, 8)
    order = [2, 3, 0, 1]
    result = kernels.fft_conv(x, weight, scale, shift, impl=impl)
    swapped = kernels.fft_conv(
        x[:, ::-1], weight[order][:, order], scale[order], shift[order], impl=impl
    )
    assert relative_error(swapped[:, ::-1], result) < TOLERANCE


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (13, 7), (64, 48)])
def test_agrees_with_torch(impl: str, size: tuple[int, int], random: np.random.Generator) -> None:
    """LaMa's own formulation."""
    torch = pytest.importorskip("torch")
    arrays = random_inputs(random, 2, 5, 6, *size)
    x, weight, scale, shift = (torch.from_numpy(array) for array in arrays)
    spectrum = torch.fft.rfft2(x, norm="ortho")
    pairs = torch.stack([spectrum.real, spectrum.imag], dim=2)
    channels = pairs.reshape(2, 10, size[0], size[1] // 2 + 1)
    mixed = torch.conv2d(channels, weight[:, :, None, None])
    mixed = torch.relu(mixed * scale[:, None, None] + shift[:, None, None])
    mixed = mixed.reshape(2, 6, 2, size[0], size[1] // 2 + 1)
    expected = torch.fft.irfft2(torch.complex(mixed[:, :, 0], mixed[:, :, 1]), s=size, norm="ortho")
    result = kernels.fft_conv(x, weight, scale, shift, impl=impl)
    assert isinstance(result, torch.Tensor)
    assert relative_error(result.numpy(), expected.numpy()) < TOLERANCE


# Radices 2 to 8 and other primes, sizes 1 and 2, channels that fill a block of lanes or not.
SIDES = [
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    10,
    11,
    12,
    13,
    14,
    15,
    16,
    17,
    20,
    21,
    24,
    25,
    31,
    32,
    35,
    49,
    64,
    77,
]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**32 - 1),
    sides=st.tuples(st.sampled_from(SIDES), st.sampled_from(SIDES)),
    n=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 35), st.integers(1, 35)),
)
@example(seed=3241, sides=(1, 1), n=1, channels=(1, 1))  # four terms that cancel
def test_native_agrees_with_reference(
    isa: str, seed: int, sides: tuple[int, int], n: int, channels: tuple[int, int]
) -> None:
    inputs = random_inputs(np.random.default_rng(seed), n, *channels, *sides)
    native = kernels.fft_conv(*inputs, impl="native")
    twin = kernels.fft_conv(*inputs, impl="reference")
    assert relative_error(native, twin) < TOLERANCE
    for threads in (1, 2, 5):
        assert np.array_equal(kernels.fft_conv(*inputs, threads=threads), native)


# Primes that are transformed by their definition, and lines of one pixel.
@pytest.mark.parametrize("size", [(1, 8191), (8191, 1), (2, 1009), (251, 127), (4096, 1), (1, 2)])
def test_large_primes_and_lines(
    isa: str, size: tuple[int, int], random: np.random.Generator
) -> None:
    inputs = random_inputs(random, 1, 3, 19, *size)
    twin = kernels.fft_conv(*inputs, impl="reference")
    assert relative_error(kernels.fft_conv(*inputs, impl="native"), twin) < TOLERANCE


def test_batch_does_not_change_bits(native: str, random: np.random.Generator) -> None:
    x, weight, scale, shift = random_inputs(random, 5, 17, 18, 12, 10)
    together = kernels.fft_conv(x, weight, scale, shift, impl=native)
    for index in range(5):
        alone = kernels.fft_conv(x[index : index + 1], weight, scale, shift, impl=native)
        assert np.array_equal(alone[0], together[index])


def test_nan_stays_visible(impl: str) -> None:
    inputs = random_inputs(np.random.default_rng(0), 1, 2, 2, 4, 4)
    inputs[0][0, 0, 1, 1] = np.nan
    assert np.isnan(kernels.fft_conv(*inputs, impl=impl)).all()


def test_into_and_calls_from_many_threads(native: str, random: np.random.Generator) -> None:
    """The interpreter lock is released; calls share the pool and not their scratch memory."""
    from concurrent.futures import ThreadPoolExecutor

    inputs = random_inputs(random, 1, 16, 16, 16, 16)
    expected = kernels.fft_conv(*inputs, impl=native)

    def call(_: int) -> bool:
        out = np.empty_like(expected)
        kernels.fft_conv_into(out, *inputs, impl=native, threads=3)
        return bool(np.array_equal(out, expected))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(200)))


def test_native_works_after_fork(native: str, random: np.random.Generator) -> None:
    """Data loaders fork: the child has none of the parent's worker threads."""
    import os
    import signal

    inputs = random_inputs(random, 4, 16, 16, 16, 16)
    expected = kernels.fft_conv(*inputs, impl=native, threads=2)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        result = kernels.fft_conv(*inputs, impl=native, threads=2)
        os._exit(0 if np.array_equal(result, expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    ("index", "array", "message"),
    [
        (0, np.zeros((3, 8, 8), np.float32), "x must be [N, C, H, W]"),
        (0, np.zeros((1, 3, 0, 8), np.float32), "x is empty"),
        (0, np.zeros((1, 3, 8, 8)), "x must be float32"),
        (1, np.zeros((8, 5), np.float32), "weight must be"),
        (1, np.zeros((7, 6), np.float32), "weight must be [6, 6]"),
        (2, np.zeros(7, np.float32), "scale must be [8]"),
        (3, np.zeros((8, 1), np.float32), "shift must be [8]"),
    ],
)
def test_errors(index: int, array: np.ndarray, message: str) -> None:
    inputs = random_inputs(np.random.default_rng(0), 1, 3, 4, 8, 8)
    inputs[index] = array
    with pytest.raises(ShapeError, match=re.escape(message)):
        kernels.fft_conv(*inputs)


def test_out_must_not_overlap(impl: str) -> None:
    inputs = random_inputs(np.random.default_rng(0), 1, 3, 3, 8, 8)
    with pytest.raises(ShapeError, match="overlaps x"):
        kernels.fft_conv_into(inputs[0], *inputs, impl=impl)


def test_unknown_instruction_sets_are_refused(native: str) -> None:
    with pytest.raises(OptionError, match="baseline, avx2 or avx512"):
        kernels.set_cpu_isa("sse9")


def test_cuda_host_side_checks(native: str, fake_cuda: Any) -> None:
    shapes = [(1, 3, 8, 8), (8, 6), (8,), (8,)]
    arrays = [fake_cuda(shape, data=(65536 * (i + 2), True)) for i, shape in enumerate(shapes)]
    with pytest.raises(ShapeError, match="out must be float32"):
        kernels.fft_conv_into(fake_cuda((1, 3, 8, 8)), *arrays)
    if "cuda:0" not in kernels.available_devices():
        with pytest.raises(DeviceError, match="copy the arrays to the host"):
            kernels.fft_conv_into(fake_cuda((1, 4, 8, 8)), *arrays)


@pytest.mark.cuda
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (33, 20), (64, 128), (7, 300)])
def test_cuda_agrees_with_reference(
    size: tuple[int, int], random: np.random.Generator, to_cuda: Any, to_host: Any
) -> None:
    inputs = random_inputs(random, 2, 19, 7, *size)
    expected = kernels.fft_conv(*inputs, impl="reference")
    result = to_host(kernels.fft_conv(*(to_cuda(array) for array in inputs)))
    assert relative_error(result, expected) < TOLERANCE
