"""The Fourier unit on CUDA: in the emulator everywhere, and on a GPU where there is one."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from emulated_cuda import HERE, EmulatedCuda, EmulatedError, compiler

from revisage import kernels
from revisage.errors import DeviceError
from revisage.kernels import _dispatch

# Of the largest output: float32 keeps 22 bits, the others are what their dtypes resolve.
TOLERANCE = {"float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}
SMALLEST_SHARED = 99 << 10  # of a block, on the supported devices
LARGE = 120, 230  # too large for that

Inputs = dict[str, np.ndarray]


def random_inputs(
    random: np.random.Generator, n: int, c: int, d: int, h: int, w: int, dtype: str = "float32"
) -> Inputs:
    """Float32 values that `dtype` can hold."""
    x = random.standard_normal((n, c, h, w)).astype(np.float32)
    return {
        "x": widen(narrow(x, dtype), dtype),
        "weight": random.standard_normal((2 * d, 2 * c)).astype(np.float32),
        "scale": random.uniform(0.5, 1.5, 2 * d).astype(np.float32),
        "shift": random.standard_normal(2 * d).astype(np.float32),
    }


def narrow(values: np.ndarray, dtype: str) -> np.ndarray:
    """As `dtype`; bfloat16 as its bits, cut off."""
    if dtype == "bfloat16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(dtype)


def widen(values: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def relative_error(result: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(result - expected).max() / max(1e-6, np.abs(expected).max()))


# --- in the emulator -----------------------------------------------------------------------------


@pytest.fixture
def emulated(emulated_cuda: Callable[..., EmulatedCuda]) -> Iterator[EmulatedCuda]:
    op = emulated_cuda("fft_conv", "cufft_library.cc")
    op.set_device()
    yield op
    op.set_device()
    op.set_order(backwards=False)


def run(
    op: EmulatedCuda,
    inputs: Inputs,
    dtype: str = "float32",
    narrowed: tuple[str, ...] = ("x",),
    alignment: int = 256,
) -> np.ndarray:
    """The result as float32, of a workspace that is full of NaN and exactly as large as asked."""
    arrays = {
        name: op.array(narrow(value, dtype) if name in narrowed else value, alignment)
        for name, value in inputs.items()
    }
    n, _, h, w = inputs["x"].shape
    shape = n, len(inputs["weight"]) // 2, h, w
    out = op.array(narrow(np.full(shape, np.nan, np.float32), dtype), alignment)
    dtypes = dict.fromkeys(("out", *narrowed), dtype)
    pair = {name: arrays[name] for name in ("x", "weight")}
    (size,) = op(pair, 0, dtypes=dtypes, entry="fft_conv_workspace_bytes")
    workspace = op.array(np.full(int(size), 255, np.uint8), alignment=1)
    op({"out": out, **arrays, "workspace": workspace}, dtypes=dtypes)
    return widen(out, dtype)


# Widths odd (two planes at once) and even; every radix (2, 3, 4, 5, 7, 8, 16), other primes, first
# and last among stages; one row, one column; channels that fill a tile of the product or do not.
@pytest.mark.parametrize(
    "shape",
    [
        *[(1, 1, 1, 1, 1), (1, 2, 2, 1, 2), (1, 1, 2, 1, 8), (1, 3, 2, 6, 1), (2, 3, 3, 2, 2)],
        *[(2, 3, 5, 7, 9), (1, 2, 2, 11, 13), (1, 4, 4, 31, 37), (1, 2, 3, 22, 52)],
        *[(1, 3, 2, 32, 34), (2, 17, 19, 20, 28), (1, 5, 4, 45, 63), (1, 2, 2, 14, 30)],
        *[(1, 40, 70, 16, 16), (1, 3, 2, 7, 300), (1, 2, 2, 64, 64), (1, 1, 1, 128, 128)],
    ],
)
def test_planes_in_shared_memory(
    emulated: EmulatedCuda, shape: tuple[int, int, int, int, int], random: np.random.Generator
) -> None:
    inputs = random_inputs(random, *shape)
    result = run(emulated, inputs)
    expected = kernels.fft_conv(**inputs, impl="reference")
    assert relative_error(result, expected) < TOLERANCE["float32"]


@pytest.mark.parametrize("size", [(16, 12), (9, 33), (32, 64), (44, 26)])
def test_order_of_threads_does_not_matter(
    emulated: EmulatedCuda, size: tuple[int, int], random: np.random.Generator
) -> None:
    """A missing barrier would give other values to threads that run first or last."""
    inputs = random_inputs(random, 1, 5, 40, *size)
    result = run(emulated, inputs)
    emulated.set_order(backwards=True)
    assert np.array_equal(run(emulated, inputs), result)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("size", [(8, 12), (9, 7)])
@pytest.mark.parametrize("narrowed", [("x",), ("x", "weight", "scale", "shift")])
def test_narrow_samples(
    emulated: EmulatedCuda,
    dtype: str,
    size: tuple[int, int],
    narrowed: tuple[str, ...],
    random: np.random.Generator,
) -> None:
    inputs = random_inputs(random, 2, 9, 5, *size, dtype)
    for name in narrowed:
        inputs[name] = widen(narrow(inputs[name], dtype), dtype)
    result = run(emulated, inputs, dtype, narrowed)
    expected = kernels.fft_conv(**inputs, impl="reference")
    assert relative_error(result, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("size", [(8, 12), (9, 7)])
@pytest.mark.parametrize("magnitude", [1e-30, 1e-6, 1e6, 1e30])
def test_any_magnitude(
    emulated: EmulatedCuda, size: tuple[int, int], magnitude: float, random: np.random.Generator
) -> None:
    """The spectrum is fp16 inside, and scaled so that neither end of its range is met."""
    inputs = random_inputs(random, 2, 4, 3, *size)
    inputs["x"] *= np.float32(magnitude)
    inputs["weight"] *= np.array([[1e-3], [1e4], [1], [1e-5], [1], [1]], np.float32)
    inputs["scale"] /= np.abs(inputs["weight"]).max(axis=1)
    inputs["shift"] *= np.float32(magnitude)
    expected = kernels.fft_conv(**inputs, impl="reference")
    result = run(emulated, inputs)
    assert np.abs(result - expected).max() < TOLERANCE["float32"] * np.abs(expected).max()


def test_planes_of_different_magnitude(emulated: EmulatedCuda, random: np.random.Generator) -> None:
    """Planes are scaled one by one, and brought to one scale in the product. Each image of the
    batch has its own: a faint one beside a bright one keeps its precision and its bits."""
    inputs = random_inputs(random, 2, 5, 3, 8, 10)
    inputs["x"] *= np.array([1, 1e-3, 1e3, 0, 1e-9], np.float32)[:, None, None]
    inputs["x"][1] *= np.float32(1e-12)
    inputs["shift"] *= 0
    result = run(emulated, inputs)
    expected = kernels.fft_conv(**inputs, impl="reference")
    for image in range(2):
        assert relative_error(result[image] * 1e12, expected[image] * 1e12) < TOLERANCE["float32"]
        alone = {**inputs, "x": inputs["x"][image : image + 1]}
        assert np.array_equal(run(emulated, alone)[0], result[image])


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_nan_and_infinity_stay_visible(
    emulated: EmulatedCuda, size: tuple[int, int], random: np.random.Generator
) -> None:
    inputs = random_inputs(random, 2, 3, 2, *size)
    inputs["x"][0, 1, 2, 3] = np.nan
    result = run(emulated, inputs)
    assert np.isnan(result[0]).all()
    assert np.isfinite(result[1]).all()
    inputs["x"][0, 1, 2, 3] = np.inf
    assert not np.isfinite(run(emulated, inputs)[0]).any()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_misaligned_arrays(
    emulated: EmulatedCuda, dtype: str, size: tuple[int, int], random: np.random.Generator
) -> None:
    """Arrays need the alignment of their samples only; the emulator stops misaligned vectors."""
    inputs = random_inputs(random, 1, 3, 1, *size, dtype)
    inputs["x"] = inputs["x"][:, :, :5]  # 3 * 5 * 7 samples: not a multiple of two
    expected = kernels.fft_conv(**inputs, impl="reference")
    result = run(emulated, inputs, dtype, alignment=2 if dtype == "float16" else 4)
    assert relative_error(result, expected) < TOLERANCE[dtype]


def test_imaginary_parts_that_do_not_count(emulated: EmulatedCuda) -> None:
    """A shift of the imaginary parts alone: frequencies that are their own opposites drop it, as
    numpy.fft.irfft2 does, all others keep it."""
    for size in [(4, 6), (5, 6), (4, 5), (1, 4), (3, 3)]:
        ones = np.ones(2, np.float32)
        inputs = {
            "x": np.zeros((1, 1, *size), np.float32),
            "weight": np.eye(2, dtype=np.float32),
            "scale": ones,
            "shift": np.array([0, 1], np.float32),
        }
        expected = kernels.fft_conv(**inputs, impl="reference")
        assert np.abs(run(emulated, inputs) - expected).max() < 1e-6


def test_workspace_is_checked(emulated: EmulatedCuda, random: np.random.Generator) -> None:
    inputs = random_inputs(random, 1, 2, 2, 4, 4)
    arrays = {name: emulated.array(value) for name, value in inputs.items()}
    out = emulated.array(inputs["x"])
    (size,) = emulated(
        {"x": arrays["x"], "weight": arrays["weight"]}, 0, entry="fft_conv_workspace_bytes"
    )
    for workspace, message in [
        (np.zeros(int(size) - 1, np.uint8), f"workspace must have at least {size:.0f} bytes"),
        (np.zeros(int(size), np.float32), "workspace must be uint8"),
    ]:
        with pytest.raises(EmulatedError, match=message):
            emulated({"out": out, **arrays, "workspace": emulated.array(workspace)})
    overlapping = np.frombuffer(out.base, np.uint8)
    with pytest.raises(EmulatedError, match="workspace"):
        emulated({"out": out, **arrays, "workspace": overlapping})


def test_python_layer(
    emulated: EmulatedCuda,
    fake_cuda: Any,
    random: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The public function, with the emulated library in the place of the extension."""
    memory: dict[int, np.ndarray] = {}

    def to_emulated(values: np.ndarray) -> Any:
        array = emulated.array(values)
        memory[array.ctypes.data] = array
        return fake_cuda(array.shape, array.dtype.str, data=(array.ctypes.data, False))

    def found(array: Any) -> np.ndarray:
        return memory[array.__cuda_array_interface__["data"][0]]

    def into(out: Any, x: Any, weight: Any, scale: Any, shift: Any, *rest: Any) -> None:
        assert rest[:2] == (0, 77)
        names = ("out", "x", "weight", "scale", "shift", "workspace")
        arrays = (out, x, weight, scale, shift, rest[2])
        emulated({name: found(array) for name, array in zip(names, arrays, strict=True)})

    def size(x: Any, weight: Any, stream: int) -> int:
        arrays = {"x": found(x), "weight": found(weight)}
        return int(emulated(arrays, 0, entry="fft_conv_workspace_bytes")[0])

    monkeypatch.setattr(_dispatch, "HAS_NATIVE", True)
    native = SimpleNamespace(
        fft_conv_into=into, fft_conv_workspace_bytes=size, set_cufft_candidates=lambda paths: None
    )
    monkeypatch.setattr(_dispatch, "_native", native, raising=False)
    inputs = random_inputs(random, 1, 2, 3, 6, 8)
    arrays = {name: to_emulated(value) for name, value in inputs.items()}
    out = to_emulated(np.zeros((1, 3, 6, 8), np.float32))
    bytes_needed = kernels.fft_conv_workspace_bytes(arrays["x"], arrays["weight"])
    workspace = to_emulated(np.zeros(bytes_needed, np.uint8))
    kernels.fft_conv_into(out, **arrays, stream=77, workspace=workspace)
    expected = kernels.fft_conv(**inputs, impl="reference")
    assert relative_error(found(out), expected) < TOLERANCE["float32"]
    with pytest.raises(DeviceError, match=f"give workspace=, uint8 CUDA memory of {bytes_needed}"):
        kernels.fft_conv_into(out, **arrays, stream=77)


