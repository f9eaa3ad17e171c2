// sample_group of flow_warp_loops.h for vectors of 128-bit lanes: no include guard, once per file,
// after the names of vector instructions that flow_warp_avx2.cc and flow_warp_avx512.cc define.
//
// Interleaved pixels are sampled with one lane per pixel. A group is four vectors; lane l of vector
// j holds pixel 4 l + j, so weights are spread, and results packed, inside lanes alone.
namespace revisage {
namespace {

constexpr int kGroup = 4 * kLanes;

// Lanes are loaded whole: eight bytes of u8, four samples of the others.
template <typename Sample, int Channels>
constexpr int kSlack = Channels == 1 ? (sizeof(Sample) == 1 ? 2 : 0)
                                     : (sizeof(Sample) == 1 ? 8 - 2 * Channels : 4 - Channels);

inline Floats load(const float* from) { return *(const Floats*)from; }

template <int J>
inline Floats spread(Floats v) {
  return (Floats)spread<J>((Ints)v);
}

REVISAGE_INLINE Floats mix(Floats first, Floats second, Floats fraction) {
  return fraction == 0.0f ? first : first * (1.0f - fraction) + second * fraction;
}

// ---- u8: fixed point ----------------------------------------------------------------------------

// Weights of the top and bottom two taps of each pixel, as two 16-bit numbers.
struct FixedWeights {
  Ints top, bottom;
};

inline FixedWeights fixed_weights(const Group<uint8_t>& group) {
  const Ints right = round_half_even(load(group.fx) * 16384.0f);
  const Ints below = round_half_even(load(group.fy) * 16384.0f);
  const Ints bottom_right = (right * below + 8192) >> 14;
  const Ints bottom_left = below - bottom_right;
  return {(16384 - right - bottom_left) | (right - bottom_right) << 16,
          bottom_left | bottom_right << 16};
}

template <int Channels, int J>
REVISAGE_INLINE Ints sample_bytes(const Group<uint8_t>& group, const FixedWeights& weights) {
  constexpr char C = Channels, none = -1;
  constexpr char third = Channels > 2 ? 2 : none, fourth = Channels > 3 ? 3 : none;
  constexpr char third_right = Channels > 2 ? C + 2 : none;
  constexpr char fourth_right = Channels > 3 ? C + 3 : none;
  const __m128i pairs = _mm_setr_epi8(0, none, C, none, 1, none, C + 1, none, third, none,
                                      third_right, none, fourth, none, fourth_right, none);
  const __m128i next = _mm_set1_epi16(8);
  const Ints rows = from_lanes([&](int lane) {
    const uint32_t offset = group.offset[4 * lane + J];
    return load_halves(group.image + offset, group.image + group.row_samples + offset);
  });
  const Ints sum =
      multiply_pairs(shuffle_bytes(rows, pairs), spread<J>(weights.top)) +
      multiply_pairs(shuffle_bytes(rows, _mm_add_epi8(pairs, next)), spread<J>(weights.bottom));
  return (sum + 8192) >> 14;
}

template <int Channels>
inline void sample_group(const Group<uint8_t>& group, uint8_t* out) {
  const FixedWeights weights = fixed_weights(group);
  if constexpr (Channels == 1) {
    const __m128i pairs = _mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1);
    const auto row = [&](int64_t start) {
      return shuffle_bytes(gather<1>(group.image + start, group.offset), pairs);
    };
    const Ints sum = multiply_pairs(row(0), weights.top) +
                     multiply_pairs(row(group.row_samples), weights.bottom);
    return store_as_bytes(out, (sum + 8192) >> 14);
  } else {
    const Ints low = pack_words(sample_bytes<Channels, 0>(group, weights),
                                sample_bytes<Channels, 1>(group, weights));
    const Ints high = pack_words(sample_bytes<Channels, 2>(group, weights),
                                 sample_bytes<Channels, 3>(group, weights));
    Ints pixels = pack_bytes(low, high);  // four bytes per pixel
    if constexpr (Channels == 3) {
      pixels = shuffle_bytes(pixels,
                             _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
    } else if constexpr (Channels == 2) {
      pixels = shuffle_bytes(
          pixels, _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1));
    }
    store_joined<4 * Channels>(out, pixels);
  }
}

// ---- u16, f16, f32: float arithmetic ------------------------------------------------------------

template <typename Load>
REVISAGE_INLINE Floats load_lanes(const uint16_t*, const Load& at) {
  return words_from_lanes(at);
}

template <typename Load>
REVISAGE_INLINE Floats load_lanes(const Half*, const Load& at) {
  return halves_from_lanes(at);
}

template <typename Load>
REVISAGE_INLINE Floats load_lanes(const float*, const Load& at) {
  return (Floats)from_lanes([&](int lane) { return _mm_loadu_si128((const __m128i*)at(lane)); });
}

// The four taps of pixels of one channel.
struct Taps4 {
  Pair top, bottom;
};

inline Pair split_words(const uint16_t*, Ints pairs) {
  return {__builtin_convertvector(pairs & 0xFFFF, Floats),
          __builtin_convertvector((pairs >> 16) & 0xFFFF, Floats)};
}

inline Pair split_words(const Half*, Ints pairs) {
  return {halves_to_floats(pairs & 0xFFFF), halves_to_floats((pairs >> 16) & 0xFFFF)};
}

template <typename Sample>
REVISAGE_INLINE Taps4 load_taps(const Group<Sample>& group) {
  const auto row = [&](const Sample* image) {
    return split_words(image, gather<2>(image, group.offset));
  };
  return {row(group.image), row(group.image + group.row_samples)};
}

REVISAGE_INLINE Taps4 load_taps(const Group<float>& group) {
  // Lane l holds pixels 4 l and 4 l + 1, or the next two; then shuffles inside lanes sort them.
  __m128i top[2][kLanes], bottom[2][kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int half = 0; half < 2; ++half) {
      const uint32_t* two = group.offset + 4 * lane + 2 * half;
      const float *image = group.image, *below = group.image + group.row_samples;
      top[half][lane] = load_halves(image + two[0], image + two[1]);
      bottom[half][lane] = load_halves(below + two[0], below + two[1]);
    }
  }
  const auto sorted = [](const __m128i(&pairs)[2][kLanes]) -> Pair {
    const auto low = (Floats)from_lanes([&](int lane) { return pairs[0][lane]; });
    const auto high = (Floats)from_lanes([&](int lane) { return pairs[1][lane]; });
    return {shuffle<0x88>(low, high), shuffle<0xDD>(low, high)};
  };
  return {sorted(top), sorted(bottom)};
}

