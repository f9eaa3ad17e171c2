// Body of composite_<isa>.cc: no include guard, once per file. Before including it, define
// REVISAGE_ISA_FUNCTION, the name of the function that returns the kernels. Compiled with
// -ffp-contract=off: Note [Compositing arithmetic] allows no fused multiply-add.
//
// A row is edited kLanes pixels at a time: the changes of their samples first, in the order of the
// samples, then the samples.
#include "composite_kernels.h"
#include "float_vector.h"
#include "samples.h"

namespace revisage {
namespace {

constexpr int kMaxChannels = 4;  // of photos whose samples are edited as vectors

typedef float Float4 __attribute__((vector_size(16)));
typedef uint16_t Shorts __attribute__((vector_size(2 * kLanes)));
typedef int16_t SignedShorts __attribute__((vector_size(2 * kLanes)));

template <typename Vector>
inline Vector load_as(const void* from) {
  Vector vector;
  __builtin_memcpy(&vector, from, sizeof(vector));
  return vector;
}

template <typename Vector>
inline void store_as(void* to, Vector vector) {
  __builtin_memcpy(to, &vector, sizeof(vector));
}

// floor for |value| < 2^62.
inline int64_t floor_to_int(double value) {
  const auto whole = static_cast<int64_t>(value);
  return whole - (static_cast<double>(whole) > value);
}

// ---- changed samples
// ------------------------------------------------------------------------------

inline Ints touched(Floats change) { return (change < 0.0f) | (change > 0.0f); }  // not by 0 or NaN

inline Floats choose(Ints mask, Floats yes, Floats no) { return mask ? yes : no; }

// Whole numbers as floats, and back from the low bits of `whole`.
#if defined(__AVX512F__)
inline Floats load_whole(const uint8_t* from) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_as<__m128i>(from)));
}
inline Floats load_whole(const uint16_t* from) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(load_as<__m256i>(from)));
}
inline void store_whole(uint8_t* to, Ints whole) {
  store_as(to, _mm512_cvtepi32_epi8((__m512i)whole));
}
inline void store_whole(uint16_t* to, Ints whole) {
  store_as(to, _mm512_cvtepi32_epi16((__m512i)whole));
}
#elif defined(__AVX2__)
inline Floats load_whole(const uint8_t* from) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)from)));
}
inline Floats load_whole(const uint16_t* from) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(load_as<__m128i>(from)));
}
inline __m128i low_halves(Ints whole) {
  const __m256i low = (__m256i)(whole & 0xFFFF);
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x88));
}
inline void store_whole(uint8_t* to, Ints whole) {
  const __m128i low = low_halves(whole);
  _mm_storel_epi64((__m128i*)to, _mm_packus_epi16(low, low));
}
inline void store_whole(uint16_t* to, Ints whole) { store_as(to, low_halves(whole)); }
#else
template <typename Sample>
inline Floats load_whole(const Sample* from) {
  Floats value;
  for (int lane = 0; lane < kLanes; ++lane) value[lane] = from[lane];
  return value;
}
template <typename Sample>
inline void store_whole(Sample* to, Ints whole) {
  for (int lane = 0; lane < kLanes; ++lane) to[lane] = static_cast<Sample>(whole[lane]);
}
#endif

// Adding 0 keeps whole numbers.
template <typename Sample>
inline void change_whole_numbers(Sample* samples, Floats change, float full_range) {
  const Floats kept = choose(touched(change), change, Floats{});
  Floats value = load_whole(samples) + kept * full_range;
  value = value < 0.0f ? Floats{} : value;
  value = value > full_range ? Floats{} + full_range : value;
  // Rounds half to even: the sum of 1.5 * 2^23 has no fraction bits, and value in its low ones.
  store_whole(samples, (Ints)(value + 12582912.0f));
}

inline void change_samples(uint8_t* samples, Floats change) {
  change_whole_numbers(samples, change, 255.0f);
}

inline void change_samples(uint16_t* samples, Floats change) {
  change_whole_numbers(samples, change, 65535.0f);
}

