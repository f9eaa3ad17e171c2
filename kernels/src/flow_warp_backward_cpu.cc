// Compiled with -ffp-contract=off, so that positions are those of the forward warp.
//
// Both gradients are the same bits on any number of threads, because every sum has one order:
// grad_image is cut into bands of its own rows, and each band takes its shares in the order of the
// output's pixels; grad_flow is cut into bands of flow rows, and each adds up whole output rows.
// Rows are done in chunks: first where their pixels lie, then channel by channel what that means.
#include <algorithm>
#include <cmath>
#include <vector>

#include "flow_warp_task.h"
#include "threads.h"

namespace revisage {
namespace {

constexpr std::int64_t kFlowRowsPerTask = 16;
constexpr std::int64_t kChunk = 256;
constexpr unsigned kAllTaps = 15;

struct RowRange {
  std::int64_t first, last;  // both inclusive
};

class WarpGradient {
 public:
  explicit WarpGradient(const FlowWarpBackwardTask& task)
      : task_(task),
        pixel_stride_(task.interleaved ? task.channels : 1),
        image_plane_(task.interleaved ? 1 : task.height * task.width),
        out_plane_(task.interleaved ? 1 : task.rows * task.columns),
        columns_(static_cast<std::size_t>(task.columns)) {
    for (std::int64_t x = 0; x < task.columns; ++x) {
      columns_[static_cast<std::size_t>(x)] =
          upsampled_position(x, task.columns, task.flow_columns);
    }
  }

  // The rows of the image that output row (n, y) reads.
  RowRange rows_read(std::int64_t n, std::int64_t y) const {
    RowRange range{task_.height, -1};
    const FlowRow flow(*this, n, y);
    for (std::int64_t x = 0; x < task_.columns; ++x) {
      const SplitPosition down = split_position(flow.at(x).dy);
      for (int below = 0; below < 2; ++below) {
        const std::int64_t row = fold(down.whole + y + below, task_.height);
        range.first = std::min(range.first, row);
        range.last = std::max(range.last, row);
      }
    }
    return range;
  }

  // Adds the shares of output row (n, y) to the rows [begin, end) of grad_image.
  void add_image_row(std::int64_t n, std::int64_t y, std::int64_t begin, std::int64_t end) const {
    const FlowRow flow(*this, n, y);
    Chunk chunk;
    for (std::int64_t x = 0; x < task_.columns; x += kChunk) {
      chunk.place(*this, flow, x, y, begin, end);
      for (std::int64_t c = 0; c < task_.channels; ++c) {
        const float* grad = out_row(task_.grad, n, y, c) + x * pixel_stride_;
        float* image = image_plane(task_.grad_image, n, c);
        for (std::int64_t i = 0; i < chunk.count; ++i) {
          const float g = grad[i * pixel_stride_];
          const float left = g * chunk.weight_x[0][i], right = g * chunk.weight_x[1][i];
          const float share[4] = {left * chunk.weight_y[0][i], right * chunk.weight_y[0][i],
                                  left * chunk.weight_y[1][i], right * chunk.weight_y[1][i]};
          for (int t = 0; t < 4; ++t) {
            if (chunk.taps[i] >> t & 1) image[chunk.offset[t][i]] += share[t];
          }
        }
      }
    }
  }

  // Adds the gradient in the flow of output row (n, y), brought to the flow's columns.
  void add_flow_row(std::int64_t n, std::int64_t y, double* line) const {
    const FlowRow flow(*this, n, y);
    Chunk chunk;
    for (std::int64_t x = 0; x < task_.columns; x += kChunk) {
      chunk.place(*this, flow, x, y, 0, task_.height);
      float along_x[kChunk] = {}, along_y[kChunk] = {};
      for (std::int64_t c = 0; c < task_.channels; ++c) {
        const float* grad = out_row(task_.grad, n, y, c) + x * pixel_stride_;
        const float* image = image_plane(static_cast<const float*>(task_.image), n, c);
        for (std::int64_t i = 0; i < chunk.count; ++i) {
          float value[4];
          for (int t = 0; t < 4; ++t) {
            value[t] = chunk.taps[i] >> t & 1 ? image[chunk.offset[t][i]] : 0.0f;
          }
          const float upper = value[1] - value[0], lower = value[3] - value[2];
          const float left = value[2] - value[0], right = value[3] - value[1];
          const float g = grad[i * pixel_stride_];
          along_x[i] += g * (upper * chunk.weight_y[0][i] + lower * chunk.weight_y[1][i]);
          along_y[i] += g * (left * chunk.weight_x[0][i] + right * chunk.weight_x[1][i]);
        }
      }
      for (std::int64_t i = 0; i < chunk.count; ++i) {
        if (!chunk.moves_x[i]) along_x[i] = 0.0f;
        if (!chunk.moves_y[i]) along_y[i] = 0.0f;
        const SplitPosition& at = columns_[static_cast<std::size_t>(x + i)];
        const std::int64_t next = std::min(at.whole + 1, task_.flow_columns - 1);
        add(line, at.whole, 1.0f - at.fraction, along_x[i], along_y[i]);
        add(line, next, at.fraction, along_x[i], along_y[i]);
      }
    }
  }

