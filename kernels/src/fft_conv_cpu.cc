// The Fourier unit on the CPU: transforms by blocks of sixteen channels, the 1x1 convolution by
// blocks of frequencies (Note [Fourier layout] in fft_conv_kernels.h).
#include <algorithm>
#include <cmath>

#include "cpu_isa.h"
#include "fft_conv_task.h"
#include "fft_plan.h"
#include "revisage/errors.h"
#include "threads.h"
#include "workspace.h"

namespace revisage {
namespace {

constexpr std::int64_t kRowsPerTask = 64;  // frequencies of one GEMM task: its rows stay in L2
constexpr std::int64_t kMaxSide = 1 << 24;

const FourierKernels& kernels() {
#ifdef REVISAGE_X86
  switch (current_cpu_isa()) {
    case CpuIsa::avx512:
      return fourier_kernels_avx512();
    case CpuIsa::avx2:
      return fourier_kernels_avx2();
    case CpuIsa::baseline:
      break;
  }
#endif
  return fourier_kernels_baseline();
}

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

class FourierUnit {
 public:
  FourierUnit(const FftConvTask& task, int threads, Workspace& workspace)
      : task_(task),
        kernels_(kernels()),
        across_(fft_plan(static_cast<int>(task.width))),
        down_(fft_plan(static_cast<int>(task.height))),
        in_blocks_(round_up(task.in_channels, kLanes) / kLanes),
        out_blocks_(round_up(task.out_channels, kLanes) / kLanes),
        depth_(in_blocks_ * 2 * kLanes),
        columns_(out_blocks_ * 2 * kLanes),
        frequencies_((task.width / 2 + 1) * task.height) {
    threads_ = resolve_threads(threads, task.batch * std::max(in_blocks_, out_blocks_) * 4);
    // As many images at once as give every thread some blocks.
    group_ =
        std::clamp<std::int64_t>(4 * threads_ / std::min(in_blocks_, out_blocks_), 1, task.batch);
    const std::int64_t packed_columns = round_up(columns_, kernels_.gemm_columns);
    const int largest = std::max(across_->plan.largest_radix, down_->plan.largest_radix);
    scratch_size_ = fourier_scratch(task.height, task.width, largest);
    const std::int64_t total = packed_columns * depth_ + 2 * columns_ +
                               group_ * frequencies_ * (depth_ + columns_) +
                               threads_ * scratch_size_;
    weights_ = workspace.get(static_cast<std::size_t>(total));
    scale_ = weights_ + packed_columns * depth_;
    shift_ = scale_ + columns_;
    spectrum_ = shift_ + columns_;
    mixed_ = spectrum_ + group_ * frequencies_ * depth_;
    scratch_ = mixed_ + group_ * frequencies_ * columns_;
  }

  void run() {
    pack();
    for (std::int64_t first = 0; first < task_.batch; first += group_) {
      const std::int64_t images = std::min(group_, task_.batch - first);
      parallel_for(images * in_blocks_, threads_, [&](std::int64_t index, int slot) {
        forward(first, index / in_blocks_, index % in_blocks_, slot);
      });
      const std::int64_t rows = images * frequencies_;
      parallel_for((rows + kRowsPerTask - 1) / kRowsPerTask, threads_,
                   [&](std::int64_t index, int) { multiply(index * kRowsPerTask, rows); });
      parallel_for(images * out_blocks_, threads_, [&](std::int64_t index, int slot) {
        inverse(first, index / out_blocks_, index % out_blocks_, slot);
      });
    }
  }

 private:
  // Channel and part (0 re, 1 im) of a position in the blocked order, as an index into the
  // interleaved order; -1 for the lanes past the last channel.
  static std::int64_t interleaved(std::int64_t position, std::int64_t channels) {
    const std::int64_t block = position / (2 * kLanes), rest = position % (2 * kLanes);
    const std::int64_t channel = block * kLanes + rest % kLanes;
    return channel < channels ? 2 * channel + rest / kLanes : -1;
  }

