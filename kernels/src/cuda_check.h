// What every CUDA launch needs: errors, the device of the arrays, grid sizes.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace revisage {

// DeviceError with the runtime's own words and what to do, unless `status` is success.
void cuda_check(cudaError_t status, const char* doing);

// DeviceError unless the kernels can run here at all. Cheap after the first call.
void require_cuda();

// Makes the device that owns `pointer` current, and the previous one again at the end.
class CudaDeviceGuard {
 public:
  explicit CudaDeviceGuard(const void* pointer);
  CudaDeviceGuard(const CudaDeviceGuard&) = delete;
  CudaDeviceGuard& operator=(const CudaDeviceGuard&) = delete;
  ~CudaDeviceGuard();

 private:
  int previous_ = 0;
};

inline cudaStream_t to_stream(std::uintptr_t stream) {
  return reinterpret_cast<cudaStream_t>(stream);
}

// Blocks for `count` items, at most what a grid dimension allows; kernels stride over the rest.
inline unsigned int grid_blocks(std::int64_t count, std::int64_t per_block) {
  constexpr std::int64_t kMost = 1 << 20;
  const std::int64_t blocks = (count + per_block - 1) / per_block;
  return static_cast<unsigned int>(blocks < kMost ? blocks : kMost);
}

// batch * per_image blocks in one dimension. ShapeError where a grid cannot have as many: the array
// named `name` would be terabytes.
unsigned int whole_grid(std::int64_t batch, std::int64_t per_image, const char* name);

}  // namespace revisage
