// Photo samples as float32 and back, for the CPU and CUDA alike.
#pragma once

#include "half.h"

namespace revisage {

// Rounds half to even for 0 <= value < 2^22: the sum has no fraction bits left. (Both compilers are
// told not to reassociate; std::rint is a library call where SSE4.1 cannot be assumed.)
REVISAGE_HOST_DEVICE inline float round_half_even(float value) {
  return (value + 12582912.0f) - 12582912.0f;
}

REVISAGE_HOST_DEVICE inline float clamp_to(float value, float top) {
  // A NaN compares false twice and would stay; callers have none here.
  return value < 0.0f ? 0.0f : (value > top ? top : value);
}

template <typename Sample>
struct SampleTraits;

template <>
struct SampleTraits<std::uint8_t> {
  static constexpr float full_range = 255.0f;
  REVISAGE_HOST_DEVICE static float load(std::uint8_t sample) { return sample; }
  REVISAGE_HOST_DEVICE static std::uint8_t store(float value) {
    return static_cast<std::uint8_t>(round_half_even(clamp_to(value, 255.0f)));
  }
};

template <>
struct SampleTraits<std::uint16_t> {
  static constexpr float full_range = 65535.0f;
  REVISAGE_HOST_DEVICE static float load(std::uint16_t sample) { return sample; }
  REVISAGE_HOST_DEVICE static std::uint16_t store(float value) {
    return static_cast<std::uint16_t>(round_half_even(clamp_to(value, 65535.0f)));
  }
};

template <>
struct SampleTraits<Half> {
  static constexpr float full_range = 1.0f;
  REVISAGE_HOST_DEVICE static float load(Half sample) { return half_to_float(sample); }
  REVISAGE_HOST_DEVICE static Half store(float value) { return float_to_half(value); }
};

template <>
struct SampleTraits<BFloat16> {
  static constexpr float full_range = 1.0f;
  REVISAGE_HOST_DEVICE static float load(BFloat16 sample) { return bfloat16_to_float(sample); }
  REVISAGE_HOST_DEVICE static BFloat16 store(float value) { return float_to_bfloat16(value); }
};

template <>
struct SampleTraits<float> {
  static constexpr float full_range = 1.0f;
  REVISAGE_HOST_DEVICE static float load(float sample) { return sample; }
  REVISAGE_HOST_DEVICE static float store(float value) { return value; }
};

}  // namespace revisage
