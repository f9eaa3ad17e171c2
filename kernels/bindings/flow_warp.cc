#include "revisage/flow_warp.h"

#include <pybind11/stl.h>

#include <optional>

#include "array_argument.h"
#include "bindings.h"

namespace py = pybind11;

namespace revisage::python {
namespace {

Padding parse_padding(const std::string& name) {
  if (name == "border") return Padding::border;
  if (name == "zero") return Padding::zero;
  if (name == "reflect") return Padding::reflect;
  throw OptionError("padding must be border, zero or reflect, got " + name);
}

}  // namespace

void register_flow_warp(py::module_& module) {
  module.def(
      "flow_warp_into",
      [](const py::object& out, const py::object& image, const std::optional<py::object>& flow,
         const std::optional<py::tuple>& matrix, const std::string& padding, bool interleaved,
         int threads, std::uintptr_t stream) {
        const Array out_array = borrow("out", out, stream),
                    image_array = borrow("image", image, stream);
        Array flow_array;
        if (flow) flow_array = borrow("flow", *flow, stream);
        Affine affine;
        if (matrix) affine = to_affine(*matrix);
        const Padding parsed = parse_padding(padding);
        const py::gil_scoped_release unlocked;
        flow_warp(out_array, image_array, flow ? &flow_array : nullptr, matrix ? &affine : nullptr,
                  parsed, interleaved, {threads, stream});
      },
      py::arg("out"), py::arg("image"), py::arg("flow").none(true), py::arg("matrix").none(true),
      py::arg("padding"), py::arg("interleaved"), py::arg("threads"), py::arg("stream"));
}

}  // namespace revisage::python
