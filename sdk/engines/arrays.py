"""How arrays enter and leave an engine: the result comes back as what went in, where it was.

Arrays on the CPU become NumPy views, arrays on a GPU become CuPy views, without a copy (DLPack,
`__cuda_array_interface__`, `__array_interface__`).

Note [Streams]
    The caller's stream is the one that was given, else the current one of the library of the first
    array. Inputs are read after the work that is on it now, and what comes back is complete for the
    work that is put on it next. Nothing waits on the CPU.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from revisage.errors import DeviceError, MissingExtraError, ShapeError
from revisage.kernels._arrays import device_of
from revisage.kernels._dispatch import stream_handle

__all__ = ["Exchange", "open_arrays"]


@dataclasses.dataclass(frozen=True)
class Exchange:
    """The arrays of one call, and the way back to the caller's kind."""

    device: str  # "cpu", "cuda"
    arrays: Mapping[str, Any]  # NumPy arrays, or CuPy arrays
    give_back: Callable[[Any], Any]  # from NumPy or CuPy to the library of the first array
    stream: int = 0  # the caller's, as an address; see Note [Streams]


def open_arrays(inputs: Mapping[str, Any], stream: Any, where: str) -> Exchange:
    """Arrays of one device and one library, as NumPy or CuPy arrays.

    Args:
        stream: the caller's CUDA stream: an address, or a stream of torch, CuPy or any library with
            `__cuda_stream__`; None: the current one of the first array's library.
        where: what the errors begin with.

    Raises:
        ShapeError: one is no array.
        DeviceError: they lie on different devices.
        OptionError: a stream is given for arrays on the CPU, or is none.
    """
    devices = {name: device_of(f"{where}: input {name!r}", a) for name, a in inputs.items()}
    if len(set(devices.values())) > 1:
        found = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise DeviceError(f"{where}: all inputs must lie on one device, got {found}")
    device = next(iter(devices.values()))
    first = next(iter(inputs.values()))
    handle = stream_handle(stream, device, first)
    library = type(first).__module__.split(".")[0]
    from_dlpack: Any = getattr(sys.modules.get(library), "from_dlpack", None)
    if device == "cpu":
        keeps = isinstance(first, np.ndarray) or from_dlpack is None
        views = {name: _view(a, np, f"{where}: input {name!r}") for name, a in inputs.items()}
        return Exchange(device, views, _unchanged if keeps else from_dlpack)
    try:
        import cupy
    except ImportError:
        raise MissingExtraError("gpu", f"{where}: arrays on a GPU") from None
    caller = cupy.cuda.ExternalStream(handle)

    def give_back(out: Any) -> Any:
        with caller:  # the library's own stream then waits for the caller's
            return out if from_dlpack is None else from_dlpack(out)

    with caller:
        views = {name: _view(a, cupy, f"{where}: input {name!r}") for name, a in inputs.items()}
    return Exchange(device, views, give_back, handle)


def _unchanged(array: Any) -> Any:
    return array


def _view(array: Any, library: Any, where: str) -> Any:
    """The array as one of NumPy or CuPy."""
    if type(array) is library.ndarray:
        return array
    try:
        return (
            library.from_dlpack(array) if hasattr(array, "__dlpack__") else library.asarray(array)
        )
    except Exception as error:  # whatever the other library raises
        raise ShapeError(
            f"{where}: the {type(array).__name__} cannot be read as an array "
            f"({(str(error).splitlines() or [''])[0]}); detach it, and use a dtype that NumPy has"
        ) from error
