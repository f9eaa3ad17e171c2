// The warp's hot loops for AVX-512 F, BW, DQ, VL: see flow_warp_kernels.h.
#define REVISAGE_ISA_FUNCTION warp_kernels_avx512
#include <immintrin.h>

#include "flow_warp_arithmetic.h"
#include "flow_warp_group.h"

namespace revisage {
namespace {

#define REVISAGE_INLINE inline __attribute__((always_inline))

constexpr int kLanes = 4;
typedef int Ints __attribute__((vector_size(64)));
typedef float Floats __attribute__((vector_size(64)));
typedef double Doubles __attribute__((vector_size(64)));

struct Pair {
  Floats first, second;
};

inline Pair deinterleave(Floats a, Floats b) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  return {(Floats)_mm512_permutex2var_ps((__m512)a, even, (__m512)b),
          (Floats)_mm512_permutex2var_ps((__m512)a, odd, (__m512)b)};
}

// Where a position is NaN, the instruction returns its second operand.
inline Floats clamp_far(Floats position) {
  const __m512 far = _mm512_set1_ps(1073741824.0f);
  return (Floats)_mm512_min_ps(_mm512_max_ps((__m512)position, -far), far);
}

inline Doubles clamp_far(Doubles position) {
  const __m512d far = _mm512_set1_pd(1073741824.0);
  return (Doubles)_mm512_min_pd(_mm512_max_pd((__m512d)position, -far), far);
}

inline Floats floor_of(Floats v) {
  return (Floats)_mm512_roundscale_ps((__m512)v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}

inline Doubles floor_of(Doubles v) {
  return (Doubles)_mm512_roundscale_pd((__m512d)v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}

template <int Channels>
inline bool all_inside(const Interior& interior, const int32_t* column, const int32_t* row,
                       uint32_t* offset) {
  const __m512i c = _mm512_load_si512(column), r = _mm512_load_si512(row);
  const __m512i row_samples = _mm512_set1_epi32(static_cast<int>(interior.row_samples));
  const __m512i at = _mm512_add_epi32(_mm512_mullo_epi32(r, row_samples),
                                      _mm512_mullo_epi32(c, _mm512_set1_epi32(Channels)));
  _mm512_store_si512(offset, at);
  __mmask16 inside = _mm512_cmplt_epu32_mask(c, _mm512_set1_epi32(interior.columns));
  inside = _mm512_mask_cmplt_epu32_mask(inside, r, _mm512_set1_epi32(interior.rows));
  return _mm512_mask_cmplt_epu32_mask(inside, at, _mm512_set1_epi32(interior.offsets)) == 0xFFFF;
}

template <typename Load>
REVISAGE_INLINE Ints from_lanes(const Load& load) {
  const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(load(0)), load(1), 1);
  const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(load(2)), load(3), 1);
  return (Ints)_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

// One lane of eight bytes from each place.
inline __m128i load_halves(const void* low, const void* high) {
  // Not _mm_load_sd, whose pointer must be aligned to a double.
  const __m128d first = _mm_castsi128_pd(_mm_loadl_epi64(static_cast<const __m128i*>(low)));
  return _mm_castpd_si128(_mm_loadh_pd(first, static_cast<const double*>(high)));
}

// Eight bytes per lane of the result.
template <typename Load>
REVISAGE_INLINE __m256i from_half_lanes(const Load& load) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(load_halves(load(0), load(1))),
                                 load_halves(load(2), load(3)), 1);
}

template <typename Load>
REVISAGE_INLINE Floats words_from_lanes(const Load& load) {
  return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(from_half_lanes(load)));
}

template <typename Load>
REVISAGE_INLINE Floats halves_from_lanes(const Load& load) {
  return (Floats)_mm512_cvtph_ps(from_half_lanes(load));
}

inline void store_lanes(void* out, int64_t stride, Ints v) {
  char* to = static_cast<char*>(out);
  _mm_storeu_si128((__m128i*)to, _mm512_castsi512_si128((__m512i)v));
  _mm_storeu_si128((__m128i*)(to + stride), _mm512_extracti32x4_epi32((__m512i)v, 1));
  _mm_storeu_si128((__m128i*)(to + 2 * stride), _mm512_extracti32x4_epi32((__m512i)v, 2));
  _mm_storeu_si128((__m128i*)(to + 3 * stride), _mm512_extracti32x4_epi32((__m512i)v, 3));
}

