// C++ exception -> Python exception, for the whole extension.
#include "revisage/errors.h"

#include "bindings.h"

namespace py = pybind11;

namespace revisage::python {
namespace {

void raise(const char* type, const char* message) {
  const py::object error = py::module_::import("revisage.errors").attr(type);
  py::set_error(error, message);
}

}  // namespace

void register_errors(py::module_&) {
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const ShapeError& error) {
      raise("ShapeError", error.what());
    } catch (const OptionError& error) {
      raise("OptionError", error.what());
    } catch (const DeviceError& error) {
      raise("DeviceError", error.what());
    }
  });
}

}  // namespace revisage::python
