// The warp's hot loops for AVX2 and F16C: see flow_warp_kernels.h.
#define REVISAGE_ISA_FUNCTION warp_kernels_avx2
#include <immintrin.h>

#include "flow_warp_arithmetic.h"
#include "flow_warp_group.h"

namespace revisage {
namespace {

#define REVISAGE_INLINE inline __attribute__((always_inline))

constexpr int kLanes = 2;
typedef int Ints __attribute__((vector_size(32)));
typedef float Floats __attribute__((vector_size(32)));
typedef double Doubles __attribute__((vector_size(32)));

struct Pair {
  Floats first, second;
};

inline Pair deinterleave(Floats a, Floats b) {
  const __m256 even = _mm256_shuffle_ps((__m256)a, (__m256)b, 0x88);
  const __m256 odd = _mm256_shuffle_ps((__m256)a, (__m256)b, 0xDD);
  return {(Floats)_mm256_permute4x64_pd((__m256d)even, 0xD8),
          (Floats)_mm256_permute4x64_pd((__m256d)odd, 0xD8)};
}

// Where a position is NaN, the instruction returns its second operand.
inline Floats clamp_far(Floats position) {
  const __m256 far = _mm256_set1_ps(1073741824.0f);
  return (Floats)_mm256_min_ps(_mm256_max_ps((__m256)position, -far), far);
}

inline Doubles clamp_far(Doubles position) {
  const __m256d far = _mm256_set1_pd(1073741824.0);
  return (Doubles)_mm256_min_pd(_mm256_max_pd((__m256d)position, -far), far);
}

inline Floats floor_of(Floats v) { return (Floats)_mm256_floor_ps((__m256)v); }
inline Doubles floor_of(Doubles v) { return (Doubles)_mm256_floor_pd((__m256d)v); }

template <int Channels>
inline bool all_inside(const Interior& interior, const int32_t* column, const int32_t* row,
                       uint32_t* offset) {
  const __m256i c = _mm256_load_si256((const __m256i*)column);
  const __m256i r = _mm256_load_si256((const __m256i*)row);
  const __m256i row_samples = _mm256_set1_epi32(static_cast<int>(interior.row_samples));
  const __m256i at = _mm256_add_epi32(_mm256_mullo_epi32(r, row_samples),
                                      _mm256_mullo_epi32(c, _mm256_set1_epi32(Channels)));
  _mm256_store_si256((__m256i*)offset, at);
  if (interior.offsets == 0) return false;
  // Unsigned v <= last, as min(v, last) == v.
  const auto within = [](__m256i v, uint32_t end) {
    const __m256i last = _mm256_set1_epi32(static_cast<int>(end - 1));
    return _mm256_cmpeq_epi32(_mm256_min_epu32(v, last), v);
  };
  const __m256i inside =
      _mm256_and_si256(_mm256_and_si256(within(c, interior.columns), within(r, interior.rows)),
                       within(at, interior.offsets));
  return _mm256_movemask_epi8(inside) == -1;
}

template <typename Load>
REVISAGE_INLINE Ints from_lanes(const Load& load) {
  return (Ints)_mm256_inserti128_si256(_mm256_castsi128_si256(load(0)), load(1), 1);
}

// One lane of eight bytes from each place.
inline __m128i load_halves(const void* low, const void* high) {
  // Not _mm_load_sd, whose pointer must be aligned to a double.
  const __m128d first = _mm_castsi128_pd(_mm_loadl_epi64(static_cast<const __m128i*>(low)));
  return _mm_castpd_si128(_mm_loadh_pd(first, static_cast<const double*>(high)));
}

// Eight bytes per lane of the result.
template <typename Load>
REVISAGE_INLINE Floats words_from_lanes(const Load& load) {
  return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(load_halves(load(0), load(1))));
}

template <typename Load>
REVISAGE_INLINE Floats halves_from_lanes(const Load& load) {
  return (Floats)_mm256_cvtph_ps(load_halves(load(0), load(1)));
}

inline void store_lanes(void* out, int64_t stride, Ints v) {
  char* to = static_cast<char*>(out);
  _mm_storeu_si128((__m128i*)to, _mm256_castsi256_si128((__m256i)v));
  _mm_storeu_si128((__m128i*)(to + stride), _mm256_extracti128_si256((__m256i)v, 1));
}

inline void store_half_lanes(void* out, int64_t stride, Ints v) {
  char* to = static_cast<char*>(out);
  _mm_storel_epi64((__m128i*)to, _mm256_castsi256_si128((__m256i)v));
  _mm_storel_epi64((__m128i*)(to + stride), _mm256_extracti128_si256((__m256i)v, 1));
}

// The first `kBytes` of each lane, one after the other.
template <int kBytes>
inline void store_joined(void* out, Ints v) {
  if (kBytes == 16) {
    _mm256_storeu_si256((__m256i*)out, (__m256i)v);
  } else if (kBytes == 12) {
    const __m256i order = _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 0, 0);
    const __m256i joined = _mm256_permutevar8x32_epi32((__m256i)v, order);
    _mm_storeu_si128((__m128i*)out, _mm256_castsi256_si128(joined));
    _mm_storel_epi64((__m128i*)out + 1, _mm256_extracti128_si256(joined, 1));
  } else {
    const __m256i joined = _mm256_permute4x64_epi64((__m256i)v, 0x08);
    _mm_storeu_si128((__m128i*)out, _mm256_castsi256_si128(joined));
  }
}

