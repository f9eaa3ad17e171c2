#include "revisage/fft_conv.h"

#include "array_argument.h"
#include "bindings.h"

namespace py = pybind11;

namespace revisage::python {

void register_fft_conv(py::module_& module) {
  module.def(
      "fft_conv_into",
      [](const py::object& out, const py::object& x, const py::object& weight,
         const py::object& scale, const py::object& shift, int threads, std::uintptr_t stream) {
        const Array out_array = borrow("out", out, stream), x_array = borrow("x", x, stream);
        const Array weight_array = borrow("weight", weight, stream);
        const Array scale_array = borrow("scale", scale, stream),
                    shift_array = borrow("shift", shift, stream);
        const py::gil_scoped_release unlocked;
        fft_conv(out_array, x_array, weight_array, scale_array, shift_array, {threads, stream});
      },
      py::arg("out"), py::arg("x"), py::arg("weight"), py::arg("scale"), py::arg("shift"),
      py::arg("threads"), py::arg("stream"));
}

}  // namespace revisage::python
