"""The kernels as torch operators: they train, `torch.compile` and export.

Each operator of the namespace `revisage` is one file here, of the name of its kernel. Float32
tensors run the compiled kernel of their device, on torch's number of threads or torch's current
CUDA stream, without a copy of contiguous tensors; other floating-point tensors, and installations
without compiled kernels, run the twin, which is composed of torch's own operators. `impl` insists
on one: "native" or "reference".

In an exported ONNX graph each is one node of the domain `revisage` (`FftConv`, `FlowWarp`,
`FeatureBlend`); `revisage.export.portable_functions` gives such nodes a body of standard operators.
"""

from __future__ import annotations

from revisage.training.ops.feature_blend import feature_blend
from revisage.training.ops.fft_conv import fft_conv
from revisage.training.ops.flow_warp import flow_warp

__all__ = ["feature_blend", "fft_conv", "flow_warp"]
