// spectrum -> mixed: weights [rows, columns] by spectrum [columns, pitch] of each image on tensor
// cores, then scale, shift and ReLU. Tiles travel through a ring of buffers in shared memory.
#include "cuda_launch.h"
#include "fft_conv_cuda.h"
#include "tensor_core.h"

namespace revisage {
namespace {

constexpr int kThreads = 256;
constexpr int kTileColumns = 128;  // frequencies of a block
constexpr int kDepth = kMixDepth;  // channels (re and im) of one stage
constexpr int kStages = 3;
constexpr int kChunk = 8;  // fp16 in 16 bytes

// Offsets in a tile, in fp16. Chunks change places within their row so that the eight rows that
// ldmatrix reads at once lie in different banks.
__device__ inline int weights_offset(int row, int chunk) {
  return row * kDepth + (chunk ^ (row / 2 % 4)) * kChunk;
}
__device__ inline int spectrum_offset(int row, int chunk) {
  return row * kTileColumns + (chunk ^ row % 8) * kChunk;
}

template <int tile_rows, int parts>
struct Stage {
  __half weights[parts][tile_rows * kDepth];
  __half spectrum[parts][kDepth * kTileColumns];
  __half2 ratios[kDepth / 2];  // from a plane's exponent to that of the image, twice
};

// 2^exponent for an exponent of at most 0; 0 where fp16 has no such number.
__device__ inline __half half_power(int exponent) {
  const int bits = exponent >= -14   ? (exponent + 15) << 10
                   : exponent >= -24 ? 1 << (exponent + 24)
                                     : 0;
  return __ushort_as_half(static_cast<unsigned short>(bits));
}

__device__ inline float relu(float value) { return value < 0.0f ? 0.0f : value; }  // keeps NaN

// The smallest exponent among the planes of an image.
__device__ int smallest_exponent(const int* exponents, int count, int* shared_word) {
  if (threadIdx.x == 0) *shared_word = exponents[0];
  __syncthreads();
  int smallest = exponents[0];
  for (int c = static_cast<int>(threadIdx.x); c < count; c += kThreads) {
    smallest = min(smallest, exponents[c]);
  }
  atomicMin(shared_word, smallest);
  __syncthreads();
  return *shared_word;
}

// A block computes tile_rows x kTileColumns; its warps form two rows of four.
template <int tile_rows, int parts>
__global__ void __launch_bounds__(kThreads, 2) mix(Spectra spectra, int column_tiles) {
  constexpr int kWarpRows = tile_rows / 2, kWarpColumns = kTileColumns / 4;
  constexpr int kRowTiles = kWarpRows / 16, kColumnTiles = kWarpColumns / 8;
  __shared__ int exponent_word;
  auto* const stages = dynamic_shared<Stage<tile_rows, parts>>();

  // Blocks of the same frequencies follow each other, so that these come from the L2 cache.
  const int row_tiles = spectra.rows / tile_rows;
  const int first_row = static_cast<int>(blockIdx.x) % row_tiles * tile_rows;
  const int column_tile = static_cast<int>(blockIdx.x) / row_tiles;
  const int image = column_tile / column_tiles;
  const int first_column = column_tile % column_tiles * kTileColumns;
  const int depth = 2 * spectra.in_channels;
  const int* const exponents =
      spectra.exponents + static_cast<std::int64_t>(image) * spectra.in_channels;
  const int exponent = smallest_exponent(exponents, spectra.in_channels, &exponent_word);

  const auto thread = static_cast<int>(threadIdx.x);
  const std::int64_t weight_part = static_cast<std::int64_t>(spectra.rows) * spectra.columns;
  const std::int64_t spectrum_part = spectra.batch * depth * spectra.pitch;
  // Each thread copies one chunk of every kWeightStep-th row of the weights and of every
  // kSpectrumStep-th of the spectrum, at the same place of all parts and stages.
  constexpr int kWeightStep = kThreads / (kDepth / kChunk);
  constexpr int kSpectrumStep = kThreads / (kTileColumns / kChunk);
  const int weight_row = thread / (kDepth / kChunk), weight_chunk = thread % (kDepth / kChunk);
  const int spectrum_row = thread / (kTileColumns / kChunk);
  const int spectrum_column = thread % (kTileColumns / kChunk) * kChunk;
  const __half* weights = spectra.weights +
                          static_cast<std::int64_t>(first_row + weight_row) * spectra.columns +
                          weight_chunk * kChunk;
  const __half* spectrum =
      spectra.spectrum + (static_cast<std::int64_t>(image) * depth + spectrum_row) * spectra.pitch +
      first_column + spectrum_column;
  // Rows of the spectrum that are left for this thread; none where its column is padding.
  int rows_left = first_column + spectrum_column < spectra.pitch ? depth - spectrum_row : 0;
  int channel = thread;  // of the ratio that it writes

  // Copies the next stage.
  const auto load = [&](Stage<tile_rows, parts>& stage) {
#pragma unroll
    for (int part = 0; part < parts; ++part) {
#pragma unroll
      for (int i = 0; i < tile_rows; i += kWeightStep) {
        copy_async(&stage.weights[part][i * kDepth + weights_offset(weight_row, weight_chunk)],
                   weights + part * weight_part + static_cast<std::int64_t>(i) * spectra.columns,
                   true);
      }
#pragma unroll
      for (int i = 0; i < kDepth; i += kSpectrumStep) {
        copy_async(&stage.spectrum[part][i * kTileColumns +
                                         spectrum_offset(spectrum_row, spectrum_column / kChunk)],
                   i < rows_left ? spectrum + part * spectrum_part +
                                       static_cast<std::int64_t>(i) * spectra.pitch
                                 : spectra.spectrum,
                   i < rows_left);
      }
    }
    if (thread < kDepth / 2) {
      const __half ratio =
          half_power(channel < spectra.in_channels ? max(exponent - exponents[channel], -64) : 0);
      stage.ratios[thread] = __halves2half2(ratio, ratio);
    }
    weights += kDepth;
    spectrum += static_cast<std::int64_t>(kDepth) * spectra.pitch;
    rows_left -= kDepth;
    channel += kDepth / 2;
  };

  const int lane = thread % 32, warp = thread / 32, group = lane / 4, member = lane % 4;
  const int warp_row = warp / 4 * kWarpRows, warp_column = warp % 4 * kWarpColumns;
  // Where a lane's rows of the first tiles are. In further rows chunks change places in the same
  // way, since tiles have a multiple of eight rows; an even number of chunks further is an
  // exclusive or.
  const int left_at = warp_row * kDepth + weights_offset(lane % 16, lane / 16);
  const int right_at = spectrum_offset(lane % 16, warp_column / kChunk + lane / 16);
  float sums[kRowTiles][kColumnTiles][4] = {};

  const auto multiply = [&](const Stage<tile_rows, parts>& stage) {
#pragma unroll 1
    for (int k = 0; k < kDepth; k += 16) {
      const __half2 ratios[2] = {stage.ratios[k / 2 + member], stage.ratios[k / 2 + 4 + member]};
      std::uint32_t right[parts][kColumnTiles][2];
#pragma unroll
      for (int part = 0; part < parts; ++part) {
#pragma unroll
        for (int n = 0; n < kColumnTiles; n += 2) {
          std::uint32_t matrices[4];
          load_matrices<true>(matrices,
                              &stage.spectrum[part][(right_at ^ n * 8) + k * kTileColumns]);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            right[part][n + i / 2][i % 2] = multiply_halves(matrices[i], ratios[i % 2]);
          }
        }
      }
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        std::uint32_t left[parts][4];
#pragma unroll
        for (int part = 0; part < parts; ++part) {
          load_matrices<false>(left[part], &stage.weights[part][(left_at ^ k) + m * 16 * kDepth]);
        }
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) {
          if (parts == 2) {
            multiply_add(sums[m][n], left[parts - 1], right[0][n]);
            multiply_add(sums[m][n], left[0], right[parts - 1][n]);
          }
          multiply_add(sums[m][n], left[0], right[0][n]);
        }
      }
    }
  };

  const int steps = spectra.columns / kDepth;