template <int J>
inline Ints spread(Ints v) {
  return (Ints)_mm256_shuffle_epi32((__m256i)v, J * 0x55);
}

template <int kOrder>
inline Floats shuffle(Floats a, Floats b) {
  return (Floats)_mm256_shuffle_ps((__m256)a, (__m256)b, kOrder);
}

// The upper 16 - kBytes of each lane of `low`, below kBytes of `high`.
template <int kBytes>
inline Ints align(Ints high, Ints low) {
  return (Ints)_mm256_alignr_epi8((__m256i)high, (__m256i)low, kBytes);
}

template <int kBytes>
inline Ints shift_up(Ints v) {
  return (Ints)_mm256_bslli_epi128((__m256i)v, kBytes);
}

template <int kBytes>
inline Ints shift_down(Ints v) {
  return (Ints)_mm256_bsrli_epi128((__m256i)v, kBytes);
}

inline Ints unpack_low_halves(Ints a, Ints b) {
  return (Ints)_mm256_unpacklo_epi64((__m256i)a, (__m256i)b);
}

inline Ints shuffle_bytes(Ints v, __m128i order) {
  return (Ints)_mm256_shuffle_epi8((__m256i)v, _mm256_broadcastsi128_si256(order));
}

inline Ints multiply_pairs(Ints words, Ints weights) {
  return (Ints)_mm256_madd_epi16((__m256i)words, (__m256i)weights);
}

inline Ints round_half_even(Floats v) { return (Ints)_mm256_cvtps_epi32((__m256)v); }

inline Ints pack_words(Ints a, Ints b) { return (Ints)_mm256_packus_epi32((__m256i)a, (__m256i)b); }

inline Ints pack_bytes(Ints a, Ints b) { return (Ints)_mm256_packus_epi16((__m256i)a, (__m256i)b); }

// As pack_words, of floats rounded to halves.
inline Ints pack_halves(Floats a, Floats b) {
  const __m128i first = _mm256_cvtps_ph((__m256)a, _MM_FROUND_TO_NEAREST_INT);
  const __m128i second = _mm256_cvtps_ph((__m256)b, _MM_FROUND_TO_NEAREST_INT);
  return (Ints)_mm256_inserti128_si256(_mm256_castsi128_si256(_mm_unpacklo_epi64(first, second)),
                                       _mm_unpackhi_epi64(first, second), 1);
}

template <int kScale>
inline Ints gather(const void* base, const uint32_t* offset) {
  return (Ints)_mm256_i32gather_epi32(static_cast<const int*>(base),
                                      _mm256_load_si256((const __m256i*)offset), kScale);
}

inline __m128i low_words(Ints v) {
  const __m256i packed = _mm256_packus_epi32((__m256i)v, (__m256i)v);
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
}

// The low 16 bits of each element, whose high 16 bits are zero.
inline Floats halves_to_floats(Ints v) { return (Floats)_mm256_cvtph_ps(low_words(v)); }

inline void store_as_bytes(void* out, Ints v) {
  const __m128i words = low_words(v);
  _mm_storel_epi64((__m128i*)out, _mm_packus_epi16(words, words));
}

inline void store_as_words(void* out, Ints v) { _mm_storeu_si128((__m128i*)out, low_words(v)); }

inline void store_as_halves(void* out, Floats v) {
  _mm_storeu_si128((__m128i*)out, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
}

}  // namespace
}  // namespace revisage

#include "flow_warp_vectors.h"
//
#include "flow_warp_loops.h"
