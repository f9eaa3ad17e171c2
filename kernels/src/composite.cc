// Checks, the box of the square in the photo, dispatch.
#include <algorithm>
#include <cmath>

#include "checks.h"
#include "composite_task.h"

namespace revisage {
namespace {

// The corner preimages bound the box, with one pixel of margin for the rounding of the inverse.
void find_photo_box(CompositeTask& task) {
  const Affine& m = task.matrix;
  const double determinant = m.a * m.e - m.b * m.d;
  if (!(std::isfinite(determinant) && std::fabs(determinant) > 1e-12)) {
    throw OptionError("matrix is singular, it cannot place a square");
  }
  double min_x = INFINITY, max_x = -INFINITY, min_y = INFINITY, max_y = -INFINITY;
  for (const double u : {-1.0, static_cast<double>(task.columns)}) {
    for (const double v : {-1.0, static_cast<double>(task.rows)}) {
      const double x = (m.e * (u - m.c) - m.b * (v - m.f)) / determinant;
      const double y = (m.a * (v - m.f) - m.d * (u - m.c)) / determinant;
      if (!std::isfinite(x) || !std::isfinite(y)) {
        task.x0 = task.y0 = 0;
        task.x1 = task.width;
        task.y1 = task.height;
        return;
      }
      min_x = std::min(min_x, x);
      max_x = std::max(max_x, x);
      min_y = std::min(min_y, y);
      max_y = std::max(max_y, y);
    }
  }
  const auto bound = [](double value, std::int64_t size) {
    return static_cast<std::int64_t>(std::clamp(value, 0.0, static_cast<double>(size)));
  };
  task.x0 = bound(std::floor(min_x) - 1, task.width);
  task.x1 = bound(std::ceil(max_x) + 2, task.width);
  task.y0 = bound(std::floor(min_y) - 1, task.height);
  task.y1 = bound(std::ceil(max_y) + 2, task.height);
}

}  // namespace

void composite(const Array& out, const Array& original, const Array& delta, const Array& mask,
               const Affine& matrix, float strength, const Execution& execution) {
  const Device device = common_device({&out, &original, &delta, &mask});
  if (original.shape.size() != 2 && original.shape.size() != 3) {
    throw ShapeError("original must be [H, W] or [H, W, C], got " + shape_text(original.shape));
  }
  check_array(original, original.dtype, std::vector<std::int64_t>(original.shape.size(), -1));
  check_array(out, original.dtype, original.shape);
  check_array(delta, DType::f32, {-1, -1, -1});
  check_array(mask, DType::f32, {delta.shape[0], delta.shape[1]});
  check_writable(out);
  check_no_overlap(out, original, /*allow_same=*/true);
  check_no_overlap(out, delta);
  check_no_overlap(out, mask);
  check_affine(matrix);
  check_strength(strength);

  CompositeTask task;
  task.out = out.data;
  task.original = original.data;
  task.dtype = original.dtype;
  task.height = original.shape[0];
  task.width = original.shape[1];
  task.channels = original.shape.size() == 3 ? original.shape[2] : 1;
  task.delta = delta.as<const float>();
  task.mask = mask.as<const float>();
  task.rows = delta.shape[0];
  task.columns = delta.shape[1];
  task.delta_channels = delta.shape[2];
  task.matrix = matrix;
  task.strength = strength;
  if (task.delta_channels > task.channels) {
    throw ShapeError("delta has more channels than the original");
  }
  find_photo_box(task);

  if (device == Device::cuda) return composite_cuda(task, execution.stream);
  composite_cpu(task, execution.threads);
}

}  // namespace revisage