 private:
  struct Step {
    float dx, dy;
  };

  // The flow along one output row (Note [Flow upsampling]).
  class FlowRow {
   public:
    FlowRow(const WarpGradient& warp, std::int64_t n, std::int64_t y) : warp_(warp) {
      const FlowWarpBackwardTask& task = warp.task_;
      const SplitPosition at = upsampled_position(y, task.rows, task.flow_rows);
      const std::int64_t row = (task.flow_batch > 1 ? n * task.flow_rows : 0) + at.whole;
      const std::int64_t below = at.whole + 1 < task.flow_rows ? 1 : 0;
      top_ = task.flow + row * task.flow_columns * 2;
      bottom_ = top_ + below * task.flow_columns * 2;
      gy_ = at.fraction;
    }

    Step at(std::int64_t x) const {
      const FlowWarpBackwardTask& task = warp_.task_;
      if (task.flow_rows == task.rows && task.flow_columns == task.columns) {
        return {top_[2 * x], top_[2 * x + 1]};  // a NaN stays with its pixel
      }
      const SplitPosition& column = warp_.columns_[static_cast<std::size_t>(x)];
      const std::int64_t left = 2 * column.whole;
      const std::int64_t right = 2 * std::min(column.whole + 1, task.flow_columns - 1);
      const float gx = column.fraction, hx = 1.0f - gx, gy = gy_, hy = 1.0f - gy;
      const auto mixed = [&](int k) {
        const float upper = top_[left + k] * hx + top_[right + k] * gx;
        const float lower = bottom_[left + k] * hx + bottom_[right + k] * gx;
        return upper * hy + lower * gy;
      };
      return {mixed(0), mixed(1)};
    }

   private:
    const WarpGradient& warp_;
    const float *top_, *bottom_;
    float gy_;
  };

  // The taps of up to kChunk pixels of one output row: t & 1 is right, t >> 1 is below.
  struct Chunk {
    // Pixels from (x, y) on. Taps outside of the rows [begin, end) are left out, as are those that
    // read as 0.
    void place(const WarpGradient& warp, const FlowRow& flow, std::int64_t x, std::int64_t y,
               std::int64_t begin, std::int64_t end) {
      const FlowWarpBackwardTask& task = warp.task_;
      const bool zero = task.padding == Padding::zero;
      count = std::min(kChunk, task.columns - x);
      for (std::int64_t i = 0; i < count; ++i) {
        const Step step = flow.at(x + i);
        const SplitPosition across = split_position(step.dx), down = split_position(step.dy);
        weight_x[0][i] = 1.0f - (weight_x[1][i] = across.fraction);
        weight_y[0][i] = 1.0f - (weight_y[1][i] = down.fraction);
        moves_x[i] = moves(step.dx);
        moves_y[i] = moves(step.dy);
        taps[i] = kAllTaps;
        const std::int64_t left = across.whole + x + i, top = down.whole + y;
        if (left >= 0 && left + 1 < task.width && top >= begin && top + 1 < end) {
          const std::int64_t stride = warp.pixel_stride_, at = (top * task.width + left) * stride;
          offset[0][i] = at;
          offset[1][i] = at + stride;
          offset[2][i] = at + task.width * stride;
          offset[3][i] = at + (task.width + 1) * stride;
          continue;
        }
        std::int64_t at_column[2], at_row[2];
        for (int k = 0; k < 2; ++k) {
          const std::int64_t c = left + k, r = top + k;
          const std::int64_t column = warp.fold(c, task.width), row = warp.fold(r, task.height);
          if (zero && c != column) taps[i] &= k == 0 ? 10u : 5u;
          if ((zero && r != row) || row < begin || row >= end) taps[i] &= k == 0 ? 12u : 3u;
          at_column[k] = column * warp.pixel_stride_;
          at_row[k] = row * task.width * warp.pixel_stride_;
        }
        for (int t = 0; t < 4; ++t) offset[t][i] = at_row[t >> 1] + at_column[t & 1];
      }
    }

    std::int64_t count, offset[4][kChunk];
    float weight_x[2][kChunk], weight_y[2][kChunk];
    std::uint8_t taps[kChunk];  // bit t: tap t counts
    bool moves_x[kChunk], moves_y[kChunk];
  };

  static bool moves(float step) { return std::fabs(step) < 1073741824.0f; }  // a NaN does not

  std::int64_t fold(std::int64_t index, std::int64_t size) const {
    return fold_index(index, size, task_.padding == Padding::reflect);
  }

  // The first sample of channel c in row y of image n.
  const float* out_row(const void* out, std::int64_t n, std::int64_t y, std::int64_t c) const {
    return static_cast<const float*>(out) + n * task_.rows * task_.columns * task_.channels +
           y * task_.columns * pixel_stride_ + c * out_plane_;
  }

