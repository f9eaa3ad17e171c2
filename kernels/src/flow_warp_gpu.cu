// Compiled with -fmad=false: Note [Warp arithmetic] in kernels/flow_warp.py allows no fused
// multiply-add.
//
// A warp of threads makes strips of output pixels, neighbouring threads neighbouring pixels, so
// that the flow is read and the image gathered from few cache lines at a time. What a thread holds
// for one column (its place in a smaller flow) serves kRowsPerWarp rows.
#include "cuda_check.h"
#include "cuda_launch.h"
#include "cuda_vectors.h"
#include "dispatch.h"
#include "flow_warp_device.h"

namespace revisage {
namespace {

constexpr int kLanes = 32;
constexpr int kWarps = 4;  // of a block, below each other
constexpr int kRowsPerWarp = 4;
constexpr int kBlockRows = kWarps * kRowsPerWarp;
constexpr int kPixels = 2;  // of one thread, in a row
constexpr int kStrip = kLanes * kPixels;

struct KernelTask : FlowWarpTask {
  bool flow_aligned;  // to 8 bytes
  bool wide_loads;    // pixels may be read as words: see wide_loads_allowed
  bool wide_stores;   // four-channel pixels of out are aligned to their size
  // Blocks of one row of blocks, and rows of blocks of one image.
  unsigned strips, row_blocks;
};

template <typename Sample, int Channels>
using Pixel = Samples<Sample, Channels>;

// Two pixels of three samples of one or two bytes, from the two to four aligned words they lie in.
template <typename Sample>
__device__ void load_words(const Sample* from, Pixel<Sample, 3>* pair) {
  constexpr unsigned kBytes = 6 * sizeof(Sample), kWords = (kBytes + 3) / 4;
  const auto address = reinterpret_cast<std::uintptr_t>(from);
  const unsigned skipped = address % 4;
  const auto* words = reinterpret_cast<const unsigned int*>(address - skipped);
  unsigned int raw[kWords + 1], packed[kWords];
  for (unsigned i = 0; i < kWords; ++i) raw[i] = __ldg(words + i);
  raw[kWords] = skipped + kBytes > 4 * kWords ? __ldg(words + kWords) : 0;
  for (unsigned i = 0; i < kWords; ++i) {
    const auto both = static_cast<unsigned long long>(raw[i + 1]) << 32 | raw[i];
    packed[i] = static_cast<unsigned int>(both >> 8 * skipped);
  }
  memcpy(pair, packed, 2 * sizeof(*pair));
}

// A pixel of the image and its right neighbour.
template <typename Sample, int Channels>
__device__ void load_pair(const Sample* from, bool wide, Pixel<Sample, Channels>* pair) {
  if constexpr (Channels == 4) {
    if (wide) {
      pair[0] = load_cached<Channels>(from);
      pair[1] = load_cached<Channels>(from + Channels);
      return;
    }
  } else if constexpr (sizeof(Sample) < 4) {
    if (wide) return load_words(from, pair);
  }
  for (int i = 0; i < 2 * Channels; ++i) {
    pair[i / Channels].sample[i % Channels] = load_cached<1>(from + i).sample[0];
  }
}

template <typename Sample, int Channels>
__device__ Pixel<Sample, Channels> warp_pixel(const KernelTask& task, const Sample* image,
                                              const Place& place) {
  Pixel<Sample, Channels> taps[4];
  const int width = static_cast<int>(task.width);
  if (is_interior(task, place)) {
    const Sample* top = image + (place.row * width + place.column) * Channels;
    load_pair(top, task.wide_loads, taps);
    load_pair(top + width * Channels, task.wide_loads, taps + 2);
  } else {
    for (int t = 0; t < 4; ++t) {
      const PaddedTap tap(task, place, t);
      const Sample* from = image + (tap.row * width + tap.column) * Channels;
      for (int c = 0; c < Channels; ++c) taps[t].sample[c] = tap.inside ? from[c] : Sample{};
    }
  }
  const TapMixer<Sample> mixer(place.fx, place.fy);
  Pixel<Sample, Channels> mixed;
  for (int c = 0; c < Channels; ++c) {
    mixed.sample[c] =
        mixer(taps[0].sample[c], taps[1].sample[c], taps[2].sample[c], taps[3].sample[c]);
  }
  return mixed;
}

template <typename Word>
__device__ void copy_words(void* to, const void* from, int bytes) {
  for (int i = threadIdx.x; i < bytes / static_cast<int>(sizeof(Word)); i += kLanes) {
    __stcs(static_cast<Word*>(to) + i, static_cast<const Word*>(from)[i]);
  }
}

// From shared memory that is aligned to 16 bytes, by one warp.
template <typename Sample>
__device__ void copy_strip(Sample* to, const Sample* from, int samples) {
  const int bytes = samples * static_cast<int>(sizeof(Sample));
  const auto together = reinterpret_cast<std::uintptr_t>(to) | static_cast<unsigned>(bytes);
  if (together % 16 == 0) return copy_words<uint4>(to, from, bytes);
  if (together % 4 == 0) return copy_words<unsigned int>(to, from, bytes);
  for (int i = threadIdx.x; i < samples; i += kLanes) to[i] = from[i];
}

// Interleaved pixels of three or four channels: strip by strip. Three channels go through shared
// memory, because a pixel's own stores would fill a third of what they touch.
template <typename Sample, int Channels>
__device__ void write_strip(const KernelTask& task, std::int64_t n, int y, int first,
                            const Place* places) {
  const std::int64_t image_samples = task.height * task.width * Channels;
  const Sample* image = static_cast<const Sample*>(task.image) + n * image_samples;
  Sample* out =
      static_cast<Sample*>(task.out) + ((n * task.rows + y) * task.columns + first) * Channels;
  const int left = static_cast<int>(task.columns) - first;
  Pixel<Sample, Channels> pixels[kPixels];
#pragma unroll
  for (int j = 0; j < kPixels; ++j) {
    pixels[j] = warp_pixel<Sample, Channels>(task, image, places[j]);
  }
  if constexpr (Channels == 4) {
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      const int at = j * kLanes + static_cast<int>(threadIdx.x);
      if (at >= left) continue;
      if (task.wide_stores) {
        store_once(out + at * Channels, pixels[j]);
      } else {
        for (int c = 0; c < Channels; ++c) out[at * Channels + c] = pixels[j].sample[c];
      }
    }
  } else {
    alignas(16) __shared__ Sample strips[kWarps][kStrip * Channels];
    Sample* strip = strips[threadIdx.y];
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      const int at = (j * kLanes + static_cast<int>(threadIdx.x)) * Channels;
      for (int c = 0; c < Channels; ++c) strip[at + c] = pixels[j].sample[c];
    }
    __syncwarp();
    copy_strip(out, strip, (left < kStrip ? left : kStrip) * Channels);
    __syncwarp();
  }
}

