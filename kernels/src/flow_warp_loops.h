// Body of flow_warp_<isa>.cc: no include guard, once per file. Before including it, define
//     REVISAGE_ISA_FUNCTION  name of the function that returns the kernels
// and in an anonymous namespace
//     Ints, Floats  vectors of kGroup elements; Doubles: of half as many; Pair: two Floats
//     deinterleave  even and odd elements of two vectors
//     clamp_far     the clamp of split_position, and floor_of, for Floats and for Doubles
//     kGroup        pixels that are sampled at a time
//     all_inside    whether a group lies in the interior, and where
//     sample_group  bilinear samples of a group
//     kSlack        samples that sample_group may read past the last neighbourhood
//
// A row is done in chunks, in two steps: positions (which whole pixel, which fractions) and
// samples. A group of pixels that all lie inside is sampled straight from the image. For any other
// a small image is built that holds the neighbourhood of each pixel, folded and padded, and sampled
// in the same way: sample_group knows nothing of padding.
#include "flow_warp_arithmetic.h"
#include "flow_warp_group.h"
#include "flow_warp_kernels.h"

namespace revisage {
namespace {

constexpr int kChunk = 128;
constexpr int kRowsAhead = 3;       // of the image, that are fetched before they are read
constexpr int kFloatsAhead = 1024;  // of the flow

struct Chunk {
  alignas(64) int32_t column[kChunk];
  alignas(64) int32_t row[kChunk];
  alignas(64) float fx[kChunk];
  alignas(64) float fy[kChunk];
};

// ---- Positions ----------------------------------------------------------------------------------

constexpr int kDoubles = kGroup / 2;
typedef int HalfInts __attribute__((vector_size(sizeof(Ints) / 2)));
typedef float HalfFloats __attribute__((vector_size(sizeof(Floats) / 2)));

template <typename Vector, typename Element>
inline Vector load_vector(const Element* from) {
  Vector v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <typename Vector, typename Element>
inline void store_vector(Element* to, Vector v) {
  __builtin_memcpy(to, &v, sizeof v);
}

// split_position of vectors, to `whole` and `fraction`.
template <typename Integers, typename Fractions, typename Reals>
inline void split_positions(Reals position, Integers shift, int32_t* whole, float* fraction) {
  const Reals clamped = clamp_far(position), floor = floor_of(clamped);
  store_vector(whole, __builtin_convertvector(floor, Integers) + shift);
  store_vector(fraction, __builtin_convertvector(clamped - floor, Fractions));
}

alignas(64) constexpr int32_t kSteps[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

void place_by_matrix(Chunk& chunk, const double* m, int32_t x, int32_t y, int count) {
  const double u_row = m[1] * y + m[2], v_row = m[4] * y + m[5];
  const HalfInts none = {};
  for (int i = 0; i < count; i += kDoubles) {
    const HalfInts columns = load_vector<HalfInts>(kSteps) + (x + i);
    const Doubles at = __builtin_convertvector(columns, Doubles);
    split_positions<HalfInts, HalfFloats>(m[0] * at + u_row, none, chunk.column + i, chunk.fx + i);
    split_positions<HalfInts, HalfFloats>(m[3] * at + v_row, none, chunk.row + i, chunk.fy + i);
  }
}

inline void place_group(Chunk& chunk, int i, Floats dx, Floats dy, int32_t x, int32_t y) {
  const Ints columns = load_vector<Ints>(kSteps) + (x + i), rows = Ints{} + y;
  split_positions<Ints, Floats>(dx, columns, chunk.column + i, chunk.fx + i);
  split_positions<Ints, Floats>(dy, rows, chunk.row + i, chunk.fy + i);
}

void place_by_flow(Chunk& chunk, const float* flow, int32_t x, int32_t y, int count) {
  for (int i = 0; i < count; i += kGroup) {
    const float* from = flow + 2 * i;
    for (int line = 0; line < 2 * kGroup; line += 16) {
      __builtin_prefetch(from + line + kFloatsAhead);
    }
    float last[2 * kGroup];
    if (count - i < kGroup) {
      for (int k = 0; k < 2 * kGroup; ++k) last[k] = k < 2 * (count - i) ? from[k] : 0.0f;
      from = last;
    }
    const Pair shift = deinterleave(load_vector<Floats>(from), load_vector<Floats>(from + kGroup));
    place_group(chunk, i, shift.first, shift.second, x, y);
  }
}

// Between two rows of the flow that are upsampled along x, and padded to whole groups.
void place_between(Chunk& chunk, const float* top, const float* bottom, float gy, int32_t x,
                   int32_t y, int count) {
  const auto mixed = [&](int k) {
    return load_vector<Floats>(top + k) * (1.0f - gy) + load_vector<Floats>(bottom + k) * gy;
  };
  for (int i = 0; i < count; i += kGroup) {
    const Pair shift = deinterleave(mixed(2 * i), mixed(2 * i + kGroup));
    place_group(chunk, i, shift.first, shift.second, x, y);
  }
}

void upsample_flow_row(const float* row, const FlowPosition* across, int64_t columns, float* out) {
  typedef float Two __attribute__((vector_size(8)));
  for (int64_t x = 0; x < columns; ++x) {
    const float gx = across[x].fraction;
    store_vector(out + 2 * x, load_vector<Two>(row + 2 * across[x].first) * (1.0f - gx) +
                                  load_vector<Two>(row + 2 * across[x].second) * gx);
  }
}

// The two rows of a smaller flow around an output row, upsampled along x and kept from one output
// row to the next.
class FlowRows {
 public:
  FlowRows(const WarpImage& image, float* scratch)
      : image_(image), first_(scratch), second_(scratch + warp_scratch(image.columns) / 2) {}

  void move_to(FlowPosition at) {
    if (at.first == second_row_) {
      float* const free = first_;
      first_ = second_;
      first_row_ = second_row_;
      second_ = free;
      second_row_ = -1;
    }
    load(at.first, first_row_, first_);
    load(at.second, second_row_, second_);
  }
  const float* first() const { return first_; }
  const float* second() const { return second_; }

 private:
  void load(int32_t wanted, int32_t& row, float* out) {
    if (wanted == row) return;
    upsample_flow_row(image_.flow + wanted * image_.flow_columns * 2, image_.across, image_.columns,
                      out);
    row = wanted;
  }

  const WarpImage& image_;
  float *first_, *second_;
  int32_t first_row_ = -1, second_row_ = -1;
};

// ---- Samples ------------------------------------------------------------------------------------

// Offsets in pixels of the four taps of a pixel; -1 reads as zero.
struct Taps {
  int64_t offset[4];
};

inline Taps find_taps(const WarpImage& image, int32_t column, int32_t row) {
  const auto width = static_cast<int32_t>(image.width), height = static_cast<int32_t>(image.height);
  int32_t columns[2], rows[2];
  bool column_inside[2], row_inside[2];
  for (int k = 0; k < 2; ++k) {
    columns[k] = fold_index(column + k, width, image.reflect);
    rows[k] = fold_index(row + k, height, image.reflect);
    column_inside[k] = !image.zero || columns[k] == column + k;
    row_inside[k] = !image.zero || rows[k] == row + k;
  }
  Taps taps;
  for (int t = 0; t < 4; ++t) {
    const int right = t & 1, below = t >> 1;
    const bool inside = column_inside[right] && row_inside[below];
    taps.offset[t] = inside ? rows[below] * image.width + columns[right] : -1;
  }
  return taps;
}

template <typename Sample, int Channels>
Interior find_interior(const WarpImage& image) {
  const int64_t row_samples = image.width * Channels;
  // Two pixels of the row below, and the slack, end no later than the image.
  constexpr int reach = 2 * Channels + kSlack<Sample, Channels>;
  const int64_t offsets = (image.height - 1) * row_samples - reach + 1;
  // 32 bits hold every offset, and what gathers of one channel take for a signed number.
  if (image.width < 2 || offsets <= 0 || offsets > (Channels == 1 ? INT32_MAX : UINT32_MAX)) {
    return {0, 0, 0, 0};
  }
  return {static_cast<uint32_t>(image.width - 1), static_cast<uint32_t>(image.height - 1),
          static_cast<uint32_t>(offsets), static_cast<uint32_t>(row_samples)};
}

// The lines of the image that the next rows of out will read. They are new to the cache along a
// ragged edge, which hardware prefetchers do not see.
template <int Channels, typename Sample>
inline void prefetch_below(const Group<Sample>& group) {
  constexpr int bytes = Channels * sizeof(Sample), step = bytes < 64 ? 64 / bytes : 1;
  for (int i = 0; i < kGroup; i += step) {
    __builtin_prefetch(group.image + group.offset[i] + kRowsAhead * group.row_samples);
  }
}

// An image two rows high in which each pixel of a group has its neighbourhood; padded as the group
// needs it. Not inlined: it would take registers from the groups that are inside.
template <typename Sample, int Channels>
struct Patches {
  static constexpr int kRowSamples = 2 * kGroup * Channels;

  __attribute__((noinline)) Patches(const WarpImage& image, const Sample* plane,
                                    const int32_t* column, const int32_t* row) {
    for (int i = 0; i < kGroup; ++i) {
      const Taps taps = find_taps(image, column[i], row[i]);
      for (int t = 0; t < 4; ++t) {
        Sample* to = samples + (t >> 1) * kRowSamples + (2 * i + (t & 1)) * Channels;
        for (int c = 0; c < Channels; ++c) {
          to[c] = taps.offset[t] < 0 ? Sample{} : plane[taps.offset[t] * Channels + c];
        }
      }
      offset[i] = static_cast<uint32_t>(2 * i * Channels);
    }
  }

  alignas(64) uint32_t offset[kGroup];
  Sample samples[2 * kRowSamples + kSlack<Sample, Channels>];
};

// Samples `count` pixels of a chunk, at most a group, from one plane or interleaved channels.
template <typename Sample, int Channels>
inline void sample_some(const WarpImage& image, const Interior& interior, const Sample* plane,
                        const Chunk& chunk, int first, int count, Sample* out) {
  const int32_t *column = chunk.column + first, *row = chunk.row + first;
  const float *fx = chunk.fx + first, *fy = chunk.fy + first;
  alignas(64) uint32_t offset[kGroup];
  const Group<Sample> group = {plane, image.width * Channels, offset, fx, fy};
  const bool inside = all_inside<Channels>(interior, column, row, offset);
  if (inside && count == kGroup) {
    prefetch_below<Channels>(group);
    sample_group<Channels>(group, out);
    return;
  }
  const Patches<Sample, Channels> patches(image, plane, column, row);
  Sample whole[kGroup * Channels];
  sample_group<Channels>({patches.samples, patches.kRowSamples, patches.offset, fx, fy}, whole);
  for (int i = 0; i < count * Channels; ++i) out[i] = whole[i];
}

// Any number of interleaved channels.
template <typename Sample>
void sample_one(const WarpImage& image, const Sample* pixels, const Chunk& chunk, int i,
                Sample* out) {
  const int64_t column = chunk.column[i], row = chunk.row[i], channels = image.channels;
  const TapMixer<Sample> mixer(chunk.fx[i], chunk.fy[i]);
  if (column >= 0 && column < image.width - 1 && row >= 0 && row < image.height - 1) {
    const Sample* top = pixels + (row * image.width + column) * channels;
    const Sample* bottom = top + image.width * channels;
    for (int64_t c = 0; c < channels; ++c) {
      out[c] = mixer(top[c], top[channels + c], bottom[c], bottom[channels + c]);
    }
    return;
  }
  const Taps taps = find_taps(image, chunk.column[i], chunk.row[i]);
  for (int64_t c = 0; c < channels; ++c) {
    Sample value[4];
    for (int t = 0; t < 4; ++t) {
      value[t] = taps.offset[t] < 0 ? Sample{} : pixels[taps.offset[t] * channels + c];
    }
    out[c] = mixer(value[0], value[1], value[2], value[3]);
  }
}

template <typename Sample, int Channels>
void sample_chunk(const WarpImage& image, const Sample* plane, const Chunk& chunk, int count,
                  Sample* out) {
  const Interior interior = find_interior<Sample, Channels>(image);
  for (int first = 0; first < count; first += kGroup) {
    const int left = count - first;
    sample_some<Sample, Channels>(image, interior, plane, chunk, first,
                                  left < kGroup ? left : kGroup, out + first * Channels);
  }
}

template <typename Sample>
void sample_channels(const WarpImage& image, const Chunk& chunk, int64_t first, int count) {
  const Sample* from = static_cast<const Sample*>(image.image);
  Sample* out = static_cast<Sample*>(image.out);
  if (!image.interleaved) {
    for (int64_t c = 0; c < image.channels; ++c) {
      sample_chunk<Sample, 1>(image, from + c * image.height * image.width, chunk, count,
                              out + c * image.rows * image.columns + first);
    }
    return;
  }
  out += first * image.channels;
  switch (image.channels) {
    case 1:
      return sample_chunk<Sample, 1>(image, from, chunk, count, out);
    case 2:
      return sample_chunk<Sample, 2>(image, from, chunk, count, out);
    case 3:
      return sample_chunk<Sample, 3>(image, from, chunk, count, out);
    case 4:
      return sample_chunk<Sample, 4>(image, from, chunk, count, out);
    default:
      for (int i = 0; i < count; ++i) {
        sample_one(image, from, chunk, i, out + i * image.channels);
      }
  }
}

template <typename Sample>
void warp_rows(const WarpImage& image, int64_t begin, int64_t end, float* scratch) {
  FlowRows flow_rows(image, scratch);
  for (int64_t row = begin; row < end; ++row) {
    if (image.across != nullptr) flow_rows.move_to(image.down[row]);
    for (int64_t column = 0; column < image.columns; column += kChunk) {
      Chunk chunk;
      const auto x = static_cast<int32_t>(column), y = static_cast<int32_t>(row);
      const int64_t left = image.columns - column, at = row * image.columns + column;
      const int count = left < kChunk ? static_cast<int>(left) : kChunk;
      if (image.flow == nullptr) {
        place_by_matrix(chunk, image.matrix, x, y, count);
      } else if (image.across == nullptr) {
        place_by_flow(chunk, image.flow + 2 * at, x, y, count);
      } else {
        place_between(chunk, flow_rows.first() + 2 * column, flow_rows.second() + 2 * column,
                      image.down[row].fraction, x, y, count);
      }
      for (int i = count; i % kGroup != 0; ++i) {
        chunk.column[i] = chunk.row[i] = 0;
        chunk.fx[i] = chunk.fy[i] = 0;
      }
      sample_channels<Sample>(image, chunk, at, count);
    }
  }
}

}  // namespace

const WarpKernels& REVISAGE_ISA_FUNCTION() {
  static constexpr WarpKernels kernels = {warp_rows<std::uint8_t>, warp_rows<std::uint16_t>,
                                          warp_rows<Half>, warp_rows<float>};
  return kernels;
}

}  // namespace revisage
