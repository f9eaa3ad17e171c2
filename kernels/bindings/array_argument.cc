#include "array_argument.h"

#include "dlpack.h"
#include "revisage/runtime.h"

namespace py = pybind11;

namespace revisage::python {
namespace {

// What a library's own exception says, as an error of ours that names the argument.
[[noreturn]] void refuse(const char* name, const char* method, const py::error_already_set& error) {
  if (!error.matches(PyExc_Exception)) throw error;  // such as KeyboardInterrupt
  throw ShapeError(std::string(name) + " cannot be read through " + method + ": " +
                   std::string(py::str(error.value())));
}

[[noreturn]] void refuse(const char* name, const char* method, const py::cast_error&) {
  throw ShapeError(std::string(name) + " has a broken " + method + ": not the expected types");
}

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

// `strides` in units of `unit` bytes.
void check_contiguous(const Array& array, const std::vector<std::int64_t>& strides,
                      std::int64_t unit) {
  array.bytes();  // the products below cannot overflow
  std::int64_t expected = static_cast<std::int64_t>(sample_bytes(array.dtype)) / unit;
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
  check_contiguous(array, {object.strides(), object.strides() + object.ndim()}, 1);
  return array;
}

Array borrow_interface(const char* name, const py::object& object, std::uintptr_t stream) try {
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
  array.device_index = cuda_device_of(array.data);
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
    check_contiguous(array, strides, 1);
  }
  if (interface.contains("stream") && !interface["stream"].is_none()) {
    const CurrentCudaDevice current(array.device_index);
    queue_after(stream, interface["stream"].cast<std::uintptr_t>());
  }
  return array;
} catch (const py::error_already_set& error) {
  refuse(name, "__cuda_array_interface__", error);
} catch (const py::cast_error& error) {
  refuse(name, "__cuda_array_interface__", error);
}

DType parse_dtype(const std::string& name, DLDataType dtype) {
  if (dtype.lanes == 1) {
    if (dtype.kind == DLKind::unsigned_integer && dtype.bits == 8) return DType::u8;
    if (dtype.kind == DLKind::unsigned_integer && dtype.bits == 16) return DType::u16;
    if (dtype.kind == DLKind::real && dtype.bits == 16) return DType::f16;
    if (dtype.kind == DLKind::bfloat && dtype.bits == 16) return DType::bf16;
    if (dtype.kind == DLKind::real && dtype.bits == 32) return DType::f32;
  }
  throw ShapeError(name + " must be uint8, uint16, float16, bfloat16 or float32, got DLPack type " +
                   std::to_string(static_cast<int>(dtype.kind)) + " of " +
                   std::to_string(dtype.bits) + " bits in " + std::to_string(dtype.lanes) +
                   " lanes");
}

void describe(Array& array, const DLTensor& tensor) {
  if (tensor.device.type != DLDeviceType::cuda &&
      tensor.device.type != DLDeviceType::cuda_managed) {
    throw DeviceError(array.name + " said that it lies on a CUDA device, and its capsule does not");
  }
  array.device = Device::cuda;
  if (tensor.device.type == DLDeviceType::cuda) array.device_index = tensor.device.index;
  array.dtype = parse_dtype(array.name, tensor.dtype);
  constexpr std::int32_t kMaxRank = 64;
  if (tensor.rank < 0 || tensor.rank > kMaxRank || (tensor.rank > 0 && tensor.shape == nullptr)) {
    throw ShapeError(array.name + " has a broken DLPack capsule: shape");
  }
  array.shape.assign(tensor.shape, tensor.shape + tensor.rank);
  if (tensor.strides != nullptr) {
    check_contiguous(array, {tensor.strides, tensor.strides + tensor.rank},
                     static_cast<std::int64_t>(sample_bytes(array.dtype)));
  }
  const auto address = reinterpret_cast<std::uintptr_t>(tensor.data);
  if (tensor.byte_offset > UINTPTR_MAX - address) {
    throw ShapeError(array.name + " has a broken DLPack capsule: byte_offset");
  }
  if (address != 0) array.data = reinterpret_cast<void*>(address + tensor.byte_offset);
}

// Takes the tensor out of a capsule of the protocol; it goes back with the last copy of `loan`.
template <typename Managed>
Managed& take(Array& array, PyObject* capsule) {
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, Managed::capsule));
  PyCapsule_SetName(capsule, Managed::used_capsule);
  array.loan = std::shared_ptr<void>(managed, [](void* pointer) {
    auto* returned = static_cast<Managed*>(pointer);
    if (returned->deleter != nullptr) returned->deleter(returned);
  });
  return *managed;
}

py::object export_capsule(const py::object& object, std::uintptr_t stream) {
  const auto device = py::tuple(object.attr("__dlpack_device__")());
  const CurrentCudaDevice current(device[1].cast<int>());  // torch exports from that one only
  const py::object method = object.attr("__dlpack__");
  const py::int_ number(stream == 0 ? 1 : stream);  // 1 is the protocol's legacy default stream
  try {
    return method(py::arg("stream") = number, py::arg("max_version") = py::make_tuple(1, 1));
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
  }
  return method(py::arg("stream") = number);  // a library from before versions
}

Array borrow_dlpack(const char* name, const py::object& object, std::uintptr_t stream) try {
  Array array;
  array.name = name;
  const py::object capsule = export_capsule(object, stream);
  if (PyCapsule_IsValid(capsule.ptr(), DLManagedTensorVersioned::capsule)) {
    const auto& managed = take<DLManagedTensorVersioned>(array, capsule.ptr());
    if (managed.major != 1) {
      throw ShapeError(array.name + " comes in DLPack version " + std::to_string(managed.major) +
                       ", which is newer than version 1; export an older one");
    }
    if ((managed.flags & DLManagedTensorVersioned::is_copy) != 0) {
      throw ShapeError(array.name + " would be copied by its library; copy it first");
    }
    array.writable = (managed.flags & DLManagedTensorVersioned::read_only) == 0;
    describe(array, managed.tensor);
  } else if (PyCapsule_IsValid(capsule.ptr(), DLManagedTensor::capsule)) {
    array.writable = true;
    describe(array, take<DLManagedTensor>(array, capsule.ptr()).tensor);
  } else {
    throw ShapeError(array.name + " has a broken __dlpack__: it gave no capsule with a tensor");
  }
  return array;
} catch (const py::error_already_set& error) {
  refuse(name, "__dlpack__", error);
} catch (const py::cast_error& error) {
  refuse(name, "__dlpack__", error);
}

}  // namespace

Array borrow(const char* name, const py::object& object, std::uintptr_t stream) {
  if (py::isinstance<py::array>(object)) return borrow_numpy(name, object);
  if (py::hasattr(object, "__dlpack_device__")) return borrow_dlpack(name, object, stream);
  if (py::hasattr(object, "__cuda_array_interface__"))
    return borrow_interface(name, object, stream);
  throw ShapeError(std::string(name) +
                   " must be a NumPy array, or have __dlpack__ or __cuda_array_interface__");
}

Affine to_affine(const py::tuple& matrix) {
  if (matrix.size() != 6) throw ShapeError("matrix must be six numbers");
  double values[6];
  try {
    for (std::size_t i = 0; i < 6; ++i) values[i] = matrix[i].cast<double>();
  } catch (const py::cast_error&) {
    throw ShapeError("matrix must be six numbers");
  }
  return {values[0], values[1], values[2], values[3], values[4], values[5]};
}

}  // namespace revisage::python