def test_workspace_on_the_cpu_is_nothing(random: np.random.Generator) -> None:
    inputs = random_inputs(random, 1, 2, 2, 4, 4)
    assert kernels.fft_conv_workspace_bytes(inputs["x"], inputs["weight"]) == 0


def has_cufft() -> bool:
    for name in ("libcufft.so.12", "libcufft.so.11"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def test_missing_cufft(emulated: EmulatedCuda, random: np.random.Generator) -> None:
    if has_cufft():
        pytest.skip("cuFFT is installed")
    emulated.set_device(major=12, shared_bytes=SMALLEST_SHARED)
    emulated.library.emulated_set_cufft(b"/no/such/folder/libcufft.so")
    with pytest.raises(EmulatedError, match="install it with: pip install nvidia-cufft"):
        run(emulated, random_inputs(random, 1, 1, 1, *LARGE))


@pytest.fixture
def with_cufft(emulated: EmulatedCuda, tmp_path_factory: pytest.TempPathFactory) -> EmulatedCuda:
    """A definition of cuFFT's functions stands in for the library."""
    folder = tmp_path_factory.getbasetemp() / "cufft"
    library = folder / "libcufft.so"
    if not library.exists():
        folder.mkdir()
        flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-w"]
        source = str(HERE / "libcufft.cc")
        subprocess.run([compiler() or "g++", *flags, source, "-o", str(library)], check=True)
    emulated.set_device(major=12, shared_bytes=SMALLEST_SHARED)
    emulated.library.emulated_set_cufft(str(library).encode())
    return emulated


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 2, *LARGE), (2, 2, 1, 113, 113), (1, 2, 1, 2, 526), (1, 1, 1, 257, 2)]
)
def test_planes_through_cufft(
    with_cufft: EmulatedCuda,
    shape: tuple[int, int, int, int, int],
    dtype: str,
    random: np.random.Generator,
) -> None:
    """Planes that are too large, and sides with a prime factor that is."""
    inputs = random_inputs(random, *shape, dtype)
    result = run(with_cufft, inputs, dtype)
    expected = kernels.fft_conv(**inputs, impl="reference")
    assert relative_error(result, expected) < TOLERANCE[dtype]


