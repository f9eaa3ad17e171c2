"""Kernels under random and hostile arguments: an error of ours or the right answer, never a crash.

Whatever could end the process runs in a process of its own, so that a crash is a failure that names
its seed. `fuzzing.py` says how to repeat a call. REVISAGE_FUZZ_SEED tries others than the usual.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from revisage import kernels
from revisage.errors import OptionError, ShapeError
from tests.kernels.fuzzing import GOOD
from tests.support import ROOT

SEED = int(os.environ.get("REVISAGE_FUZZ_SEED", "1"))
CALLS = int(os.environ.get("REVISAGE_FUZZ_CALLS", "800"))
OPS = [*GOOD]


def run_child(*arguments: str) -> None:
    """Fails with what the child said last: the number of its call, or its error."""
    command = [sys.executable, *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    if ended.returncode != 0:
        last = ended.stdout.split()[-1:]
        pytest.fail(
            f"{' '.join(arguments)} ended with {ended.returncode}, in call {last}:\n"
            f"{ended.stderr[-3000:]}"
        )


def fuzz(*arguments: str) -> None:
    run_child("-m", "tests.kernels.fuzzing", *arguments)


@pytest.mark.parametrize("op", OPS)
def test_random_calls(native: str, op: str) -> None:
    fuzz(op, "--seed", str(SEED), "--calls", str(CALLS))


def test_random_calls_on_each_instruction_set(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVISAGE_CPU_ISA", isa)
    fuzz(*OPS, "--seed", str(SEED + 3), "--calls", str(CALLS // 4))


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_random_calls_on_every_instruction_set(native: str, isa: str) -> None:
    usual = kernels.cpu_isa()
    try:
        kernels.set_cpu_isa(isa)
    except OptionError:
        pytest.skip(f"this machine has no {isa}")
    finally:
        kernels.set_cpu_isa(usual)
    fuzz("--seed", str(SEED + 3), "--calls", str(CALLS // 2), "--isa", isa)


def test_ops_from_many_threads_at_once(native: str) -> None:
    fuzz(*OPS, "--seed", str(SEED + 1), "--calls", str(CALLS // 8), "--together")


def test_ops_after_a_fork(native: str) -> None:
    fuzz(*OPS, "--seed", str(SEED + 2), "--calls", str(CALLS // 16), "--fork")


def test_the_fuzzer_notices_a_write_past_the_end(native: str) -> None:
    """The guard pages work: one sample beyond an array ends the process."""
    script = (
        "import ctypes, numpy as np\n"
        "from tests.kernels.fuzzing import Block\n"
        "block = Block(12, at_end=True)\n"
        "array = block.view(np.dtype(np.float32), (3,))\n"
        "array[:] = 1\n"
        "print(array.sum(), flush=True)\n"
        "ctypes.memset(array.ctypes.data + 12, 0, 1)\n"
    )
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.stdout == "3.0\n"
    assert ended.returncode != 0


LARGE = """
import numpy as np
from revisage import kernels

random = np.random.default_rng(0)
def corner(shape):  # far more than 2^31 samples of zeros that take no memory, but for the corner
    array = np.zeros(shape, np.uint8)
    assert array.size > 2**31
    array[..., -40:, -40:] = random.integers(0, 256, array[..., -40:, -40:].shape, np.uint8)
    return array

image = corner((140, 2**24 - 1))
out = np.zeros((9, 11), np.uint8)
shift = [[1, 0, image.shape[1] - 11], [0, 1, image.shape[0] - 9]]
kernels.flow_warp_into(out, image, matrix=shift, impl="native")
assert np.array_equal(out, image[-9:, -11:])
flow = np.broadcast_to(np.float32([image.shape[1] - 11, image.shape[0] - 9]), (9, 11, 2))
out[:] = 0
kernels.flow_warp_into(out, image, flow, impl="native")
assert np.array_equal(out, image[-9:, -11:])
del image

photo = corner((2**15 + 9, 2**16 + 5))
delta = np.full((20, 20, 1), 0.1, np.float32)
matrix = [[1, 0, 20 - photo.shape[1]], [0, 1, 20 - photo.shape[0]]]
small = photo[-40:, -40:].copy()
mask = np.ones((20, 20), np.float32)
kernels.composite_into(photo, photo, delta, mask, matrix, impl="native")
kernels.composite_into(small, small, delta, mask, [[1, 0, -20], [0, 1, -20]], impl="reference")
assert np.array_equal(photo[-40:, -40:], small)
del photo

planes = corner((130, 2**12, 2**12 + 1))
out = np.zeros((130, 3, 5), np.uint8)
shift = [[1, 0, 2**12 + 1 - 5], [0, 1, 2**12 - 3]]
kernels.flow_warp_into(out, planes, matrix=shift, layout="chw", impl="native")
assert np.array_equal(out, planes[:, -3:, -5:])
"""


def test_more_than_2_to_the_31_samples(native: str) -> None:
    run_child("-c", LARGE)


@pytest.mark.parametrize(
    "shape", [(2**30, 2**30), (2**20, 2**20, 2**20, 1), (2**31 - 1, 2**28 + 1, 1)]
)
def test_results_that_no_memory_holds(impl: str, shape: tuple[int, ...]) -> None:
    """One float that pretends to be exabytes, by strides of 0."""
    huge = np.broadcast_to(np.float32(0), shape)
    weight, ones = np.ones((2, 2), np.float32), np.ones(2, np.float32)
    calls: list[Any] = [
        lambda: kernels.flow_warp(huge, matrix=np.eye(2, 3), impl=impl),
        lambda: kernels.composite(huge, ones[:, None, None], weight, np.eye(2, 3), impl=impl),
        lambda: kernels.fft_conv(huge, weight, ones, ones, impl=impl),
        lambda: kernels.feature_blend(huge, huge, huge, huge, impl=impl),
    ]
    for call in calls:
        with pytest.raises(ShapeError):
            call()


def test_sizes_that_no_memory_holds(impl: str) -> None:
    image = np.zeros((4, 4), np.uint8)
    with pytest.raises(ShapeError, match="does not fit into memory"):
        kernels.flow_warp(image, matrix=np.eye(2, 3), size=(2**24 - 1, 2**24 - 1), impl=impl)
