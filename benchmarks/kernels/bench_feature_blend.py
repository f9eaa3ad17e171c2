"""feature_blend and the compositor against NumPy, torch, and the copy rate of the machine."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Report, measure, run_suite

from revisage import kernels


def run(report: Report, seconds: float) -> None:
    random = np.random.default_rng(0)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        report.cases.append(blend(random, threads, seconds))
        for dtype in (np.uint8, np.uint16, np.float32):
            report.cases.append(composite(random, dtype, threads, seconds))


def blend(random: np.random.Generator, threads: int, seconds: float):  # type: ignore[no-untyped-def]
    """64 feature maps of 512 x 512: 67 MB per array."""
    style, image = (random.standard_normal((1, 64, 512, 512), np.float32) for _ in range(2))
    spatial = random.standard_normal((1, 2, 512, 512), np.float32)
    channel = random.standard_normal((1, 2, 64), np.float32)
    out = np.empty_like(style)
    tensors = [torch.from_numpy(array) for array in (style, image, spatial, channel)]
    result, product = torch.empty_like(tensors[0]), torch.empty_like(tensors[0])

    @torch.inference_mode()
    def torch_blend() -> None:
        ms = torch.softmax(tensors[2], dim=1)[:, :1]
        mc = torch.softmax(tensors[3], dim=1)[:, 0, :, None, None]
        torch.mul(ms, mc, out=result).mul_(tensors[0])
        torch.mul(1 - ms, 1 - mc, out=product).mul_(tensors[1])
        result.add_(product)

    contenders = {
        "revisage": lambda: kernels.feature_blend_into(
            out, style, image, spatial, channel, threads=threads
        ),
        "torch, preallocated": torch_blend,
        "numpy": lambda: kernels.feature_blend_into(
            out, style, image, spatial, channel, impl="reference"
        ),
        "np.copyto of one array": lambda: np.copyto(out, style),
    }
    return measure("blend 64x512x512", contenders, threads=threads, seconds=seconds)


def composite(random: np.random.Generator, dtype, threads: int, seconds: float):  # type: ignore[no-untyped-def]
    """A 12-megapixel photo with a face square of 1500 pixels, turned by 11 degrees, in place."""
    photo = random.integers(0, 256, (3000, 4000, 3)).astype(dtype)
    size = 512
    delta = random.standard_normal((size, size, 3), np.float32) * np.float32(0.05)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    mask = (1.2 - 2 * np.hypot(x, y)).clip(0, 1).astype(np.float32)
    zoom, angle = size / 1500, 0.2
    linear = zoom * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    matrix = np.c_[linear, np.full(2, size / 2) - linear @ [2000, 1500]]
    contenders = {
        "revisage": lambda: kernels.composite_into(
            photo, photo, delta, mask, matrix, 0.8, threads=threads
        ),
        "numpy": lambda: kernels.composite_into(
            photo, photo, delta, mask, matrix, 0.8, impl="reference"
        ),
    }
    name = f"composite {np.dtype(dtype).name} 12 MP"
    return measure(name, contenders, threads=threads, seconds=seconds)


if __name__ == "__main__":
    run_suite("feature_blend", "revisage", run)
