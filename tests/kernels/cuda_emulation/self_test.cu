// Kernels with known answers, and kernels with known faults.
#include "cuda_check.h"
#include "cuda_launch.h"
#include "entry_point.h"
#include "tensor_core.h"

namespace {

using revisage::dynamic_shared;

__global__ void reverse_block(float* values) {
  float* line = dynamic_shared<float>();
  const unsigned int last = blockDim.x - 1, at = blockIdx.x * blockDim.x;
  line[threadIdx.x] = values[at + threadIdx.x];
  __syncthreads();
  values[at + threadIdx.x] = line[last - threadIdx.x];
}

__global__ void forgets_barrier(float* values) {
  float* line = dynamic_shared<float>();
  line[threadIdx.x] = values[threadIdx.x];
  values[threadIdx.x] = line[blockDim.x - 1 - threadIdx.x];
}

__global__ void sum_of_warp(float* values) {
  float sum = values[threadIdx.x];
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, step);
  const unsigned int above = __ballot_sync(0xFFFFFFFFu, values[threadIdx.x] > 0.0f);
  values[threadIdx.x] = threadIdx.x % 32 == 0 ? sum : static_cast<float>(__popc(above));
}

// values: a [16, 16], then b [16, 8], then the product [16, 8].
__global__ void multiply(float* values) {
  auto* a = dynamic_shared<__half>();
  __half* b = a + 16 * 16;
  for (unsigned int i = threadIdx.x; i < 16 * 16; i += 32) a[i] = __float2half_rn(values[i]);
  for (unsigned int i = threadIdx.x; i < 16 * 8; i += 32) b[i] = __float2half_rn(values[256 + i]);
  __syncwarp();
  const unsigned int lane = threadIdx.x;
  std::uint32_t rows[4], columns[4];
  revisage::load_matrices<false>(rows, a + lane % 16 * 16 + lane / 16 * 8);
  revisage::load_matrices<true>(columns, b + lane % 16 * 8);
  float sums[4] = {};
  revisage::multiply_add(sums, rows, {columns[0], columns[1]});
  for (unsigned int i = 0; i < 4; ++i) {
    values[384 + (lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
  }
}

__global__ void copies_without_waiting(float* values) {
  float* line = dynamic_shared<float>();
  revisage::copy_async(line, values, true);
  revisage::commit_copies();
  values[0] = line[1];
  revisage::wait_for_copies<0>();
  values[1] = line[2];
}

__global__ void reads_past_shared_memory(float* values) {
  values[0] = dynamic_shared<float>()[blockDim.x];
}

__global__ void writes_past_array(float* values) { values[blockDim.x] = 1.0f; }

__global__ void misaligned_vector(float* values) {
  reinterpret_cast<float2*>(values + 1)->x = 1.0f;
}

__global__ void leaves_others_waiting(float* values) {
  if (threadIdx.x == 3) return;
  __syncthreads();
  values[threadIdx.x] = 0.0f;
}

__global__ void shuffles_alone(float* values) {
  if (threadIdx.x == 3) values[0] = __shfl_sync(0xFFFFFFFFu, values[1], 0);
  __syncthreads();
}

__global__ void index_past_static_array(float* values) {
  __shared__ float line[32];
  for (unsigned int i = threadIdx.x; i <= 32; i += blockDim.x) line[i] = values[0];
}

}  // namespace

REVISAGE_ENTRY_POINT(self_test) {
  constexpr void (*kernels[])(float*) = {
      reverse_block,     forgets_barrier,         sum_of_warp,
      multiply,          copies_without_waiting,  reads_past_shared_memory,
      writes_past_array, misaligned_vector,       leaves_others_waiting,
      shuffles_alone,    index_past_static_array,
  };
  const auto threads = static_cast<unsigned int>(numbers[2]);
  revisage::launch(kernels[static_cast<int>(numbers[0])], static_cast<unsigned int>(numbers[1]),
                   threads, static_cast<std::size_t>(numbers[3]), nullptr,
                   array(0).template as<float>());
  revisage::cuda_check(cudaGetLastError(), "launching a test");
}
