// Checks and dispatch.
#include "checks.h"
#include "fft_conv_task.h"

namespace revisage {

void fft_conv(const Array& out, const Array& x, const Array& weight, const Array& scale,
              const Array& shift, const Execution& execution) {
  const Device device = common_device({&out, &x, &weight, &scale, &shift});
  check_array(x, DType::f32, {-1, -1, -1, -1});
  check_array(weight, DType::f32, {-1, 2 * x.shape[1]});
  if (weight.shape[0] % 2 != 0) {
    throw ShapeError("weight must have an even number of rows (re and im of each channel)");
  }
  check_array(scale, DType::f32, {weight.shape[0]});
  check_array(shift, DType::f32, {weight.shape[0]});
  check_array(out, DType::f32, {x.shape[0], weight.shape[0] / 2, x.shape[2], x.shape[3]});
  check_writable(out);
  for (const Array* input : {&x, &weight, &scale, &shift}) check_no_overlap(out, *input);

  FftConvTask task;
  task.out = out.as<float>();
  task.x = x.as<const float>();
  task.weight = weight.as<const float>();
  task.scale = scale.as<const float>();
  task.shift = shift.as<const float>();
  task.batch = x.shape[0];
  task.in_channels = x.shape[1];
  task.out_channels = weight.shape[0] / 2;
  task.height = x.shape[2];
  task.width = x.shape[3];
  if (device == Device::cuda) return fft_conv_cuda(task, execution.stream);
  fft_conv_cpu(task, execution.threads);
}

}  // namespace revisage
