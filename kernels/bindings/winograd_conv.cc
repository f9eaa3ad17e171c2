#include "revisage/winograd_conv.h"

#include "array_argument.h"
#include "bindings.h"

namespace py = pybind11;

namespace revisage::python {
namespace {

Surroundings to_surroundings(const std::string& padding) {
  if (padding == "none") return Surroundings::none;
  if (padding == "zero") return Surroundings::zeros;
  if (padding == "reflect") return Surroundings::reflection;
  throw OptionError("padding must be none, zero or reflect, got " + padding);
}

// Null for None.
const Array* borrow_optional(Array& array, const char* name, const py::object& object) {
  if (object.is_none()) return nullptr;
  array = borrow(name, object, 0);
  return &array;
}

}  // namespace

void register_winograd_conv(py::module_& module) {
  module.def(
      "winograd_conv_into",
      [](const py::object& out, const py::object& x, const py::object& weight,
         const py::object& bias, const py::object& residual, const py::object& skip,
         const std::string& padding, float slope, float ceiling, int threads) {
        const Array out_array = borrow("out", out, 0), x_array = borrow("x", x, 0);
        const Array weight_array = borrow("weight", weight, 0);
        Array bias_array, residual_array, skip_array;
        const Array* bias_given = borrow_optional(bias_array, "bias", bias);
        const Array* residual_given = borrow_optional(residual_array, "residual", residual);
        const Array* skip_given = borrow_optional(skip_array, "skip", skip);
        const Surroundings surroundings = to_surroundings(padding);
        const py::gil_scoped_release unlocked;
        winograd_conv(out_array, x_array, weight_array, bias_given, residual_given, skip_given,
                      surroundings, {slope, ceiling}, {threads, 0});
      },
      py::arg("out"), py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("residual"),
      py::arg("skip"), py::arg("padding"), py::arg("slope"), py::arg("ceiling"),
      py::arg("threads"));
}

}  // namespace revisage::python
