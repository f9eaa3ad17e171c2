// What a call computes once, and which thread does which rows; the loops are in flow_warp_loops.h.
#include <algorithm>
#include <vector>

#include "cpu_isa.h"
#include "dispatch.h"
#include "flow_warp_kernels.h"
#include "flow_warp_task.h"
#include "threads.h"

namespace revisage {
namespace {

constexpr std::int64_t kRowsPerTask = 32;

const WarpKernels& kernels() { return REVISAGE_CURRENT_KERNELS(warp_kernels); }

WarpRows rows_of(const WarpKernels& kernels, std::uint8_t) { return kernels.u8; }
WarpRows rows_of(const WarpKernels& kernels, std::uint16_t) { return kernels.u16; }
WarpRows rows_of(const WarpKernels& kernels, Half) { return kernels.f16; }
WarpRows rows_of(const WarpKernels& kernels, float) { return kernels.f32; }

std::vector<FlowPosition> flow_positions(std::int64_t count, std::int64_t size) {
  std::vector<FlowPosition> positions;
  positions.reserve(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    const SplitPosition at = upsampled_position(i, count, size);
    positions.push_back({static_cast<std::int32_t>(at.whole),
                         static_cast<std::int32_t>(std::min(at.whole + 1, size - 1)), at.fraction});
  }
  return positions;
}

}  // namespace

void flow_warp_cpu(const FlowWarpTask& task, int threads) {
  std::vector<FlowPosition> across, down;
  if (task.flow != nullptr && (task.flow_rows != task.rows || task.flow_columns != task.columns)) {
    across = flow_positions(task.columns, task.flow_columns);
    down = flow_positions(task.rows, task.flow_rows);
  }
  const bool upsampled = !across.empty();
  const Affine& m = task.matrix;
  const WarpImage first = {task.image,
                           task.out,
                           task.channels,
                           task.height,
                           task.width,
                           task.rows,
                           task.columns,
                           task.interleaved,
                           task.padding == Padding::zero,
                           task.padding == Padding::reflect,
                           task.flow,
                           task.flow_columns,
                           upsampled ? across.data() : nullptr,
                           upsampled ? down.data() : nullptr,
                           {m.a, m.b, m.c, m.d, m.e, m.f}};
  const std::int64_t pixel_bytes =
      task.channels * static_cast<std::int64_t>(sample_bytes(task.dtype));
  const std::int64_t blocks = (task.rows + kRowsPerTask - 1) / kRowsPerTask;
  const std::int64_t tasks = task.batch * blocks;
  const int workers = resolve_threads(threads, tasks);
  const std::int64_t scratch_size = upsampled ? warp_scratch(task.columns) : 0;
  std::vector<float> scratch(static_cast<std::size_t>(workers * scratch_size));
  WarpRows rows = nullptr;
  dispatch_sample(task.dtype, [&](auto sample) { rows = rows_of(kernels(), sample); });
  parallel_for(tasks, workers, [&](std::int64_t index, int slot) {
    const std::int64_t n = index / blocks, begin = index % blocks * kRowsPerTask;
    WarpImage image = first;
    image.image =
        static_cast<const char*>(first.image) + n * task.height * task.width * pixel_bytes;
    image.out = static_cast<char*>(first.out) + n * task.rows * task.columns * pixel_bytes;
    if (task.flow_batch > 1) image.flow += n * task.flow_rows * task.flow_columns * 2;
    rows(image, begin, std::min(task.rows, begin + kRowsPerTask),
         scratch.data() + slot * scratch_size);
  });
}

}  // namespace revisage