inline void change_samples(float* samples, Floats change) {
  const Floats before = load_as<Floats>(samples);
  store_as(samples, choose(touched(change), before + change, before));
}

#if defined(__AVX512F__)
inline Floats half_to_floats(Shorts half) { return _mm512_cvtph_ps((__m256i)half); }
inline Shorts floats_to_half(Floats value) {
  return (Shorts)_mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT);
}
#elif defined(__F16C__)
inline Floats half_to_floats(Shorts half) { return _mm256_cvtph_ps((__m128i)half); }
inline Shorts floats_to_half(Floats value) {
  return (Shorts)_mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT);
}
#else
inline Floats half_to_floats(Shorts half) {
  Floats value;
  for (int lane = 0; lane < kLanes; ++lane) value[lane] = half_to_float(Half{half[lane]});
  return value;
}
inline Shorts floats_to_half(Floats value) {
  Shorts half;
  for (int lane = 0; lane < kLanes; ++lane) half[lane] = float_to_half(value[lane]).bits;
  return half;
}
#endif

inline void change_samples(Half* samples, Floats change) {
  const Shorts before = load_as<Shorts>(samples);
  const Shorts after = floats_to_half(half_to_floats(before) + change);
  const auto mask = (Shorts) __builtin_convertvector(touched(change), SignedShorts);
  store_as(samples, (after & mask) | (before & ~mask));
}

// ---- changes, one pixel at a time
// -----------------------------------------------------------------

// Writes the changes of `count` pixels, Channels floats for each, to `changes`. May write a vector
// of four for each. False where all are 0.
template <int Channels>
bool changes_by_pixel(const PackedEdit& edit, const EditedRow& row, int64_t x, int count,
                      float* changes) {
  bool any = false;
  for (int i = 0; i < count; ++i) {
    const auto at = static_cast<double>(x + i);
    const double u = row.a * at + row.u0, v = row.d * at + row.v0;
    const int64_t column = floor_to_int(u), line = floor_to_int(v);
    const float* tap = edit.pixels + 4 * ((line + 1) * edit.stride + column + 1);
    const auto fx = static_cast<float>(u - static_cast<double>(column));
    const auto fy = static_cast<float>(v - static_cast<double>(line));
    const auto across = [fx](const float* taps) {
      return load_as<Float4>(taps) * (1.0f - fx) + load_as<Float4>(taps + 4) * fx;
    };
    const Float4 sampled = across(tap) * (1.0f - fy) + across(tap + 4 * edit.stride) * fy;
    const float mask = sampled[kEditChannels];
    Float4 change = edit.strength * (mask * sampled);
    change[kEditChannels] = 0.0f;
    any |= mask != 0.0f;
    store_as(changes + i * Channels, change);
  }
  return any;
}

// ---- changes, kLanes pixels at a time
// -------------------------------------------------------------

#if defined(__AVX2__)
constexpr int kPlanarLanes = kLanes;

typedef double Doubles __attribute__((vector_size(4 * kLanes)));
typedef int32_t HalfInts __attribute__((vector_size(2 * kLanes)));
typedef float HalfFloats __attribute__((vector_size(2 * kLanes)));

