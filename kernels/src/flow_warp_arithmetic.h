// The index and sample arithmetic that all versions of the warp share (Note [Warp arithmetic] in
// kernels/flow_warp.py). No standard C++ header: flow_warp_<isa>.cc includes this.
#pragma once

#include "samples.h"

namespace revisage {

struct SplitPosition {
  std::int64_t whole;
  float fraction;
};

// Whole part and fraction of a position, clamped to +-2^30; NaN counts as -2^30.
template <typename Real>
REVISAGE_HOST_DEVICE inline SplitPosition split_position(Real position) {
  constexpr Real far = 1073741824;
  Real clamped = position > -far ? position : -far;
  clamped = clamped < far ? clamped : far;
  auto whole = static_cast<std::int32_t>(clamped);
  whole -= static_cast<Real>(whole) > clamped;  // truncation to floor
  return {whole, static_cast<float>(clamped - static_cast<Real>(whole))};
}

// An index brought into 0..size-1; for zero padding the caller masks what was outside.
template <typename Index>
REVISAGE_HOST_DEVICE inline Index fold_index(Index index, Index size, bool reflect) {
  if (!reflect || size == 1) return index < 0 ? 0 : (index >= size ? size - 1 : index);
  const Index period = 2 * (size - 1);
  Index folded = index % period;
  if (folded < 0) folded += period;
  return folded < period - folded ? folded : period - folded;
}

// Position `index` of `count` in a flow of `size`, with half-pixel centres (Note [Flow
// upsampling]).
REVISAGE_HOST_DEVICE inline SplitPosition upsampled_position(std::int64_t index, std::int64_t count,
                                                             std::int64_t size) {
  double at =
      (static_cast<double>(index) + 0.5) * static_cast<double>(size) / static_cast<double>(count) -
      0.5;
  const double last = static_cast<double>(size - 1);
  at = at < 0.0 ? 0.0 : (at > last ? last : at);
  return split_position(at);
}

// The four taps of a pixel mixed into one sample: made once per pixel, called once per channel.
template <typename Sample>
class TapMixer {
 public:
  REVISAGE_HOST_DEVICE TapMixer(float fx, float fy) : fx_(fx), fy_(fy) {}

  REVISAGE_HOST_DEVICE Sample operator()(Sample top_left, Sample top_right, Sample bottom_left,
                                         Sample bottom_right) const {
    using Traits = SampleTraits<Sample>;
    const float top = mix(Traits::load(top_left), Traits::load(top_right), fx_);
    const float bottom = mix(Traits::load(bottom_left), Traits::load(bottom_right), fx_);
    return Traits::store(mix(top, bottom, fy_));
  }

 private:
  REVISAGE_HOST_DEVICE static float mix(float first, float second, float fraction) {
    return fraction == 0.0f ? first : first * (1.0f - fraction) + second * fraction;
  }

  float fx_, fy_;
};

// 8-bit samples in fixed point: four weights that are not negative and add up to 2^14.
template <>
class TapMixer<std::uint8_t> {
 public:
  REVISAGE_HOST_DEVICE TapMixer(float fx, float fy) {
    const auto right = static_cast<std::int32_t>(round_half_even(fx * 16384.0f));
    const auto below = static_cast<std::int32_t>(round_half_even(fy * 16384.0f));
    bottom_right_ = (right * below + 8192) >> 14;
    bottom_left_ = below - bottom_right_;
    top_right_ = right - bottom_right_;
    top_left_ = 16384 - right - bottom_left_;
  }

  REVISAGE_HOST_DEVICE std::uint8_t operator()(std::uint8_t top_left, std::uint8_t top_right,
                                               std::uint8_t bottom_left,
                                               std::uint8_t bottom_right) const {
    return static_cast<std::uint8_t>((top_left * top_left_ + top_right * top_right_ +
                                      bottom_left * bottom_left_ + bottom_right * bottom_right_ +
                                      8192) >>
                                     14);
  }

 private:
  std::int32_t top_left_, top_right_, bottom_left_, bottom_right_;
};

}  // namespace revisage
