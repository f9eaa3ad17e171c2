"""Which implementation runs a call, on how many threads, on which stream.

Environment variables read here (and nowhere else in kernels/):
    REVISAGE_NUM_THREADS: CPU threads of the native kernels; default: the cores that this process
        may use.
    REVISAGE_CPU_ISA: baseline, avx2 or avx512; default: the best that this machine has. A level
        that the machine lacks is an error, not a fallback.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from revisage.errors import DeviceError, OptionError

# Looked for by name, so that an extension that is there and broken is an error, not a fallback.
_SPEC = importlib.util.find_spec("revisage.kernels._native")
HAS_NATIVE = _SPEC is not None

if HAS_NATIVE or TYPE_CHECKING:
    from revisage.kernels import _native as _native

Impl = Literal["native", "reference"]


def available_devices() -> list[str]:
    """Devices that the kernels can run on here: "cpu", and "cuda:0", "cuda:1", ... where usable.

    A CUDA device is listed if the extension was built with CUDA, a driver is there, and the build
    holds code for that device.
    """
    count = _native.cuda_device_count() if HAS_NATIVE else 0
    return ["cpu", *(f"cuda:{index}" for index in range(count))]


def cpu_isa() -> str:
    """Instruction set of the native CPU kernels: "baseline", "avx2" or "avx512".

    Raises:
        DeviceError: the native kernels are not built.
        OptionError: REVISAGE_CPU_ISA names an unknown set, or one that this machine lacks.
    """
    choose("native", "cpu")
    return _native.cpu_isa()


def set_cpu_isa(name: str) -> None:
    """Choose the instruction set of the native CPU kernels, for the whole process.

    Not while kernels run in another thread. Results of `fft_conv`, `feature_blend` and
    `winograd_conv` may differ in the last bits from one set to another; those of `composite` and
    `flow_warp` do not.

    Raises:
        DeviceError: the native kernels are not built.
        OptionError: an unknown set, or one that this machine lacks.
    """
    choose("native", "cpu")
    _native.set_cpu_isa(name)


def onnxruntime_library() -> Path | None:
    """The kernels as custom operators for ONNX Runtime's CPU provider, where they were built.

    Give the path to `onnxruntime.SessionOptions.register_custom_ops_library`. The operators
    `FftConv`, `FlowWarp`, `FeatureBlend` and `WinogradConv` (with what is fused into it, see
    README.md) of the domain `revisage` then run on the session's threads. None: built without ONNX
    Runtime's headers.
    """
    if _SPEC is None or _SPEC.origin is None:
        return None
    library = Path(_SPEC.origin).with_name("librevisage_onnxruntime.so")
    return library if library.is_file() else None


def choose(impl: str | None, device: str) -> Impl:
    """The implementation of a call: what was asked for, else native where built, else reference.

    Raises:
        OptionError: `impl` is no implementation.
        DeviceError: native was asked for and not built, or CUDA arrays were given and cannot run.
    """
    if impl not in (None, "native", "reference"):
        raise OptionError(f"impl must be None, 'native' or 'reference', got {impl!r}")
    if device == "cuda":
        if impl == "reference":
            raise DeviceError("impl='reference' computes on the CPU; copy the arrays to the host")
        if not HAS_NATIVE:
            raise DeviceError(
                "CUDA arrays need the compiled kernels, and this Revisage was installed without "
                "them; reinstall with a C++ compiler and nvcc, or copy the arrays to the host"
            )
        return "native"
    if impl == "native" and not HAS_NATIVE:
        raise DeviceError(
            "impl='native' needs the compiled kernels, and this Revisage was installed without "
            "them; reinstall with a C++ compiler, or pass impl=None"
        )
    if impl is None:
        return "native" if HAS_NATIVE else "reference"
    return "native" if impl == "native" else "reference"


def thread_count(threads: int | None) -> int:
    """Threads for a native CPU call: the argument, else REVISAGE_NUM_THREADS, else 0 (all cores).

    Raises:
        OptionError: not a whole number from 1 to 1024.
    """
    source, value = "threads", threads
    if threads is None:
        text = os.environ.get("REVISAGE_NUM_THREADS", "")
        if not text:
            return 0
        source, value = "REVISAGE_NUM_THREADS", int(text) if text.isdecimal() else -1
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1024:
        raise OptionError(f"{source} must be a whole number from 1 to 1024")
    return value


def stream_handle(stream: Any, device: str, first: Any) -> int:
    """The CUDA stream of a call as an address; 0 is the legacy default stream.

    `stream` may be an address, or an object of torch (`cuda_stream`), CuPy (`ptr`) or any library
    with `__cuda_stream__`. None takes the current stream of the first array's library, where that
    is torch or CuPy; else the stream that the array names in its interface; else the legacy one.
    """
    if device == "cpu":
        if stream is not None:
            raise OptionError("stream is for CUDA arrays; these arrays are on the CPU")
        return 0
    if stream is None:
        return _current_stream(first)
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    for attribute in ("cuda_stream", "ptr"):
        if hasattr(stream, attribute):
            return int(getattr(stream, attribute))
    if isinstance(stream, int) and not isinstance(stream, bool) and stream >= 0:
        return stream
    raise OptionError(
        f"stream must be an address, or a stream of torch or CuPy, got {type(stream).__name__}"
    )


def _current_stream(array: Any) -> int:
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is not None and isinstance(array, torch.Tensor):
        return int(torch.cuda.current_stream(array.device).cuda_stream)
    if cupy is not None and isinstance(array, cupy.ndarray):
        return int(cupy.cuda.get_current_stream(array.device.id).ptr)
    named = getattr(array, "__cuda_array_interface__", {}).get("stream")
    # The interface says 1 for the legacy default stream (0 is not allowed there).
    return 0 if named in (None, 1) else int(named)
