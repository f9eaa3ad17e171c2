#include "revisage/runtime.h"

#include "bindings.h"

namespace revisage::python {

void register_runtime(pybind11::module_& module) {
  module.def("built_with_cuda", &built_with_cuda);
  module.def("cuda_device_count", &cuda_device_count);
  module.def("cpu_isa", &cpu_isa);
  module.def("set_cpu_isa", &set_cpu_isa, pybind11::arg("name"));
}

}  // namespace revisage::python
