// A borrowed, C-contiguous array, and how an operation is to run. Nothing here allocates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace revisage {

enum class DType { u8, u16, f16, bf16, f32 };
enum class Device { cpu, cuda };

struct Array {
  std::string name;  // of the argument, for messages
  void* data = nullptr;
  std::vector<std::int64_t> shape;
  DType dtype = DType::f32;
  Device device = Device::cpu;
  int device_index = -1;  // of the CUDA device; -1: any may use the memory, or nobody knows
  bool writable = false;
  // What a lender wants back after the call (DLPack); null where the caller keeps the memory alive.
  std::shared_ptr<void> loan;

  // ShapeError where the number does not fit into 63 bits, or a size is negative.
  std::int64_t samples() const;
  std::size_t bytes() const;
  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

std::size_t sample_bytes(DType dtype);
const char* dtype_name(DType dtype);

// [2, 3] affine map: u = a * x + (b * y + c), v = d * x + (e * y + f).
struct Affine {
  double a = 1, b = 0, c = 0, d = 0, e = 1, f = 0;
};

struct Execution {
  int threads = 0;            // CPU: 0 means all cores that this process may use
  std::uintptr_t stream = 0;  // CUDA: address of the stream, 0 the legacy default stream
};

}  // namespace revisage
