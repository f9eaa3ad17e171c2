"""The parity gate: does an engine compute what the network computes?

Every engine and precision of a bundle is run on the reference set and compared with float32 torch,
output by output: as tensors, against the manifest's tolerance, and as the picture that a retoucher
gets, against `PICTURE_LIMITS`. What is further away does not enter the bundle.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from revisage.engines import Engine
from revisage.engines.onnxruntime import usable_cores
from revisage.errors import ParityError, ShapeError
from revisage.manifest import TensorSpec, Tolerance

__all__ = [
    "PICTURE_LIMITS",
    "ErrorStatistics",
    "check_parity",
    "excess",
    "measure",
    "run_onnx",
    "run_torch",
    "statistics",
    "statistics_of",
    "with_outputs",
]

# Of the pictures that outputs make; a retoucher who flips between two pictures sees less than this.
# A mask of thin lines covers little, so its flipped pixels are few even where all lines are missed:
# what counts as well is how much of the marked area two masks share.
PICTURE_LIMITS = {"ssim": 0.995, "iou": 0.9, "flipped_share": 2e-3}  # at least; at least; at most
_SSIM_WINDOW = 7  # pixels; with the constants, Wang et al. 2004 and uniform windows

Arrays = Mapping[str, NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class ErrorStatistics:
    """How far one output is from float32 torch, over the whole reference set."""

    max_abs: float
    mean_abs: float
    rms: float
    p99_abs: float
    psnr_db: float  # against the output's true range; infinite errors make it -inf, none make 999
    # Nothing where an error is not finite. Of a picture (RGB): "levels_max", "levels_mean" and
    # "changed_share" of the composed 8-bit picture and its "ssim"; of a mask: the "flipped_share"
    # of pixels on the other side of one half, and "iou", intersection over union of what lies above
    # one half.
    picture: Mapping[str, float] = dataclasses.field(default_factory=dict)


def statistics(true: NDArray[Any], found: NDArray[Any]) -> ErrorStatistics:
    """Error of `found` against `true`, two arrays of one shape. NaN counts as infinite."""
    if true.shape != found.shape:
        raise ShapeError(f"expected an output of shape {list(true.shape)}, got {list(found.shape)}")
    error = np.abs(found.astype(np.float64) - true.astype(np.float64)).reshape(-1)
    error[np.isnan(error)] = math.inf
    rms = float(np.sqrt(np.mean(error**2)))
    span = float(np.ptp(true)) or 1.0
    psnr = 999.0
    if rms > 0:
        psnr = 20 * math.log10(span / rms) if math.isfinite(rms) else -math.inf
    # The nearest rank and not an interpolation, which would make NaN of infinite errors.
    p99 = np.partition(error, (99 * (error.size - 1)) // 100)[(99 * (error.size - 1)) // 100]
    return ErrorStatistics(float(error.max()), float(error.mean()), rms, float(p99), psnr)


def run_torch(
    network: torch.nn.Module,
    inputs: Arrays,
    input_specs: Sequence[TensorSpec],
    output_specs: Sequence[TensorSpec],
) -> dict[str, NDArray[Any]]:
    """Outputs of a network in eval mode, by the manifest's names.

    On one thread, because the order of sums depends on their number, and a search at the border of
    a tolerance on the last bits.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            found = network(*(torch.from_numpy(inputs[spec.name]) for spec in input_specs))
    finally:
        torch.set_num_threads(threads)
    tensors = found if isinstance(found, (tuple, list)) else (found,)
    if len(tensors) != len(output_specs):
        raise ShapeError(
            f"the network gives {len(tensors)} outputs, the manifest names {len(output_specs)}"
        )
    return {spec.name: tensor.numpy() for spec, tensor in zip(output_specs, tensors, strict=True)}


