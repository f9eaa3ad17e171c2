// Compiled with -ffp-contract=off: Note [Warp arithmetic] in kernels/flow_warp.py allows no fused
// multiply-add.
//
// A row is done in chunks, in two steps: positions (where do the four taps lie, with padding) and
// samples (read, mix, round). So the sampling loop knows nothing of flows, matrices or padding.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "dispatch.h"
#include "flow_warp_task.h"
#include "threads.h"

namespace revisage {
namespace {

constexpr std::int64_t kChunk = 256;
constexpr std::int64_t kRowsPerTask = 8;

// The samples of one pixel; with three channels the last lane is idle.
typedef float Float4 __attribute__((vector_size(16)));
typedef int Int4 __attribute__((vector_size(16)));

template <int Channels, typename Sample>
inline Float4 load_pixel(const Sample* from) {
  using Traits = SampleTraits<Sample>;
  if constexpr (std::is_integral_v<Sample>) {
    const Int4 lanes = {from[0], from[1], from[2], Channels == 4 ? from[3] : 0};
    return __builtin_convertvector(lanes, Float4);
  } else {
    return Float4{Traits::load(from[0]), Traits::load(from[1]), Traits::load(from[2]),
                  Channels == 4 ? Traits::load(from[3]) : 0.0f};
  }
}

template <int Channels, typename Sample>
inline void store_pixel(Sample* to, Float4 value) {
  if constexpr (std::is_integral_v<Sample>) {
    // A mix of samples lies between them, up to rounding: nothing to clamp. See round_half_even.
    const Int4 lanes = __builtin_convertvector((value + 12582912.0f) - 12582912.0f, Int4);
    for (int c = 0; c < Channels; ++c) to[c] = static_cast<Sample>(lanes[c]);
  } else {
    for (int c = 0; c < Channels; ++c) to[c] = SampleTraits<Sample>::store(value[c]);
  }
}

inline Float4 mix_pixels(Float4 first, Float4 second, float fraction) {
  return fraction == 0.0f ? first : first * (1.0f - fraction) + second * fraction;
}

struct Chunk {
  // Offsets in pixels of the four taps: top left, top right, bottom left, bottom right.
  std::int64_t offset[4][kChunk];
  float fx[kChunk], fy[kChunk];
  std::uint8_t outside[kChunk];  // bit t: tap t reads as zero
};

// Where the output columns lie in a flow of lower resolution; computed once per call.
struct FlowColumn {
  std::int64_t left, right;
  float fraction;
};

class Warp {
 public:
  explicit Warp(const FlowWarpTask& task) : task_(task) {
    upsampled_ =
        task.flow != nullptr && (task.flow_rows != task.rows || task.flow_columns != task.columns);
    if (!upsampled_) return;
    flow_columns_.resize(static_cast<std::size_t>(task.columns));
    for (std::int64_t x = 0; x < task.columns; ++x) {
      const SplitPosition at = upsampled_position(x, task.columns, task.flow_columns);
      flow_columns_[static_cast<std::size_t>(x)] = {
          at.whole, std::min(at.whole + 1, task.flow_columns - 1), at.fraction};
    }
  }

  template <typename Sample>
  void row(std::int64_t n, std::int64_t y) const {
    Chunk chunk;
    for (std::int64_t x = 0; x < task_.columns; x += kChunk) {
      const std::int64_t count = std::min(kChunk, task_.columns - x);
      find_positions(n, y, x, count, chunk);
      sample_chunk<Sample>(n, y, x, count, chunk);
    }
  }

 private:
  void find_positions(std::int64_t n, std::int64_t y, std::int64_t x, std::int64_t count,
                      Chunk& chunk) const {
    if (task_.flow == nullptr) {
      const Affine& m = task_.matrix;
      const double u_row = m.b * static_cast<double>(y) + m.c;
      const double v_row = m.e * static_cast<double>(y) + m.f;
      for (std::int64_t i = 0; i < count; ++i) {
        const auto at = static_cast<double>(x + i);
        place(chunk, i, split_position(m.a * at + u_row), split_position(m.d * at + v_row), 0, 0);
      }
      return;
    }
    const float* flow =
        task_.flow + (task_.flow_batch > 1 ? n : 0) * task_.flow_rows * task_.flow_columns * 2;
    if (!upsampled_) {
      const float* line = flow + (y * task_.columns + x) * 2;
      for (std::int64_t i = 0; i < count; ++i) {
        place(chunk, i, split_position(line[2 * i]), split_position(line[2 * i + 1]), x + i, y);
      }
      return;
    }
    const SplitPosition at = upsampled_position(y, task_.rows, task_.flow_rows);
    const float* top = flow + at.whole * task_.flow_columns * 2;
    const float* bottom =
        flow + std::min(at.whole + 1, task_.flow_rows - 1) * task_.flow_columns * 2;
    const float gy = at.fraction;
    for (std::int64_t i = 0; i < count; ++i) {
      const FlowColumn& column = flow_columns_[static_cast<std::size_t>(x + i)];
      float step[2];
      for (int k = 0; k < 2; ++k) {
        const std::int64_t left = 2 * column.left + k, right = 2 * column.right + k;
        const float gx = column.fraction;
        const float upper = top[left] * (1.0f - gx) + top[right] * gx;
        const float lower = bottom[left] * (1.0f - gx) + bottom[right] * gx;
        step[k] = upper * (1.0f - gy) + lower * gy;
      }
      place(chunk, i, split_position(step[0]), split_position(step[1]), x + i, y);
    }
  }

