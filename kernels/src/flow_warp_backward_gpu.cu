// Compiled with -fmad=false, so that positions are those of the forward warp
// (Note [Warp gradients] in kernels/flow_warp.py).
//
// A warp of threads takes a row of 32 output pixels, for all images that share their flow. What
// neighbours would add to the same float is added up first: in the image the right taps of one
// pixel are often the left taps of the next, and in a smaller flow runs of pixels have one column.
#include "cuda_check.h"
#include "cuda_launch.h"
#include "cuda_vectors.h"
#include "flow_warp_device.h"

namespace revisage {
namespace {

constexpr int kLanes = 32;
constexpr int kRows = 8;  // of a block, a warp each
constexpr unsigned kAll = 0xFFFFFFFFu;

struct KernelTask : FlowWarpBackwardTask {
  bool flow_aligned;  // to 8 bytes
  unsigned strips, row_blocks;
};

// The part of a smaller flow that the pixels of a block lie in: a flow is never larger than the
// output, so they reach one node more than they are, and their right or lower neighbours.
struct FlowTile {
  float nodes[kRows + 2][kLanes + 2][2];
};

__device__ void add_to_image(float* image, std::int64_t offset, float share, bool wanted) {
  if (wanted && share != 0.0f) atomicAdd(image + offset, share);
}

// Sums over each run of lanes with equal `key` (keys never fall), valid in the first of them.
__device__ float sum_of_run(float value, int key) {
  const int lane = static_cast<int>(threadIdx.x);
  for (int step = 1; step < kLanes; step *= 2) {
    const float other = __shfl_down_sync(kAll, value, step);
    const int other_key = __shfl_down_sync(kAll, key, step);
    if (lane + step < kLanes && other_key == key) value += other;
  }
  return value;
}

template <typename Sample>
__global__ void __launch_bounds__(kLanes* kRows) flow_warp_backward_kernel(const KernelTask task) {
  using Traits = SampleTraits<Sample>;
  __shared__ FlowTile tile;
  const unsigned block = blockIdx.x / task.strips;
  const std::int64_t flow_index = block / task.row_blocks;
  const int first_x = static_cast<int>(blockIdx.x % task.strips) * kLanes;
  const int first_y = static_cast<int>(block % task.row_blocks) * kRows;
  const int lane = static_cast<int>(threadIdx.x);
  const int last_x = static_cast<int>(task.columns) - 1, last_y = static_cast<int>(task.rows) - 1;
  const bool exists = first_x + lane <= last_x && first_y + static_cast<int>(threadIdx.y) <= last_y;
  // Spare threads repeat the last pixel, with a gradient of zero.
  const int x = min(first_x + lane, last_x),
            y = min(first_y + static_cast<int>(threadIdx.y), last_y);

  const bool upsampled = is_upsampled(task);
  const float* flow = task.flow + flow_index * task.flow_rows * task.flow_columns * 2;
  Place in_flow = {x, y, 0.0f, 0.0f};
  if (upsampled) {
    const SplitPosition across = upsampled_position(x, task.columns, task.flow_columns);
    const SplitPosition down = upsampled_position(y, task.rows, task.flow_rows);
    in_flow = {static_cast<int>(across.whole), static_cast<int>(down.whole), across.fraction,
               down.fraction};
  }
  const float2 step = upsampled ? upsampled_step(task, flow, in_flow, task.flow_aligned)
                                : load_step(flow, y * task.columns + x, task.flow_aligned);
  const Place place = to_place(step.x, step.y, x, y);
  const float wx[2] = {1.0f - place.fx, place.fx}, wy[2] = {1.0f - place.fy, place.fy};
  const std::int64_t image_plane = task.height * task.width, out_plane = task.rows * task.columns;
  const std::int64_t pixel_stride = task.interleaved ? task.channels : 1;
  const std::int64_t image_step = task.interleaved ? 1 : image_plane;
  const std::int64_t out_step = task.interleaved ? 1 : out_plane;
  std::int64_t offsets[4];
  bool inside[4];
  for (int t = 0; t < 4; ++t) {
    const PaddedTap tap(task, place, t);
    offsets[t] = (tap.row * task.width + tap.column) * pixel_stride;
    inside[t] = tap.inside;
  }

  // Whether the pixel to the left gives me what it has for its right taps.
  bool joined = false, passed_on = false;
  if (task.grad_image != nullptr) {
    const bool interior = is_interior(task, place);
    const int left_column = __shfl_up_sync(kAll, place.column, 1);
    const int left_row = __shfl_up_sync(kAll, place.row, 1);
    const bool left_interior = __shfl_up_sync(kAll, static_cast<int>(interior), 1) != 0;
    joined = lane > 0 && interior && left_interior && left_column + 1 == place.column &&
             left_row == place.row;
    passed_on = __shfl_down_sync(kAll, static_cast<int>(joined), 1) != 0 && lane + 1 < kLanes;
  }

  float along_x = 0.0f, along_y = 0.0f;
  const std::int64_t sharing = task.batch / task.flow_batch;
  for (std::int64_t n = flow_index * sharing; n < (flow_index + 1) * sharing; ++n) {
    const Sample* grad = static_cast<const Sample*>(task.grad) + n * out_plane * task.channels +
                         (y * task.columns + x) * pixel_stride;
    const std::int64_t image_at = n * image_plane * task.channels;
    for (std::int64_t c = 0; c < task.channels; ++c) {
      const std::int64_t at = image_at + c * image_step;
      const float g = exists ? Traits::load(load_cached<1>(grad + c * out_step).sample[0]) : 0.0f;
      if (task.grad_flow != nullptr) {
        const Sample* image = static_cast<const Sample*>(task.image) + at;
        float value[4];
        for (int t = 0; t < 4; ++t) {
          value[t] = inside[t] ? Traits::load(load_cached<1>(image + offsets[t]).sample[0]) : 0.0f;
        }
        along_x += g * ((value[1] - value[0]) * wy[0] + (value[3] - value[2]) * wy[1]);
        along_y += g * ((value[2] - value[0]) * wx[0] + (value[3] - value[1]) * wx[1]);
      }
      if (task.grad_image != nullptr) {
        float shares[4];
        for (int t = 0; t < 4; ++t) shares[t] = g * (wx[t & 1] * wy[t >> 1]);
        const float top = __shfl_up_sync(kAll, shares[1], 1);
        const float bottom = __shfl_up_sync(kAll, shares[3], 1);
        if (joined) {
          shares[0] += top;
          shares[2] += bottom;
        }
        for (int t = 0; t < 4; ++t) {
          add_to_image(task.grad_image + at, offsets[t], shares[t],
                       inside[t] && !((t & 1) != 0 && passed_on));
        }
      }
    }
  }
  if (task.grad_flow == nullptr) return;
  constexpr float kFar = 1073741824.0f;
  if (!(fabsf(step.x) < kFar)) along_x = 0.0f;  // a NaN too
  if (!(fabsf(step.y) < kFar)) along_y = 0.0f;
  float* grad_flow = task.grad_flow + flow_index * task.flow_rows * task.flow_columns * 2;
  if (!upsampled) {
    if (exists) {
      grad_flow[2 * (y * task.columns + x)] = along_x;
      grad_flow[2 * (y * task.columns + x) + 1] = along_y;
    }
    return;
  }

  // Columns in the warp, rows in shared memory, then one addition per block and node.
  const int thread = static_cast<int>(threadIdx.y) * kLanes + lane;
  constexpr int kNodes = (kRows + 2) * (kLanes + 2);
  auto* nodes = &tile.nodes[0][0];
  for (int i = thread; i < kNodes; i += kLanes * kRows) nodes[i][0] = nodes[i][1] = 0.0f;
  __syncthreads();
  const int first_column =
      static_cast<int>(upsampled_position(first_x, task.columns, task.flow_columns).whole);
  const int first_row =
      static_cast<int>(upsampled_position(first_y, task.rows, task.flow_rows).whole);
  const float gx = in_flow.fx, hx = 1.0f - gx, gy = in_flow.fy, hy = 1.0f - gy;
  const int key = in_flow.column;
  const float sums[2][2] = {{sum_of_run(hx * along_x, key), sum_of_run(hx * along_y, key)},
                            {sum_of_run(gx * along_x, key), sum_of_run(gx * along_y, key)}};
  const int previous = __shfl_up_sync(kAll, key, 1);
  if (lane == 0 || previous != key) {
    for (int t = 0; t < 4; ++t) {
      const float weight = (t >> 1) != 0 ? gy : hy;
      float* node = tile.nodes[in_flow.row - first_row + (t >> 1)][key - first_column + (t & 1)];
      atomicAdd(node, weight * sums[t & 1][0]);
      atomicAdd(node + 1, weight * sums[t & 1][1]);
    }
  }
  __syncthreads();
  for (int i = thread; i < kNodes; i += kLanes * kRows) {
    const int row = first_row + i / (kLanes + 2), column = first_column + i % (kLanes + 2);
    // What lies past the last node has weight 0.
    if (row >= task.flow_rows || column >= task.flow_columns) continue;
    float* node = grad_flow + (row * task.flow_columns + column) * 2;
    if (nodes[i][0] != 0.0f) atomicAdd(node, nodes[i][0]);
    if (nodes[i][1] != 0.0f) atomicAdd(node + 1, nodes[i][1]);
  }
}

}  // namespace

void flow_warp_backward_cuda(const FlowWarpBackwardTask& task, std::uintptr_t stream_address) {
  const CudaDeviceGuard guard(task.grad);
  cudaStream_t stream = to_stream(stream_address);
  KernelTask kernel_task{task};
  kernel_task.flow_aligned = reinterpret_cast<std::uintptr_t>(task.flow) % sizeof(float2) == 0;
  const std::int64_t strips = (task.columns + kLanes - 1) / kLanes;
  const std::int64_t row_blocks = (task.rows + kRows - 1) / kRows;
  kernel_task.strips = static_cast<unsigned>(strips);
  kernel_task.row_blocks = static_cast<unsigned>(row_blocks);
  const unsigned grid = whole_grid(task.flow_batch, strips * row_blocks, "grad");
  const auto clear = [&](float* sums, std::int64_t count) {
    cuda_check(cudaMemsetAsync(sums, 0, static_cast<std::size_t>(count) * sizeof(float), stream),
               "clearing a gradient");
  };
  if (task.grad_image != nullptr) {
    clear(task.grad_image, task.batch * task.channels * task.height * task.width);
  }
  if (task.grad_flow != nullptr && is_upsampled(task)) {
    clear(task.grad_flow, task.flow_batch * task.flow_rows * task.flow_columns * 2);
  }
  const dim3 block(kLanes, kRows);
  if (task.dtype == DType::f16) {
    launch(flow_warp_backward_kernel<Half>, grid, block, 0, stream, kernel_task);
  } else if (task.dtype == DType::bf16) {
    launch(flow_warp_backward_kernel<BFloat16>, grid, block, 0, stream, kernel_task);
  } else {
    launch(flow_warp_backward_kernel<float>, grid, block, 0, stream, kernel_task);
  }
  cuda_check(cudaGetLastError(), "launching flow_warp_backward");
}

}  // namespace revisage
