"""The CUDA kernel of the compositor, emulated on the CPU and (marked `cuda`) on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revisage import kernels

DTYPES = ["uint8", "uint16", "float16", "float32"]


def random_photo(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if dtype.startswith("u"):
        return random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    return (random.standard_normal(shape) * 2).astype(dtype)


def random_edit(
    random: np.random.Generator, rows: int, columns: int, channels: int
) -> tuple[np.ndarray, np.ndarray]:
    delta = random.standard_normal((rows, columns, channels)).astype(np.float32)
    mask = random.random((rows, columns)).astype(np.float32)
    mask[random.random(mask.shape) < 0.3] = 0
    return delta, mask


def placing(x: float, y: float, scale: float, angle: float) -> np.ndarray:
    """Photo pixel -> square pixel, where the square's corner lies at (x, y)."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / scale
    return np.hstack([turn, turn @ [[-x], [-y]]])


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(DTYPES),
    channels=st.integers(1, 6),
    size=st.tuples(st.integers(1, 40), st.integers(1, 700)),
    x=st.floats(-30, 600),
    y=st.floats(-30, 40),
    scale=st.floats(0.3, 4),
    angle=st.floats(-3.2, 3.2),
    strength=st.sampled_from([0.0, 0.7, 1.5]),
    offset=st.integers(0, 3),
    in_place=st.booleans(),
)
def test_emulated_kernel_equals_the_twin(
    emulated_cuda: Any,
    seed: int,
    dtype: str,
    channels: int,
    size: tuple[int, int],
    x: float,
    y: float,
    scale: float,
    angle: float,
    strength: float,
    offset: int,
    in_place: bool,
) -> None:
    """Bit for bit; from 0 to 3 samples into an aligned array, so words of every width occur."""
    random = np.random.default_rng(seed)
    op = emulated_cuda("composite")
    shape = (*size, channels)
    photo = random_photo(random, shape, dtype)
    delta, mask = random_edit(random, 13, 17, int(random.integers(1, channels + 1)))
    matrix = placing(x, y, scale, angle)
    expected = kernels.composite(photo, delta, mask, matrix, strength, impl="reference")

    def inside_array(values: np.ndarray) -> np.ndarray:
        whole = op.array(np.concatenate([np.zeros(offset, values.dtype), values.ravel()]))
        return whole[offset:].reshape(values.shape)

    original = inside_array(photo)
    out = original if in_place else inside_array(np.full_like(photo, 77))
    arrays = {"out": out, "original": original, "delta": op.array(delta), "mask": op.array(mask)}
    op(arrays, *matrix.ravel(), strength)
    assert out.tobytes() == expected.tobytes()
    if not in_place:
        assert original.tobytes() == photo.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_photos_of_several_strips_and_blocks(
    emulated_cuda: Any, random: np.random.Generator, dtype: str, channels: int
) -> None:
    op = emulated_cuda("composite")
    photo = random_photo(random, (37, 1200, channels), dtype)
    delta, mask = random_edit(random, 40, 60, min(channels, 3))
    for matrix in (placing(100, 3, 9.5, 0.05), placing(530, 20, 0.4, 1)):
        expected = kernels.composite(photo, delta, mask, matrix, impl="reference")
        out = op.array(np.full_like(photo, 77))
        arrays = {"original": op.array(photo), "delta": op.array(delta), "mask": op.array(mask)}
        op({"out": out, **arrays}, *matrix.ravel(), 1.0)
        assert out.tobytes() == expected.tobytes()
        op({"out": arrays["original"], **arrays}, *matrix.ravel(), 1.0)
        assert arrays["original"].tobytes() == expected.tobytes()


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_cuda_equals_the_twin(
    random: np.random.Generator, dtype: str, channels: int, to_cuda: Any, to_host: Any
) -> None:
    photo = random_photo(random, (211, 1300, channels), dtype)
    delta, mask = random_edit(random, 64, 80, min(channels, 3))
    for matrix in (placing(100, 3, 9.5, 0.3), placing(530, 20, 0.4, 1), placing(-90, -50, 30, 0)):
        expected = kernels.composite(photo, delta, mask, matrix, 0.8, impl="reference")
        original = to_cuda(photo)
        edit = to_cuda(delta), to_cuda(mask)
        result = kernels.composite(original, *edit, matrix, 0.8)
        assert to_host(result).tobytes() == expected.tobytes()
        kernels.composite_into(original, original, *edit, matrix, 0.8)
        assert to_host(original).tobytes() == expected.tobytes()


@pytest.mark.cuda
def test_cuda_graph(random: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    photo = random_photo(random, (100, 300, 3), "uint8")
    delta, mask = random_edit(random, 64, 64, 3)
    matrix = placing(20, 10, 2, 0.2)
    original = torch.from_numpy(photo).cuda()
    edit = torch.from_numpy(delta).cuda(), torch.from_numpy(mask).cuda()
    out, graph = torch.empty_like(original), torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
        kernels.composite_into(out, original, *edit, matrix)
    second = random_photo(random, photo.shape, "uint8")
    original.copy_(torch.from_numpy(second))
    graph.replay()
    torch.cuda.synchronize()
    expected = kernels.composite(second, delta, mask, matrix, impl="reference")
    assert out.cpu().numpy().tobytes() == expected.tobytes()