// Planes, and interleaved pixels of other numbers of channels: sample by sample.
template <typename Sample, typename Index>
__device__ void write_samples(const KernelTask& task, std::int64_t n, int y, int first,
                              const Place* places) {
  const std::int64_t image_plane = task.height * task.width, out_plane = task.rows * task.columns;
  const Index pixel_stride = static_cast<Index>(task.interleaved ? task.channels : 1);
  const std::int64_t image_step = task.interleaved ? 1 : image_plane;
  const std::int64_t out_step = task.interleaved ? 1 : out_plane;
  const int left = static_cast<int>(task.columns) - first;
  const Sample* image = static_cast<const Sample*>(task.image) + n * image_plane * task.channels;
  Sample* out = static_cast<Sample*>(task.out) + n * out_plane * task.channels +
                (y * task.columns + first) * pixel_stride;
  Index offsets[kPixels][4];
  unsigned inside = 0;
#pragma unroll
  for (int j = 0; j < kPixels; ++j) {
    const Index width = static_cast<Index>(task.width);
    if (is_interior(task, places[j])) {
      const Index at = (places[j].row * width + places[j].column) * pixel_stride;
      for (int t = 0; t < 4; ++t) {
        offsets[j][t] = at + ((t >> 1) * width + (t & 1)) * pixel_stride;
      }
      inside |= 15u << 4 * j;
    } else {
      for (int t = 0; t < 4; ++t) {
        const PaddedTap tap(task, places[j], t);
        offsets[j][t] = (tap.row * width + tap.column) * pixel_stride;
        inside |= static_cast<unsigned>(tap.inside) << (4 * j + t);
      }
    }
  }
  for (std::int64_t c = 0; c < task.channels; ++c, image += image_step, out += out_step) {
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      Sample taps[4];
      for (int t = 0; t < 4; ++t) {
        taps[t] = (inside >> (4 * j + t) & 1u) != 0
                      ? load_cached<1>(image + offsets[j][t]).sample[0]
                      : Sample{};
      }
      const TapMixer<Sample> mixer(places[j].fx, places[j].fy);
      const int at = j * kLanes + static_cast<int>(threadIdx.x);
      if (at < left) out[at * pixel_stride] = mixer(taps[0], taps[1], taps[2], taps[3]);
    }
  }
}

