"""fft_conv on CUDA against torch (cuFFT and a 1x1 convolution), eager and compiled.

torch runs twice: as it comes, with TF32 in convolutions (10 bits of every factor), and exactly, in
float32. Ours has float32's accuracy in every case; what is measured of it stands in the results.
Half precision, which cuFFT has for powers of two only, goes through float32 in torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench_fft_conv import Shape, bytes_of, exact, inputs_of, name_of, operations_of
from harness import Case, Options, Report, print_case, require, run_suite
from on_cuda import measure, use_device

from revisage import kernels

REQUIRED_RATIO = 1 / 2.5  # of the time of torch at its fastest setting
ALTERNATIVES = ["torch", "torch, float32 throughout", "torch.compile"]


@dataclass(frozen=True)
class Kind:
    """One case."""

    shape: Shape
    dtype: torch.dtype = torch.float32

    @property
    def name(self) -> str:
        return f"{str(self.dtype)[6:]} {name_of(self.shape)}"


REQUIRED = [Kind((8, channels, side, side)) for side in (64, 128) for channels in (96, 128, 192)]
FURTHER = [
    *(Kind((8, 192, side, side), torch.bfloat16) for side in (64, 128)),
    Kind((8, 192, 64, 64), torch.float16),
    Kind((1, 192, 64, 64)),
    Kind((8, 192, 32, 32)),
    Kind((16, 96, 16, 16)),
    Kind((8, 96, 45, 63)),
    Kind((8, 96, 61, 61)),
    Kind((8, 96, 96, 120)),
    Kind((1, 96, 512, 512)),
]


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def unit(x: torch.Tensor, weight: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """The Fourier unit as published, the affine folded into the convolution."""
    c, (h, w) = x.shape[1], x.shape[2:]
    spectrum = torch.fft.rfft2(x.float(), norm="ortho")
    parts = torch.stack([spectrum.real, spectrum.imag], dim=2).flatten(1, 2)
    mixed = torch.conv2d(parts, weight[:, :, None, None], shift).relu_().unflatten(1, (c, 2))
    complex_ = torch.complex(mixed[:, :, 0], mixed[:, :, 1])
    return torch.fft.irfft2(complex_, (h, w), norm="ortho").to(x.dtype)


def run_kind(kind: Kind, options: Options) -> Case:
    inputs = inputs_of(kind.shape)
    x, weight, scale, shift = (torch.from_numpy(array).cuda() for array in inputs.values())
    x = x.to(kind.dtype)
    out = torch.empty_like(x)
    size = kernels.fft_conv_workspace_bytes(x, weight)
    workspace = torch.empty(size, dtype=torch.uint8, device="cuda")
    folded = weight * scale[:, None]
    compiled = torch.compile(unit, dynamic=False)

    def ours() -> torch.Tensor:
        kernels.fft_conv_into(out, x, weight, scale, shift, workspace=workspace)
        return out

    def with_tf32(allowed: bool, function: Callable[..., torch.Tensor]) -> torch.Tensor:
        with tf32(allowed), torch.inference_mode():
            return function(x, folded, shift)

    contenders = {
        "revisage": ours,
        "torch": lambda: with_tf32(True, unit),
        "torch, float32 throughout": lambda: with_tf32(False, unit),
        "torch.compile": lambda: with_tf32(True, compiled),
    }
    inputs["x"] = x.float().cpu().numpy()
    expected = exact(inputs)
    largest = np.abs(expected).max()
    errors = {
        name: float(np.abs(call().float().cpu().numpy() - expected).max() / largest)
        for name, call in contenders.items()
    }
    # The definition reads x and writes out once; weights are float32 in every case.
    narrower = 2 * x.numel() * (4 - x.element_size())
    return measure(
        kind.name,
        contenders,
        options,
        bytes_moved=bytes_of(kind.shape) - narrower,
        operations=operations_of(kind.shape),
        errors=errors,
    )


def run(report: Report, options: Options) -> None:
    use_device(report)
    for kind in REQUIRED[1:4] if options.quick else [*REQUIRED, *FURTHER]:
        if not options.wants(kind.name):
            continue
        case = run_kind(kind, options)
        print_case(case)
        report.cases.append(case)
        if kind in REQUIRED:
            best = case.best_other(ALTERNATIVES)
            report.requirements.append(
                require(
                    f"fft_conv on CUDA, time over that of the fastest torch, {kind.name}",
                    REQUIRED_RATIO,
                    case.ratios[best],
                    f"{case.name}, {best}",
                )
            )


if __name__ == "__main__":
    run_suite("fft_conv_cuda", run)