def run_onnx(
    model: bytes,
    references: Sequence[Arrays],
    *,
    keep: Callable[[NDArray[Any]], NDArray[Any]] = np.asarray,
) -> list[dict[str, NDArray[Any]]]:
    """Outputs of a graph in ONNX Runtime on the CPU, function bodies and all.

    Every call runs on one thread, as in `run_torch`; the calls run side by side.

    Args:
        keep: what is kept of an output, where the outputs of all calls would not fit into memory.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_mem_pattern = False
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    with ThreadPoolExecutor(usable_cores()) as pool:

        def run(inputs: Arrays) -> dict[str, NDArray[Any]]:
            outputs = session.run(names, dict(inputs))
            return {name: keep(output) for name, output in zip(names, outputs, strict=True)}

        return list(pool.map(run, references))


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> bytes:
    """The graph with other outputs: the float32 tensors `names` inside it."""
    marked = onnx.ModelProto()
    marked.CopyFrom(model)
    del marked.graph.output[:]
    marked.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    content: bytes = marked.SerializeToString()
    return content


def measure(
    engine: Engine, references: Sequence[Arrays], truths: Sequence[Arrays]
) -> dict[str, ErrorStatistics]:
    """Run an engine on every reference and gather the error of each output."""
    found = [engine.infer(inputs) for inputs in references]
    return statistics_of(truths, found, references, engine.manifest.outputs)


def statistics_of(
    truths: Sequence[Arrays],
    found: Sequence[Arrays],
    references: Sequence[Arrays],
    outputs: Sequence[TensorSpec],
) -> dict[str, ErrorStatistics]:
    """Error of each output over all references, as a tensor and as a picture.

    Raises:
        ShapeError: an output has another shape than torch's.
    """
    gathered = {}
    for spec in outputs:
        pairs = [(t[spec.name], f[spec.name]) for t, f in zip(truths, found, strict=True)]
        for true, other in pairs:
            if true.shape != other.shape:
                raise ShapeError(
                    f"output {spec.name!r} has shape {list(other.shape)}, "
                    f"torch gives {list(true.shape)}"
                )
        trues, others = (
            np.concatenate([x.reshape(-1) for x in xs]) for xs in zip(*pairs, strict=True)
        )
        whole = statistics(trues, others)
        picture: dict[str, float] = {}
        if math.isfinite(whole.max_abs) and spec.colour == "RGB":
            pictures = [
                _picture_statistics(spec, true, other, inputs)
                for (true, other), inputs in zip(pairs, references, strict=True)
            ]
            picture = {
                key: summary([values[key] for values in pictures])
                for key, summary in _SUMMARIES.items()
            }
        elif math.isfinite(whole.max_abs) and spec.colour == "mask":
            picture = _mask_statistics(trues > 0.5, others > 0.5)
        gathered[spec.name] = dataclasses.replace(whole, picture=picture)
    return gathered


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


_SUMMARIES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "levels_max": max,
    "levels_mean": _mean,
    "changed_share": _mean,
    "ssim": min,
}


def _mask_statistics(true: NDArray[np.bool_], found: NDArray[np.bool_]) -> dict[str, float]:
    """Of two masks, over the whole reference set: a single picture may have no marked pixel."""
    marked = np.count_nonzero(true | found)
    shared = np.count_nonzero(true & found)
    return {"flipped_share": float(np.mean(true != found)), "iou": shared / marked if marked else 1}


def _picture_statistics(
    spec: TensorSpec, true: NDArray[Any], found: NDArray[Any], inputs: Arrays
) -> dict[str, float]:
    """Of one RGB picture; see `ErrorStatistics.picture`."""
    levels = [_composed(output, spec, inputs) for output in (true, found)]
    gap = np.abs(levels[0] - levels[1])
    return {
        "levels_max": float(gap.max()),
        "levels_mean": float(gap.mean()),
        "changed_share": float(np.mean(gap > 0)),
        "ssim": _structural_similarity(*levels),
    }


def _composed(output: NDArray[Any], spec: TensorSpec, inputs: Arrays) -> NDArray[np.float64]:
    """The 8-bit picture [N, 3, H, W]: the output in the hole and the input around it, if masked."""
    image, mask = inputs.get("image"), inputs.get("mask")
    low, high = spec.range or (0.0, 1.0)
    picture = (output.astype(np.float64) - low) / (high - low)
    if image is not None and mask is not None and image.shape == output.shape:
        picture = (image - low) / (high - low) * (1.0 - mask) + picture * mask
    return np.rint(255 * np.clip(picture, 0, 1))


def _structural_similarity(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Mean SSIM of two pictures [N, C, H, W] of 0..255."""
    a, b = torch.from_numpy(first), torch.from_numpy(second)
    side = min(_SSIM_WINDOW, *first.shape[-2:])

    def mean(values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(values, side, 1)

    mean_a, mean_b = mean(a), mean(b)
    variances = mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float((similarity / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))).mean())


def excess(errors: Mapping[str, ErrorStatistics], tolerance: Tolerance) -> float:
    """The largest error as a share of what `check_parity` allows: 1 and below passes."""
    shares = []
    for error in errors.values():
        shares += [error.max_abs / tolerance.max_abs, error.mean_abs / tolerance.mean_abs]
        if "ssim" in error.picture:
            shares.append((1 - error.picture["ssim"]) / (1 - PICTURE_LIMITS["ssim"]))
        if "flipped_share" in error.picture:
            shares.append(error.picture["flipped_share"] / PICTURE_LIMITS["flipped_share"])
            shares.append((1 - error.picture["iou"]) / (1 - PICTURE_LIMITS["iou"]))
    return max(shares)


def check_parity(
    errors: Mapping[str, ErrorStatistics],
    tolerance: Tolerance,
    where: str,
    hint: Callable[[], str] = str,
) -> None:
    """Refuse an engine whose error is over the tolerance, or shows in the picture.

    Args:
        hint: makes a sentence for the end of the message; called when it is needed.

    Raises:
        ParityError: names the output, its error and the tolerance.
    """
    for name, error in errors.items():
        # Written so that a NaN fails: every comparison with NaN is false.
        if not (error.max_abs <= tolerance.max_abs and error.mean_abs <= tolerance.mean_abs):
            raise ParityError(
                f"{where}: output {name!r} differs from float32 torch by {error.max_abs:.3g} at "
                f"most and {error.mean_abs:.3g} on average; the tolerance is "
                f"{tolerance.max_abs:.3g} and {tolerance.mean_abs:.3g}. "
                f"The bundle was not written. {hint()}".rstrip()
            )
        similarity = error.picture.get("ssim", 1.0)
        flipped = error.picture.get("flipped_share", 0.0)
        shared = error.picture.get("iou", 1.0)
        if (
            similarity < PICTURE_LIMITS["ssim"]
            or flipped > PICTURE_LIMITS["flipped_share"]
            or shared < PICTURE_LIMITS["iou"]
        ):
            raise ParityError(
                f"{where}: output {name!r} makes another picture than float32 torch: SSIM "
                f"{similarity:.4f} (at least {PICTURE_LIMITS['ssim']}), {100 * flipped:.2g} % of a "
                f"mask flipped (at most {100 * PICTURE_LIMITS['flipped_share']:.2g} %), "
                f"intersection over union {shared:.3f} (at least {PICTURE_LIMITS['iou']}). "
                f"The bundle was not written. {hint()}".rstrip()
            )
