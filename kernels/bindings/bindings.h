// One register function per operation.
#pragma once

#include <pybind11/pybind11.h>

namespace revisage::python {

void register_errors(pybind11::module_& module);
void register_runtime(pybind11::module_& module);
void register_composite(pybind11::module_& module);
void register_feature_blend(pybind11::module_& module);
void register_fft_conv(pybind11::module_& module);
void register_flow_warp(pybind11::module_& module);
void register_winograd_conv(pybind11::module_& module);

}  // namespace revisage::python
