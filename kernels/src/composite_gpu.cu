// Compiled with -fmad=false: Note [Compositing arithmetic] in kernels/composite.py allows no fused
// multiply-add.
//
// One pass: warps copy strips of the photo, and those that the square touches are changed on the
// way, in shared memory, so that the photo is read and written 16 bytes at a time. In place, only
// the square's box is visited, and only words that change are written.
#include "composite_task.h"
#include "cuda_check.h"
#include "cuda_launch.h"
#include "cuda_vectors.h"
#include "dispatch.h"
#include "revisage/errors.h"

namespace revisage {
namespace {

constexpr int kLanes = 32;
constexpr int kWarps = 4;  // of a block, below each other
constexpr int kRowsPerWarp = 4;
constexpr int kBlockRows = kWarps * kRowsPerWarp;
constexpr int kMaxStaged = 4;  // channels of strips that go through shared memory

// Pixels of one warp in a row: strips of the same number of bytes.
template <typename Sample>
constexpr int kStrip = kLanes * 16 / static_cast<int>(sizeof(Sample));

// Which strips and rows are visited.
struct KernelTask : CompositeTask {
  std::int64_t first_x, end_x, first_y, end_y;
  unsigned strips;
};

__device__ inline bool differ(const uint4& a, const uint4& b) {
  return a.x != b.x || a.y != b.y || a.z != b.z || a.w != b.w;
}
template <typename Word>
__device__ bool differ(Word a, Word b) {
  return a != b;
}

// Copies samples between the photo and shared memory, or within the photo, by one warp and in the
// widest words that begin at both addresses; several loads are under way before the first store.
// A call, because five copies of it would take half of the registers.
template <typename Sample>
__device__ __noinline__ void move(Sample* to, const Sample* from, int samples,
                                  bool changes_only = false) {
  const int bytes = samples * static_cast<int>(sizeof(Sample));
  const auto move_words = [&](auto word) {
    using Word = decltype(word);
    constexpr int kAtOnce = 4;
    const int count = bytes / static_cast<int>(sizeof(Word));
    auto* words_to = reinterpret_cast<Word*>(to);
    const auto* words_from = reinterpret_cast<const Word*>(from);
#pragma unroll 1
    for (int first = static_cast<int>(threadIdx.x); first < count; first += kAtOnce * kLanes) {
      Word held[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int i = first + k * kLanes;
        if (i < count) held[k] = words_from[i];
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int i = first + k * kLanes;
        if (i < count && (!changes_only || differ(held[k], words_to[i]))) words_to[i] = held[k];
      }
    }
  };
  const auto together = reinterpret_cast<std::uintptr_t>(to) |
                        reinterpret_cast<std::uintptr_t>(from) | static_cast<unsigned>(bytes);
  if (together % 16 == 0) return move_words(uint4{});
  if (together % 4 == 0) return move_words(0u);
  move_words(typename WordOf<sizeof(Sample)>::Type{});
}

// Where the four taps of a pixel lie in an array of the square; those outside read as 0.
struct Taps {
  std::int64_t offset[4];
  bool inside[4];
  float fx, fy;