  // The first sample of channel c in image n.
  template <typename Sample>
  Sample* image_plane(Sample* images, std::int64_t n, std::int64_t c) const {
    return images + n * task_.height * task_.width * task_.channels + c * image_plane_;
  }

  static void add(double* line, std::int64_t column, float weight, float along_x, float along_y) {
    line[2 * column] += static_cast<double>(weight) * along_x;
    line[2 * column + 1] += static_cast<double>(weight) * along_y;
  }

  const FlowWarpBackwardTask& task_;
  std::int64_t pixel_stride_, image_plane_, out_plane_;
  std::vector<SplitPosition> columns_;  // of output columns in the flow
};

void grad_image_cpu(const FlowWarpBackwardTask& task, const WarpGradient& gradient, int threads) {
  // More bands than threads, since a warp may leave parts of the image unread.
  const int available = resolve_threads(threads, task.batch * task.height);
  const std::int64_t wanted = available > 1 ? (4 * available + task.batch - 1) / task.batch : 1;
  const std::int64_t bands = std::min(task.height, wanted);
  std::vector<RowRange> ranges(static_cast<std::size_t>(task.batch * task.rows),
                               {0, task.height - 1});
  if (bands > 1) {
    parallel_for(task.batch * task.rows, available, [&](std::int64_t index, int) {
      ranges[static_cast<std::size_t>(index)] =
          gradient.rows_read(index / task.rows, index % task.rows);
    });
  }
  parallel_for(task.batch * bands, available, [&](std::int64_t index, int) {
    const std::int64_t n = index / bands, band = index % bands;
    const std::int64_t begin = task.height * band / bands, end = task.height * (band + 1) / bands;
    const std::int64_t line = task.width * (task.interleaved ? task.channels : 1);
    float* image = task.grad_image + n * task.height * task.width * task.channels;
    for (std::int64_t plane = 0; plane < (task.interleaved ? 1 : task.channels); ++plane) {
      std::fill(image + (plane * task.height + begin) * line,
                image + (plane * task.height + end) * line, 0.0f);
    }
    for (std::int64_t y = 0; y < task.rows; ++y) {
      const RowRange& range = ranges[static_cast<std::size_t>(n * task.rows + y)];
      if (range.first < end && range.last >= begin) gradient.add_image_row(n, y, begin, end);
    }
  });
}

void grad_flow_cpu(const FlowWarpBackwardTask& task, const WarpGradient& gradient, int threads) {
  const std::int64_t bands = (task.flow_rows + kFlowRowsPerTask - 1) / kFlowRowsPerTask;
  const std::int64_t tasks = task.flow_batch * bands, line = 2 * task.flow_columns;
  const std::int64_t sharing = task.batch / task.flow_batch;  // images of one flow
  const int workers = resolve_threads(threads, tasks);
  // For each worker a band, and the output row that is added to it: allocated here, where running
  // out of memory is an error that the caller sees.
  const std::int64_t most_rows = std::min(task.flow_rows, kFlowRowsPerTask);
  const std::int64_t scratch_size = (most_rows + 1) * line;
  std::vector<double> scratch(static_cast<std::size_t>(workers * scratch_size));
  parallel_for(tasks, workers, [&](std::int64_t index, int slot) {
    const std::int64_t flow = index / bands, begin = index % bands * kFlowRowsPerTask;
    const std::int64_t end = std::min(task.flow_rows, begin + kFlowRowsPerTask);
    double* sums = scratch.data() + slot * scratch_size;
    double* sums_end = sums + (end - begin) * line;
    double* one_row = sums + most_rows * line;
    std::fill(sums, sums_end, 0.0);
    const auto add = [&](std::int64_t row, double weight) {
      if (row < begin || row >= end) return;
      double* to = sums + (row - begin) * line;
      for (std::int64_t i = 0; i < line; ++i) to[i] += weight * one_row[i];
    };
    for (std::int64_t y = 0; y < task.rows; ++y) {
      const SplitPosition at = upsampled_position(y, task.rows, task.flow_rows);
      if (at.whole >= end || at.whole + (at.fraction > 0.0f) < begin) continue;
      std::fill(one_row, one_row + line, 0.0);
      for (std::int64_t n = flow * sharing; n < (flow + 1) * sharing; ++n) {
        gradient.add_flow_row(n, y, one_row);
      }
      add(at.whole, 1.0f - at.fraction);
      if (at.fraction > 0.0f) add(at.whole + 1, at.fraction);
    }
    std::copy(sums, sums_end, task.grad_flow + (flow * task.flow_rows + begin) * line);
  });
}

}  // namespace

void flow_warp_backward_cpu(const FlowWarpBackwardTask& task, int threads) {
  const WarpGradient gradient(task);
  if (task.grad_image != nullptr) grad_image_cpu(task, gradient, threads);
  if (task.grad_flow != nullptr) grad_flow_cpu(task, gradient, threads);
}

}  // namespace revisage