inline void store_half_lanes(void* out, int64_t stride, Ints v) {
  char* to = static_cast<char*>(out);
  _mm_storel_epi64((__m128i*)to, _mm512_castsi512_si128((__m512i)v));
  _mm_storel_epi64((__m128i*)(to + stride), _mm512_extracti32x4_epi32((__m512i)v, 1));
  _mm_storel_epi64((__m128i*)(to + 2 * stride), _mm512_extracti32x4_epi32((__m512i)v, 2));
  _mm_storel_epi64((__m128i*)(to + 3 * stride), _mm512_extracti32x4_epi32((__m512i)v, 3));
}

// The first `kBytes` of each lane, one after the other.
template <int kBytes>
inline void store_joined(void* out, Ints v) {
  if (kBytes == 16) {
    _mm512_storeu_si512(out, (__m512i)v);
  } else if (kBytes == 12) {
    const __m512i order = _mm512_setr_epi32(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 0, 0, 0, 0);
    const __m512i joined = _mm512_permutexvar_epi32(order, (__m512i)v);
    _mm256_storeu_si256((__m256i*)out, _mm512_castsi512_si256(joined));
    _mm_storeu_si128((__m128i*)out + 2, _mm512_extracti32x4_epi32(joined, 2));
  } else {
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 0, 0, 0, 0);
    const __m512i joined = _mm512_permutexvar_epi64(order, (__m512i)v);
    _mm256_storeu_si256((__m256i*)out, _mm512_castsi512_si256(joined));
  }
}

template <int J>
inline Ints spread(Ints v) {
  return (Ints)_mm512_shuffle_epi32((__m512i)v, (_MM_PERM_ENUM)(J * 0x55));
}

template <int kOrder>
inline Floats shuffle(Floats a, Floats b) {
  return (Floats)_mm512_shuffle_ps((__m512)a, (__m512)b, kOrder);
}

// The upper 16 - kBytes of each lane of `low`, below kBytes of `high`.
template <int kBytes>
inline Ints align(Ints high, Ints low) {
  return (Ints)_mm512_alignr_epi8((__m512i)high, (__m512i)low, kBytes);
}

template <int kBytes>
inline Ints shift_up(Ints v) {
  return (Ints)_mm512_bslli_epi128((__m512i)v, kBytes);
}

template <int kBytes>
inline Ints shift_down(Ints v) {
  return (Ints)_mm512_bsrli_epi128((__m512i)v, kBytes);
}

inline Ints unpack_low_halves(Ints a, Ints b) {
  return (Ints)_mm512_unpacklo_epi64((__m512i)a, (__m512i)b);
}

inline Ints shuffle_bytes(Ints v, __m128i order) {
  return (Ints)_mm512_shuffle_epi8((__m512i)v, _mm512_broadcast_i32x4(order));
}

inline Ints multiply_pairs(Ints words, Ints weights) {
  return (Ints)_mm512_madd_epi16((__m512i)words, (__m512i)weights);
}

inline Ints round_half_even(Floats v) { return (Ints)_mm512_cvtps_epi32((__m512)v); }

inline Ints pack_words(Ints a, Ints b) { return (Ints)_mm512_packus_epi32((__m512i)a, (__m512i)b); }

inline Ints pack_bytes(Ints a, Ints b) { return (Ints)_mm512_packus_epi16((__m512i)a, (__m512i)b); }

// As pack_words, of floats rounded to halves.
inline Ints pack_halves(Floats a, Floats b) {
  const __m512i first =
      _mm512_castsi256_si512(_mm512_cvtps_ph((__m512)a, _MM_FROUND_TO_NEAREST_INT));
  const __m512i second =
      _mm512_castsi256_si512(_mm512_cvtps_ph((__m512)b, _MM_FROUND_TO_NEAREST_INT));
  const __m512i order = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
  return (Ints)_mm512_permutex2var_epi64(first, order, second);
}

template <int kScale>
inline Ints gather(const void* base, const uint32_t* offset) {
  return (Ints)_mm512_i32gather_epi32(_mm512_load_si512(offset), base, kScale);
}

// The low 16 bits of each element.
inline Floats halves_to_floats(Ints v) {
  return (Floats)_mm512_cvtph_ps(_mm512_cvtepi32_epi16((__m512i)v));
}

inline void store_as_bytes(void* out, Ints v) {
  _mm_storeu_si128((__m128i*)out, _mm512_cvtepi32_epi8((__m512i)v));
}

inline void store_as_words(void* out, Ints v) {
  _mm256_storeu_si256((__m256i*)out, _mm512_cvtepi32_epi16((__m512i)v));
}

inline void store_as_halves(void* out, Floats v) {
  _mm256_storeu_si256((__m256i*)out, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
}

}  // namespace
}  // namespace revisage

#include "flow_warp_vectors.h"
//
#include "flow_warp_loops.h"