inline void store(uint16_t* out, Floats v) { store_as_words(out, round_half_even(v)); }
inline void store(Half* out, Floats v) { store_as_halves(out, v); }
inline void store(float* out, Floats v) { __builtin_memcpy(out, &v, sizeof v); }

// Four vectors of a group, one pixel per lane, to `Channels` samples per pixel.
template <int Channels>
inline void store_words(void* out, Ints low, Ints high) {
  // Two pixels per lane, four words per pixel.
  char* to = static_cast<char*>(out);
  if constexpr (Channels == 4) {
    store_lanes(to, 32, low);
    store_lanes(to + 16, 32, high);
  } else if constexpr (Channels == 3) {
    const __m128i order = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, -1, -1, -1, -1);
    low = shuffle_bytes(low, order);
    high = shuffle_bytes(high, order);
    store_lanes(to, 24, align<4>(high, shift_up<4>(low)));
    store_half_lanes(to + 16, 24, shift_down<4>(high));
  } else {
    const __m128i order = _mm_setr_epi8(0, 1, 2, 3, 8, 9, 10, 11, -1, -1, -1, -1, -1, -1, -1, -1);
    store_lanes(to, 16, unpack_low_halves(shuffle_bytes(low, order), shuffle_bytes(high, order)));
  }
}

template <int Channels>
inline void store_group(uint16_t* out, const Floats* v) {
  store_words<Channels>(out, pack_words(round_half_even(v[0]), round_half_even(v[1])),
                        pack_words(round_half_even(v[2]), round_half_even(v[3])));
}

template <int Channels>
inline void store_group(Half* out, const Floats* v) {
  store_words<Channels>(out, pack_halves(v[0], v[1]), pack_halves(v[2], v[3]));
}

template <int Channels>
inline void store_group(float* out, const Floats* v) {
  constexpr int stride = 16 * Channels;
  if constexpr (Channels == 4) {
    for (int j = 0; j < 4; ++j) store_lanes(out + 4 * j, stride, (Ints)v[j]);
  } else if constexpr (Channels == 3) {
    store_lanes(out, stride, align<4>((Ints)v[1], shift_up<4>((Ints)v[0])));
    store_lanes(out + 4, stride, (Ints)shuffle<0x49>(v[1], v[2]));
    store_lanes(out + 8, stride, align<12>((Ints)v[3], shift_up<4>((Ints)v[2])));
  } else {
    store_lanes(out, stride, (Ints)shuffle<0x44>(v[0], v[1]));
    store_lanes(out + 4, stride, (Ints)shuffle<0x44>(v[2], v[3]));
  }
}

template <int Channels, int J, typename Sample>
REVISAGE_INLINE Floats sample_lanes(const Group<Sample>& group, Floats fx, Floats fy) {
  const auto tap = [&](int64_t step) {
    return load_lanes(group.image,
                      [&](int lane) { return group.image + step + group.offset[4 * lane + J]; });
  };
  const Floats across = spread<J>(fx);
  const Floats top = mix(tap(0), tap(Channels), across);
  const Floats bottom = mix(tap(group.row_samples), tap(group.row_samples + Channels), across);
  return mix(top, bottom, spread<J>(fy));
}

template <int Channels, typename Sample>
inline void sample_group(const Group<Sample>& group, Sample* out) {
  const Floats fx = load(group.fx), fy = load(group.fy);
  if constexpr (Channels == 1) {
    const auto [top, bottom] = load_taps(group);
    store(out, mix(mix(top.first, top.second, fx), mix(bottom.first, bottom.second, fx), fy));
  } else {
    const Floats pixels[] = {
        sample_lanes<Channels, 0>(group, fx, fy), sample_lanes<Channels, 1>(group, fx, fy),
        sample_lanes<Channels, 2>(group, fx, fy), sample_lanes<Channels, 3>(group, fx, fy)};
    store_group<Channels>(out, pixels);
  }
}

}  // namespace
}  // namespace revisage
