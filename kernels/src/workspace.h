// Scratch memory of the CPU kernels.
#pragma once

#include <cstddef>
#include <new>

namespace revisage {

// 64-byte aligned floats, kept by the thread that calls kernels from one call to the next: fresh
// memory would cost more in page faults than the Fourier unit takes. Contents are undefined.
class Workspace {
 public:
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() { release(); }

  // Valid until the next call of get or trim. Throws std::bad_alloc.
  float* get(std::size_t floats) {
    if (floats > size_) {
      release();
      data_ = static_cast<float*>(::operator new(floats * sizeof(float), kAlignment));
      size_ = floats;
    }
    return data_;
  }

  // Gives the memory back if it is more than a thread should hold between calls.
  void trim() {
    if (size_ * sizeof(float) > kKeptBytes) release();
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  static constexpr std::size_t kKeptBytes = std::size_t{64} << 20;

  void release() {
    ::operator delete(data_, kAlignment);
    data_ = nullptr;
    size_ = 0;
  }

  float* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace revisage
