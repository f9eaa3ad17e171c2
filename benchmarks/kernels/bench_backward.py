"""The gradients of flow_warp and feature_blend against torch's own.

Only the way back is timed: torch keeps what it saved on the way there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Inputs, Options, Report, Work, print_case, run_suite

BLEND, WARP = (2, 64, 256, 256), (2, 64, 128, 128)  # [N, C, H, W] of a training step
REACH = 8.0  # pixels that the flow moves things at the most


def blend_inputs() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    n, c, h, w = BLEND
    shapes = {"grad": BLEND, "style": BLEND, "image": BLEND, "spatial": (n, 2, h, w)}
    made = {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    return {**made, "channel": random.standard_normal((n, 2, c), np.float32)}


def warp_inputs() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    n, _, h, w = WARP
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    flow = REACH * np.stack([np.sin(y / 11), np.cos(x / 13)], axis=-1)
    flow = (np.rint(flow * 16) + 0.5) / 16  # at whole pixels the gradient has two answers
    return {
        "grad": random.standard_normal(WARP, np.float32),
        "image": random.standard_normal(WARP, np.float32),
        "flow": np.ascontiguousarray(np.broadcast_to(flow, (n, h, w, 2)), np.float32),
    }


def _joined(gradients: Iterable[object]) -> np.ndarray:
    return np.concatenate([np.asarray(gradient).ravel() for gradient in gradients])


def revisage(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    from revisage import kernels

    grad, *given = inputs.values()
    out = tuple(np.empty_like(array) for array in given)

    def run() -> None:
        if "flow" in inputs:
            kernels.flow_warp_backward_into(out, grad, *given, layout="chw", threads=threads)
        else:
            kernels.feature_blend_backward_into(out, grad, *given, threads=threads)

    return {"": Work(run, lambda: _joined(out))}


def _blend(torch):  # type: ignore[no-untyped-def]
    def blend(style, image, spatial, channel):  # type: ignore[no-untyped-def]
        ms = torch.softmax(spatial, dim=1)[:, :1]
        mc = torch.softmax(channel, dim=1)[:, 0, :, None, None]
        return ms * mc * style + (1 - ms) * (1 - mc) * image

    return blend


def _warp(torch):  # type: ignore[no-untyped-def]
    h, w = WARP[2:]
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    positions = torch.stack([x, y], dim=-1).float()
    scale = torch.tensor([2 / (w - 1), 2 / (h - 1)])

    def warp(image, flow):  # type: ignore[no-untyped-def]
        grid = (positions + flow) * scale - 1
        return torch.nn.functional.grid_sample(
            image, grid, padding_mode="border", align_corners=True
        )

    return warp


def _torch_work(inputs: Inputs, threads: int, compiled: bool) -> Mapping[str, Work]:
    import torch

    torch.set_num_threads(threads)
    forward: Callable[..., torch.Tensor] = (_warp if "flow" in inputs else _blend)(torch)
    if compiled:
        torch._dynamo.reset()
        torch._functorch.config.donated_buffer = False  # the graph is used again and again
        forward = torch.compile(forward, dynamic=False)
    grad, *given = (torch.from_numpy(array) for array in inputs.values())
    for tensor in given:
        tensor.requires_grad_()
    result = forward(*given)
    latest = {}

    def run() -> None:
        latest["gradients"] = torch.autograd.grad(result, given, grad, retain_graph=True)

    return {"": Work(run, lambda: _joined(latest["gradients"]))}


def torch_eager(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    return _torch_work(inputs, threads, compiled=False)


def torch_compiled(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    return _torch_work(inputs, threads, compiled=True)


BUILDS = {"revisage": revisage, "torch": torch_eager, "torch.compile": torch_compiled}


def run(report: Report, options: Options) -> None:
    # Products and sums of the definition: the blend's per sample, the warp's per tap.
    cases = {
        "feature_blend": (blend_inputs, 12 * int(np.prod(BLEND))),
        "flow_warp": (warp_inputs, 26 * int(np.prod(WARP))),
    }
    with options.farm(BUILDS) as farm:
        for name, (make, operations) in cases.items():
            if not options.wants(name):
                continue
            inputs = make()
            expected: list[np.ndarray] = []

            def error(contender: str, result: np.ndarray) -> float:
                """Largest distance from our result, over the largest gradient."""
                expected.append(result)  # noqa: B023
                distance = np.abs(result - expected[0]).max()  # noqa: B023
                distance = float(distance / np.abs(expected[0]).max())  # noqa: B023
                if distance > 1e-3:
                    raise SystemExit(f"{contender} is wrong by {distance:.1e}")
                return distance

            for threads in (1, 2):
                given = [a.nbytes for key, a in inputs.items() if key != "grad"]
                case = farm.measure(
                    name,
                    inputs,
                    threads=threads,
                    bytes_moved=inputs["grad"].nbytes + 2 * sum(given),
                    operations=operations,
                    error=error,
                )
                report.cases.append(case)
                print_case(case)


if __name__ == "__main__":
    run_suite("backward", run)
