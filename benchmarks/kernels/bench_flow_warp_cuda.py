"""flow_warp on CUDA against torch's grid_sample and against a copy of as many bytes.

torch gets its normalised grid for free; ours makes the positions from the flow. Samples that
grid_sample does not take (integers, interleaved channels) are compared with the copy alone.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Case, Options, Report, print_case, require, run_suite
from on_cuda import measure, share_of_copy, use_device

from revisage import kernels

REACH = 15.0  # pixels that the flow moves things at the most
REQUIRED_SHARE = 0.85
SIZES = {"1080p": (1080, 1920), "2160p": (2160, 3840)}


@dataclass(frozen=True)
class Kind:
    """One case: an image and what it is warped by."""

    dtype: torch.dtype
    size: str = "2160p"
    low: bool = False  # a flow at 1/8 of the resolution
    channels: int = 3
    planar: bool = False
    backward: bool = False

    @property
    def name(self) -> str:
        layout = f"{self.channels}x{self.size}{' planar' if self.planar else ''}"
        flow = ", flow at 1/8" if self.low else ""
        return f"{str(self.dtype)[6:]} {layout}{flow}{', backward' if self.backward else ''}"


REQUIRED = [Kind(dtype, low=low) for low in (False, True) for dtype in (torch.uint8, torch.float32)]
FURTHER = [
    *(Kind(dtype) for dtype in (torch.uint16, torch.float16, torch.bfloat16)),
    *(Kind(dtype, channels=4) for dtype in (torch.uint8, torch.float32)),
    *(Kind(dtype, planar=True) for dtype in (torch.float32, torch.float16, torch.bfloat16)),
    *(Kind(dtype, "1080p") for dtype in (torch.uint8, torch.float32)),
    *(
        Kind(dtype, "1080p", planar=True, backward=True, low=low)
        for low in (False, True)
        for dtype in (torch.float32, torch.bfloat16)
    ),
]


def smooth_flow(rows: int, columns: int) -> torch.Tensor:
    """[rows, columns, 2], at most REACH."""
    noise = torch.randn((1, 2, rows // 64 + 2, columns // 64 + 2), device="cuda")
    flow = torch.nn.functional.interpolate(noise, (rows, columns), mode="bicubic")
    flow = flow * (REACH / flow.abs().max())
    return flow[0].permute(1, 2, 0).contiguous()


def grid_of(flow: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """What grid_sample takes instead of a flow, with align_corners=True."""
    planes = flow.permute(2, 0, 1)[None]
    if flow.shape[:2] != (rows, columns):
        planes = torch.nn.functional.interpolate(planes, (rows, columns), mode="bilinear")
    x = (planes[:, 0] + torch.arange(columns, device="cuda")) * 2 / (columns - 1) - 1
    y = (planes[:, 1] + torch.arange(rows, device="cuda")[:, None]) * 2 / (rows - 1) - 1
    return torch.stack([x, y], dim=-1)


def random_image(kind: Kind, rows: int, columns: int) -> torch.Tensor:
    """Whole levels 0..255, in every dtype."""
    shape = (kind.channels, rows, columns) if kind.planar else (rows, columns, kind.channels)
    return torch.randint(0, 256, shape, device="cuda").to(kind.dtype)


def run_case(kind: Kind, options: Options) -> Case:
    torch.manual_seed(0)
    rows, columns = SIZES[kind.size]
    flow = smooth_flow(rows // 8, columns // 8) if kind.low else smooth_flow(rows, columns)
    image = random_image(kind, rows, columns)
    layout: Any = "chw" if kind.planar else "hwc"
    samples, flow_bytes = image.numel(), flow.numel() * 4
    if kind.backward:
        contenders, errors = backward(kind, image, flow, layout)
        # grad and image are read, grad_image is float32; flow and its gradient.
        moved = samples * (2 * image.element_size() + 4) + 2 * flow_bytes
        return measure(
            kind.name,
            contenders,
            options,
            bytes_moved=moved,
            operations=samples * 30,
            errors=errors,
        )
    out = torch.empty_like(image)
    contenders = {"revisage": lambda: kernels.flow_warp_into(out, image, flow, layout=layout)}
    errors = {}
    if kind.planar:
        grid, batch = grid_of(flow, rows, columns).to(kind.dtype), image[None]
        contenders["grid_sample"] = lambda: torch.nn.functional.grid_sample(
            batch, grid, padding_mode="border", align_corners=True
        )
        contenders["revisage"]()
        errors["revisage"] = float((out - contenders["grid_sample"]()[0]).abs().max())
    return measure(
        kind.name,
        contenders,
        options,
        bytes_moved=2 * samples * image.element_size() + flow_bytes,
        operations=samples * 9,
        errors=errors,
    )


def backward(kind: Kind, image: torch.Tensor, flow: torch.Tensor, layout: Any) -> Any:
    """Contenders of the gradients, and our largest difference to torch's in the image."""
    rows, columns = SIZES[kind.size]
    grad, grid = torch.randn_like(image), grid_of(flow, rows, columns).to(kind.dtype)
    out = torch.empty(image.shape, device="cuda"), torch.empty_like(flow)
    batch, batch_grad = image[None], grad[None]
    contenders = {
        "revisage": lambda: kernels.flow_warp_backward_into(out, grad, image, flow, layout=layout),
        # bilinear, border; without the gradient of what turns a flow into a grid
        "grid_sample": lambda: torch.ops.aten.grid_sampler_2d_backward(
            batch_grad, batch, grid, 0, 1, True, [True, True]
        ),
    }
    contenders["revisage"]()
    difference = out[0] - contenders["grid_sample"]()[0][0]
    return contenders, {"revisage": float(difference.abs().max())}


def run(report: Report, options: Options) -> None:
    use_device(report)
    for kind in REQUIRED if options.quick else [*REQUIRED, *FURTHER]:
        if not options.wants(kind.name):
            continue
        case = run_case(kind, options)
        print_case(case)
        report.cases.append(case)
        if kind in REQUIRED:
            statement = f"flow_warp on CUDA, share of the copy bandwidth, {kind.name}"
            share = share_of_copy(case)
            report.requirements.append(
                require(statement, REQUIRED_SHARE, share, case.name, at_most=False)
            )


if __name__ == "__main__":
    run_suite("flow_warp_cuda", run)
