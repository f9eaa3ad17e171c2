"""One call of torch's ONNX exporter: its options, its noise, its errors."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import onnx
import torch

from revisage.errors import EngineError

__all__ = ["OPSET", "exported_model"]

OPSET = 18  # ONNX Runtime's dynamic shapes and every engine's parser agree on it


def exported_model(
    network: torch.nn.Module,
    examples: tuple[torch.Tensor, ...],
    *,
    dynamic_shapes: tuple[dict[int, Any], ...],
    input_names: list[str],
    output_names: list[str],
) -> onnx.ModelProto:
    """What `torch.onnx.export` makes of a network in eval mode, as it is.

    Raises:
        EngineError: the network cannot be exported, or not at opset `OPSET`.
    """
    try:
        with _quiet_exporter(), torch.no_grad():
            program = torch.onnx.export(
                network,
                examples,
                dynamo=True,
                opset_version=OPSET,
                input_names=input_names,
                output_names=output_names,
                dynamic_shapes=dynamic_shapes,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise EngineError(f"torch cannot export this network: {_summary(error)}") from error
    if program is None:
        raise EngineError("torch's exporter gave no program")
    model = program.model_proto
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions.get("") != OPSET:
        raise EngineError(f"the exporter gave opset {versions.get('')}, asked for was {OPSET}")
    return model


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's notes about absent optional packages off the user's screen."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.filterwarnings("ignore", "# The axis name", UserWarning)
            yield
    finally:
        logger.setLevel(level)


def _summary(error: BaseException) -> str:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return " ".join(lines)[:400] or type(cause).__name__
