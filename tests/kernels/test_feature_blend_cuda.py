"""The CUDA kernels of the feature blend, emulated on the CPU and (marked `cuda`) on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from revisage import kernels

FLOATS = ["float32", "float16", "bfloat16"]
# Half of the last digit, relative: what one rounding may do.
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
# Planes that fill vectors and planes that do not, one pixel, many channels, several blocks.
SHAPES = [(2, 5, 8, 8), (1, 40, 16, 24), (2, 17, 7, 9), (3, 33, 1, 1), (1, 3, 40, 60)]
NAMES = ("style", "image", "spatial_logits", "channel_logits")


def to_bits(values: np.ndarray, dtype: str) -> np.ndarray:
    """In the dtype; bfloat16 as its bits in uint16."""
    if dtype != "bfloat16":
        return values.astype(dtype)
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bits(array: np.ndarray, dtype: str) -> np.ndarray:
    if dtype != "bfloat16":
        return array.astype(np.float32)
    return (array.astype(np.uint32) << 16).view(np.float32)


def blend_inputs(
    random: np.random.Generator, shape: tuple[int, int, int, int], dtype: str
) -> dict[str, np.ndarray]:
    n, c, h, w = shape
    draw = random.standard_normal
    return {
        "style": to_bits(draw(shape), dtype),
        "image": to_bits(draw(shape), dtype),
        "spatial_logits": (draw((n, 2, h, w)) * 4).astype(np.float32),
        "channel_logits": (draw((n, 2, c)) * 4).astype(np.float32),
    }


def in_float32(arrays: dict[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    return {n: a if "logits" in n else from_bits(a, dtype) for n, a in arrays.items()}


def check_blend(result: np.ndarray, arrays: dict[str, np.ndarray], dtype: str) -> None:
    floats = in_float32(arrays, dtype)
    expected = kernels.feature_blend(**floats, strength=1.3, impl="reference")
    largest = np.maximum(np.abs(floats["style"]), np.abs(floats["image"]))
    tolerance = 2e-6 * largest + ROUNDING[dtype] * np.abs(expected) * 1.01 + 6e-8
    assert (np.abs(from_bits(result, dtype) - expected) <= tolerance).all()


def check_gradients(
    results: list[np.ndarray], grad: np.ndarray, arrays: dict[str, np.ndarray], dtype: str
) -> None:
    floats = in_float32(arrays, dtype)
    grad = from_bits(grad, dtype)
    expected = kernels.feature_blend_backward(grad, **floats, strength=1.3, impl="reference")
    magnitude = np.abs(grad) * np.maximum(np.abs(floats["style"]), np.abs(floats["image"])) * 1.3
    bounds = (
        2e-6 * np.abs(grad) + ROUNDING[dtype] * np.abs(expected[0]) * 1.01 + 6e-8,
        2e-6 * np.abs(grad) + ROUNDING[dtype] * np.abs(expected[1]) * 1.01 + 6e-8,
        1e-5 * magnitude.sum(axis=1, keepdims=True),
        1e-5 * magnitude.sum(axis=(2, 3))[:, None],
    )
    for result, wanted, bound in zip(results, expected, bounds, strict=True):
        assert (np.abs(result - wanted) <= bound).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alignment", [4, 256])
def test_emulated_blend(
    emulated_cuda: Any,
    random: np.random.Generator,
    dtype: str,
    shape: tuple[int, int, int, int],
    alignment: int,
) -> None:
    op = emulated_cuda("feature_blend")
    arrays = {n: op.array(a, alignment) for n, a in blend_inputs(random, shape, dtype).items()}
    dtypes = dict.fromkeys(("out", "style", "image"), dtype)
    out = op.array(np.full_like(arrays["style"], 77), alignment)
    op({"out": out, **arrays}, 1.3, dtypes=dtypes)
    check_blend(out, arrays, dtype)
    for name in ("style", "image"):  # in place
        changed = arrays[name].copy()
        given = {**arrays, name: op.array(changed, alignment)}
        op({"out": given[name], **given}, 1.3, dtypes=dtypes)
        assert np.array_equal(given[name], out)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alignment", [4, 256])
def test_emulated_gradients(
    emulated_cuda: Any,
    random: np.random.Generator,
    dtype: str,
    shape: tuple[int, int, int, int],
    alignment: int,
) -> None:
    op = emulated_cuda("feature_blend")
    arrays = {n: op.array(a, alignment) for n, a in blend_inputs(random, shape, dtype).items()}
    grad = op.array(to_bits(random.standard_normal(shape), dtype), alignment)
    outputs = {f"grad_{name}": op.array(np.full_like(a, 77), alignment)
               for name, a in arrays.items()}  # fmt: skip
    features = ("grad", "style", "image", "grad_style", "grad_image")
    op({**outputs, "grad": grad, **arrays}, 1.3, dtypes=dict.fromkeys(features, dtype),
       entry="feature_blend_backward")  # fmt: skip
    results = list(in_float32(outputs, dtype).values())
    check_gradients(results, grad, arrays, dtype)


def test_many_small_planes_are_cut_into_groups_of_channels(
    emulated_cuda: Any, random: np.random.Generator
) -> None:
    """One plane of 16 pixels and 100 channels: blocks share its pixels; 1500 images: none do."""
    for shape in ((1, 100, 4, 4), (1500, 9, 2, 2)):
        op = emulated_cuda("feature_blend")
        arrays = {n: op.array(a) for n, a in blend_inputs(random, shape, "float32").items()}
        grad = op.array(random.standard_normal(shape).astype(np.float32))
        outputs = {f"grad_{n}": op.array(np.full_like(a, 77)) for n, a in arrays.items()}
        op({**outputs, "grad": grad, **arrays}, 1.3, entry="feature_blend_backward")
        check_gradients(list(outputs.values()), grad, arrays, "float32")


def tensor(array: np.ndarray, dtype: str) -> Any:
    torch = pytest.importorskip("torch")
    if dtype == "bfloat16" and array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).cuda()
    return torch.from_numpy(array).cuda()


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [*SHAPES, (2, 96, 128, 128)])
def test_cuda_blend_and_gradients(
    random: np.random.Generator, dtype: str, shape: tuple[int, int, int, int]
) -> None:
    arrays = blend_inputs(random, shape, dtype)
    tensors = {name: tensor(a, dtype) for name, a in arrays.items()}
    out = kernels.feature_blend(**tensors, strength=1.3)
    assert out.dtype == tensors["style"].dtype
    check_blend(to_bits(out.float().cpu().numpy(), dtype), arrays, dtype)
    grad = to_bits(random.standard_normal(shape), dtype)
    results = kernels.feature_blend_backward(tensor(grad, dtype), **tensors, strength=1.3)
    check_gradients([r.float().cpu().numpy() for r in results], grad, arrays, dtype)


@pytest.mark.cuda
def test_cuda_graph(random: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    arrays = blend_inputs(random, (2, 20, 32, 32), "float32")
    tensors = {name: tensor(a, "float32") for name, a in arrays.items()}
    out, grad = torch.empty_like(tensors["style"]), torch.ones_like(tensors["style"])
    gradients = tuple(torch.empty_like(t) for t in tensors.values())
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        kernels.feature_blend_into(out, **tensors, strength=1.3)
        kernels.feature_blend_backward_into(gradients, grad, **tensors, strength=1.3)
    changed = blend_inputs(random, (2, 20, 32, 32), "float32")
    for name, array in changed.items():
        tensors[name].copy_(tensor(array, "float32"))
    for _ in range(2):  # sums begin anew at every replay
        graph.replay()
    torch.cuda.synchronize()
    check_blend(out.cpu().numpy(), changed, "float32")
    check_gradients([g.cpu().numpy() for g in gradients], grad.cpu().numpy(), changed, "float32")
