#include "array_argument.h"

namespace py = pybind11;

namespace revisage::python {
namespace {

// Of a NumPy typestr such as "<f4"; "|" means that byte order does not apply.
DType parse_dtype(const std::string& name, const std::string& typestr) {
  const std::string kind = typestr.size() == 3 ? typestr.substr(1) : "";
  if (typestr[0] == '<' || typestr[0] == '|' || typestr[0] == '=') {
    if (kind == "u1") return DType::u8;
    if (kind == "u2") return DType::u16;
    if (kind == "f2") return DType::f16;
    if (kind == "f4") return DType::f32;
  }
  throw ShapeError(name + " must be uint8, uint16, float16 or float32 in native byte order, got " +
                   typestr);
}

void check_contiguous(const Array& array, const std::vector<std::int64_t>& strides) {
  auto expected = static_cast<std::int64_t>(sample_bytes(array.dtype));
  for (std::size_t axis = array.shape.size(); axis-- > 0;) {
    // The stride of an axis of size 1 says nothing.
    if (array.shape[axis] > 1 && strides.at(axis) != expected) {
      throw ShapeError(array.name + " must be C-contiguous; copy it first (ascontiguousarray)");
    }
    expected *= array.shape[axis];
  }
}

Array borrow_numpy(const char* name, const py::array& object) {
  Array array;
  array.name = name;
  array.dtype = parse_dtype(name, py::str(object.dtype().attr("str")));
  array.shape.assign(object.shape(), object.shape() + object.ndim());
  array.data = const_cast<void*>(object.data());
  array.writable = object.writeable();
  check_contiguous(array, {object.strides(), object.strides() + object.ndim()});
  return array;
}

Array borrow_cuda(const char* name, const py::object& object) {
  Array array;
  array.name = name;
  array.device = Device::cuda;
  const py::dict interface = object.attr("__cuda_array_interface__");
  array.dtype = parse_dtype(name, py::str(interface["typestr"]));
  for (const py::handle size : py::tuple(interface["shape"])) {
    array.shape.push_back(size.cast<std::int64_t>());
  }
  const py::tuple data = interface["data"];
  array.data = reinterpret_cast<void*>(data[0].cast<std::uintptr_t>());
  array.writable = !data[1].cast<bool>();
  if (interface.contains("mask") && !interface["mask"].is_none()) {
    throw ShapeError(array.name + " is a masked array; fill it first");
  }
  if (interface.contains("strides") && !interface["strides"].is_none()) {
    std::vector<std::int64_t> strides;
    for (const py::handle stride : py::tuple(interface["strides"])) {
      strides.push_back(stride.cast<std::int64_t>());
    }
    if (strides.size() != array.shape.size()) {
      throw ShapeError(array.name + " has a broken __cuda_array_interface__: strides and shape");
    }
    check_contiguous(array, strides);
  }
  return array;
}

}  // namespace

Array borrow(const char* name, const py::object& object) {
  if (py::isinstance<py::array>(object)) return borrow_numpy(name, object);
  if (py::hasattr(object, "__cuda_array_interface__")) return borrow_cuda(name, object);
  throw ShapeError(std::string(name) + " must be a NumPy array or have __cuda_array_interface__");
}

Affine to_affine(const py::tuple& matrix) {
  if (matrix.size() != 6) throw ShapeError("matrix must be six numbers");
  double values[6];
  for (std::size_t i = 0; i < 6; ++i) values[i] = matrix[i].cast<double>();
  return {values[0], values[1], values[2], values[3], values[4], values[5]};
}

}  // namespace revisage::python