#pragma unroll
  for (int step = 0; step < kStages - 1; ++step) {
    if (step < steps) load(stages[step]);
    commit_copies();
  }
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    wait_for_copies<kStages - 2>();
    __syncthreads();  // this stage has arrived for all, and all are done with the one before
    const int next = step + kStages - 1;
    if (next < steps) load(stages[next % kStages]);
    commit_copies();
    multiply(stages[step % kStages]);
  }

  const float power = power_of_two(-exponent);
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    const int row = first_row + warp_row + m * 16;
    const int channel = row / 2 + group;
    if (channel >= spectra.out_channels) continue;
    const RowFactor re = spectra.factors[row + group], im = spectra.factors[row + 8 + group];
    float2* const to =
        spectra.mixed +
        (static_cast<std::int64_t>(image) * spectra.out_channels + channel) * spectra.pitch;
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
      const int column = first_column + warp_column + n * 8 + 2 * member;
      if (column >= spectra.pitch) continue;
      const auto finish = [&](float sum, const RowFactor& factor) {
        return spectra.ortho * relu(factor.scale * (sum * power * factor.power) + factor.shift);
      };
      *reinterpret_cast<float4*>(to + column) =
          make_float4(finish(sums[m][n][0], re), finish(sums[m][n][2], im),
                      finish(sums[m][n][1], re), finish(sums[m][n][3], im));
    }
  }
}

template <int tile_rows, int parts>
void launch_tiles(const Spectra& spectra, cudaStream_t stream) {
  constexpr std::size_t kBytes = kStages * sizeof(Stage<tile_rows, parts>);
  static_assert(kBytes + 16 <= 99 * 1024, "what every supported device has");
  const int column_tiles = (spectra.pitch + kTileColumns - 1) / kTileColumns;
  const std::int64_t blocks = spectra.batch * column_tiles * (spectra.rows / tile_rows);
  if (blocks > INT32_MAX) throw ShapeError("x and weight are too large for one CUDA launch");
  cuda_check(allow_shared_memory(mix<tile_rows, parts>, kBytes), "asking for shared memory");
  launch(mix<tile_rows, parts>, static_cast<unsigned int>(blocks), kThreads, kBytes, stream,
         spectra, column_tiles);
  cuda_check(cudaGetLastError(), "launching fft_conv");
}

}  // namespace

void launch_mix(const Spectra& spectra, cudaStream_t stream) {
  const bool tall = mix_tile_rows(2 * spectra.out_channels) == 128, split = spectra.parts == 2;
  if (tall && split) return launch_tiles<128, 2>(spectra, stream);
  if (tall) return launch_tiles<128, 1>(spectra, stream);
  if (split) return launch_tiles<64, 2>(spectra, stream);
  launch_tiles<64, 1>(spectra, stream);
}

}  // namespace revisage