  __device__ float sample(const float* square) const {
    float value[4];
    for (int t = 0; t < 4; ++t) value[t] = inside[t] ? __ldg(square + offset[t]) : 0.0f;
    const float gx = 1.0f - fx;
    const float upper = value[0] * gx + value[1] * fx;
    const float lower = value[2] * gx + value[3] * fx;
    return upper * (1.0f - fy) + lower * fy;
  }
};

// Changes one pixel, whose samples are at `pixel`.
template <typename Sample>
__device__ void change_pixel(const CompositeTask& task, Sample* pixel, std::int64_t x,
                             std::int64_t y) {
  const Affine& m = task.matrix;
  const auto px = static_cast<double>(x), py = static_cast<double>(y);
  const double u = m.a * px + (m.b * py + m.c), v = m.d * px + (m.e * py + m.f);
  if (!(u > -1.0 && u < static_cast<double>(task.columns) && v > -1.0 &&
        v < static_cast<double>(task.rows))) {
    return;
  }
  const auto column = static_cast<std::int64_t>(floor(u));
  const auto row = static_cast<std::int64_t>(floor(v));
  Taps taps;
  taps.fx = static_cast<float>(u - static_cast<double>(column));
  taps.fy = static_cast<float>(v - static_cast<double>(row));
  for (int t = 0; t < 4; ++t) {
    const std::int64_t c = column + (t & 1), r = row + (t >> 1);
    taps.inside[t] = c >= 0 && c < task.columns && r >= 0 && r < task.rows;
    taps.offset[t] = r * task.columns + c;
  }
  const float mask = taps.sample(task.mask);
  if (mask == 0.0f) return;
  for (std::int64_t& offset : taps.offset) offset *= task.delta_channels;
#pragma unroll 1
  for (int k = 0; k < static_cast<int>(task.delta_channels); ++k) {
    const float change = task.strength * (mask * taps.sample(task.delta + k));
    const Sample before = pixel[k];
    apply_change(before, pixel[k], change);
  }
}

// kStaged: strips go through shared memory; else pixels are changed where they lie.
template <typename Sample, bool kStaged>
__global__ void __launch_bounds__(kLanes* kWarps) composite_kernel(const KernelTask task) {
  alignas(16) __shared__ Sample strips[kWarps][kStaged ? kStrip<Sample> * kMaxStaged : 1];
  const std::int64_t first =
      task.first_x + static_cast<std::int64_t>(blockIdx.x % task.strips) * kStrip<Sample>;
  const std::int64_t end = min(first + kStrip<Sample>, task.end_x);
  const int samples = static_cast<int>((end - first) * task.channels);
  const bool in_place = task.out == task.original;
  std::int64_t y =
      task.first_y + static_cast<std::int64_t>(blockIdx.x / task.strips) * kBlockRows + threadIdx.y;
#pragma unroll 1
  for (int k = 0; k < kRowsPerWarp && y < task.end_y; ++k, y += kWarps) {
    const std::int64_t offset = (y * task.width + first) * task.channels;
    const Sample* from = static_cast<const Sample*>(task.original) + offset;
    Sample* to = static_cast<Sample*>(task.out) + offset;
    const bool touched = y >= task.y0 && y < task.y1 && first < task.x1 && end > task.x0;
    if (!touched) {
      if (!in_place) move(to, from, samples);
      continue;
    }
    Sample* work = kStaged ? strips[threadIdx.y] : to;
    if (kStaged || !in_place) move(work, from, samples);
    __syncwarp();
#pragma unroll 1
    for (std::int64_t x = first + threadIdx.x; x < end; x += kLanes) {
      if (x >= task.x0 && x < task.x1) {
        change_pixel(task, work + (x - first) * task.channels, x, y);
      }
    }
    __syncwarp();
    if constexpr (kStaged) {
      move(to, work, samples, in_place);
      __syncwarp();
    }
  }
}

}  // namespace

void composite_cuda(const CompositeTask& task, std::uintptr_t stream_address) {
  constexpr std::int64_t kMostChannels = 1 << 20;  // 31 bits count the bytes of a strip
  if (task.channels > kMostChannels) {
    throw ShapeError("on CUDA, original may have at most 1048576 channels; give it in parts");
  }
  const CudaDeviceGuard guard(task.out);
  KernelTask kernel_task{task, 0, task.width, 0, task.height, 0};
  if (task.out == task.original) {
    if (task.x0 >= task.x1 || task.y0 >= task.y1 || task.strength == 0.0f) return;
    constexpr std::int64_t kAligned = 16;  // pixels, which are whole 16-byte words of any samples
    kernel_task.first_x = task.x0 / kAligned * kAligned;
    kernel_task.end_x = min(task.width, (task.x1 + kAligned - 1) / kAligned * kAligned);
    kernel_task.first_y = task.y0;
    kernel_task.end_y = task.y1;
  } else if (task.strength == 0.0f) {
    kernel_task.y1 = kernel_task.y0;  // a copy
  }
  const std::int64_t rows = kernel_task.end_y - kernel_task.first_y;
  const std::int64_t row_blocks = (rows + kBlockRows - 1) / kBlockRows;
  const dim3 block(kLanes, kWarps);
  dispatch_sample(task.dtype, [&](auto sample) {
    using Sample = decltype(sample);
    const std::int64_t columns = kernel_task.end_x - kernel_task.first_x;
    const std::int64_t strips = (columns + kStrip<Sample> - 1) / kStrip<Sample>;
    const unsigned grid = whole_grid(strips, row_blocks, "original");
    kernel_task.strips = static_cast<unsigned>(strips);
    if (task.channels <= kMaxStaged) {
      launch(composite_kernel<Sample, true>, grid, block, 0, to_stream(stream_address),
             kernel_task);
    } else {
      launch(composite_kernel<Sample, false>, grid, block, 0, to_stream(stream_address),
             kernel_task);
    }
  });
  cuda_check(cudaGetLastError(), "launching composite");
}

}  // namespace revisage
