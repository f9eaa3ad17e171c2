"""The C++ extension as Python sees it. Private: call the functions of revisage.kernels.

Arrays are NumPy arrays, or CUDA arrays with DLPack or `__cuda_array_interface__`, C-contiguous.
`threads` 0 means all cores, `stream` is the address of a CUDA stream (0: the legacy one).
"""

from typing import Any

_Matrix = tuple[float, float, float, float, float, float]

def composite_into(
    out: Any,
    original: Any,
    delta: Any,
    mask: Any,
    matrix: _Matrix,
    strength: float,
    threads: int,
    stream: int,
) -> None: ...
def feature_blend_into(
    out: Any,
    style: Any,
    image: Any,
    spatial_logits: Any,
    channel_logits: Any,
    strength: float,
    threads: int,
    stream: int,
) -> None: ...
def feature_blend_backward_into(
    grad_style: Any,
    grad_image: Any,
    grad_spatial_logits: Any,
    grad_channel_logits: Any,
    grad: Any,
    style: Any,
    image: Any,
    spatial_logits: Any,
    channel_logits: Any,
    strength: float,
    threads: int,
    stream: int,
) -> None: ...
def fft_conv_into(
    out: Any,
    x: Any,
    weight: Any,
    scale: Any,
    shift: Any,
    threads: int,
    stream: int,
    workspace: Any | None = None,
) -> None: ...
def fft_conv_workspace_bytes(x: Any, weight: Any, stream: int) -> int: ...
def set_cufft_candidates(paths: list[str]) -> None: ...
def flow_warp_into(
    out: Any,
    image: Any,
    flow: Any | None,
    matrix: _Matrix | None,
    padding: str,
    interleaved: bool,
    threads: int,
    stream: int,
) -> None: ...
def flow_warp_backward_into(
    grad_image: Any | None,
    grad_flow: Any | None,
    grad: Any,
    image: Any,
    flow: Any,
    padding: str,
    interleaved: bool,
    threads: int,
    stream: int,
) -> None: ...
def winograd_conv_into(
    out: Any,
    x: Any,
    weight: Any,
    bias: Any | None,
    residual: Any | None,
    skip: Any | None,
    padding: str,
    slope: float,
    ceiling: float,
    threads: int,
) -> None: ...
def cuda_device_count() -> int: ...
def built_with_cuda() -> bool: ...
def cpu_isa() -> str: ...
def set_cpu_isa(name: str) -> None: ...
def copy_nontemporal(out: Any, source: Any, threads: int, prefetch: bool = True) -> None: ...
