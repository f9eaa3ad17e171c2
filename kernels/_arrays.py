"""How arrays enter and leave the kernels, whatever library made them.

Host arrays become NumPy views without a copy (DLPack, `__array_interface__`); CUDA arrays stay what
they are and cross into C++ by DLPack, or by `__cuda_array_interface__` where there is no DLPack.
Every error names the argument and says what to type instead.

A dtype is its NumPy name here ("uint8", "float32", ...), since NumPy has no "bfloat16".
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from revisage.errors import DeviceError, OptionError, ShapeError

HostArray = npt.NDArray[Any]
Matrix = tuple[float, float, float, float, float, float]

# DLPack device types (dlpack.h): memory that the CPU can read, and CUDA's own.
_DLPACK_HOST = (1, 3)  # kDLCPU, kDLCUDAHost
_DLPACK_CUDA = (2, 13)  # kDLCUDA, kDLCUDAManaged

_IDENTITY: Matrix = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def device_of(name: str, array: Any) -> str:
    """ "cpu" or "cuda"; ShapeError where `array` is no array, DeviceError for other devices."""
    if isinstance(array, np.ndarray):
        return "cpu"
    if hasattr(array, "__dlpack_device__"):
        try:
            kind = int(array.__dlpack_device__()[0])
        except Exception as error:
            raise ShapeError(f"{name} has a broken __dlpack_device__: {error!r}") from error
        if kind in _DLPACK_HOST:
            return "cpu"
        if kind in _DLPACK_CUDA:
            return "cuda"
        raise DeviceError(f"{name} lies on a device that is neither CPU nor CUDA; copy it to one")
    if hasattr(array, "__cuda_array_interface__"):
        return "cuda"
    if hasattr(array, "__array_interface__"):
        return "cpu"
    raise ShapeError(
        f"{name} must be an array (NumPy, or anything with DLPack or an array interface), "
        f"got {type(array).__name__}; wrap it with numpy.asarray"
    )


def common_device(arrays: dict[str, Any]) -> str:
    """The one device of all arrays (None entries are skipped); DeviceError where they differ."""
    devices = {name: device_of(name, array) for name, array in arrays.items() if array is not None}
    if not devices:
        raise ShapeError(f"{', '.join(arrays)} must be arrays, got None")
    if len(set(devices.values())) > 1:
        found = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise DeviceError(f"all arrays of one call must lie on one device, got {found}")
    return next(iter(devices.values()))


def _host_view(name: str, array: Any) -> HostArray:
    if type(array) is np.ndarray:
        return array
    if isinstance(array, np.ma.MaskedArray):
        raise ShapeError(f"{name} is a masked array; fill it first (.filled)")
    if isinstance(array, np.ndarray):
        return array.view(np.ndarray)  # subclasses compute in ways of their own
    if _dtype_name(getattr(array, "dtype", "")) == "bfloat16":
        raise ShapeError(
            f"{name} is bfloat16, which runs on CUDA only; convert it to float32 on the CPU"
        )
    try:
        view = np.from_dlpack(array) if hasattr(array, "__dlpack__") else np.asarray(array)
    except Exception as error:  # whatever the other library raises
        raise ShapeError(f"{name} cannot be read as an array: {error!r}") from error
    if view.ctypes.data == 0:
        raise ShapeError(f"{name} has no memory (null pointer)")
    return view


@functools.cache
def _numpy_name(dtype: np.dtype[Any]) -> str:
    """The name of a NumPy dtype, which NumPy takes microseconds to spell."""
    return str(dtype)


def _dtype_name(dtype: Any) -> str:
    """ "float32" of NumPy's and of torch's float32."""
    return str(dtype).removeprefix("torch.")


def _check_dtype(name: str, dtype: str, allowed: Sequence[str]) -> None:
    if dtype not in allowed:
        raise ShapeError(
            f"{name} must be {' or '.join(allowed)} in native byte order, got {dtype}; "
            f"convert it with .astype (NumPy, CuPy) or .to (torch)"
        )


def host_input(name: str, array: Any, allowed: Sequence[str]) -> HostArray:
    """A C-contiguous, aligned NumPy view; a copy only where the strides are others.

    Raises:
        ShapeError: not an array, or a dtype that is not `allowed` (never converted silently).
    """
    view = _host_view(name, array)
    _check_dtype(name, _numpy_name(view.dtype), allowed)
    if view.flags.c_contiguous and view.flags.aligned:
        return view
    try:
        return np.require(view, requirements=["C", "A"])
    except MemoryError as error:
        raise ShapeError(
            f"{name} is not C-contiguous, and a copy of {list(view.shape)} does not fit into memory"
        ) from error


def host_output(name: str, array: Any, shape: Sequence[int], dtype: str) -> HostArray:
    """A writable NumPy view of a caller's output.

    Raises:
        ShapeError: wrong shape or dtype, read-only, not C-contiguous, not aligned.
    """
    view = _host_view(name, array)
    check_output(name, view.shape, _numpy_name(view.dtype), shape, dtype)
    if not view.flags.writeable:
        raise ShapeError(f"{name} is read-only; give a writable array, for example {name}.copy()")
    if not (view.flags.c_contiguous and view.flags.aligned):
        raise ShapeError(
            f"{name} must be C-contiguous and aligned, got strides {list(view.strides)}; "
            "write into numpy.empty(shape, dtype) and copy from there"
        )
    return view


def output(name: str, array: Any, shape: Sequence[int], dtype: str, device: str) -> Any:
    """A caller's output, checked; on the CPU as a NumPy view. Errors as `host_output`."""
    if device == "cpu":
        return host_output(name, array, shape, dtype)
    check_output(name, *cuda_description(name, array), shape, dtype)
    return array


