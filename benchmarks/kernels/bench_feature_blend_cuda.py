"""feature_blend and composite on CUDA against torch, compiled and not, and a copy of as many bytes.

torch's outputs come from its caching allocator, which costs nothing here.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Case, Options, Report, print_case, require, run_suite
from on_cuda import measure, share_of_copy, use_device

from revisage import kernels

REQUIRED_SHARE = 0.85
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Kind:
    """One case of the blend."""

    shape: tuple[int, int, int, int]
    dtype: torch.dtype
    backward: bool = False

    @property
    def name(self) -> str:
        shape = "x".join(map(str, self.shape))
        return f"blend {str(self.dtype)[6:]} {shape}{', backward' if self.backward else ''}"


LARGE, SMALL = (1, 64, 512, 512), (8, 512, 32, 32)
REQUIRED = [Kind(LARGE, dtype) for dtype in (torch.float32, torch.bfloat16)]
FURTHER = [
    Kind(LARGE, torch.float16),
    *(Kind(SMALL, dtype) for dtype in (torch.float32, torch.bfloat16)),
    *(
        Kind(shape, dtype, backward=True)
        for shape in (LARGE, SMALL)
        for dtype in (torch.float32, torch.bfloat16)
    ),
]


def blend(
    style: torch.Tensor, image: torch.Tensor, spatial: torch.Tensor, channel: torch.Tensor
) -> torch.Tensor:
    """The definition in torch, in the dtype of the features."""
    s = torch.softmax(spatial, dim=1)[:, :1].to(style.dtype)
    c = torch.softmax(channel, dim=1)[:, 0, :, None, None].to(style.dtype)
    return s * c * style + (1 - s) * (1 - c) * image


def make_inputs(kind: Kind) -> Tensors:
    torch.manual_seed(0)
    n, c, h, w = kind.shape
    style, image = (torch.randn(kind.shape, device="cuda").to(kind.dtype) for _ in range(2))
    return (
        style,
        image,
        torch.randn((n, 2, h, w), device="cuda"),
        torch.randn((n, 2, c), device="cuda"),
    )


def run_blend(kind: Kind, options: Options) -> Case:
    inputs = make_inputs(kind)
    style = inputs[0]
    plane_bytes = style.numel() * style.element_size()
    logit_bytes = (inputs[2].numel() + inputs[3].numel()) * 4
    if kind.backward:
        grad = torch.randn_like(style)
        outputs = tuple(torch.empty_like(tensor) for tensor in inputs)
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        result = blend(*leaves)
        compiled = torch.compile(blend)(*leaves)
        contenders = {
            "revisage": lambda: kernels.feature_blend_backward_into(outputs, grad, *inputs),
            "torch": lambda: torch.autograd.grad(result, leaves, grad, retain_graph=True),
            "torch.compile": lambda: torch.autograd.grad(compiled, leaves, grad, retain_graph=True),
        }
        return measure(
            kind.name,
            contenders,
            options,
            bytes_moved=5 * plane_bytes + 2 * logit_bytes,
            operations=style.numel() * 14,
        )
    out = torch.empty_like(style)
    compiled_blend = torch.compile(blend)
    contenders = {
        "revisage": lambda: kernels.feature_blend_into(out, *inputs),
        "torch": lambda: blend(*inputs),
        "torch.compile": lambda: compiled_blend(*inputs),
    }
    contenders["revisage"]()
    exact = blend(*(tensor.double() for tensor in inputs))
    errors = {"revisage": float((out - exact).abs().max())}
    return measure(
        kind.name,
        contenders,
        options,
        bytes_moved=3 * plane_bytes + logit_bytes,
        operations=style.numel() * 6,
        errors=errors,
    )


def run_composite(dtype: torch.dtype, options: Options) -> Case:
    """A turned square that covers most of a 2160p photo, into another photo."""
    torch.manual_seed(0)
    rows, columns, side = 2160, 3840, 1024
    photo = torch.randint(0, 256, (rows, columns, 3), device="cuda").to(dtype)
    delta = torch.randn((side, side, 3), device="cuda") * 0.05
    mask = torch.rand((side, side), device="cuda")
    cosine, sine = (f(0.1) * side / 2600 for f in (math.cos, math.sin))
    turn = np.array([[cosine, sine], [-sine, cosine]])
    centre = np.array([columns / 2, rows / 2])
    matrix = np.column_stack([turn, side / 2 - turn @ centre])
    out = torch.empty_like(photo)
    return measure(
        f"composite {str(dtype)[6:]} 2160p",
        {"revisage": lambda: kernels.composite_into(out, photo, delta, mask, matrix)},
        options,
        bytes_moved=2 * photo.numel() * photo.element_size() + (delta.numel() + mask.numel()) * 4,
        operations=photo.numel() * 10,
    )


def run(report: Report, options: Options) -> None:
    use_device(report)
    for kind in REQUIRED if options.quick else [*REQUIRED, *FURTHER]:
        if not options.wants(kind.name):
            continue
        case = run_blend(kind, options)
        print_case(case)
        report.cases.append(case)
        if kind in REQUIRED:
            statement = f"feature_blend on CUDA, share of the copy bandwidth, {kind.name}"
            share = share_of_copy(case)
            report.requirements.append(
                require(statement, REQUIRED_SHARE, share, case.name, at_most=False)
            )
    if options.wants("composite"):
        for dtype in (torch.uint8, torch.float32):
            case = run_composite(dtype, options)
            print_case(case)
            report.cases.append(case)


if __name__ == "__main__":
    run_suite("feature_blend_cuda", run)
