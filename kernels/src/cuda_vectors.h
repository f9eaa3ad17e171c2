// Several samples at once: one load or store of 1 to 16 bytes.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstring>

namespace revisage {

template <std::size_t bytes>
struct WordOf;
template <>
struct WordOf<1> {
  using Type = unsigned char;
};
template <>
struct WordOf<2> {
  using Type = unsigned short;
};
template <>
struct WordOf<4> {
  using Type = unsigned int;
};
template <>
struct WordOf<8> {
  using Type = uint2;
};
template <>
struct WordOf<16> {
  using Type = uint4;
};

template <typename Sample, int count>
struct Samples {
  Sample sample[count];
};

// Addresses are aligned to the bytes of the samples. "Cached" is for memory that no thread of the
// grid writes and several read; "once" for memory that one thread reads or writes and none needs
// again.
template <int count, typename Sample>
__device__ Samples<Sample, count> load_cached(const Sample* from) {
  const auto word =
      __ldg(reinterpret_cast<const typename WordOf<count * sizeof(Sample)>::Type*>(from));
  Samples<Sample, count> samples;
  memcpy(&samples, &word, sizeof(samples));
  return samples;
}

template <int count, typename Sample>
__device__ Samples<Sample, count> load_once(const Sample* from) {
  const auto word =
      __ldcs(reinterpret_cast<const typename WordOf<count * sizeof(Sample)>::Type*>(from));
  Samples<Sample, count> samples;
  memcpy(&samples, &word, sizeof(samples));
  return samples;
}

template <typename Sample, int count>
__device__ void store_once(Sample* to, const Samples<Sample, count>& samples) {
  using Word = typename WordOf<count * sizeof(Sample)>::Type;
  Word word;
  memcpy(&word, &samples, sizeof(word));
  __stcs(reinterpret_cast<Word*>(to), word);
}

}  // namespace revisage
