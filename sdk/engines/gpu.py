"""NVIDIA GPUs: whether one can be used here."""

from __future__ import annotations

import ctypes
import os

__all__ = ["gpu_obstacle"]


def gpu_obstacle() -> str:
    """Why no GPU can be used here, with the remedy; "" where one can. Asks the driver only."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return "no NVIDIA driver (libcuda.so.1) is installed: install the driver for your GPU"
    status = driver.cuInit(0)
    count = ctypes.c_int(0)
    if status == 0:
        status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status != 0 or count.value == 0:
        return f"the NVIDIA driver finds no usable GPU (CUDA error {status}): check nvidia-smi"
    return ""
