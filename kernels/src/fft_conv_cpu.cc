// The Fourier unit on the CPU: three steps of independent tasks (Note [Fourier layout] in
// fft_conv_kernels.h), for as many images at a time as the caches like.
#include <algorithm>
#include <cmath>

#include "cpu_isa.h"
#include "fft_conv_weights.h"
#include "fft_plan.h"
#include "revisage/errors.h"

namespace revisage {
namespace {

constexpr std::int64_t kMaxSide = 1 << 24;
constexpr std::int64_t kRowsPerTask = 16;  // even: rows are transformed in pairs
constexpr std::int64_t kSpectrumBytes = 1 << 20;
// A thread takes 50 us for as many in the product; waking a second one can take as long.
constexpr double kOperationsAlone = 6e6;

const FourierKernels& current_kernels() { return REVISAGE_CURRENT_KERNELS(fourier_kernels); }

bool is_small(const FftConvTask& task) {
  const std::int64_t frequencies = task.batch * task.height * (task.width / 2 + 1);
  return 8.0 * static_cast<double>(frequencies) * static_cast<double>(task.in_channels) *
             static_cast<double>(task.out_channels) <
         kOperationsAlone;
}

std::int64_t divide_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }

class FourierUnit {
 public:
  FourierUnit(const FftConvTask& task, const FftConvWeights& weights, Executor& executor,
              Workspace& workspace)
      : task_(task),
        weights_(weights),
        executor_(executor),
        across_(fft_plan(static_cast<int>(task.width))),
        down_(fft_plan(static_cast<int>(task.height))),
        lanes_(weights.kernels().lanes),
        columns_(task.width / 2 + 1),
        chunks_(divide_up(task.height, kRowsPerTask)) {
    const std::int64_t blocks = std::max(weights.in_blocks(), weights.out_blocks());
    block_stride_ = task.height * 2 * lanes_;
    // One entry more than needed: a stride of many powers of two would put all columns of a row
    // into the same few cache sets.
    column_stride_ = (blocks * task.height + 1) * 2 * lanes_;
    image_stride_ = columns_ * column_stride_;
    const auto image_bytes = static_cast<std::int64_t>(sizeof(float)) * image_stride_;
    group_ = std::clamp<std::int64_t>(kSpectrumBytes / image_bytes, 1, task.batch);

    const std::int64_t shift_size = weights.out_blocks() * 2 * lanes_;
    scratch_size_ = std::max(row_scratch(task.width, lanes_, across_->plan.largest_radix),
                             column_scratch(column(nullptr), lanes_));
    float* memory = workspace.get(static_cast<std::size_t>(shift_size + group_ * image_stride_ +
                                                           executor.threads() * scratch_size_));
    shift_ = memory;
    spectrum_ = shift_ + shift_size;
    scratch_ = spectrum_ + group_ * image_stride_;
    pack_shift();
  }

  void run() {
    const FourierKernels& kernels = weights_.kernels();
    const std::int64_t plane = task_.height * task_.width;
    for (std::int64_t first = 0; first < task_.batch; first += group_) {
      const std::int64_t images = std::min(group_, task_.batch - first);
      for_row_chunks(images, weights_.in_blocks(), task_.in_channels,
                     [&](std::int64_t image, std::int64_t channel, const RowBlock& block,
                         std::int64_t begin, std::int64_t end) {
                       const std::int64_t at = (first + image) * task_.in_channels + channel;
                       kernels.forward_rows(block, task_.x + at * plane, begin, end);
                     });
      parallel_for(executor_, images * columns_, [&](std::int64_t index, int slot) {
        // The columns at both ends are short tasks, which belong at the end.
        const std::int64_t image = index % images, kx = (index / images + 1) % columns_;
        Column task = column(spectrum_ + image * image_stride_ + kx * column_stride_);
        task.own_conjugate = kx == 0 || 2 * kx == task_.width;
        task.scratch = scratch(slot);
        kernels.mix_column(task);
      });
      for_row_chunks(images, weights_.out_blocks(), task_.out_channels,
                     [&](std::int64_t image, std::int64_t channel, const RowBlock& block,
                         std::int64_t begin, std::int64_t end) {
                       const std::int64_t at = (first + image) * task_.out_channels + channel;
                       kernels.inverse_rows(block, task_.out + at * plane, begin, end);
                     });
    }
  }

