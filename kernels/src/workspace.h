// Scratch memory of the CPU kernels.
#pragma once

#include <cstddef>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

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
      allocate(floats * sizeof(float));
      size_ = floats;
    }
    return data_;
  }

  // Gives the memory back if it is more than a thread should hold between calls.
  void trim() {
    if (size_ * sizeof(float) > kKeptBytes) release();
  }

 private:
  static constexpr std::size_t kKeptBytes = std::size_t{64} << 20;
  static constexpr std::size_t kHugePage = std::size_t{2} << 20;

  // Memory that fills half a huge page or more asks for huge pages: operations that pass over much
  // memory evict the addresses of small ones.
  void allocate(std::size_t bytes) {
    alignment_ = std::align_val_t{bytes >= kHugePage / 2 ? kHugePage : 64};
    if (bytes >= kHugePage / 2) bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    data_ = static_cast<float*>(::operator new(bytes, alignment_));
#ifdef __linux__
    if (bytes >= kHugePage) madvise(data_, bytes, MADV_HUGEPAGE);  // a wish: it may fail
#endif
  }

  void release() {
    ::operator delete(data_, alignment_);
    data_ = nullptr;
    size_ = 0;
  }

  float* data_ = nullptr;
  std::align_val_t alignment_{64};
  std::size_t size_ = 0;
};

}  // namespace revisage
