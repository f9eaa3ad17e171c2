// The compositor on the CPU: the edit is packed for the kernels, then rows are edited in place. Out
// of place they are copied first, a row at a time, so that the photo is read once and written once.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "composite_kernels.h"
#include "composite_task.h"
#include "cpu_isa.h"
#include "memory_copy.h"
#include "threads.h"
#include "workspace.h"

namespace revisage {
namespace {

constexpr std::int64_t kRowsPerTask = 16;
// Photos of more bytes have left the caches before anybody reads the result.
constexpr std::int64_t kStreamedBytes = 8 << 20;
// Rows of the square that a planar edit goes through for a few pixels of the photo; where a turned
// square needs more, its pixels are faster one by one.
constexpr double kMostRows = 6;

const CompositeKernels& kernels() {
#ifdef REVISAGE_X86
  switch (current_cpu_isa()) {
    case CpuIsa::avx512:
      return composite_kernels_avx512();
    case CpuIsa::avx2:
      return composite_kernels_avx2();
    case CpuIsa::baseline:
      break;
  }
#endif
  return composite_kernels_baseline();
}

EditRow edit_row_of(DType dtype) {
  switch (dtype) {
    case DType::u8:
      return kernels().u8;
    case DType::u16:
      return kernels().u16;
    case DType::f16:
      return kernels().f16;
    default:
      return kernels().f32;
  }
}

bool fits_planar(const CompositeTask& task) {
  const int lanes = kernels().lanes;
  return lanes > 0 && std::fabs(task.matrix.a) * (lanes - 1) < lanes - 2.01 &&
         std::fabs(task.matrix.d) * (lanes - 1) < kMostRows;
}

// One row of a packed edit, from a row of the square or from none.
void pack_row(const CompositeTask& task, const PackedEdit& edit, std::int64_t first_channel,
              std::int64_t row, float* to) {
  const std::int64_t between_channels = edit.planar ? edit.stride : 1;
  const std::int64_t between_pixels = edit.planar ? 1 : kEditChannels + 1;
  const std::int64_t planes = edit.planar ? 1 + edit.used : kEditChannels + 1;
  std::fill(to, to + planes * edit.stride, 0.0f);
  if (row < 0 || row >= task.rows) return;
  const float* mask = task.mask + row * task.columns;
  const float* delta = task.delta + row * task.columns * task.delta_channels + first_channel;
  to += between_pixels;  // the ring
  float* mask_to = to + (edit.planar ? 0 : kEditChannels);
  for (std::int64_t x = 0; x < task.columns; ++x) mask_to[x * between_pixels] = mask[x];
  for (std::int64_t k = 0; k < edit.used; ++k) {
    float* delta_to = to + (edit.planar ? 1 + k : k) * between_channels;
    for (std::int64_t x = 0; x < task.columns; ++x) {
      delta_to[x * between_pixels] = delta[x * task.delta_channels + k];
    }
  }
}

// Narrows [begin, end) to the x with -1 < slope * x + offset < size. The sum is monotone in x, its
// roundings included, so these are an interval; division finds it but for a pixel or two.
void narrow_span(double slope, double offset, std::int64_t size, std::int64_t& begin,
                 std::int64_t& end) {
  const auto inside = [&](std::int64_t x) {
    const double position = slope * static_cast<double>(x) + offset;
    return position > -1.0 && position < static_cast<double>(size);
  };
  if (std::fabs(slope) >= 1e-9) {
    double low = (-1.0 - offset) / slope, high = (static_cast<double>(size) - offset) / slope;
    if (low > high) std::swap(low, high);
    const auto first = static_cast<double>(begin), last = static_cast<double>(end);
    begin = static_cast<std::int64_t>(std::clamp(std::floor(low) - 1, first, last));
    end = static_cast<std::int64_t>(std::clamp(std::ceil(high) + 2, first, last));
  }
  while (begin < end && !inside(begin)) ++begin;
  while (begin < end && !inside(end - 1)) --end;
}

class Compositor {
 public:
  Compositor(const CompositeTask& task, int threads, Workspace& workspace)
      : task_(task),
        edit_row_(edit_row_of(task.dtype)),
        sample_bytes_(sample_bytes(task.dtype)),
        row_bytes_(static_cast<std::size_t>(task.width * task.channels) * sample_bytes_),
        stream_(static_cast<std::int64_t>(row_bytes_) * task.height > kStreamedBytes) {
    first_row_ = in_place() ? task.y0 : 0;
    end_row_ = in_place() ? task.y1 : task.height;
    bands_ = (end_row_ - first_row_ + kRowsPerTask - 1) / kRowsPerTask;
    threads_ = resolve_threads(threads, bands_);
    pack(workspace);
  }

