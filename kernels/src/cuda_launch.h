// Launches and dynamic shared memory, spelled so that plain C++ compilers read kernels too: tests
// run the same sources on the CPU (tests/kernels/cuda_emulation).
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace revisage {

// What kernel<<<grid, block, shared_bytes, stream>>>(arguments...) does; ask cudaGetLastError
// afterwards.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
            cudaStream_t stream, const Arguments&... arguments) {
#ifdef REVISAGE_CUDA_EMULATION
  static_cast<void>(stream);
  cuda_emulation::launch(reinterpret_cast<const void*>(kernel), grid, block, shared_bytes,
                         [&] { kernel(arguments...); });
#else
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  cudaLaunchKernelEx(&config, kernel, arguments...);
#endif
}

// Lets a kernel have up to `bytes` of dynamic shared memory, beyond the 48 KiB that all have, and
// prefers shared memory to the L1 cache, so that several blocks fit. Always ask for the same
// number: the setting is the kernel's, and threads share it.
template <typename... Parameters>
cudaError_t allow_shared_memory(void (*kernel)(Parameters...), int bytes) {
  const cudaError_t status =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (status != cudaSuccess) return status;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                              cudaSharedmemCarveoutMaxShared);
}

// The dynamic shared memory of the block, aligned to 16 bytes.
template <typename T>
__device__ inline T* dynamic_shared() {
#ifdef REVISAGE_CUDA_EMULATION
  return static_cast<T*>(cuda_emulation::dynamic_shared());
#else
  extern __shared__ __align__(16) unsigned char dynamic_shared_bytes[];
  return reinterpret_cast<T*>(dynamic_shared_bytes);
#endif
}

}  // namespace revisage
