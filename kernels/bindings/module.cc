// Table of contents of revisage.kernels._native.
#include "bindings.h"

PYBIND11_MODULE(_native, module) {
  using namespace revisage::python;
  register_errors(module);
  register_runtime(module);
  register_composite(module);
  register_feature_blend(module);
  register_fft_conv(module);
  register_flow_warp(module);
  register_winograd_conv(module);
}
