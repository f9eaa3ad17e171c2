"""flow_warp against cv2.remap (maps given to it for free) and torch grid_sample (grid for free)."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Report, measure, run_suite

from revisage import kernels

SIZES = [(1080, 1920), (2160, 3840)]


def run(report: Report, seconds: float) -> None:
    random = np.random.default_rng(0)
    for rows, columns in SIZES:
        low = cv2.GaussianBlur(
            random.standard_normal((rows // 8, columns // 8, 2)).astype(np.float32), (0, 0), 8
        )
        low *= 15 / np.abs(low).max()
        flow = cv2.resize(low, (columns, rows), interpolation=cv2.INTER_LINEAR)
        x, y = np.meshgrid(np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32))
        maps = x + flow[..., 0], y + flow[..., 1]
        for dtype in (np.uint8, np.float32):
            image = random.integers(0, 256, (rows, columns, 3)).astype(dtype)
            for threads in (1, 2):
                cv2.setNumThreads(threads)
                torch.set_num_threads(threads)
                name = f"{np.dtype(dtype).name} {rows}p"
                contenders = warps(image, flow, maps, threads)
                report.cases.append(measure(name, contenders, threads=threads, seconds=seconds))
                contenders = low_warps(image, low, (x, y), threads)
                name += " flow at 1/8"
                report.cases.append(measure(name, contenders, threads=threads, seconds=seconds))


def warps(image, flow, maps, threads):  # type: ignore[no-untyped-def]
    out, their_out = np.empty_like(image), np.empty_like(image)
    contenders = {
        "revisage": lambda: kernels.flow_warp_into(out, image, flow, threads=threads),
        "cv2.remap": lambda: cv2.remap(
            image, *maps, cv2.INTER_LINEAR, dst=their_out, borderMode=cv2.BORDER_REPLICATE
        ),
    }
    if image.dtype == np.float32:
        rows, columns = image.shape[:2]
        planar = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
        grid = np.stack([maps[0] * 2 / (columns - 1) - 1, maps[1] * 2 / (rows - 1) - 1], axis=-1)
        grid_tensor = torch.from_numpy(grid)[None]
        contenders["grid_sample"] = lambda: torch.nn.functional.grid_sample(
            planar, grid_tensor, padding_mode="border", align_corners=True
        )
    return contenders


def low_warps(image, low, positions, threads):  # type: ignore[no-untyped-def]
    out, their_out = np.empty_like(image), np.empty_like(image)
    rows, columns = image.shape[:2]

    def theirs() -> None:
        flow = cv2.resize(low, (columns, rows), interpolation=cv2.INTER_LINEAR)
        maps = positions[0] + flow[..., 0], positions[1] + flow[..., 1]
        cv2.remap(image, *maps, cv2.INTER_LINEAR, dst=their_out, borderMode=cv2.BORDER_REPLICATE)

    return {
        "revisage": lambda: kernels.flow_warp_into(out, image, low, threads=threads),
        "cv2 resize + remap": theirs,
    }


if __name__ == "__main__":
    run_suite("flow_warp", "revisage", run)
