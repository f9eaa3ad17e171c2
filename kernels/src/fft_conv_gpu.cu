// Which way planes go, and what lies where in the workspace.
#include <algorithm>
#include <cmath>

#include "fft_conv_cuda.h"
#include "revisage/errors.h"

namespace revisage {
namespace {

int round_up(std::int64_t value, int multiple) {
  const std::int64_t rounded = (value + multiple - 1) / multiple * multiple;
  // The kernels count within a plane, and in channels, with 32 bits.
  if (rounded > INT32_MAX / 128) {
    throw ShapeError(
        "on CUDA, a plane of x and the sides of weight may have at most 2^24 elements");
  }
  return static_cast<int>(rounded);
}

Spectra lay_out(const FftConvCudaTask& task, Arena& arena) {
  Spectra spectra;
  const std::int64_t depth = 2 * task.in_channels, height = 2 * task.out_channels;
  spectra.batch = task.batch;
  spectra.columns = round_up(depth, kMixDepth);
  spectra.rows = round_up(height, mix_tile_rows(height));
  spectra.pitch = round_up(task.height * (task.width / 2 + 1), 8);
  round_up(task.height * task.width, 1);
  spectra.in_channels = static_cast<int>(task.in_channels);
  spectra.out_channels = static_cast<int>(task.out_channels);
  spectra.frequencies = static_cast<int>(task.height * (task.width / 2 + 1));
  spectra.parts = task.dtype == DType::f32 ? 2 : 1;
  spectra.ortho = static_cast<float>(
      1.0 / std::sqrt(static_cast<double>(task.height) * static_cast<double>(task.width)));
  const std::int64_t parts = spectra.parts, pitch = spectra.pitch;
  spectra.weights = arena.take<__half>(parts * spectra.rows * spectra.columns);
  spectra.factors = arena.take<RowFactor>(spectra.rows);
  spectra.exponents = arena.take<int>(task.batch * task.in_channels);
  spectra.spectrum = arena.take<__half>(parts * task.batch * depth * pitch);
  spectra.mixed = arena.take<float2>(task.batch * task.out_channels * pitch);
  return spectra;
}

bool plan_for_device(const FftConvCudaTask& task, PlanePlan* plan) {
  int device = 0, limit = 0;
  cuda_check(cudaGetDevice(&device), "asking for the current device");
  cuda_check(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
             "asking for the size of shared memory");
  return plan_planes(task.height, task.width, limit, plan);
}

}  // namespace

std::size_t fft_conv_cuda_workspace_bytes(const FftConvCudaTask& task) {
  const CudaDeviceGuard guard(task.x);
  Arena arena(nullptr);
  const Spectra spectra = lay_out(task, arena);
  PlanePlan plan;
  if (!plan_for_device(task, &plan)) lay_out_large(task, spectra, arena);
  return arena.bytes();
}

void fft_conv_cuda(const FftConvCudaTask& task, void* workspace, std::uintptr_t stream_address) {
  const CudaDeviceGuard guard(task.out);
  cudaStream_t stream = to_stream(stream_address);
  Arena arena(workspace);
  const Spectra spectra = lay_out(task, arena);
  PlanePlan plan;
  if (!plan_for_device(task, &plan)) {
    return run_large(task, spectra, lay_out_large(task, spectra, arena), stream);
  }
  launch_forward_planes(task, plan, spectra, stream);
  launch_mix(spectra, stream);
  launch_inverse_planes(task, plan, spectra, stream);
}

}  // namespace revisage
