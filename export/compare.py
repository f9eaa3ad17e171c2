"""The parity gate: does an engine compute what the network computes?

Every engine and precision of a bundle is run on the reference set and compared with float32 torch,
output by output. What is further away than the manifest's tolerance does not enter the bundle.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from revisage.engines import Engine
from revisage.errors import ParityError, ShapeError
from revisage.manifest import TensorSpec, Tolerance

__all__ = ["ErrorStatistics", "check_parity", "measure", "run_torch", "statistics"]

Arrays = Mapping[str, NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class ErrorStatistics:
    """How far one output is from float32 torch, over the whole reference set."""

    max_abs: float
    mean_abs: float
    rms: float
    p99_abs: float
    psnr_db: float  # against the output's true range; infinite errors make it -inf, none make 999


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
    """Outputs of a network in eval mode, by the manifest's names."""
    with torch.inference_mode():
        found = network(*(torch.from_numpy(inputs[spec.name]) for spec in input_specs))
    tensors = found if isinstance(found, (tuple, list)) else (found,)
    if len(tensors) != len(output_specs):
        raise ShapeError(
            f"the network gives {len(tensors)} outputs, the manifest names {len(output_specs)}"
        )
    return {spec.name: tensor.numpy() for spec, tensor in zip(output_specs, tensors, strict=True)}


def measure(
    engine: Engine, references: Sequence[Arrays], truths: Sequence[Arrays]
) -> dict[str, ErrorStatistics]:
    """Run an engine on every reference and gather the error of each output."""
    true: dict[str, list[NDArray[Any]]] = {}
    found: dict[str, list[NDArray[Any]]] = {}
    for inputs, outputs in zip(references, truths, strict=True):
        results = engine.infer(inputs)
        for name, output in outputs.items():
            if results[name].shape != output.shape:
                raise ParityError(
                    f"{engine.name}: output {name!r} has shape {list(results[name].shape)}, "
                    f"torch gives {list(output.shape)}"
                )
            true.setdefault(name, []).append(output.reshape(-1))
            found.setdefault(name, []).append(results[name].reshape(-1))
    return {
        name: statistics(np.concatenate(true[name]), np.concatenate(found[name])) for name in true
    }


def check_parity(errors: Mapping[str, ErrorStatistics], tolerance: Tolerance, where: str) -> None:
    """Refuse an engine whose error is over the tolerance.

    Raises:
        ParityError: names the output, its error and the tolerance.
    """
    for name, error in errors.items():
        # Written so that a NaN fails: every comparison with NaN is false.
        if not (error.max_abs <= tolerance.max_abs and error.mean_abs <= tolerance.mean_abs):
            raise ParityError(
                f"{where}: output {name!r} differs from float32 torch by {error.max_abs:.3g} at "
                f"most and {error.mean_abs:.3g} on average; the tolerance is "
                f"{tolerance.max_abs:.3g} and {tolerance.mean_abs:.3g}. The bundle was not written"
            )
