// The compositor on the CPU: out of place the photo is copied first; then the edit is packed for
// the kernels, and rows are edited in place.
#include <algorithm>
#include <cmath>
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
// Rows of the square that a planar edit goes through for a few pixels of the photo; where a turned
// square needs more, its pixels are faster one by one.
constexpr double kMostRows = 6;

const CompositeKernels& kernels() { return REVISAGE_CURRENT_KERNELS(composite_kernels); }

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
  constexpr std::int64_t kMostSide = 1 << 30;  // positions are 32-bit numbers there
  const int lanes = kernels().lanes;
  return lanes > 0 && task.rows < kMostSide && task.columns < kMostSide &&
         std::fabs(task.matrix.a) * (lanes - 1) < lanes - 2.01 &&
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

// The whole edit, one PackedEdit for each kEditChannels of the delta.
std::vector<PackedEdit> pack(const CompositeTask& task, int threads, Workspace& workspace) {
  PackedEdit edit;
  edit.planar = fits_planar(task);
  edit.stride = (task.columns + 2 + kernels().lanes + 15) / 16 * 16;
  edit.rows = task.rows;
  edit.columns = task.columns;
  edit.strength = task.strength;
  const std::int64_t groups = (task.delta_channels + kEditChannels - 1) / kEditChannels;
  const std::int64_t lines = task.rows + 2;
  const std::int64_t floats = lines * (kEditChannels + 1) * edit.stride;  // of one group
  float* pixels = workspace.get(static_cast<std::size_t>(groups * floats));
  std::vector<PackedEdit> edits;
  for (std::int64_t group = 0; group < groups; ++group, pixels += floats) {
    const std::int64_t first_channel = group * kEditChannels;
    edit.pixels = pixels;
    edit.used = static_cast<int>(
        std::min<std::int64_t>(kEditChannels, task.delta_channels - first_channel));
    const std::int64_t planes = edit.planar ? 1 + edit.used : kEditChannels + 1;
    parallel_for(lines, resolve_threads(threads, lines / 64), [&](std::int64_t line, int) {
      pack_row(task, edit, first_channel, line - 1, pixels + line * planes * edit.stride);
    });
    edits.push_back(edit);
  }
  return edits;
}

void composite_row(const CompositeTask& task, const std::vector<PackedEdit>& edits, EditRow edit,
                   std::int64_t y) {
  const Affine& m = task.matrix;
  EditedRow row;
  row.channels = task.channels;
  row.begin = task.x0;
  row.end = task.x1;
  row.a = m.a;
  row.d = m.d;
  row.u0 = m.b * static_cast<double>(y) + m.c;
  row.v0 = m.e * static_cast<double>(y) + m.f;
  narrow_span(row.a, row.u0, task.columns, row.begin, row.end);
  narrow_span(row.d, row.v0, task.rows, row.begin, row.end);
  for (std::size_t group = 0; group < edits.size(); ++group) {
    const std::int64_t sample =
        y * task.width * task.channels + static_cast<std::int64_t>(group) * kEditChannels;
    row.samples =
        static_cast<char*>(task.out) + static_cast<std::size_t>(sample) * sample_bytes(task.dtype);
    row.vector_channels = group == 0 && row.channels <= 4 ? static_cast<int>(row.channels) : 0;
    edit(edits[group], row);
  }
}

}  // namespace

void composite_cpu(const CompositeTask& task, int threads) {
  if (task.out != task.original) {
    const auto samples = static_cast<std::size_t>(task.height * task.width * task.channels);
    copy_nontemporal(task.out, task.original, samples * sample_bytes(task.dtype), threads);
  }
  if (task.x0 >= task.x1 || task.y0 >= task.y1 || task.strength == 0.0f) return;
  thread_local Workspace workspace;
  const std::vector<PackedEdit> edits = pack(task, threads, workspace);
  const EditRow edit = edit_row_of(task.dtype);
  const std::int64_t bands = (task.y1 - task.y0 + kRowsPerTask - 1) / kRowsPerTask;
  parallel_for(bands, resolve_threads(threads, bands), [&](std::int64_t band, int) {
    const std::int64_t begin = task.y0 + band * kRowsPerTask;
    const std::int64_t end = std::min(task.y1, begin + kRowsPerTask);
    for (std::int64_t y = begin; y < end; ++y) composite_row(task, edits, edit, y);
  });
  workspace.trim();
}

}  // namespace revisage
