"""The NVIDIA driver and the GPU, asked without any library of CUDA's toolkit."""

from __future__ import annotations

import ctypes
import dataclasses
import os

from revisage.errors import DeviceError

__all__ = ["Gpu", "find_gpu", "gpu_obstacle"]

# Values of CUdevice_attribute.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


@dataclasses.dataclass(frozen=True)
class Gpu:
    """The first GPU that this process may use."""

    name: str  # "NVIDIA GeForce RTX 4090"
    compute_capability: str  # "8.9"
    cuda: str  # version of CUDA that the driver serves: "13.0"
    driver: str  # its own version: "580.65.06"; "CUDA 13.0" where only that can be learnt


def find_gpu() -> Gpu:
    """The first GPU.

    Raises:
        DeviceError: there is no driver or no usable GPU; says what to do.
    """
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        raise DeviceError(
            "no NVIDIA driver (libcuda.so.1) is installed: install the driver for your GPU"
        ) from None
    count, device, version = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0)
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    name = ctypes.create_string_buffer(256)
    status = (
        driver.cuInit(0)
        or driver.cuDeviceGetCount(ctypes.byref(count))
        or driver.cuDeviceGet(ctypes.byref(device), 0)
        or driver.cuDeviceGetName(name, len(name), device)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
        or driver.cuDriverGetVersion(ctypes.byref(version))
    )
    if status != 0 or count.value == 0:
        raise DeviceError(
            f"the NVIDIA driver finds no usable GPU (CUDA error {status}): check nvidia-smi"
        )
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Gpu(
        name=name.value.decode(errors="replace"),
        compute_capability=f"{major.value}.{minor.value}",
        cuda=cuda,
        driver=_driver_version() or f"CUDA {cuda}",
    )


def _driver_version() -> str:
    """What the management library says; "" in containers that leave it out."""
    try:
        management = ctypes.CDLL("nvml.dll" if os.name == "nt" else "libnvidia-ml.so.1")
    except OSError:
        return ""
    if management.nvmlInit_v2() != 0:
        return ""
    text = ctypes.create_string_buffer(96)
    status = management.nvmlSystemGetDriverVersion(text, len(text))
    management.nvmlShutdown()
    return text.value.decode(errors="replace") if status == 0 else ""


def gpu_obstacle() -> str:
    """Why there is no usable GPU, with the remedy; "" where there is one."""
    try:
        find_gpu()
    except DeviceError as error:
        return str(error)
    return ""