#if defined(__AVX512F__)
inline Doubles floor_of(Doubles value) {
  return _mm512_roundscale_pd(value, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}
inline Floats permuted(Floats value, Ints lanes) {
  return _mm512_permutexvar_ps((__m512i)lanes, value);
}
// Lanes from kLanes on are those of `second`.
inline Floats permuted(Floats first, Floats second, Ints lanes) {
  return _mm512_permutex2var_ps(first, (__m512i)lanes, second);
}
inline bool any_lane(Ints mask) {
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
}
#else
inline Doubles floor_of(Doubles value) { return _mm256_floor_pd(value); }
inline Floats permuted(Floats value, Ints lanes) {
  return _mm256_permutevar8x32_ps(value, (__m256i)lanes);
}
inline Floats permuted(Floats first, Floats second, Ints lanes) {
#ifdef __clang__
  return choose(lanes < kLanes, permuted(first, lanes), permuted(second, lanes));
#else
  return __builtin_shuffle(first, second, lanes);  // finds shorter ways for constant lanes
#endif
}
inline bool any_lane(Ints mask) { return !_mm256_testz_si256((__m256i)mask, (__m256i)mask); }
#endif

template <typename Whole, typename Half>
inline Whole joined(Half low, Half high) {
  Whole whole;
  __builtin_memcpy(&whole, &low, sizeof(low));
  __builtin_memcpy(reinterpret_cast<char*>(&whole) + sizeof(low), &high, sizeof(high));
  return whole;
}

// slope * x + offset for the pixels from x on, as whole numbers and fractions.
struct Positions {
  Ints whole;
  Floats fraction;

  Positions(double slope, double offset, int64_t x) {
    Doubles lane;
    for (int i = 0; i < kLanes / 2; ++i) lane[i] = i;
    const Doubles low = slope * (static_cast<double>(x) + lane) + offset;
    const Doubles high = slope * (static_cast<double>(x + kLanes / 2) + lane) + offset;
    const Doubles low_floor = floor_of(low), high_floor = floor_of(high);
    whole = joined<Ints>(__builtin_convertvector(low_floor, HalfInts),
                         __builtin_convertvector(high_floor, HalfInts));
    fraction = joined<Floats>(__builtin_convertvector(low - low_floor, HalfFloats),
                              __builtin_convertvector(high - high_floor, HalfFloats));
  }
};

// For each lane of the j-th vector of interleaved samples: which lane of two planes it takes, where
// `first` is of the planes 0 and 1, `second` of what `first` gave and plane 2.
template <int Channels>
struct InterleavedLanes {
  int32_t first[Channels][kLanes], second[Channels][kLanes];
  float used[Channels][kLanes];  // 0 for the fourth channel

  constexpr InterleavedLanes() : first(), second(), used() {
    for (int j = 0; j < Channels; ++j) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const int pixel = (j * kLanes + lane) / Channels, k = (j * kLanes + lane) % Channels;
        first[j][lane] = k == 1 ? kLanes + pixel : pixel;
        second[j][lane] = k == 2 ? kLanes + pixel : lane;
        used[j][lane] = k < kEditChannels ? 1.0f : 0.0f;
      }
    }
  }
};

template <int Channels>
inline void interleave(const Floats* planes, float* samples) {
  static constexpr InterleavedLanes<Channels> lanes;
  for (int j = 0; j < Channels; ++j) {
    Floats value = planes[0];
    if (Channels > 1) value = permuted(planes[0], planes[1], load_as<Ints>(lanes.first[j]));
    if (Channels > 2) value = permuted(value, planes[2], load_as<Ints>(lanes.second[j]));
    if (Channels > 3) value = choose(load_as<Floats>(lanes.used[j]) > 0.0f, value, Floats{});
    store_as(samples + j * kLanes, value);
  }
}

