// Planes that do not fit into shared memory: cuFFT between the caller's samples and the spectra.
#include <algorithm>

#include "cuda_launch.h"
#include "cufft_library.h"
#include "fft_conv_cuda.h"

namespace revisage {
namespace {

constexpr int kThreads = 256;

template <typename Sample>
__global__ void widen(const Sample* from, float* to, std::int64_t count) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = blockIdx.x * static_cast<std::int64_t>(kThreads) + threadIdx.x; i < count;
       i += step) {
    to[i] = to_float(from[i]);
  }
}

template <typename Sample>
__global__ void narrow(const float* from, Sample* to, std::int64_t count) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = blockIdx.x * static_cast<std::int64_t>(kThreads) + threadIdx.x; i < count;
       i += step) {
    to[i] = from_float<Sample>(from[i]);
  }
}

// A plane per block: [pitch] of re and im -> [2][pitch] in scaled fp16.
__global__ void pack_spectra(const float2* from, Spectra spectra) {
  __shared__ unsigned int largest_word;
  const std::int64_t plane = blockIdx.x;
  const float2* const line = from + plane * spectra.pitch;
  if (threadIdx.x == 0) largest_word = 0;
  __syncthreads();
  unsigned int largest = 0;
  for (int f = static_cast<int>(threadIdx.x); f < spectra.frequencies; f += kThreads) {
    largest = max(largest, max(magnitude_bits(line[f].x), magnitude_bits(line[f].y)));
  }
  const float bound = largest_of_block(largest, &largest_word);
  const int exponent = scaling_exponent(bound * spectra.ortho);
  const float factor = spectra.ortho * power_of_two(exponent);
  const std::int64_t start = 2 * plane * spectra.pitch;
  const std::int64_t part = 2 * spectra.batch * spectra.in_channels * spectra.pitch;
  for (int f = 2 * static_cast<int>(threadIdx.x); f < spectra.pitch; f += 2 * kThreads) {
    const float2 zero = make_float2(0.0f, 0.0f);
    const float2 a = f < spectra.frequencies ? line[f] : zero;
    const float2 b = f + 1 < spectra.frequencies ? line[f + 1] : zero;
    store_parts(spectra.spectrum, start + f, part, spectra.parts, a.x * factor, b.x * factor);
    store_parts(spectra.spectrum, start + spectra.pitch + f, part, spectra.parts, a.y * factor,
                b.y * factor);
  }
  if (threadIdx.x == 0) spectra.exponents[plane] = exponent;
}

// Replaces the columns 0 and (even widths) width / 2, one after the other `column_step` apart, by
// the part that is the spectrum of real columns: cuFFT leaves undefined what it does with the rest.
__global__ void make_columns_real(float2* spectra, std::int64_t planes, std::int64_t pitch,
                                  int height, int half, int column_step, int columns) {
  const std::int64_t per_plane = static_cast<std::int64_t>(height / 2 + 1) * columns;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t t = blockIdx.x * static_cast<std::int64_t>(kThreads) + threadIdx.x;
       t < planes * per_plane; t += step) {
    const std::int64_t inside = t % per_plane, k = inside / columns;
    float2* const column = spectra + t / per_plane * pitch + inside % columns * column_step;
    float2& a = column[k * half];
    float2& b = column[(k == 0 ? 0 : height - k) * half];
    const float re = 0.5f * (a.x + b.x), im = 0.5f * (a.y - b.y);
    a = make_float2(re, im);
    b = make_float2(re, -im);
  }
}

CufftShape forward_shape(const FftConvCudaTask& task, const Spectra& spectra) {
  return {false, task.height, task.width, spectra.pitch, task.batch * task.in_channels};
}

CufftShape inverse_shape(const FftConvCudaTask& task, const Spectra& spectra) {
  return {true, task.height, task.width, spectra.pitch, task.batch * task.out_channels};
}

}  // namespace

LargePlanes lay_out_large(const FftConvCudaTask& task, const Spectra& spectra, Arena& arena) {
  const std::int64_t channels = std::max(task.in_channels, task.out_channels);
  LargePlanes large = {};
  // `mixed` is written when the spectrum has been read.
  large.spectrum = spectra.mixed;
  if (task.in_channels > task.out_channels) {
    large.spectrum = arena.take<float2>(task.batch * task.in_channels * spectra.pitch);
  }
  if (task.dtype != DType::f32) {
    large.samples = arena.take<float>(task.batch * channels * task.height * task.width);
  }
  large.work = arena.take<char>(
      static_cast<std::int64_t>(std::max(cufft_work_bytes(forward_shape(task, spectra)),
                                         cufft_work_bytes(inverse_shape(task, spectra)))));
  return large;
}

void run_large(const FftConvCudaTask& task, const Spectra& spectra, const LargePlanes& large,
               cudaStream_t stream) {
  for (const void* pointer : {task.x, static_cast<const void*>(task.out)}) {
    if (reinterpret_cast<std::uintptr_t>(pointer) % 16 != 0) {
      throw ShapeError(
          "x and out must begin at a multiple of 16 bytes where planes are too large for shared "
          "memory (cuFFT); copy them to arrays of their own");
    }
  }
  const std::int64_t area = task.height * task.width;
  const std::int64_t in_planes = task.batch * task.in_channels;
  const std::int64_t out_planes = task.batch * task.out_channels;
  if (in_planes > INT32_MAX) throw ShapeError("x has too many planes for one CUDA launch");
  launch_prepare_weights(task, spectra, stream);

  void* x = const_cast<void*>(task.x);  // a forward transform leaves it as it is
  if (large.samples != nullptr) {
    dispatch_float(task.dtype, [&](auto sample) {
      launch(widen<decltype(sample)>, grid_blocks(in_planes * area, kThreads), kThreads, 0, stream,
             static_cast<const decltype(sample)*>(task.x), large.samples, in_planes * area);
    });
    x = large.samples;
  }
  cufft_execute(forward_shape(task, spectra), x, large.spectrum, large.work, stream);
  launch(pack_spectra, static_cast<unsigned int>(in_planes), kThreads, 0, stream, large.spectrum,
         spectra);
  launch_mix(spectra, stream);

  const auto height = static_cast<int>(task.height), half = static_cast<int>(task.width / 2 + 1);
  const int columns = task.width % 2 == 0 ? 2 : 1;
  launch(make_columns_real, grid_blocks(out_planes * (height / 2 + 1) * columns, kThreads),
         kThreads, 0, stream, spectra.mixed, out_planes, std::int64_t{spectra.pitch}, height, half,
         half - 1, columns);
  void* const out = large.samples != nullptr ? large.samples : task.out;
  cufft_execute(inverse_shape(task, spectra), spectra.mixed, out, large.work, stream);
  if (large.samples != nullptr) {
    dispatch_float(task.dtype, [&](auto sample) {
      launch(narrow<decltype(sample)>, grid_blocks(out_planes * area, kThreads), kThreads, 0,
             stream, static_cast<const float*>(large.samples),
             static_cast<decltype(sample)*>(task.out), out_planes * area);
    });
  }
  cuda_check(cudaGetLastError(), "launching fft_conv");
}

}  // namespace revisage
