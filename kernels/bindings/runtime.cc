#include "revisage/runtime.h"

#include "array_argument.h"
#include "bindings.h"
#include "checks.h"
#include "memory_copy.h"

namespace revisage::python {

void register_runtime(pybind11::module_& module) {
  module.def("built_with_cuda", &built_with_cuda);
  module.def("cuda_device_count", &cuda_device_count);
  module.def("cpu_isa", &cpu_isa);
  module.def("set_cpu_isa", &set_cpu_isa, pybind11::arg("name"));
  module.def(
      "copy_nontemporal",
      [](const pybind11::object& out, const pybind11::object& source, int threads, bool prefetch) {
        const Array to = borrow("out", out, 0), from = borrow("source", source, 0);
        check_array(to, from.dtype, from.shape);
        check_writable(to);
        check_no_overlap(to, from);
        if (common_device({&to, &from}) != Device::cpu) {
          throw DeviceError("copy_nontemporal copies on the CPU");
        }
        const pybind11::gil_scoped_release unlocked;
        copy_nontemporal(to.data, from.data, from.bytes(), threads, prefetch);
      },
      pybind11::arg("out"), pybind11::arg("source"), pybind11::arg("threads"),
      pybind11::arg("prefetch") = true);
}

}  // namespace revisage::python
