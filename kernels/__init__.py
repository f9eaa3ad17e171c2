"""The custom operations of Revisage: NumPy twin, C++ for CPUs, CUDA.

Each operation is one file here and one file set of the same name under src/, bindings/, tests/ and
benchmarks/. `op(...)` allocates its result, `op_into(out, ...)` does not.
"""

from __future__ import annotations

from revisage.kernels._dispatch import (
    HAS_NATIVE,
    available_devices,
    cpu_isa,
    onnxruntime_library,
    set_cpu_isa,
)
from revisage.kernels.composite import composite, composite_into
from revisage.kernels.feature_blend import (
    feature_blend,
    feature_blend_backward,
    feature_blend_backward_into,
    feature_blend_into,
)
from revisage.kernels.fft_conv import fft_conv, fft_conv_into, fft_conv_workspace_bytes
from revisage.kernels.flow_warp import (
    flow_warp,
    flow_warp_backward,
    flow_warp_backward_into,
    flow_warp_into,
)
from revisage.kernels.winograd_conv import winograd_conv, winograd_conv_into

__all__ = [
    "HAS_NATIVE",
    "available_devices",
    "composite",
    "composite_into",
    "cpu_isa",
    "feature_blend",
    "feature_blend_backward",
    "feature_blend_backward_into",
    "feature_blend_into",
    "fft_conv",
    "fft_conv_into",
    "fft_conv_workspace_bytes",
    "flow_warp",
    "flow_warp_backward",
    "flow_warp_backward_into",
    "flow_warp_into",
    "onnxruntime_library",
    "set_cpu_isa",
    "winograd_conv",
    "winograd_conv_into",
]
