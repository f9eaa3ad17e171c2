#include "revisage/array.h"

#include "revisage/errors.h"

namespace revisage {

std::size_t sample_bytes(DType dtype) {
  switch (dtype) {
    case DType::u8:
      return 1;
    case DType::u16:
    case DType::f16:
    case DType::bf16:
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
    case DType::bf16:
      return "bfloat16";
    case DType::f32:
      return "float32";
  }
  return "unknown";
}

std::int64_t Array::samples() const {
  std::int64_t count = 1;
  bool fits = true;
  for (const std::int64_t size : shape) {
    fits = fits && size >= 0 && !__builtin_mul_overflow(count, size, &count);
  }
  if (!fits) throw ShapeError(name + " has more samples than any memory holds");
  return count;
}

std::size_t Array::bytes() const {
  std::int64_t count = samples();
  if (__builtin_mul_overflow(count, static_cast<std::int64_t>(sample_bytes(dtype)), &count)) {
    throw ShapeError(name + " has more bytes than any memory holds");
  }
  return static_cast<std::size_t>(count);
}

}  // namespace revisage
