// Vectors of float32 as wide as the instruction set that a file is compiled for. Only for files
// that are compiled once per instruction set: everything here is private to them, and it includes
// no standard C++ header (see fft_conv_kernels.h).
#pragma once

#include <stdint.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace revisage {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

// What part of a vector a load or store touches. Lanes that are not loaded are 0, so the ends of an
// array take the same arithmetic, to the bit, as its middle.
struct AllLanes {};
struct FirstLanes {
  int count;  // 1..kLanes - 1
};

inline Floats load(const float* from, AllLanes) {
  typedef float Unaligned __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
  return *reinterpret_cast<const Unaligned*>(from);
}

inline void store(float* to, Floats value, AllLanes) {
  typedef float Unaligned __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
  *reinterpret_cast<Unaligned*>(to) = value;
}

#if defined(__AVX512F__)

inline __mmask16 lane_mask(FirstLanes lanes) {
  return static_cast<__mmask16>((1u << lanes.count) - 1u);
}
inline Floats load(const float* from, FirstLanes lanes) {
  return _mm512_maskz_loadu_ps(lane_mask(lanes), from);
}
inline void store(float* to, Floats value, FirstLanes lanes) {
  _mm512_mask_storeu_ps(to, lane_mask(lanes), value);
}
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

#elif defined(__AVX2__)

inline __m256i lane_mask(FirstLanes lanes) {
  return (__m256i)(Ints{0, 1, 2, 3, 4, 5, 6, 7} < lanes.count);
}
inline Floats load(const float* from, FirstLanes lanes) {
  return _mm256_maskload_ps(from, lane_mask(lanes));
}
inline void store(float* to, Floats value, FirstLanes lanes) {
  _mm256_maskstore_ps(to, lane_mask(lanes), value);
}
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

#else

inline Floats load(const float* from, FirstLanes lanes) {
  Floats value{};
  for (int lane = 0; lane < lanes.count; ++lane) value[lane] = from[lane];
  return value;
}
inline void store(float* to, Floats value, FirstLanes lanes) {
  for (int lane = 0; lane < lanes.count; ++lane) to[lane] = value[lane];
}
inline Floats multiply_add(Floats a, Floats b, Floats c) { return a * b + c; }

#endif

// ---- stores that bypass the caches
// ---------------------------------------------------------------

// `to` is aligned to the vector. Such stores are ordered with others only by stream_fence().
inline void stream(float* to, Floats value, AllLanes) {
#if defined(__AVX512F__)
  _mm512_stream_ps(to, value);
#elif defined(__AVX2__)
  _mm256_stream_ps(to, value);
#elif defined(__SSE2__)
  _mm_stream_ps(to, value);
#else
  store(to, value, AllLanes{});
#endif
}
inline void stream(float* to, Floats value, FirstLanes lanes) { store(to, value, lanes); }

inline void stream_fence() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

// How many of `count` floats come before the first vector that `stream` takes.
inline int64_t floats_to_alignment(const float* at, int64_t count) {
  const auto past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(at) / 4 % kLanes);
  const int64_t left = (kLanes - past) % kLanes;
  return left < count ? left : count;
}

// ---- loops
// ----------------------------------------------------------------------------------------

// Calls visit(index, lanes) for [0, count) in order: the first `head` (below kLanes) floats, then
// whole vectors, then the rest.
template <typename Visitor>
inline void for_each_vector(int64_t head, int64_t count, Visitor&& visit) {
  if (head > 0) visit(int64_t{0}, FirstLanes{static_cast<int>(head)});
  int64_t i = head;
  for (; i + kLanes <= count; i += kLanes) visit(i, AllLanes{});
  if (i < count) visit(i, FirstLanes{static_cast<int>(count - i)});
}

}  // namespace
}  // namespace revisage