 private:
  // Calls work(image, first channel, block, first row, last row) for all rows of all blocks.
  template <typename Work>
  void for_row_chunks(std::int64_t images, std::int64_t blocks, std::int64_t channels,
                      const Work& work) {
    parallel_for(executor_, images * blocks * chunks_, [&](std::int64_t index, int slot) {
      const std::int64_t begin = index % chunks_ * kRowsPerTask;
      const std::int64_t image = index / chunks_ / blocks, of_image = index / chunks_ % blocks;
      RowBlock block;
      block.across = &across_->plan;
      block.height = task_.height;
      block.width = task_.width;
      block.channels = std::min(lanes_, channels - of_image * lanes_);
      block.spectrum = spectrum_ + image * image_stride_ + of_image * block_stride_;
      block.column_stride = column_stride_;
      block.scratch = scratch(slot);
      work(image, of_image * lanes_, block, begin, std::min(task_.height, begin + kRowsPerTask));
    });
  }

  Column column(float* spectrum) const {
    Column column;
    column.down = &down_->plan;
    column.height = task_.height;
    column.in_blocks = weights_.in_blocks();
    column.out_blocks = weights_.out_blocks();
    column.spectrum = spectrum;
    column.weights = weights_.data();
    column.shift = shift_;
    // Both orthonormal factors, and 1/2 for the pairs of rows. The factor of the inverse transform
    // may go before the ReLU, because it is positive.
    column.factor = static_cast<float>(
        0.5 / (static_cast<double>(task_.height) * static_cast<double>(task_.width)));
    return column;
  }

  // The inverse transform's factor belongs to the shift as well.
  void pack_shift() {
    const double area = static_cast<double>(task_.height) * static_cast<double>(task_.width);
    const auto factor = static_cast<float>(1 / std::sqrt(area));
    for (std::int64_t channel = 0; channel < weights_.out_blocks() * lanes_; ++channel) {
      float* to = shift_ + channel / lanes_ * 2 * lanes_ + channel % lanes_;
      const bool used = channel < task_.out_channels;
      to[0] = used ? task_.shift[2 * channel] * factor : 0.0f;
      to[lanes_] = used ? task_.shift[2 * channel + 1] * factor : 0.0f;
    }
  }

  float* scratch(int slot) const { return scratch_ + slot * scratch_size_; }

  const FftConvTask& task_;
  const FftConvWeights& weights_;
  Executor& executor_;
  std::shared_ptr<const OwnedFftPlan> across_, down_;
  std::int64_t lanes_, columns_, chunks_;
  std::int64_t block_stride_, column_stride_, image_stride_;  // floats
  std::int64_t group_ = 1, scratch_size_ = 0;
  float *shift_ = nullptr, *spectrum_ = nullptr, *scratch_ = nullptr;
};

}  // namespace

FftConvWeights::FftConvWeights(const FftConvTask& task, Executor& executor, Workspace& workspace)
    : kernels_(current_kernels()),
      in_blocks_(divide_up(task.in_channels, kernels_.lanes)),
      out_blocks_(divide_up(task.out_channels, kernels_.lanes)) {
  const std::int64_t block_size = in_blocks_ * 4 * kernels_.lanes * kernels_.lanes;
  data_ = workspace.get(static_cast<std::size_t>(out_blocks_ * block_size));
  parallel_for(executor, out_blocks_, [&](std::int64_t block, int) {
    kernels_.pack_weights(task.weight, task.scale, task.in_channels, task.out_channels, block,
                          data_ + block * block_size);
  });
}

void fft_conv_cpu(const FftConvTask& task, const FftConvWeights& weights, Executor& executor) {
  if (task.height >= kMaxSide || task.width >= kMaxSide) {
    throw ShapeError("x must be smaller than 2^24 per side");
  }
  thread_local Workspace workspace;
  PoolExecutor alone(1);
  FourierUnit(task, weights, is_small(task) ? alone : executor, workspace).run();
  workspace.trim();
}

void fft_conv_cpu(const FftConvTask& task, int threads) {
  thread_local Workspace workspace;
  PoolExecutor executor(is_small(task) ? 1 : threads);
  const FftConvWeights weights(task, executor, workspace);
  fft_conv_cpu(task, weights, executor);
  workspace.trim();
}

}  // namespace revisage