// As changes_by_pixel, for a planar edit and always kLanes pixels, of which the first `count`
// count. The taps of one row of the square lie within one vector; pixels of a turned square take
// theirs from several rows.
template <int Channels>
__attribute__((always_inline)) inline bool changes_by_lanes(const PackedEdit& edit,
                                                            const EditedRow& row, int64_t x,
                                                            int count, float* changes) {
  const Positions across(row.a, row.u0, x), down(row.d, row.v0, x);
  const auto low_and_high = [x, count](double slope, double offset, int64_t& low, int64_t& high) {
    low = floor_to_int(slope * static_cast<double>(x) + offset);
    high = floor_to_int(slope * static_cast<double>(x + count - 1) + offset);
    if (low > high) {
      const int64_t swapped = low;
      low = high;
      high = swapped;
    }
  };
  int64_t left, right, top, bottom;
  low_and_high(row.a, row.u0, left, right);
  low_and_high(row.d, row.v0, top, bottom);
  const Ints lane = across.whole - static_cast<int32_t>(left);
  const Floats fx = across.fraction, gx = 1.0f - fx;
  const Floats fy = down.fraction, gy = 1.0f - fy;
  const int64_t row_floats = (1 + edit.used) * edit.stride;
  const float* corner = edit.pixels + (top + 1) * row_floats + left + 1;

  const auto sample = [&](int plane) {
    const float* taps = corner + plane * edit.stride;
    const auto line = [&](int64_t below_top) {
      const Floats from = load(taps + below_top * row_floats, AllLanes{});
      return permuted(from, lane) * gx + permuted(from, lane + 1) * fx;
    };
    Floats upper = line(0), lower = line(1), last = lower;
    for (int64_t r = 1; r <= bottom - top; ++r) {
      const Ints below = down.whole >= static_cast<int32_t>(top + r);
      const Floats next = line(r + 1);
      upper = choose(below, last, upper);
      lower = choose(below, next, lower);
      last = next;
    }
    return upper * gy + lower * fy;
  };
  const Floats mask = sample(0);
  if (!any_lane(mask != 0.0f)) return false;
  Floats planes[kEditChannels] = {};
  for (int k = 0; k < edit.used; ++k) planes[k] = edit.strength * (mask * sample(1 + k));
  interleave<Channels>(planes, changes);
  return true;
}

#else
constexpr int kPlanarLanes = 0;

template <int Channels>
inline bool changes_by_lanes(const PackedEdit& edit, const EditedRow& row, int64_t x, int count,
                             float* changes) {
  return changes_by_pixel<Channels>(edit, row, x, count, changes);  // planar edits come with AVX2
}

#endif

// ---- rows
// -----------------------------------------------------------------------------------------

// `Channels` of the photo, or 0 for those that are not edited as vectors.
template <typename Sample, int Channels>
void edit_row_of(const PackedEdit& edit, const EditedRow& row) {
  constexpr int kPerPixel = Channels > 0 ? Channels : kMaxChannels;
  alignas(64) float changes[kMaxChannels * kLanes + 4] = {};
  for (int64_t x = row.begin; x < row.end; x += kLanes) {
    const int count = row.end - x < kLanes ? static_cast<int>(row.end - x) : kLanes;
    const bool any = edit.planar ? changes_by_lanes<kPerPixel>(edit, row, x, count, changes)
                                 : changes_by_pixel<kPerPixel>(edit, row, x, count, changes);
    if (!any) continue;
    Sample* samples = static_cast<Sample*>(row.samples) + x * row.channels;
    const auto change_all = [&changes](Sample* at) {
      for (int j = 0; j < kPerPixel; ++j) {
        change_samples(at + j * kLanes, load_as<Floats>(changes + j * kLanes));
      }
    };
    if (Channels > 0 && count == kLanes) {
      change_all(samples);
      continue;
    }
    Sample copy[kPerPixel * kLanes] = {};
    for (int i = 0; i < count; ++i) {
      for (int k = 0; k < edit.used; ++k) copy[i * kPerPixel + k] = samples[i * row.channels + k];
    }
    change_all(copy);
    for (int i = 0; i < count; ++i) {
      for (int k = 0; k < edit.used; ++k) samples[i * row.channels + k] = copy[i * kPerPixel + k];
    }
  }
}

template <typename Sample>
void edit_row(const PackedEdit& edit, const EditedRow& row) {
  switch (row.vector_channels) {
    case 1:
      return edit_row_of<Sample, 1>(edit, row);
    case 2:
      return edit_row_of<Sample, 2>(edit, row);
    case 3:
      return edit_row_of<Sample, 3>(edit, row);
    case 4:
      return edit_row_of<Sample, 4>(edit, row);
    default:
      return edit_row_of<Sample, 0>(edit, row);
  }
}

}  // namespace

const CompositeKernels& REVISAGE_ISA_FUNCTION() {
  static const CompositeKernels kernels = {&edit_row<uint8_t>, &edit_row<uint16_t>, &edit_row<Half>,
                                           &edit_row<float>, kPlanarLanes};
  return kernels;
}

}  // namespace revisage