// Channels: 3 or 4 of them, interleaved; 0: any layout. Index: what counts the samples of an image.
template <typename Sample, int Channels, typename Index>
__global__ void __launch_bounds__(kLanes* kWarps, sizeof(Index) == 8 || Channels == 3 ? 6 : 7)
    flow_warp_kernel(const KernelTask task) {
  const unsigned strip = blockIdx.x % task.strips, block = blockIdx.x / task.strips;
  const std::int64_t n = block / task.row_blocks;
  const int first = static_cast<int>(strip) * kStrip;
  const int rows = static_cast<int>(task.rows), last = static_cast<int>(task.columns) - 1;
  const bool upsampled = task.flow != nullptr && is_upsampled(task);
  int x[kPixels];
  int flow_column[kPixels];
  float flow_fraction[kPixels];
#pragma unroll
  for (int j = 0; j < kPixels; ++j) {
    // Spare threads repeat the last column.
    x[j] = min(first + j * kLanes + static_cast<int>(threadIdx.x), last);
    if (upsampled) {
      const SplitPosition across = upsampled_position(x[j], task.columns, task.flow_columns);
      flow_column[j] = static_cast<int>(across.whole);
      flow_fraction[j] = across.fraction;
    }
  }
  const float* flow =
      task.flow + (task.flow_batch > 1 ? n * task.flow_rows * task.flow_columns * 2 : 0);
  const auto read_steps = [&](int y, float2* steps) {
    const SplitPosition down =
        upsampled ? upsampled_position(y, task.rows, task.flow_rows) : SplitPosition{y, 0.0f};
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      if (upsampled) {
        const Place at = {flow_column[j], static_cast<int>(down.whole), flow_fraction[j],
                          down.fraction};
        steps[j] = upsampled_step(task, flow, at, task.flow_aligned);
      } else {
        steps[j] = load_step(flow, y * task.columns + x[j], task.flow_aligned);
      }
    }
  };
  const int first_row = static_cast<int>(block % task.row_blocks) * kBlockRows;
  const int end = min(first_row + kBlockRows, rows);
  int y = first_row + static_cast<int>(threadIdx.y);
  // The flow of a row is under way while the row above is sampled.
  float2 steps[kPixels];
  if (task.flow != nullptr && y < end) read_steps(y, steps);
#pragma unroll 1
  for (; y < end; y += kWarps) {
    Place places[kPixels];
#pragma unroll
    for (int j = 0; j < kPixels; ++j) {
      if (task.flow != nullptr) {
        places[j] = to_place(steps[j].x, steps[j].y, x[j], y);
      } else {
        const Affine& m = task.matrix;
        const double px = x[j], py = y;
        places[j] = to_place(m.a * px + (m.b * py + m.c), m.d * px + (m.e * py + m.f), 0, 0);
      }
    }
    if (task.flow != nullptr && y + kWarps < end) read_steps(y + kWarps, steps);
    if constexpr (Channels == 0) {
      write_samples<Sample, Index>(task, n, y, first, places);
    } else {
      write_strip<Sample, Channels>(task, n, y, first, places);
    }
  }
}

// Whether the kernels may read words that hold more than the pixels they need: the first pixel
// begins a word, and the last word ends with the array.
bool wide_loads_allowed(const FlowWarpTask& task) {
  const auto sample = static_cast<std::int64_t>(sample_bytes(task.dtype));
  const std::int64_t bytes = task.batch * task.height * task.width * task.channels * sample;
  const std::int64_t word = task.channels == 4 ? 4 * sample : 4;
  return reinterpret_cast<std::uintptr_t>(task.image) % static_cast<std::uintptr_t>(word) == 0 &&
         bytes % word == 0;
}

template <typename Sample>
void launch_warp(const KernelTask& task, unsigned grid, cudaStream_t stream) {
  const dim3 block(kLanes, kWarps);
  // What the index counts: samples of an image, and of a strip of out.
  const std::int64_t pixels = max(task.height * task.width, std::int64_t{kStrip});
  const bool narrow = pixels * (task.interleaved ? task.channels : 1) < INT32_MAX;
  if (!narrow) {
    launch(flow_warp_kernel<Sample, 0, std::int64_t>, grid, block, 0, stream, task);
  } else if (task.interleaved && task.channels == 3) {
    launch(flow_warp_kernel<Sample, 3, int>, grid, block, 0, stream, task);
  } else if (task.interleaved && task.channels == 4) {
    launch(flow_warp_kernel<Sample, 4, int>, grid, block, 0, stream, task);
  } else {
    launch(flow_warp_kernel<Sample, 0, int>, grid, block, 0, stream, task);
  }
}

}  // namespace

void flow_warp_cuda(const FlowWarpTask& task, std::uintptr_t stream) {
  const CudaDeviceGuard guard(task.out);
  KernelTask kernel_task{task};
  const auto address = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p); };
  kernel_task.flow_aligned = address(task.flow) % sizeof(float2) == 0;
  kernel_task.wide_loads = wide_loads_allowed(task);
  kernel_task.wide_stores = address(task.out) % (4 * sample_bytes(task.dtype)) == 0;
  const std::int64_t strips = (task.columns + kStrip - 1) / kStrip;
  const std::int64_t row_blocks = (task.rows + kBlockRows - 1) / kBlockRows;
  kernel_task.strips = static_cast<unsigned>(strips);
  kernel_task.row_blocks = static_cast<unsigned>(row_blocks);
  const unsigned grid = whole_grid(task.batch, strips * row_blocks, "out");
  if (task.dtype == DType::bf16) {
    launch_warp<BFloat16>(kernel_task, grid, to_stream(stream));
  } else {
    dispatch_sample(task.dtype, [&](auto sample) {
      launch_warp<decltype(sample)>(kernel_task, grid, to_stream(stream));
    });
  }
  cuda_check(cudaGetLastError(), "launching flow_warp");
}

}  // namespace revisage
