"""fft_conv against torch eager and NumPy, at LaMa's shapes and at odd and prime sizes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Report, measure, run_suite

from revisage import kernels

SHAPES = [
    (1, 48, 16, 16),
    (1, 96, 32, 32),
    (1, 192, 32, 32),
    (1, 192, 64, 64),
    (1, 192, 128, 128),
    (8, 48, 32, 32),
    (1, 96, 45, 63),
    (1, 96, 31, 37),
]


def run(report: Report, seconds: float) -> None:
    random = np.random.default_rng(0)
    for shape in SHAPES:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            units = contenders(random, shape, threads)
            name = "x".join(str(size) for size in shape)
            report.cases.append(measure(name, units, threads=threads, seconds=seconds))


def contenders(
    random: np.random.Generator, shape: tuple[int, int, int, int], threads: int
) -> dict[str, Callable[[], object]]:
    channels = 2 * shape[1]
    x = random.standard_normal(shape, np.float32)
    weight = random.standard_normal((channels, channels), np.float32)
    scale, shift = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    out = np.empty_like(x)
    inputs = (x, weight, scale, shift)
    tensors = [torch.from_numpy(array) for array in inputs]
    units: dict[str, Callable[[], object]] = {
        "revisage": lambda: kernels.fft_conv_into(out, *inputs, threads=threads),
        "torch": lambda: torch_unit(*tensors),
    }
    if x.size <= 500_000:  # above, the twin takes a second a call
        units["numpy"] = lambda: kernels.fft_conv_into(out, *inputs, impl="reference")
    return units


@torch.inference_mode()
def torch_unit(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
) -> torch.Tensor:
    """LaMa's Fourier unit as published: stack, 1x1 convolution, affine, ReLU."""
    n, c, h, w = x.shape
    spectrum = torch.fft.rfft2(x, norm="ortho")
    channels = torch.stack([spectrum.real, spectrum.imag], dim=2).reshape(n, 2 * c, h, -1)
    mixed = torch.conv2d(channels, weight[:, :, None, None])
    mixed = torch.relu(mixed * scale[:, None, None] + shift[:, None, None])
    mixed = mixed.reshape(n, c, 2, h, -1)
    return torch.fft.irfft2(torch.complex(mixed[:, :, 0], mixed[:, :, 1]), s=(h, w), norm="ortho")


if __name__ == "__main__":
    run_suite("fft_conv", "revisage", run)
