// Stands in for NVIDIA's header of the same name: the part of CUDA C++ that the kernels use.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "cuda_emulation.h"

#define __global__
#define __device__
#define __host__
#define __shared__ static  // blocks run one after another, so one copy is enough
#define __constant__ static
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __grid_constant__

using std::max;
using std::min;

// --- one block -----------------------------------------------------------------------------------

inline void __syncthreads() { cuda_emulation::wait_for_block(); }
inline void __syncwarp(unsigned int mask = 0xFFFFFFFFu) { cuda_emulation::wait_for_warp(mask); }
inline void __threadfence() {}

template <typename T>
T __shfl_sync(unsigned int mask, T value, int source, int width = 32) {
  const unsigned int lane = cuda_emulation::lane();
  const unsigned int first =
      lane / static_cast<unsigned int>(width) * static_cast<unsigned int>(width);
  return cuda_emulation::all_lanes(value, mask)[first + static_cast<unsigned int>(source) % width];
}

template <typename T>
T __shfl_xor_sync(unsigned int mask, T value, int lanes, int width = 32) {
  const unsigned int lane = cuda_emulation::lane(), other = lane ^ static_cast<unsigned int>(lanes);
  const auto all = cuda_emulation::all_lanes(value, mask);
  return other / width > lane / width ? value : all[other];
}

template <typename T>
T __shfl_down_sync(unsigned int mask, T value, unsigned int lanes, int width = 32) {
  const unsigned int lane = cuda_emulation::lane();
  const auto all = cuda_emulation::all_lanes(value, mask);
  return lane % width + lanes < static_cast<unsigned int>(width) ? all[lane + lanes] : value;
}

template <typename T>
T __shfl_up_sync(unsigned int mask, T value, unsigned int lanes, int width = 32) {
  const unsigned int lane = cuda_emulation::lane();
  const auto all = cuda_emulation::all_lanes(value, mask);
  return lane % width >= lanes ? all[lane - lanes] : value;
}

inline unsigned int __ballot_sync(unsigned int mask, int predicate) {
  const auto all = cuda_emulation::all_lanes(predicate, mask);
  unsigned int votes = 0;
  for (unsigned int lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1u) && all[lane] != 0) votes |= 1u << lane;
  }
  return votes;
}

inline int __any_sync(unsigned int mask, int predicate) {
  return __ballot_sync(mask, predicate) != 0;
}
inline int __all_sync(unsigned int mask, int predicate) {
  return __ballot_sync(mask, predicate) == mask;
}

template <typename T>
T atomicAdd(T* address, T value) {
  const T before = *address;
  *address = before + value;
  return before;
}

template <typename T>
T atomicMax(T* address, T value) {
  const T before = *address;
  *address = std::max(before, value);
  return before;
}

template <typename T>
T atomicMin(T* address, T value) {
  const T before = *address;
  *address = std::min(before, value);
  return before;
}

// --- arithmetic ----------------------------------------------------------------------------------

template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
T __ldcs(const T* address) {
  return *address;
}
template <typename T>
void __stcs(T* address, T value) {
  *address = value;
}

inline unsigned int __umulhi(unsigned int a, unsigned int b) {
  return static_cast<unsigned int>(std::uint64_t{a} * b >> 32);
}
inline int __popc(unsigned int value) { return __builtin_popcount(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __clz(int value) {
  return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value));
}

template <typename To, typename From>
To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To result;
  std::memcpy(&result, &value, sizeof(To));
  return result;
}
inline unsigned int __float_as_uint(float value) { return bits_as<unsigned int>(value); }
inline int __float_as_int(float value) { return bits_as<int>(value); }
inline float __uint_as_float(unsigned int value) { return bits_as<float>(value); }
inline float __int_as_float(int value) { return bits_as<float>(value); }

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float value) { return std::exp(value); }
inline float __saturatef(float value) { return std::min(1.0f, std::max(0.0f, value)); }
inline int __float2int_rn(float value) { return static_cast<int>(std::nearbyint(value)); }
inline int __float2int_rd(float value) { return static_cast<int>(std::floor(value)); }
inline unsigned int __float2uint_rn(float value) {
  return static_cast<unsigned int>(std::nearbyint(value));
}
inline float rsqrtf(float value) { return 1.0f / std::sqrt(value); }
inline void sincospif(float value, float* sine, float* cosine) {
  const double angle = static_cast<double>(value) * 3.14159265358979323846;
  *sine = static_cast<float>(std::sin(angle));
  *cosine = static_cast<float>(std::cos(angle));
}

// --- the runtime ---------------------------------------------------------------------------------

#define CUDART_VERSION 13000

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorInvalidConfiguration };
enum cudaMemcpyKind { cudaMemcpyDeviceToDevice };
enum cudaMemoryType { cudaMemoryTypeHost, cudaMemoryTypeDevice, cudaMemoryTypeManaged };
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize,
  cudaFuncAttributePreferredSharedMemoryCarveout,
};
constexpr int cudaSharedmemCarveoutMaxShared = 100;
enum cudaDeviceAttr {
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMultiProcessorCount,
};
struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
};
using cudaStream_t = struct CUstream_st*;

cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void*) {
  return *attributes = {cudaMemoryTypeDevice, 0}, cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                                   cudaStream_t) {
  return std::memcpy(to, from, bytes), cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t) {
  return std::memset(to, value, bytes), cudaSuccess;
}
using cudaEvent_t = int;
constexpr unsigned int cudaEventDisableTiming = 2;
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int) {
  return *event = 0, cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned int) {
  return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
