// How Python (emulated_cuda.py) calls an operation of a library built with the emulator.
#pragma once

#include <stdexcept>
#include <string>

#include "revisage/array.h"

namespace cuda_emulation {

struct ArrayArgument {
  const char* name;
  const char* dtype;  // as dtype_name gives it
  void* data;         // null: no such argument
  std::int64_t shape[8];
  int rank;
};

inline revisage::Array to_array(const ArrayArgument& argument) {
  using revisage::DType;
  revisage::Array array;
  if (argument.data == nullptr) return array;
  array.name = argument.name;
  array.data = argument.data;
  array.shape.assign(argument.shape, argument.shape + argument.rank);
  array.device = revisage::Device::cuda;
  array.writable = true;
  for (const DType dtype : {DType::u8, DType::u16, DType::f16, DType::bf16, DType::f32}) {
    if (argument.dtype == std::string(revisage::dtype_name(dtype))) {
      array.dtype = dtype;
      return array;
    }
  }
  throw std::invalid_argument(std::string("no dtype is called ") + argument.dtype);
}

// What `call` throws, as text; null where it returns.
template <typename Call>
const char* error_of(Call&& call) {
  static std::string message;
  try {
    call();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

}  // namespace cuda_emulation

// REVISAGE_ENTRY_POINT(op) { revisage::op(array(0), array(1), static_cast<float>(numbers[0]), {});
// }
#define REVISAGE_ENTRY_POINT(op)                                                          \
  template <typename Get>                                                                 \
  static void op##_entry(const Get& array, double* numbers);                              \
  extern "C" const char* emulated_##op(const cuda_emulation::ArrayArgument* arguments,    \
                                       double* numbers) {                                 \
    return cuda_emulation::error_of([&] {                                                 \
      op##_entry([&](int i) { return cuda_emulation::to_array(arguments[i]); }, numbers); \
    });                                                                                   \
  }                                                                                       \
  template <typename Get>                                                                 \
  static void op##_entry([[maybe_unused]] const Get& array, [[maybe_unused]] double* numbers)
