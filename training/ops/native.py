"""Which implementation of an operator runs, and how tensors reach the compiled kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from revisage import kernels
from revisage.errors import OptionError, ShapeError

__all__ = ["execution", "plain", "runs_native"]


def runs_native(like: Tensor, impl: str | None) -> bool:
    """Whether a call on tensors such as `like` runs the compiled kernel (else the twin).

    Raises:
        OptionError: `impl` is no implementation.
        ShapeError: "native" was asked for, and the tensors are not float32.
    """
    if impl not in (None, "native", "reference"):
        raise OptionError(f"impl must be None, 'native' or 'reference', got {impl!r}")
    if impl == "native" and like.dtype != torch.float32:
        raise ShapeError(f"the compiled kernels take float32, got {like.dtype}; use .float()")
    if impl is None:
        return kernels.HAS_NATIVE and like.dtype == torch.float32
    return impl == "native"


def plain(*tensors: Tensor) -> list[Any]:
    """Contiguous tensors without their history, as kernels take them: NumPy views on the CPU."""
    contiguous = [tensor.detach().contiguous() for tensor in tensors]
    return [tensor if tensor.is_cuda else tensor.numpy() for tensor in contiguous]


def execution(like: Tensor) -> dict[str, Any]:
    """Arguments that make a kernel run as torch would: its threads, or its current stream."""
    if like.is_cuda:
        return {"impl": "native", "stream": torch.cuda.current_stream(like.device)}
    return {"impl": "native", "threads": torch.get_num_threads()}
