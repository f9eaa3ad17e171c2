"""Builds the CUDA sources of an operation for the CPU, and calls them with NumPy arrays.

The kernels, their launch code and their C++ checks are the very files that nvcc compiles. Arrays
are copied into memory that ends at a guard page, so that an access past the end is an error.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parents[2] / "kernels"
FLAGS = (
    *("-std=c++17", "-O1", "-fPIC", "-shared", "-w", "-U_FORTIFY_SOURCE", "-ffp-contract=off"),
    "-DREVISAGE_CUDA_EMULATION",
    # Undefined behaviour (indices of arrays, alignment, overflow) stops the emulated thread.
    *("-fsanitize=undefined", "-fno-sanitize=vptr", "-fsanitize-undefined-trap-on-error"),
)


def compiler() -> str | None:
    """g++, or what CXX names; None where there is none."""
    return shutil.which(os.environ.get("CXX", "g++"))


class _Argument(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("dtype", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("shape", ctypes.c_int64 * 8),
        ("rank", ctypes.c_int),
    ]


class EmulatedError(Exception):
    """What the C++ code threw, as text."""


class EmulatedCuda:
    """One operation, built from `kernels/src` and `<op>_entry.cc` of this folder.

    Args:
        more: further files of `kernels/src`.
    """

    def __init__(self, op: str, folder: Path, more: Sequence[str] = ()) -> None:
        library = folder / f"{op}.so"
        names = ["array.cc", "cuda_runtime.cu", *more]
        if op != "self_test":
            names += ["checks.cc", f"{op}.cc"]
        files = [KERNELS / "src" / name for name in names]
        files += (KERNELS / "src").glob(f"{op}*_gpu.cu")
        files += [HERE / "cuda_emulation.cc", *HERE.glob(f"{op}_entry.cc"), *HERE.glob(f"{op}.cu")]
        folders = (HERE, KERNELS / "include", KERNELS / "src")
        command = [compiler() or "g++", *FLAGS, *(f"-I{path}" for path in folders), "-x", "c++"]
        built = subprocess.run(
            [*command, *map(str, files), "-o", str(library)], capture_output=True, text=True
        )
        if built.returncode != 0:
            raise RuntimeError(f"building {op} for the emulator failed:\n{built.stderr[:6000]}")
        self.library = ctypes.CDLL(str(library))
        self.library.emulated_allocate.restype = ctypes.c_void_p
        self.library.emulated_allocate.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
        self.library.emulated_free.argtypes = [ctypes.c_void_p]
        self._op = op

    def array(self, values: np.ndarray, alignment: int = 256) -> np.ndarray:
        """A copy that begins at a multiple of `alignment` (a power of two, at least the sample) and
        ends at a guard page, or less than `alignment` bytes before it."""
        values = np.ascontiguousarray(values)
        address = self.library.emulated_allocate(values.nbytes, alignment)
        memory = (ctypes.c_byte * values.nbytes).from_address(address)
        weakref.finalize(memory, self.library.emulated_free, address)
        copy = np.frombuffer(memory, values.dtype).reshape(values.shape)
        copy[...] = values
        return copy

    def set_device(self, major: int = 9, shared_bytes: int = 227 << 10) -> None:
        """Pretend to be another GPU: compute capability, shared memory that a block may ask for."""
        self.library.emulated_set_device(major, shared_bytes)

    def set_order(self, backwards: bool) -> None:
        """Run the threads of a block from the last to the first, for races that order hides."""
        self.library.emulated_set_order(int(backwards))

    def __call__(
        self,
        arrays: dict[str, np.ndarray | None],
        *numbers: float,
        dtypes: dict[str, str] | None = None,
        entry: str | None = None,
    ) -> list[float]:
        """Calls the entry point `entry` (else that of the operation's name); the numbers after it.

        None stands for an array that is not given; `dtypes` renames dtypes that NumPy lacks, such
        as {"x": "bfloat16"} for a uint16 array.

        Raises:
            EmulatedError: the operation threw, or a kernel did what a GPU would not survive.
        """
        arguments = (_Argument * len(arrays))()
        for argument, (name, array) in zip(arguments, arrays.items(), strict=True):
            if array is None:
                continue
            dtype = (dtypes or {}).get(name, array.dtype.name)
            argument.name, argument.dtype = name.encode(), dtype.encode()
            argument.data, argument.rank = array.ctypes.data, array.ndim
            argument.shape[: array.ndim] = array.shape
        function = getattr(self.library, f"emulated_{entry or self._op}")
        function.restype = ctypes.c_char_p
        values = (ctypes.c_double * max(1, len(numbers)))(*numbers)
        error = function(arguments, values)
        if error is not None:
            raise EmulatedError(error.decode())
        return list(values)
