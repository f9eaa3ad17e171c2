"""Fixtures of the kernel tests: which implementations and devices a test runs on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "cuda_emulation"))
from emulated_cuda import EmulatedCuda, compiler

from revisage import kernels
from revisage.errors import OptionError


@pytest.fixture(params=["native", "reference"])
def impl(request: pytest.FixtureRequest) -> str:
    """Each implementation in turn; native is required unless the build was made without it."""
    name: str = request.param
    if name == "native" and not kernels.HAS_NATIVE:
        if os.environ.get("REVISAGE_ALLOW_NO_NATIVE") != "1":
            pytest.fail("the native kernels are not built; REVISAGE_ALLOW_NO_NATIVE=1 skips this")
        pytest.skip("the native kernels are not built")
    return name


@pytest.fixture
def native() -> str:
    """Skips (or fails, as `impl` does) where the native kernels are not built."""
    if not kernels.HAS_NATIVE:
        if os.environ.get("REVISAGE_ALLOW_NO_NATIVE") != "1":
            pytest.fail("the native kernels are not built; REVISAGE_ALLOW_NO_NATIVE=1 skips this")
        pytest.skip("the native kernels are not built")
    return "native"


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def isa(request: pytest.FixtureRequest, native: str) -> Iterator[str]:
    """Each instruction set that this machine has, in turn."""
    usual = kernels.cpu_isa()
    try:
        kernels.set_cpu_isa(request.param)
    except OptionError:
        pytest.skip(f"this machine has no {request.param}")
    yield request.param
    kernels.set_cpu_isa(usual)


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(20240607)


@pytest.fixture(autouse=True)
def _needs_cuda(request: pytest.FixtureRequest) -> None:
    """Tests marked `cuda` skip without a GPU; REVISAGE_REQUIRE_CUDA=1 makes that a failure."""
    if request.node.get_closest_marker("cuda") and "cuda:0" not in kernels.available_devices():
        if os.environ.get("REVISAGE_REQUIRE_CUDA") == "1":
            pytest.fail("REVISAGE_REQUIRE_CUDA=1, and no CUDA device can be used here")
        pytest.skip("no CUDA device")


@pytest.fixture
def to_cuda():  # type: ignore[no-untyped-def]
    """Copies a NumPy array to the GPU, with torch or CuPy, whichever is there."""
    try:
        import torch
    except ModuleNotFoundError:
        cupy = pytest.importorskip("cupy")
        return cupy.asarray
    if not torch.cuda.is_available():
        return pytest.importorskip("cupy").asarray
    return lambda array: torch.from_numpy(array).cuda()


@pytest.fixture
def to_host():  # type: ignore[no-untyped-def]
    """Copies a torch or CuPy array back."""
    return lambda array: array.get() if hasattr(array, "get") else array.cpu().numpy()


class FakeCudaArray:
    """Claims to be a CUDA array, for the checks that come before any CUDA call."""

    def __init__(self, shape: tuple[int, ...], typestr: str = "<f4", **changes: object) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": typestr,
            "data": (4096, False),
            "strides": None,
            "version": 3,
            **changes,
        }


@pytest.fixture
def fake_cuda() -> type[FakeCudaArray]:
    return FakeCudaArray


@pytest.fixture(scope="session")
def emulated_cuda(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., EmulatedCuda]:
    """emulated_cuda("flow_warp"): the CUDA sources of an op, built once for the CPU."""
    if compiler() is None:
        pytest.skip("no C++ compiler: the CUDA kernels cannot be emulated")
    built: dict[str, EmulatedCuda] = {}

    def build(op: str, *more: str) -> EmulatedCuda:
        if op not in built:
            built[op] = EmulatedCuda(op, tmp_path_factory.mktemp("cuda_emulation"), more)
        return built[op]

    return build
