#include "checks.h"

#include <cmath>

namespace revisage {

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    if (axis > 0) text += ", ";
    text += shape[axis] < 0 ? "any" : std::to_string(shape[axis]);
  }
  return text + "]";
}

void check_array(const Array& array, DType dtype, const std::vector<std::int64_t>& shape) {
  bool fits = array.shape.size() == shape.size();
  for (std::size_t axis = 0; fits && axis < shape.size(); ++axis) {
    fits = array.shape[axis] > 0 && (shape[axis] < 0 || shape[axis] == array.shape[axis]);
  }
  if (!fits || array.dtype != dtype) {
    throw ShapeError(array.name + " must be " + dtype_name(dtype) + " of shape " +
                     shape_text(shape) + ", got " + dtype_name(array.dtype) + " of shape " +
                     shape_text(array.shape));
  }
  if (array.data == nullptr) throw ShapeError(array.name + " has no memory (null pointer)");
  if (array.bytes() > UINTPTR_MAX - reinterpret_cast<std::uintptr_t>(array.data)) {
    throw ShapeError(array.name + " reaches beyond the end of memory");
  }
  if (reinterpret_cast<std::uintptr_t>(array.data) % sample_bytes(dtype) != 0) {
    throw ShapeError(array.name + " is not aligned to its samples; copy it first");
  }
}

void check_writable(const Array& array) {
  if (!array.writable) throw ShapeError(array.name + " is read-only; give a writable array");
}

Device common_device(std::initializer_list<const Array*> arrays) {
  const Array* first = *arrays.begin();
  const Array* placed = nullptr;
  for (const Array* array : arrays) {
    if (array->device != first->device) {
      throw DeviceError(first->name + " and " + array->name +
                        " lie on different devices; copy one to the other's");
    }
    if (array->device_index < 0) continue;
    if (placed != nullptr && placed->device_index != array->device_index) {
      throw DeviceError(placed->name + " lies on cuda:" + std::to_string(placed->device_index) +
                        " and " + array->name + " on cuda:" + std::to_string(array->device_index) +
                        "; copy one to the other's device");
    }
    placed = array;
  }
  return first->device;
}

void check_no_overlap(const Array& out, const Array& input, bool allow_same) {
  const auto a = reinterpret_cast<std::uintptr_t>(out.data);
  const auto b = reinterpret_cast<std::uintptr_t>(input.data);
  if (allow_same && a == b && out.bytes() == input.bytes()) return;
  if (a < b + input.bytes() && b < a + out.bytes()) {
    throw ShapeError(out.name + " overlaps " + input.name + "; give an output of its own");
  }
}

void check_affine(const Affine& m) {
  for (const double value : {m.a, m.b, m.c, m.d, m.e, m.f}) {
    if (!std::isfinite(value)) throw OptionError("matrix must be finite");
  }
}

void check_strength(float strength) {
  if (!(std::isfinite(strength) && strength >= 0)) {
    throw OptionError("strength must be a finite number of at least 0");
  }
}

}  // namespace revisage
