// The Fourier unit on CUDA, as five plain steps: transform rows, transform columns, 1x1 convolution
// with its epilogue, inverse columns, inverse rows. Each transform is its definition with a table
// of roots in shared memory: any length, no plan. The spectrum lies in stream-ordered memory as
// [channel][re, im][H][W / 2 + 1], which is the interleaved channel order of the weights.
#include "cuda_check.h"
#include "fft_conv_task.h"
#include "revisage/errors.h"

namespace revisage {
namespace {

constexpr int kThreads = 128;
constexpr int kMaxSide = 4096;  // a root and a sample per element: 64 KiB of shared memory
constexpr int kTile = 16;

// roots[j] = (cos, sin) of 2 pi j / length, by the whole block.
__device__ void make_roots(float2* roots, int length) {
  for (int j = threadIdx.x; j < length; j += kThreads) {
    float sine, cosine;
    sincospif(2.0f * static_cast<float>(j) / static_cast<float>(length), &sine, &cosine);
    roots[j] = make_float2(cosine, sine);
  }
}

// One row of x per block -> its spectrum, [lines][re, im] with lines = batch * channels.
__global__ void forward_rows(const float* x, float* spectrum, std::int64_t rows, int height,
                             int width) {
  extern __shared__ float2 shared[];
  float2* roots = shared;
  auto* line = reinterpret_cast<float*>(shared + width);
  const int half = width / 2 + 1;
  make_roots(roots, width);
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    __syncthreads();
    for (int i = threadIdx.x; i < width; i += kThreads) line[i] = x[row * width + i];
    __syncthreads();
    const std::int64_t plane = row / height, y = row % height;
    float* re = spectrum + (2 * plane * height + y) * half;
    float* im = re + static_cast<std::int64_t>(height) * half;
    for (int k = threadIdx.x; k < half; k += kThreads) {
      float2 sum = make_float2(0.0f, 0.0f);
      int turn = 0;  // k * i mod width
      for (int i = 0; i < width; ++i) {
        sum.x += line[i] * roots[turn].x;
        sum.y -= line[i] * roots[turn].y;
        turn += k;
        if (turn >= width) turn -= width;
      }
      re[k] = sum.x;
      im[k] = sum.y;
    }
  }
}

// One column of a spectrum per block, in place; direction -1 is forward, +1 inverse.
__global__ void transform_columns(float* spectrum, std::int64_t planes, int height, int half,
                                  float direction, float factor) {
  extern __shared__ float2 shared[];
  float2* roots = shared;
  float2* line = shared + height;
  make_roots(roots, height);
  const std::int64_t area = static_cast<std::int64_t>(height) * half;
  for (std::int64_t column = blockIdx.x; column < planes * half; column += gridDim.x) {
    float* re = spectrum + column / half * 2 * area + column % half;
    float* im = re + area;
    __syncthreads();
    for (int y = threadIdx.x; y < height; y += kThreads) {
      const std::int64_t at = static_cast<std::int64_t>(y) * half;
      line[y] = make_float2(re[at], im[at]);
    }
    __syncthreads();
    for (int k = threadIdx.x; k < height; k += kThreads) {
      float2 sum = make_float2(0.0f, 0.0f);
      int turn = 0;  // k * y mod height
      for (int y = 0; y < height; ++y) {
        const float cosine = roots[turn].x, sine = direction * roots[turn].y;
        sum.x += line[y].x * cosine - line[y].y * sine;
        sum.y += line[y].x * sine + line[y].y * cosine;
        turn += k;
        if (turn >= height) turn -= height;
      }
      const std::int64_t at = static_cast<std::int64_t>(k) * half;
      re[at] = sum.x * factor;
      im[at] = sum.y * factor;
    }
  }
}

// out[n] = relu(scale * weight spectrum[n] + shift): [2D, 2C] by [2C, F] in tiles of 16 x 16.
__global__ void mix_channels(const float* weight, const float* scale, const float* shift,
                             const float* spectrum, float* out, std::int64_t batch,
                             std::int64_t in_rows, std::int64_t out_rows,
                             std::int64_t frequencies) {
  __shared__ float weights[kTile][kTile + 1], values[kTile][kTile];
  const int tx = threadIdx.x, ty = threadIdx.y;
  const std::int64_t row = blockIdx.y * static_cast<std::int64_t>(kTile) + ty;
  const std::int64_t tiles = (frequencies + kTile - 1) / kTile;
  for (std::int64_t tile = blockIdx.x; tile < batch * tiles; tile += gridDim.x) {
    const std::int64_t n = tile / tiles, f = tile % tiles * kTile + tx;
    const float* from = spectrum + n * in_rows * frequencies;
    float sum = 0.0f;
    for (std::int64_t k = 0; k < in_rows; k += kTile) {
      weights[ty][tx] = row < out_rows && k + tx < in_rows ? weight[row * in_rows + k + tx] : 0.0f;
      values[ty][tx] =
          k + ty < in_rows && f < frequencies ? from[(k + ty) * frequencies + f] : 0.0f;
      __syncthreads();
      for (int i = 0; i < kTile; ++i) sum += weights[ty][i] * values[i][tx];
      __syncthreads();
    }
    if (row < out_rows && f < frequencies) {
      const float value = scale[row] * sum + shift[row];
      out[(n * out_rows + row) * frequencies + f] = value < 0.0f ? 0.0f : value;
    }
  }
}

// One row per block: half spectrum -> real line. The terms 0 and (for even widths) width / 2 count
// once and as real, all others twice, for their conjugates.
__global__ void inverse_rows(const float* spectrum, float* out, std::int64_t rows, int height,
                             int width, float factor) {
  extern __shared__ float2 shared[];
  float2* roots = shared;
  const int half = width / 2 + 1;
  float2* line = shared + width;
  make_roots(roots, width);
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const std::int64_t plane = row / height, y = row % height;
    const float* re = spectrum + (2 * plane * height + y) * half;
    const float* im = re + static_cast<std::int64_t>(height) * half;
    __syncthreads();
    for (int k = threadIdx.x; k < half; k += kThreads) {
      const bool own_conjugate = k == 0 || 2 * k == width;
      const float times = own_conjugate ? 1.0f : 2.0f;
      line[k] = make_float2(times * re[k], own_conjugate ? 0.0f : times * im[k]);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < width; i += kThreads) {
      float sum = 0.0f;
      int turn = 0;  // k * i mod width
      for (int k = 0; k < half; ++k) {
        sum += line[k].x * roots[turn].x - line[k].y * roots[turn].y;
        turn += i;
        if (turn >= width) turn -= width;
      }
      out[row * width + i] = sum * factor;
    }
  }
}

