// cuFFT, loaded when it is first needed: 200 MB that most calls do without.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace revisage {

// 2-D transforms of `planes` real planes [height, width], next to each other, to or from half
// spectra [height, width / 2 + 1] of float2, `pitch` elements from one to the next. Unscaled.
struct CufftShape {
  bool inverse;
  std::int64_t height, width, pitch, planes;
};

// Of memory that `cufft_execute` wants. Throws DeviceError where there is no library.
std::size_t cufft_work_bytes(const CufftShape& shape);

// Asynchronous. An inverse transform overwrites `from`. Thread-safe; plans belong to the current
// device and live as long as the process, for a captured graph may use them.
void cufft_execute(const CufftShape& shape, void* from, void* to, void* work, cudaStream_t stream);

}  // namespace revisage