def check_output(
    name: str, shape: Sequence[int], dtype: str, want_shape: Sequence[int], want_dtype: str
) -> None:
    """ShapeError unless an output has the wanted shape and dtype."""
    if tuple(shape) != tuple(want_shape) or dtype != want_dtype:
        raise ShapeError(
            f"{name} must be {want_dtype} of shape {list(want_shape)}, "
            f"got {dtype} of shape {list(shape)}"
        )


def cuda_description(name: str, array: Any) -> tuple[tuple[int, ...], str]:
    """Shape and dtype of a CUDA array, from its attributes or its interface.

    They only choose a shorter error or the shape of a result: C++ reads and checks them again.
    """
    try:
        if hasattr(array, "shape") and hasattr(array, "dtype"):
            return tuple(int(n) for n in array.shape), _dtype_name(array.dtype)
        interface = array.__cuda_array_interface__
        return tuple(int(n) for n in interface["shape"]), str(np.dtype(interface["typestr"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ShapeError(f"{name} does not tell its shape and dtype: {error}") from error


def shape_of(name: str, array: Any, device: str) -> tuple[int, ...]:
    """Shape of an array of any library."""
    if device == "cpu":
        return _host_view(name, array).shape
    return cuda_description(name, array)[0]


def describe(
    name: str, array: Any, device: str, allowed: Sequence[str]
) -> tuple[tuple[int, ...], str]:
    """Shape and dtype of an array that is already prepared; ShapeError for a foreign dtype."""
    if device == "cpu":
        return array.shape, _numpy_name(array.dtype)
    shape, dtype = cuda_description(name, array)
    _check_dtype(name, dtype, allowed)
    return shape, dtype


def check_shape(name: str, shape: Sequence[int], want: Sequence[int | str]) -> None:
    """ShapeError unless `shape` has the wanted rank, and the wanted size where that is a number."""
    fits = len(shape) == len(want) and all(
        isinstance(w, str) or w == n for n, w in zip(shape, want, strict=True)
    )
    if not fits:
        raise ShapeError(f"{name} must be [{', '.join(str(w) for w in want)}], got {list(shape)}")
    if 0 in shape:
        raise ShapeError(f"{name} is empty: {list(shape)}")


def refuse_overlap(
    out: HostArray, inputs: dict[str, HostArray | None], out_name: str = "out"
) -> None:
    """ShapeError where a host output shares memory with an input that is read after writing."""
    for name, array in inputs.items():
        if array is not None and np.may_share_memory(out, array):
            raise ShapeError(f"{out_name} overlaps {name}; give an output of its own")


def new_output(like: Any, shape: Sequence[int], device: str) -> Any:
    """An uninitialised array of the library, dtype and device of `like`.

    Torch tensors give torch tensors (`new_empty`), CuPy arrays CuPy arrays, host arrays of other
    libraries NumPy arrays. No library is imported here.
    """
    if not isinstance(like, np.ndarray) and hasattr(like, "new_empty"):
        return like.new_empty(tuple(shape))
    if device == "cpu":
        try:
            return np.empty(tuple(shape), _host_view("image", like).dtype)
        except (MemoryError, ValueError) as error:
            raise ShapeError(f"a result of {list(shape)} does not fit into memory") from error
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(like, cupy.ndarray):
        return cupy.empty(tuple(shape), like.dtype)
    raise DeviceError(
        f"cannot allocate an output of type {type(like).__name__}; "
        "allocate it yourself and call the function that ends in _into"
    )


def new_workspace(like: Any, size: int, stream: int) -> Any:
    """`size` bytes of uninitialised CUDA memory from the pool of the library of `like`.

    The pool gives them to later work of the same stream only, so the caller may drop them while
    the stream (an address) still uses them, and a graph that captures the stream keeps them.
    """
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is not None and isinstance(like, torch.Tensor):
        on = torch.cuda.current_stream(like.device)
        if on.cuda_stream != stream:
            on = torch.cuda.default_stream(like.device)
            on = torch.cuda.ExternalStream(stream, like.device) if stream else on
        with torch.cuda.stream(on):
            return like.new_empty(size, dtype=torch.uint8)
    if cupy is not None and isinstance(like, cupy.ndarray):
        on = cupy.cuda.ExternalStream(stream) if stream else cupy.cuda.Stream.null
        with like.device, on:
            return cupy.empty(size, cupy.uint8)
    raise DeviceError(
        f"cannot allocate a workspace for arrays of type {type(like).__name__}; "
        f"give workspace=, uint8 CUDA memory of {size} bytes"
    )


def affine_matrix(matrix: Any) -> Matrix:
    """Six float64 of a [2, 3] matrix, row by row; None is the identity.

    Raises:
        ShapeError: not [2, 3].
        OptionError: a value is not finite.
    """
    if matrix is None:
        return _IDENTITY
    try:
        values = np.asarray(matrix)
        if values.dtype.kind == "c":
            raise TypeError("complex numbers")
        values = values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ShapeError(f"matrix must be [2, 3] numbers on the CPU: {error}") from error
    check_shape("matrix", values.shape, (2, 3))
    if not np.isfinite(values).all():
        raise OptionError(f"matrix must be finite, got {values.tolist()}")
    a, b, c, d, e, f = (float(v) for v in values.ravel())
    return a, b, c, d, e, f


def checked_strength(strength: float) -> float:
    """`strength` as a float; OptionError unless it is not negative and finite as a float32."""
    try:
        value = float(strength)
    except (TypeError, ValueError, OverflowError):
        value = -1.0
    if not 0.0 <= value <= np.finfo(np.float32).max:
        raise OptionError(f"strength must be a finite number of at least 0, got {strength!r}")
    return value