  // Weights by blocks of columns, in blocked channel order, transposed; scale with the forward
  // transform's factor: 1/sqrt(HW) for "ortho", 1/2 for the pair of rows.
  void pack() {
    const std::int64_t width = kernels_.gemm_columns;
    const double area = static_cast<double>(task_.height) * static_cast<double>(task_.width);
    const auto factor = static_cast<float>(0.5 / std::sqrt(area));
    parallel_for(round_up(columns_, width) / width, threads_, [&](std::int64_t block, int) {
      float* packed = weights_ + block * width * depth_;
      for (std::int64_t j = 0; j < width; ++j) {
        const std::int64_t column = block * width + j;
        const std::int64_t row = column < columns_ ? interleaved(column, task_.out_channels) : -1;
        if (column < columns_) {
          scale_[column] = row < 0 ? 0.0f : task_.scale[row] * factor;
          shift_[column] = row < 0 ? 0.0f : task_.shift[row];
        }
        for (std::int64_t k = 0; k < depth_; ++k) {
          const std::int64_t from = row < 0 ? -1 : interleaved(k, task_.in_channels);
          packed[k * width + j] =
              from < 0 ? 0.0f : task_.weight[row * 2 * task_.in_channels + from];
        }
      }
    });
  }

  FourierBlock block(std::int64_t channels, std::int64_t index, std::int64_t stride, int slot) {
    FourierBlock block;
    block.across = &across_->plan;
    block.down = &down_->plan;
    block.height = task_.height;
    block.width = task_.width;
    block.channels = std::min<std::int64_t>(kLanes, channels - index * kLanes);
    block.spectrum_stride = stride;
    block.scratch = scratch_ + slot * scratch_size_;
    return block;
  }

  void forward(std::int64_t first, std::int64_t image, std::int64_t index, int slot) {
    const std::int64_t plane = task_.height * task_.width;
    const float* planes = task_.x + ((first + image) * task_.in_channels + index * kLanes) * plane;
    kernels_.forward(block(task_.in_channels, index, depth_, slot), planes,
                     spectrum_ + image * frequencies_ * depth_ + index * 2 * kLanes);
  }

  void multiply(std::int64_t row, std::int64_t rows) {
    GemmBlock gemm;
    gemm.spectrum = spectrum_ + row * depth_;
    gemm.weights = weights_;
    gemm.scale = scale_;
    gemm.shift = shift_;
    gemm.out = mixed_ + row * columns_;
    gemm.rows = std::min(kRowsPerTask, rows - row);
    gemm.depth = depth_;
    gemm.columns = columns_;
    kernels_.gemm(gemm);
  }

  void inverse(std::int64_t first, std::int64_t image, std::int64_t index, int slot) {
    const std::int64_t plane = task_.height * task_.width;
    float* planes = task_.out + ((first + image) * task_.out_channels + index * kLanes) * plane;
    const auto factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(plane)));
    kernels_.inverse(block(task_.out_channels, index, columns_, slot),
                     mixed_ + image * frequencies_ * columns_ + index * 2 * kLanes, planes, factor);
  }

  const FftConvTask& task_;
  const FourierKernels& kernels_;
  std::shared_ptr<const OwnedFftPlan> across_, down_;
  std::int64_t in_blocks_, out_blocks_, depth_, columns_, frequencies_;
  std::int64_t group_ = 1, scratch_size_ = 0;
  int threads_ = 1;
  float *weights_, *scale_, *shift_, *spectrum_, *mixed_, *scratch_;
};

}  // namespace

void fft_conv_cpu(const FftConvTask& task, int threads) {
  if (task.height >= kMaxSide || task.width >= kMaxSide) {
    throw ShapeError("x must be smaller than 2^24 per side");
  }
  thread_local Workspace workspace;
  FourierUnit(task, threads, workspace).run();
  workspace.trim();
}

}  // namespace revisage
