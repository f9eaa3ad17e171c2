#include "revisage/fft_conv.h"

#include <pybind11/stl.h>

#include "array_argument.h"
#include "bindings.h"

namespace py = pybind11;

namespace revisage::python {

void register_fft_conv(py::module_& module) {
  module.def(
      "fft_conv_into",
      [](const py::object& out, const py::object& x, const py::object& weight,
         const py::object& scale, const py::object& shift, int threads, std::uintptr_t stream,
         const py::object& workspace) {
        const Array out_array = borrow("out", out, stream), x_array = borrow("x", x, stream);
        const Array weight_array = borrow("weight", weight, stream);
        const Array scale_array = borrow("scale", scale, stream),
                    shift_array = borrow("shift", shift, stream);
        Array workspace_array;
        if (!workspace.is_none()) workspace_array = borrow("workspace", workspace, stream);
        const py::gil_scoped_release unlocked;
        fft_conv(out_array, x_array, weight_array, scale_array, shift_array, {threads, stream},
                 workspace.is_none() ? nullptr : &workspace_array);
      },
      py::arg("out"), py::arg("x"), py::arg("weight"), py::arg("scale"), py::arg("shift"),
      py::arg("threads"), py::arg("stream"), py::arg("workspace") = py::none());
  module.def(
      "fft_conv_workspace_bytes",
      [](const py::object& x, const py::object& weight, std::uintptr_t stream) {
        const Array x_array = borrow("x", x, stream),
                    weight_array = borrow("weight", weight, stream);
        const py::gil_scoped_release unlocked;
        return fft_conv_workspace_bytes(x_array, weight_array);
      },
      py::arg("x"), py::arg("weight"), py::arg("stream"));
  module.def("set_cufft_candidates", &set_cufft_candidates, py::arg("paths"));
}

}  // namespace revisage::python
