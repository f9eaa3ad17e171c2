#include "revisage/composite.h"

#include "array_argument.h"
#include "bindings.h"

namespace py = pybind11;

namespace revisage::python {

void register_composite(py::module_& module) {
  module.def(
      "composite_into",
      [](const py::object& out, const py::object& original, const py::object& delta,
         const py::object& mask, const py::tuple& matrix, double strength, int threads,
         std::uintptr_t stream) {
        const Array out_array = borrow("out", out, stream),
                    original_array = borrow("original", original, stream);
        const Array delta_array = borrow("delta", delta, stream),
                    mask_array = borrow("mask", mask, stream);
        const Affine affine = to_affine(matrix);
        const py::gil_scoped_release unlocked;
        composite(out_array, original_array, delta_array, mask_array, affine,
                  static_cast<float>(strength), {threads, stream});
      },
      py::arg("out"), py::arg("original"), py::arg("delta"), py::arg("mask"), py::arg("matrix"),
      py::arg("strength"), py::arg("threads"), py::arg("stream"));
}

}  // namespace revisage::python
