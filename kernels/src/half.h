// IEEE binary16 and bfloat16: in software on the CPU, by the instructions that round the same way
// on CUDA (where a NaN stays one, but loses its payload).
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define REVISAGE_HOST_DEVICE __host__ __device__
#else
// Always inlined, because files that are compiled for different machines include this: a shared
// copy of such a function could hold instructions that a machine lacks.
#define REVISAGE_HOST_DEVICE __attribute__((always_inline))
#endif

namespace revisage {

struct Half {
  std::uint16_t bits;
};

REVISAGE_HOST_DEVICE inline float bits_to_float(std::uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

REVISAGE_HOST_DEVICE inline std::uint32_t float_to_bits(float value) {
  std::uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// Exact. A signalling NaN becomes quiet.
REVISAGE_HOST_DEVICE inline float half_to_float(Half half) {
#ifdef __CUDA_ARCH__
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half.bits));
  return value;
#else
  const std::uint32_t sign = (half.bits & 0x8000u) << 16;
  const std::uint32_t exponent = (half.bits >> 10) & 31u;
  const std::uint32_t mantissa = half.bits & 0x3FFu;
  if (exponent == 31) {
    const std::uint32_t quiet = mantissa ? 0x400000u : 0u;
    return bits_to_float(sign | 0x7F800000u | (mantissa << 13) | quiet);
  }
  if (exponent == 0) {  // zero and subnormal: mantissa * 2^-24, exact in float
    const float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    return bits_to_float(sign | float_to_bits(magnitude));
  }
  return bits_to_float(sign | ((exponent + 112u) << 23) | (mantissa << 13));
#endif
}

// Rounds half to even; overflow gives infinity.
REVISAGE_HOST_DEVICE inline Half float_to_half(float value) {
#ifdef __CUDA_ARCH__
  Half half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half.bits) : "f"(value));
  return half;
#else
  const std::uint32_t bits = float_to_bits(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  std::uint32_t half;
  if (magnitude > 0x7F800000u) {
    half = 0x7E00u | ((magnitude >> 13) & 0x3FFu);
  } else if (magnitude >= 0x477FF000u) {  // 65520 and above round to infinity
    half = 0x7C00u;
  } else if (magnitude < 0x38800000u) {
    // Below 2^-14: adding 0.5 brings the float's last bit to 2^-24, a half's smallest step, so the
    // addition itself rounds half to even.
    half = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3F000000u;
  } else {
    const std::uint32_t odd = (magnitude >> 13) & 1u;
    half = (magnitude - 0x38000000u + 0xFFFu + odd) >> 13;
  }
  return Half{static_cast<std::uint16_t>(sign | half)};
#endif
}

// The upper half of a float32.
struct BFloat16 {
  std::uint16_t bits;
};

// Exact.
REVISAGE_HOST_DEVICE inline float bfloat16_to_float(BFloat16 value) {
  return bits_to_float(static_cast<std::uint32_t>(value.bits) << 16);
}

// Rounds half to even; a NaN stays one, and quiet.
REVISAGE_HOST_DEVICE inline BFloat16 float_to_bfloat16(float value) {
#ifdef __CUDA_ARCH__
  BFloat16 rounded;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(value));
  return rounded;
#else
  const std::uint32_t bits = float_to_bits(value);
  const bool is_nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
  const std::uint32_t rounded = is_nan ? bits | 0x400000u : bits + 0x7FFFu + (bits >> 16 & 1u);
  return BFloat16{static_cast<std::uint16_t>(rounded >> 16)};
#endif
}

}  // namespace revisage
