// Checks and dispatch.
#include <cmath>

#include "checks.h"
#include "winograd_conv_task.h"

namespace revisage {

void check_winograd_conv(const Array& x, const Array& weight, Surroundings surroundings,
                         const Activation& activation) {
  check_array(x, DType::f32, {-1, -1, -1, -1});
  check_array(weight, DType::f32, {-1, x.shape[1], 3, 3});
  constexpr std::int64_t kMaxSide = 1 << 24;
  const std::int64_t least = surroundings == Surroundings::none         ? 3
                             : surroundings == Surroundings::reflection ? 2
                                                                        : 1;
  for (const std::int64_t side : {x.shape[2], x.shape[3]}) {
    if (side < least || side >= kMaxSide) {
      throw ShapeError("x must have sides of " + std::to_string(least) +
                       " to 2^24 pixels with this padding, got " + shape_text(x.shape));
    }
  }
  if (!std::isfinite(activation.slope)) throw OptionError("slope must be finite");
  if (std::isnan(activation.ceiling)) throw OptionError("ceiling must not be NaN");
}

void winograd_conv(const Array& out, const Array& x, const Array& weight, const Array* bias,
                   const Array* residual, const Array* skip, Surroundings surroundings,
                   const Activation& activation, const Execution& execution) {
  for (const Array* array : {&out, &x, &weight, bias, residual, skip}) {
    if (array != nullptr && array->device != Device::cpu) {
      throw DeviceError("winograd_conv runs on the CPU, and " + array->name +
                        " lies on a GPU; use cuDNN there, or copy it to the host");
    }
  }
  check_winograd_conv(x, weight, surroundings, activation);
  WinogradConvTask task{};
  task.batch = x.shape[0];
  task.in_channels = x.shape[1];
  task.out_channels = weight.shape[0];
  task.height = x.shape[2];
  task.width = x.shape[3];
  task.surroundings = surroundings;
  task.activation = activation;
  const std::vector<std::int64_t> shape = {task.batch, task.out_channels, task.rows(),
                                           task.columns()};
  if (bias != nullptr) check_array(*bias, DType::f32, {task.out_channels});
  for (const Array* addend : {residual, skip}) {
    if (addend != nullptr) check_array(*addend, DType::f32, shape);
  }
  check_array(out, DType::f32, shape);
  check_writable(out);
  for (const Array* input : {&x, &weight, bias, residual, skip}) {
    if (input != nullptr) check_no_overlap(out, *input);
  }
  const auto floats = [](const Array* array) {
    return array == nullptr ? nullptr : array->as<const float>();
  };
  task.out = out.as<float>();
  task.x = x.as<const float>();
  task.weight = weight.as<const float>();
  task.bias = floats(bias);
  task.residual = floats(residual);
  task.skip = floats(skip);
  winograd_conv_cpu(task, execution.threads);
}

}  // namespace revisage
