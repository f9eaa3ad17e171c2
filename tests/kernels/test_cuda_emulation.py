"""The emulator that runs CUDA kernels on the CPU: right answers, and faults that it must find."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from emulated_cuda import EmulatedCuda, EmulatedError

KERNELS = (  # in the order of self_test.cu
    *("reverse_block", "forgets_barrier", "sum_of_warp", "multiply", "copies_without_waiting"),
    *("reads_past_shared_memory", "writes_past_array", "misaligned_vector"),
    *("leaves_others_waiting", "shuffles_alone", "index_past_static_array"),
)

Run = Callable[..., np.ndarray]


@pytest.fixture
def run(emulated_cuda):  # type: ignore[no-untyped-def]
    """run(kernel, values, blocks=, threads=, shared_bytes=): the values afterwards."""
    op = emulated_cuda("self_test")

    def run(
        kernel: str, values: np.ndarray, blocks: int = 1, threads: int = 32, shared_bytes: int = 0
    ) -> np.ndarray:
        copy = op.array(values.astype(np.float32), alignment=16)
        op({"values": copy}, KERNELS.index(kernel), blocks, threads, shared_bytes)
        return copy

    return run


def test_barrier(run: Run) -> None:
    values = np.arange(3 * 100)
    result = run("reverse_block", values, blocks=3, threads=100, shared_bytes=400)
    assert np.array_equal(result, values.reshape(3, 100)[:, ::-1].ravel())


def test_missing_barrier_gives_a_wrong_result(
    run: Run, emulated_cuda: Callable[[str], EmulatedCuda]
) -> None:
    result = run("forgets_barrier", np.arange(64), threads=64, shared_bytes=256)
    assert np.isnan(result[:32]).all()  # shared memory starts as NaN
    op = emulated_cuda("self_test")
    op.set_order(backwards=True)
    try:
        result = run("forgets_barrier", np.arange(64), threads=64, shared_bytes=256)
    finally:
        op.set_order(backwards=False)
    assert np.isnan(result[32:]).all()


def test_shuffle_and_vote(run: Run) -> None:
    result = run("sum_of_warp", np.arange(64), threads=64)
    assert result[0] == sum(range(32))
    assert result[32] == sum(range(32, 64))
    assert set(result[1:32]) == {31}
    assert set(result[33:]) == {32}


def test_tensor_core_fragments(run: Run, random: np.random.Generator) -> None:
    a = random.integers(-8, 9, (16, 16))
    b = random.integers(-8, 9, (16, 8))
    values = np.concatenate([a.ravel(), b.ravel(), np.zeros(128)])
    result = run("multiply", values, shared_bytes=(256 + 128) * 2)
    assert np.array_equal(result[384:].reshape(16, 8), a @ b)


def test_copies_arrive_when_waited_for(run: Run) -> None:
    result = run("copies_without_waiting", np.arange(1, 5), threads=1, shared_bytes=16)
    assert np.isnan(result[0])
    assert result[1] == 3


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("reads_past_shared_memory", "outside of an array or of shared memory, in thread"),
        ("writes_past_array", "outside of an array"),
        ("misaligned_vector", "misaligned"),
        (
            "leaves_others_waiting",
            r"ended while others wait in __syncthreads, in thread \(3, 0, 0\)",
        ),
        ("shuffles_alone", "wait for each other forever"),
        ("index_past_static_array", "undefined access"),
    ],
)
def test_faults_are_found(run: Run, kernel: str, message: str) -> None:
    with pytest.raises(EmulatedError, match=message):
        run(kernel, np.arange(32), shared_bytes=128)
    assert run("reverse_block", np.arange(4), threads=4, shared_bytes=16)[0] == 3  # goes on


@pytest.mark.parametrize(
    ("blocks", "threads", "shared_bytes"), [(0, 32, 0), (1, 1025, 0), (1, 32, (48 << 10) + 1)]
)
def test_refused_launches(run: Run, blocks: int, threads: int, shared_bytes: int) -> None:
    with pytest.raises(EmulatedError, match="invalid configuration"):
        run("reverse_block", np.zeros(4), blocks, threads, shared_bytes)