  // Taps of output pixel i of the chunk, for a position relative to (x, y).
  void place(Chunk& chunk, std::int64_t i, SplitPosition across, SplitPosition down, std::int64_t x,
             std::int64_t y) const {
    const std::int64_t left = across.whole + x, top = down.whole + y;
    chunk.fx[i] = across.fraction;
    chunk.fy[i] = down.fraction;
    chunk.outside[i] = 0;
    if (left >= 0 && left < task_.width - 1 && top >= 0 && top < task_.height - 1) {
      const std::int64_t offset = top * task_.width + left;
      chunk.offset[0][i] = offset;
      chunk.offset[1][i] = offset + 1;
      chunk.offset[2][i] = offset + task_.width;
      chunk.offset[3][i] = offset + task_.width + 1;
      return;
    }
    const bool reflect = task_.padding == Padding::reflect;
    for (int tap = 0; tap < 4; ++tap) {
      const std::int64_t column = left + (tap & 1), row = top + (tap >> 1);
      chunk.offset[tap][i] = fold_index(row, task_.height, reflect) * task_.width +
                             fold_index(column, task_.width, reflect);
      const bool inside = column >= 0 && column < task_.width && row >= 0 && row < task_.height;
      if (task_.padding == Padding::zero && !inside) {
        chunk.outside[i] |= static_cast<std::uint8_t>(1 << tap);
      }
    }
  }

  template <typename Sample>
  void sample_chunk(std::int64_t n, std::int64_t y, std::int64_t x, std::int64_t count,
                    const Chunk& chunk) const {
    const std::int64_t image_pixels = task_.height * task_.width;
    const std::int64_t out_pixels = task_.rows * task_.columns;
    const Sample* image =
        static_cast<const Sample*>(task_.image) + n * image_pixels * task_.channels;
    Sample* out = static_cast<Sample*>(task_.out) + n * out_pixels * task_.channels;
    const std::int64_t first = y * task_.columns + x;
    if (!task_.interleaved) {
      for (std::int64_t c = 0; c < task_.channels; ++c) {
        sample_pixels<Sample, 1>(image + c * image_pixels, out + c * out_pixels + first, count,
                                 chunk, 1);
      }
      return;
    }
    out += first * task_.channels;
    switch (task_.channels) {
      case 1:
        return sample_pixels<Sample, 1>(image, out, count, chunk, 1);
      case 3:
        return sample_three_or_four<Sample, 3>(image, out, count, chunk);
      case 4:
        return sample_three_or_four<Sample, 4>(image, out, count, chunk);
      default:
        return sample_pixels<Sample, 0>(image, out, count, chunk, task_.channels);
    }
  }

  template <typename Sample, int Channels>
  static void sample_three_or_four(const Sample* image, Sample* out, std::int64_t count,
                                   const Chunk& chunk) {
    if constexpr (sizeof(Sample) == 1) {
      sample_pixels<Sample, Channels>(image, out, count, chunk, Channels);
    } else {
      sample_vectors<Sample, Channels>(image, out, count, chunk);
    }
  }

  // Three or four interleaved channels: one vector per tap.
  template <typename Sample, int Channels>
  static void sample_vectors(const Sample* image, Sample* out, std::int64_t count,
                             const Chunk& chunk) {
    for (std::int64_t i = 0; i < count; ++i) {
      Float4 value[4];
      for (int t = 0; t < 4; ++t) {
        value[t] = load_pixel<Channels>(image + chunk.offset[t][i] * Channels);
      }
      const unsigned outside = chunk.outside[i];
      if (outside != 0) {
        for (int t = 0; t < 4; ++t) {
          if (outside >> t & 1) value[t] = Float4{};
        }
      }
      const float fx = chunk.fx[i];
      const Float4 upper = mix_pixels(value[0], value[1], fx);
      const Float4 lower = mix_pixels(value[2], value[3], fx);
      store_pixel<Channels>(out + i * Channels, mix_pixels(upper, lower, chunk.fy[i]));
    }
  }

  // Channels: their number where it is known when compiling, else 0.
  template <typename Sample, int Channels>
  static void sample_pixels(const Sample* image, Sample* out, std::int64_t count,
                            const Chunk& chunk, std::int64_t channels) {
    const std::int64_t width = Channels > 0 ? Channels : channels;
    for (std::int64_t i = 0; i < count; ++i) {
      const Sample* taps[4];
      for (int t = 0; t < 4; ++t) taps[t] = image + chunk.offset[t][i] * width;
      const TapMixer<Sample> mixer(chunk.fx[i], chunk.fy[i]);
      const unsigned outside = chunk.outside[i];
      for (std::int64_t c = 0; c < width; ++c) {
        Sample value[4];
        for (int t = 0; t < 4; ++t) value[t] = outside >> t & 1 ? Sample{} : taps[t][c];
        out[i * width + c] = mixer(value[0], value[1], value[2], value[3]);
      }
    }
  }

  const FlowWarpTask& task_;
  bool upsampled_ = false;
  std::vector<FlowColumn> flow_columns_;
};

}  // namespace

void flow_warp_cpu(const FlowWarpTask& task, int threads) {
  const Warp warp(task);
  const std::int64_t blocks = (task.rows + kRowsPerTask - 1) / kRowsPerTask;
  const std::int64_t tasks = task.batch * blocks;
  dispatch_sample(task.dtype, [&](auto sample) {
    using Sample = decltype(sample);
    parallel_for(tasks, resolve_threads(threads, tasks), [&](std::int64_t index, int) {
      const std::int64_t n = index / blocks, begin = index % blocks * kRowsPerTask;
      const std::int64_t end = std::min(task.rows, begin + kRowsPerTask);
      for (std::int64_t y = begin; y < end; ++y) warp.row<Sample>(n, y);
    });
  });
}

}  // namespace revisage
