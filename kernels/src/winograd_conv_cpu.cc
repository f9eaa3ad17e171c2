// The Winograd convolution on the CPU: units of tiles, each an independent task (Note [Lanes are
// tiles] in winograd_conv_kernels.h).
#include <algorithm>

#include "cpu_isa.h"
#include "winograd_conv_weights.h"

namespace revisage {
namespace {

// A transformed unit has to stay in L2, beside the sums and the weights that stream by.
constexpr std::int64_t kUnitBytes = 768 << 10;
// A thread takes 50 us for as many; waking a second one can take as long.
constexpr double kProductsAlone = 2e6;

const WinogradKernels& current_kernels() { return REVISAGE_CURRENT_KERNELS(winograd_kernels); }

std::int64_t divide_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }

bool is_small(const WinogradConvTask& task) {
  const std::int64_t tiles = task.batch * divide_up(task.rows(), 4) * divide_up(task.columns(), 4);
  return static_cast<double>(kWinogradPlaces * tiles) * static_cast<double>(task.in_channels) *
             static_cast<double>(task.out_channels) <
         kProductsAlone;
}

}  // namespace

WinogradConvWeights::WinogradConvWeights(const WinogradConvTask& task, Executor& executor,
                                         Workspace& workspace)
    : kernels_(current_kernels()), blocks_(winograd_blocks(task.out_channels, kernels_.rows)) {
  data_ = workspace.get(
      static_cast<std::size_t>(kWinogradPlaces * task.in_channels * task.out_channels));
  parallel_for(executor, blocks_, [&](std::int64_t index, int) {
    const WinogradBlock block = winograd_block(task.out_channels, blocks_, index);
    kernels_.pack_weights(task.weight, task.in_channels, block,
                          data_ + kWinogradPlaces * task.in_channels * block.first);
  });
}

void winograd_conv_cpu(const WinogradConvTask& task, const WinogradConvWeights& weights,
                       Executor& executor) {
  thread_local Workspace workspace;
  PoolExecutor alone(1);
  Executor& workers = is_small(task) ? alone : executor;
  const WinogradKernels& kernels = weights.kernels();
  WinogradCall call;
  call.out = task.out;
  call.x = task.x;
  call.weights = weights.data();
  call.bias = task.bias;
  call.residual = task.residual;
  call.skip = task.skip;
  call.batch = task.batch;
  call.in_channels = task.in_channels;
  call.out_channels = task.out_channels;
  call.height = task.height;
  call.width = task.width;
  call.rows = task.rows();
  call.columns = task.columns();
  call.tiles_down = divide_up(call.rows, 4);
  call.tiles_across = divide_up(call.columns, 4);
  call.origin = task.surroundings == Surroundings::none ? 1 : 0;
  call.reflection = task.surroundings == Surroundings::reflection;
  call.slope = task.activation.slope;
  call.ceiling = task.activation.ceiling;

  const std::int64_t lanes = kernels.lanes;
  const auto bytes = static_cast<std::int64_t>(sizeof(float)) * kWinogradPlaces * task.in_channels *
                     kUnitVectors * lanes;
  const int unit_vectors = bytes > kUnitBytes ? 1 : kUnitVectors;
  const std::int64_t vectors = divide_up(call.batch * call.tiles_down * call.tiles_across, lanes);
  const std::int64_t units = divide_up(vectors, unit_vectors);
  // Where units are too few for the threads, several threads transform the same one.
  const std::int64_t groups =
      std::clamp<std::int64_t>(workers.threads() / units, 1, weights.blocks());
  const std::int64_t scratch =
      winograd_scratch(task.in_channels, unit_vectors, lanes, kernels.rows);
  const std::int64_t slots = std::min<std::int64_t>(workers.threads(), units * groups);
  float* memory = workspace.get(static_cast<std::size_t>(slots * scratch));
  parallel_for(workers, units * groups, [&](std::int64_t index, int slot) {
    const std::int64_t unit = index / groups, group = index % groups;
    const std::int64_t first = unit * unit_vectors;
    kernels.compute(call, first * lanes,
                    static_cast<int>(std::min<std::int64_t>(unit_vectors, vectors - first)),
                    weights.blocks() * group / groups, weights.blocks() * (group + 1) / groups,
                    memory + slot * scratch);
  });
  workspace.trim();
}

void winograd_conv_cpu(const WinogradConvTask& task, int threads) {
  thread_local Workspace workspace;
  PoolExecutor executor(is_small(task) ? 1 : threads);
  const WinogradConvWeights weights(task, executor, workspace);
  winograd_conv_cpu(task, weights, executor);
  workspace.trim();
}

}  // namespace revisage
