// Stands in for NVIDIA's header of the same name, on the project's own conversions (src/half.h).
#pragma once

#include "cuda_runtime.h"
#include "half.h"

struct __half {
  std::uint16_t bits;
};
struct alignas(4) __half2 {
  __half x, y;
};

inline float __half2float(__half value) { return revisage::half_to_float({value.bits}); }
inline __half __float2half_rn(float value) { return {revisage::float_to_half(value).bits}; }
inline __half __float2half(float value) { return __float2half_rn(value); }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline unsigned short __half_as_ushort(__half value) { return value.bits; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 __floats2half2_rn(float x, float y) {
  return {__float2half_rn(x), __float2half_rn(y)};
}
inline float2 __half22float2(__half2 pair) { return {__half2float(pair.x), __half2float(pair.y)}; }
inline __half2 __hmul2(__half2 a, __half2 b) {
  // A product of two 11-bit mantissas is exact in float, so this rounds once, as the device does.
  return __floats2half2_rn(__half2float(a.x) * __half2float(b.x),
                           __half2float(a.y) * __half2float(b.y));
}