def test_cufft_needs_aligned_arrays(with_cufft: EmulatedCuda, random: np.random.Generator) -> None:
    with pytest.raises(EmulatedError, match="begin at a multiple of 16 bytes"):
        run(with_cufft, random_inputs(random, 1, 1, 1, 3, 1009), alignment=4)


# --- on a GPU ------------------------------------------------------------------------------------


@pytest.fixture
def torch_cuda() -> Any:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch has no CUDA device")
    return torch


def on_gpu(torch: Any, inputs: Inputs, dtype: str = "float32") -> dict[str, Any]:
    tensors = {name: torch.from_numpy(value).cuda() for name, value in inputs.items()}
    return {**tensors, "x": tensors["x"].to(getattr(torch, dtype))}


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "shape",
    [
        *[(1, 1, 1, 1, 1), (2, 19, 7, 16, 16), (1, 5, 6, 33, 20), (3, 4, 4, 31, 37)],
        *[(2, 96, 96, 64, 64), (1, 192, 192, 128, 128), (1, 3, 3, 7, 300), (2, 8, 8, 45, 63)],
        *[(1, 4, 4, 200, 200), (1, 3, 2, 512, 512), (1, 2, 3, 257, 331), (1, 16, 4, 1024, 768)],
    ],
)
def test_gpu_agrees_with_reference(
    torch_cuda: Any,
    shape: tuple[int, int, int, int, int],
    dtype: str,
    random: np.random.Generator,
) -> None:
    """Sizes in shared memory, and large ones through cuFFT."""
    inputs = random_inputs(random, *shape, dtype)
    result = kernels.fft_conv(**on_gpu(torch_cuda, inputs, dtype))
    assert result.dtype == getattr(torch_cuda, dtype)
    expected = kernels.fft_conv(**inputs, impl="reference")
    assert relative_error(result.float().cpu().numpy(), expected) < TOLERANCE[dtype]


