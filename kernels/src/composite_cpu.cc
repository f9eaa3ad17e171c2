// Compiled with -ffp-contract=off: Note [Compositing arithmetic] in kernels/composite.py allows no
// fused multiply-add.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "composite_task.h"
#include "dispatch.h"
#include "threads.h"

namespace revisage {
namespace {

// Up to three delta channels and the mask (last) of one square pixel: one vector load per tap.
typedef float Float4 __attribute__((vector_size(16)));
constexpr int kGroup = 3;
constexpr int kMask = 3;
constexpr std::int64_t kRowsPerTask = 16;
constexpr std::int64_t kCopyBytesPerTask = 1 << 20;

void copy_bytes(void* out, const void* in, std::size_t bytes, int threads) {
  const auto total = static_cast<std::int64_t>(bytes);
  const std::int64_t tasks = (total + kCopyBytesPerTask - 1) / kCopyBytesPerTask;
  parallel_for(tasks, resolve_threads(threads, tasks), [&](std::int64_t index, int) {
    const std::int64_t begin = index * kCopyBytesPerTask;
    const std::int64_t end = std::min(total, begin + kCopyBytesPerTask);
    std::memcpy(static_cast<char*>(out) + begin, static_cast<const char*>(in) + begin,
                static_cast<std::size_t>(end - begin));
  });
}

// The square with one ring of zeros, so that no tap needs a bounds check.
class PackedEdit {
 public:
  PackedEdit(const CompositeTask& task, std::int64_t first_channel, int threads)
      : stride_(task.columns + 2),
        pixels_(new Float4[static_cast<std::size_t>((task.rows + 2) * stride_)]) {
    const std::int64_t used = std::min<std::int64_t>(kGroup, task.delta_channels - first_channel);
    const std::int64_t lines = task.rows + 2;
    parallel_for(lines, resolve_threads(threads, lines / 64), [&](std::int64_t line, int) {
      Float4* to = pixels_.get() + line * stride_;
      if (line == 0 || line == task.rows + 1) {
        std::fill(to, to + stride_, Float4{});
        return;
      }
      const float* delta = task.delta + (line - 1) * task.columns * task.delta_channels;
      const float* mask = task.mask + (line - 1) * task.columns;
      to[0] = to[task.columns + 1] = Float4{};
      for (std::int64_t x = 0; x < task.columns; ++x) {
        Float4 pixel{};
        for (std::int64_t k = 0; k < used; ++k) {
          pixel[k] = delta[x * task.delta_channels + first_channel + k];
        }
        pixel[kMask] = mask[x];
        to[x + 1] = pixel;
      }
    });
  }

  const Float4* tap(std::int64_t row, std::int64_t column) const {
    return pixels_.get() + (row + 1) * stride_ + (column + 1);
  }
  std::int64_t stride() const { return stride_; }

 private:
  std::int64_t stride_;
  std::unique_ptr<Float4[]> pixels_;
};

// Narrows [begin, end) to the x with -1 < slope * x + offset < size, with a pixel of margin: the
// exact test follows per pixel.
void narrow_span(double slope, double offset, std::int64_t size, std::int64_t& begin,
                 std::int64_t& end) {
  if (std::fabs(slope) < 1e-9) return;
  double low = (-1.0 - offset) / slope, high = (static_cast<double>(size) - offset) / slope;
  if (low > high) std::swap(low, high);
  const auto first = static_cast<double>(begin), last = static_cast<double>(end);
  begin = static_cast<std::int64_t>(std::clamp(std::floor(low) - 1, first, last));
  end = static_cast<std::int64_t>(std::clamp(std::ceil(high) + 2, first, last));
}

// floor for |value| < 2^62, without the library call that std::floor is before SSE4.1.
std::int64_t floor_to_int(double value) {
  const auto whole = static_cast<std::int64_t>(value);
  return whole - (static_cast<double>(whole) > value);
}

template <typename Sample, int Used>
void composite_row(const CompositeTask& task, const PackedEdit& edit, std::int64_t first_channel,
                   std::int64_t y) {
  const Affine& m = task.matrix;
  const double row_y = static_cast<double>(y);
  const double u_row = m.b * row_y + m.c, v_row = m.e * row_y + m.f;
  std::int64_t begin = task.x0, end = task.x1;
  narrow_span(m.a, u_row, task.columns, begin, end);
  narrow_span(m.d, v_row, task.rows, begin, end);
  const auto columns = static_cast<double>(task.columns), rows = static_cast<double>(task.rows);
  const std::int64_t line = y * task.width * task.channels + first_channel;
  const Sample* before = static_cast<const Sample*>(task.original) + line;
  Sample* after = static_cast<Sample*>(task.out) + line;
  for (std::int64_t x = begin; x < end; ++x) {
    const double u = m.a * static_cast<double>(x) + u_row;
    const double v = m.d * static_cast<double>(x) + v_row;
    if (!(u > -1.0 && u < columns && v > -1.0 && v < rows)) continue;
    const std::int64_t column = floor_to_int(u), row = floor_to_int(v);
    const Float4* top = edit.tap(row, column);
    const Float4* bottom = top + edit.stride();
    const auto fx = static_cast<float>(u - static_cast<double>(column));
    const auto fy = static_cast<float>(v - static_cast<double>(row));
    const float gx = 1.0f - fx, gy = 1.0f - fy;
    const Float4 upper = top[0] * gx + top[1] * fx;
    const Float4 lower = bottom[0] * gx + bottom[1] * fx;
    const Float4 sampled = upper * gy + lower * fy;
    if (sampled[kMask] == 0.0f) continue;
    const Float4 change = task.strength * (sampled[kMask] * sampled);
    for (int k = 0; k < Used; ++k) {
      apply_change(before[x * task.channels + k], after[x * task.channels + k], change[k]);
    }
  }
}

template <typename Sample, int Used>
void composite_group(const CompositeTask& task, std::int64_t first_channel, int threads) {
  const PackedEdit edit(task, first_channel, threads);
  const std::int64_t tasks = (task.y1 - task.y0 + kRowsPerTask - 1) / kRowsPerTask;
  parallel_for(tasks, resolve_threads(threads, tasks), [&](std::int64_t index, int) {
    const std::int64_t begin = task.y0 + index * kRowsPerTask;
    const std::int64_t end = std::min(task.y1, begin + kRowsPerTask);
    for (std::int64_t y = begin; y < end; ++y) {
      composite_row<Sample, Used>(task, edit, first_channel, y);
    }
  });
}

}  // namespace

void composite_cpu(const CompositeTask& task, int threads) {
  if (task.out != task.original) {
    const auto samples = static_cast<std::size_t>(task.height * task.width * task.channels);
    copy_bytes(task.out, task.original, samples * sample_bytes(task.dtype), threads);
  }
  if (task.x0 >= task.x1 || task.y0 >= task.y1 || task.strength == 0.0f) return;
  dispatch_sample(task.dtype, [&](auto sample) {
    using Sample = decltype(sample);
    for (std::int64_t first = 0; first < task.delta_channels; first += kGroup) {
      switch (std::min<std::int64_t>(kGroup, task.delta_channels - first)) {
        case 1:
          composite_group<Sample, 1>(task, first, threads);
          break;
        case 2:
          composite_group<Sample, 2>(task, first, threads);
          break;
        default:
          composite_group<Sample, 3>(task, first, threads);
      }
    }
  });
}

}  // namespace revisage