// Memory that is given back in stream order, so no call waits.
class StreamMemory {
 public:
  StreamMemory(std::size_t floats, cudaStream_t stream) : stream_(stream) {
    cuda_check(cudaMallocAsync(reinterpret_cast<void**>(&data_), floats * sizeof(float), stream),
               "allocating the spectrum");
  }
  StreamMemory(const StreamMemory&) = delete;
  StreamMemory& operator=(const StreamMemory&) = delete;
  ~StreamMemory() { cudaFreeAsync(data_, stream_); }
  float* get() const { return data_; }

 private:
  float* data_ = nullptr;
  cudaStream_t stream_;
};

}  // namespace

void fft_conv_cuda(const FftConvTask& task, std::uintptr_t stream_address) {
  if (task.height > kMaxSide || task.width > kMaxSide) {
    throw ShapeError("on CUDA, x may have at most 4096 rows and columns; copy it to the host");
  }
  const CudaDeviceGuard guard(task.out);
  cudaStream_t stream = to_stream(stream_address);
  const int height = static_cast<int>(task.height), width = static_cast<int>(task.width);
  const int half = width / 2 + 1;
  const std::int64_t frequencies = static_cast<std::int64_t>(height) * half;
  const std::int64_t in_planes = task.batch * task.in_channels;
  const std::int64_t out_planes = task.batch * task.out_channels;
  const StreamMemory spectrum(static_cast<std::size_t>(2 * in_planes * frequencies), stream);
  const StreamMemory mixed(static_cast<std::size_t>(2 * out_planes * frequencies), stream);
  const auto ortho = static_cast<float>(1.0 / sqrt(static_cast<double>(height) * width));
  const std::size_t pair = sizeof(float2);

  const std::size_t row_bytes = static_cast<std::size_t>(width) * (pair + sizeof(float));
  forward_rows<<<grid_blocks(in_planes * height, 1), kThreads, row_bytes, stream>>>(
      task.x, spectrum.get(), in_planes * height, height, width);
  // Two lines of 4096 pairs exceed the 48 KiB that need no permission.
  const std::size_t column_bytes = 2 * static_cast<std::size_t>(height) * pair;
  const std::size_t inverse_bytes = static_cast<std::size_t>(width + half) * pair;
  cuda_check(cudaFuncSetAttribute(transform_columns, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  2 * kMaxSide * static_cast<int>(pair)),
             "asking for shared memory");
  cuda_check(cudaFuncSetAttribute(inverse_rows, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  2 * kMaxSide * static_cast<int>(pair)),
             "asking for shared memory");
  transform_columns<<<grid_blocks(in_planes * half, 1), kThreads, column_bytes, stream>>>(
      spectrum.get(), in_planes, height, half, -1.0f, ortho);

  const std::int64_t out_rows = 2 * task.out_channels;
  const std::int64_t row_tiles = (out_rows + kTile - 1) / kTile;
  if (row_tiles > 65535) throw ShapeError("on CUDA, weight may have at most 1048560 rows");
  const std::int64_t tiles = task.batch * ((frequencies + kTile - 1) / kTile);
  mix_channels<<<dim3(grid_blocks(tiles, 1), static_cast<unsigned int>(row_tiles)),
                 dim3(kTile, kTile), 0, stream>>>(task.weight, task.scale, task.shift,
                                                  spectrum.get(), mixed.get(), task.batch,
                                                  2 * task.in_channels, out_rows, frequencies);

  transform_columns<<<grid_blocks(out_planes * half, 1), kThreads, column_bytes, stream>>>(
      mixed.get(), out_planes, height, half, 1.0f, ortho);
  inverse_rows<<<grid_blocks(out_planes * height, 1), kThreads, inverse_bytes, stream>>>(
      mixed.get(), task.out, out_planes * height, height, width, 1.0f);
  cuda_check(cudaGetLastError(), "launching fft_conv");
}

}  // namespace revisage