  void run() {
    parallel_for(bands_, threads_, [&](std::int64_t band, int slot) {
      const std::int64_t begin = first_row_ + band * kRowsPerTask;
      const std::int64_t end = std::min(end_row_, begin + kRowsPerTask);
      for (std::int64_t y = begin; y < end; ++y) composite_row(y, slot);
    });
  }

 private:
  bool in_place() const { return task_.out == task_.original; }

  void pack(Workspace& workspace) {
    PackedEdit edit;
    edit.planar = fits_planar(task_);
    edit.stride = (task_.columns + 2 + kernels().lanes + 15) / 16 * 16;
    edit.rows = task_.rows;
    edit.columns = task_.columns;
    edit.strength = task_.strength;
    const std::int64_t channels = task_.delta_channels;
    const std::int64_t groups = (channels + kEditChannels - 1) / kEditChannels;
    const std::int64_t row_floats = (kEditChannels + 1) * edit.stride;
    const std::int64_t lines = task_.rows + 2;
    const auto scratch_floats = static_cast<std::int64_t>(row_bytes_ / sizeof(float) + 16);
    float* memory = workspace.get(
        static_cast<std::size_t>(groups * lines * row_floats + threads_ * scratch_floats));
    for (std::int64_t group = 0; group < groups; ++group) {
      float* pixels = memory + group * lines * row_floats;
      edit.pixels = pixels;
      edit.used =
          static_cast<int>(std::min<std::int64_t>(kEditChannels, channels - group * kEditChannels));
      const std::int64_t floats = edit.planar ? (1 + edit.used) * edit.stride : row_floats;
      parallel_for(lines, resolve_threads(threads_, lines / 64), [&](std::int64_t line, int) {
        pack_row(task_, edit, group * kEditChannels, line - 1, pixels + line * floats);
      });
      edits_.push_back(edit);
    }
    scratch_ = reinterpret_cast<char*>(memory + groups * lines * row_floats);
    scratch_bytes_ = static_cast<std::size_t>(scratch_floats) * sizeof(float);
  }

  void composite_row(std::int64_t y, int slot) {
    const std::size_t at = static_cast<std::size_t>(y) * row_bytes_;
    const char* from = static_cast<const char*>(task_.original) + at;
    char* to = static_cast<char*>(task_.out) + at;
    EditedRow row;
    const bool edited = place(y, row);
    if (in_place() || !stream_) {
      if (!in_place()) std::memcpy(to, from, row_bytes_);
      if (edited) edit(row, to);
      return;
    }
    if (edited) {
      char* scratch = scratch_ + static_cast<std::size_t>(slot) * scratch_bytes_;
      std::memcpy(scratch, from, row_bytes_);
      edit(row, scratch);
      from = scratch;
    }
    copy_nontemporal(to, from, row_bytes_);
  }

  // Whether the edit reaches row y, and where.
  bool place(std::int64_t y, EditedRow& row) const {
    const Affine& m = task_.matrix;
    if (y < task_.y0 || y >= task_.y1) return false;
    row.channels = task_.channels;
    row.begin = task_.x0;
    row.end = task_.x1;
    row.a = m.a;
    row.d = m.d;
    row.u0 = m.b * static_cast<double>(y) + m.c;
    row.v0 = m.e * static_cast<double>(y) + m.f;
    narrow_span(row.a, row.u0, task_.columns, row.begin, row.end);
    narrow_span(row.d, row.v0, task_.rows, row.begin, row.end);
    return row.begin < row.end;
  }

  void edit(EditedRow& row, char* samples) const {
    for (std::size_t group = 0; group < edits_.size(); ++group) {
      row.samples = samples + group * kEditChannels * sample_bytes_;
      row.vector_channels = group == 0 && row.channels <= 4 ? static_cast<int>(row.channels) : 0;
      edit_row_(edits_[group], row);
    }
  }

  const CompositeTask& task_;
  EditRow edit_row_;
  std::size_t sample_bytes_, row_bytes_;
  bool stream_;  // what is written leaves the caches
  std::int64_t first_row_ = 0, end_row_ = 0, bands_ = 0;
  int threads_ = 1;
  std::vector<PackedEdit> edits_;  // one for each kEditChannels of the delta
  char* scratch_ = nullptr;        // a row of the photo for each thread
  std::size_t scratch_bytes_ = 0;
};

}  // namespace

void composite_cpu(const CompositeTask& task, int threads) {
  if (task.x0 >= task.x1 || task.y0 >= task.y1 || task.strength == 0.0f) {
    if (task.out == task.original) return;
    const auto samples = static_cast<std::size_t>(task.height * task.width * task.channels);
    return copy_nontemporal(task.out, task.original, samples * sample_bytes(task.dtype), threads);
  }
  thread_local Workspace workspace;
  Compositor(task, threads, workspace).run();
  workspace.trim();
}

}  // namespace revisage
