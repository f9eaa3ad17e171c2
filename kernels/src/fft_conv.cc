// Checks and dispatch.
#include "checks.h"
#include "fft_conv_task.h"

namespace revisage {
namespace {

// ShapeError unless x and weight fit together; the shape of out.
std::vector<std::int64_t> checked_shape(const Array& x, const Array& weight) {
  const bool narrow = x.device == Device::cuda && (x.dtype == DType::f16 || x.dtype == DType::bf16);
  check_array(x, narrow ? x.dtype : DType::f32, {-1, -1, -1, -1});
  check_array(weight, weight.dtype == x.dtype ? x.dtype : DType::f32, {-1, 2 * x.shape[1]});
  if (weight.shape[0] % 2 != 0) {
    throw ShapeError("weight must have an even number of rows (re and im of each channel)");
  }
  return {x.shape[0], weight.shape[0] / 2, x.shape[2], x.shape[3]};
}

FftConvCudaTask cuda_task(const Array& x, const Array& weight) {
  FftConvCudaTask task = {};
  task.x = x.data;
  task.weight = weight.data;
  task.dtype = x.dtype;
  task.weight_dtype = weight.dtype;
  task.batch = x.shape[0];
  task.in_channels = x.shape[1];
  task.out_channels = weight.shape[0] / 2;
  task.height = x.shape[2];
  task.width = x.shape[3];
  return task;
}

// Aside from the other arrays and large enough.
void check_workspace(const Array* workspace, std::size_t bytes,
                     std::initializer_list<const Array*> others) {
  const auto least = static_cast<std::int64_t>(bytes);
  if (workspace == nullptr) {
    throw ShapeError("fft_conv on CUDA needs a workspace of " + std::to_string(least) +
                     " bytes (fft_conv_workspace_bytes)");
  }
  check_array(*workspace, DType::u8, {-1});
  if (workspace->shape[0] < least) {
    throw ShapeError(workspace->name + " must have at least " + std::to_string(least) +
                     " bytes (fft_conv_workspace_bytes), got " +
                     std::to_string(workspace->shape[0]));
  }
  check_writable(*workspace);
  for (const Array* other : others) check_no_overlap(*workspace, *other);
}

}  // namespace

std::size_t fft_conv_workspace_bytes(const Array& x, const Array& weight) {
  const Device device = common_device({&x, &weight});
  checked_shape(x, weight);
  return device == Device::cuda ? fft_conv_cuda_workspace_bytes(cuda_task(x, weight)) : 0;
}

void fft_conv(const Array& out, const Array& x, const Array& weight, const Array& scale,
              const Array& shift, const Execution& execution, const Array* workspace) {
  const Device device = common_device({&out, &x, &weight, &scale, &shift});
  const std::vector<std::int64_t> shape = checked_shape(x, weight);
  for (const Array* affine : {&scale, &shift}) {
    check_array(*affine, affine->dtype == x.dtype ? x.dtype : DType::f32, {weight.shape[0]});
  }
  check_array(out, x.dtype, shape);
  check_writable(out);
  for (const Array* input : {&x, &weight, &scale, &shift}) check_no_overlap(out, *input);

  if (device == Device::cuda) {
    FftConvCudaTask task = cuda_task(x, weight);
    task.out = out.data;
    task.scale = scale.data;
    task.shift = shift.data;
    task.scale_dtype = scale.dtype;
    task.shift_dtype = shift.dtype;
    if (workspace != nullptr) common_device({&x, workspace});
    check_workspace(workspace, fft_conv_cuda_workspace_bytes(task),
                    {&out, &x, &weight, &scale, &shift});
    return fft_conv_cuda(task, workspace->data, execution.stream);
  }
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
  fft_conv_cpu(task, execution.threads);
}

}  // namespace revisage
