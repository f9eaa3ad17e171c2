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
  module.def(
      "flow_warp_backward_into",
      [](const std::optional<py::object>& grad_image, const std::optional<py::object>& grad_flow,
         const py::object& grad, const py::object& image, const py::object& flow,
         const std::string& padding, bool interleaved, int threads, std::uintptr_t stream) {
        Array grad_image_array, grad_flow_array;
        if (grad_image) grad_image_array = borrow("grad_image", *grad_image, stream);
        if (grad_flow) grad_flow_array = borrow("grad_flow", *grad_flow, stream);
        const Array grad_array = borrow("grad", grad, stream);
        const Array image_array = borrow("image", image, stream);
        const Array flow_array = borrow("flow", flow, stream);
        const Padding parsed = parse_padding(padding);
        const py::gil_scoped_release unlocked;
        flow_warp_backward(grad_image ? &grad_image_array : nullptr,
                           grad_flow ? &grad_flow_array : nullptr, grad_array, image_array,
                           flow_array, parsed, interleaved, {threads, stream});
      },
      py::arg("grad_image").none(true), py::arg("grad_flow").none(true), py::arg("grad"),
      py::arg("image"), py::arg("flow"), py::arg("padding"), py::arg("interleaved"),
      py::arg("threads"), py::arg("stream"));
}

}  // namespace revisage::python