@pytest.mark.cuda
@pytest.mark.parametrize("size", [(32, 32), (31, 33), (300, 260)])
def test_gpu_repeats_its_bits(
    torch_cuda: Any, size: tuple[int, int], random: np.random.Generator
) -> None:
    tensors = on_gpu(torch_cuda, random_inputs(random, 3, 20, 20, *size))
    results = [kernels.fft_conv(**tensors) for _ in range(20)]
    assert all(torch_cuda.equal(result, results[0]) for result in results)


@pytest.mark.cuda
@pytest.mark.parametrize("size", [(48, 40), (300, 260)])
def test_gpu_graph_capture(
    torch_cuda: Any, size: tuple[int, int], random: np.random.Generator
) -> None:
    torch = torch_cuda
    tensors = on_gpu(torch, random_inputs(random, 2, 8, 8, *size))
    out = torch.empty_like(tensors["x"])
    kernels.fft_conv_into(out, **tensors)  # loads cuFFT where it is needed
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernels.fft_conv_into(out, **tensors)
    for _ in range(3):
        tensors["x"].normal_()
        out.fill_(torch.nan)
        graph.replay()
        assert torch.equal(out, kernels.fft_conv(**tensors))


@pytest.mark.cuda
@pytest.mark.parametrize("size", [(64, 64), (300, 260)])
def test_gpu_streams(torch_cuda: Any, size: tuple[int, int], random: np.random.Generator) -> None:
    """Work follows what its stream holds; workspaces of streams that run together are apart."""
    torch = torch_cuda
    tensors = on_gpu(torch, random_inputs(random, 2, 8, 8, *size))
    expected = kernels.fft_conv(**tensors)
    doubled = kernels.fft_conv(**{**tensors, "x": 2 * tensors["x"]})
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(4)]
    results = []
    for round_ in range(25):
        for index, stream in enumerate(streams):
            if round_ % 2:  # the current stream
                with torch.cuda.stream(stream):
                    x = tensors["x"] * (1 + index % 2)
                    results.append((index, kernels.fft_conv(**{**tensors, "x": x})))
            else:  # another than the current one
                with torch.cuda.stream(stream):
                    x = tensors["x"] * (1 + index % 2)
                out = torch.empty_like(x)
                kernels.fft_conv_into(out, **{**tensors, "x": x}, stream=stream)
                x.record_stream(stream)
                results.append((index, out))
    torch.cuda.synchronize()
    assert all(torch.equal(out, doubled if index % 2 else expected) for index, out in results)
