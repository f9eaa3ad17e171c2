#include "revisage/array.h"

namespace revisage {

std::size_t sample_bytes(DType dtype) {
  switch (dtype) {
    case DType::u8:
      return 1;
    case DType::u16:
    case DType::f16:
      return 2;
    case DType::f32:
      return 4;
  }
  return 0;
}

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::u8:
      return "uint8";
    case DType::u16:
      return "uint16";
    case DType::f16:
      return "float16";
    case DType::f32:
      return "float32";
  }
  return "unknown";
}

std::int64_t Array::samples() const {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  return count;
}

std::size_t Array::bytes() const {
  return static_cast<std::size_t>(samples()) * sample_bytes(dtype);
}

}  // namespace revisage
