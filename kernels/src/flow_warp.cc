// Checks, shape arithmetic, dispatch.
#include "checks.h"
#include "flow_warp_task.h"

namespace revisage {
namespace {

// Checks image and out (or its gradient), which differ in height and width only, and where they
// lie; fills in everything but the flow.
Device read_images(FlowWarpGeometry& task, const Array& out, const Array& image, Padding padding,
                   bool interleaved) {
  const Device device = common_device({&out, &image});
  const std::size_t rank = image.shape.size();
  if (rank < 2 || rank > 4) {
    throw ShapeError("image must have 2 to 4 axes, got " + shape_text(image.shape));
  }
  check_array(image, image.dtype, std::vector<std::int64_t>(rank, -1));
  const std::size_t y_axis = (rank == 2 || !interleaved) ? rank - 2 : rank - 3;
  std::vector<std::int64_t> out_shape = image.shape;
  out_shape[y_axis] = out_shape[y_axis + 1] = -1;
  check_array(out, image.dtype, out_shape);

  task.dtype = image.dtype;
  task.batch = rank == 4 ? image.shape[0] : 1;
  task.channels = rank == 2 ? 1 : (interleaved ? image.shape[rank - 1] : image.shape[rank - 3]);
  task.height = image.shape[y_axis];
  task.width = image.shape[y_axis + 1];
  task.rows = out.shape[y_axis];
  task.columns = out.shape[y_axis + 1];
  constexpr std::int64_t kMaxSide = 1 << 24;  // a float32 flow resolves no more
  for (const std::int64_t side : {task.height, task.width, task.rows, task.columns}) {
    if (side >= kMaxSide) {
      throw ShapeError("image and " + out.name + " must be smaller than 2^24 per side");
    }
  }
  task.interleaved = interleaved;
  task.padding = padding;
  task.flow = nullptr;
  task.flow_batch = task.flow_rows = task.flow_columns = 1;
  return device;
}

void read_flow(FlowWarpGeometry& task, const Array& flow, const Array& out, const Array& image) {
  common_device({&image, &flow});
  if (image.shape.size() == 4 && flow.shape.size() == 4) {
    check_array(flow, DType::f32, {task.batch, -1, -1, 2});
    task.flow_batch = task.batch;
  } else {
    check_array(flow, DType::f32, {-1, -1, 2});
  }
  task.flow = flow.as<const float>();
  task.flow_rows = flow.shape[flow.shape.size() - 3];
  task.flow_columns = flow.shape[flow.shape.size() - 2];
  if (task.flow_rows > task.rows || task.flow_columns > task.columns) {
    throw ShapeError("flow is larger than " + out.name + "; reduce the flow, or give a larger " +
                     out.name);
  }
}

}  // namespace

void flow_warp(const Array& out, const Array& image, const Array* flow, const Affine* matrix,
               Padding padding, bool interleaved, const Execution& execution) {
  if ((flow == nullptr) == (matrix == nullptr)) {
    throw OptionError("give either flow or matrix, not both and not neither");
  }
  FlowWarpTask task;
  task.out = out.data;
  task.image = image.data;
  const Device device = read_images(task, out, image, padding, interleaved);
  check_writable(out);
  check_no_overlap(out, image);
  if (flow != nullptr) {
    read_flow(task, *flow, out, image);
    check_no_overlap(out, *flow);
  } else {
    check_affine(*matrix);
    task.matrix = *matrix;
  }
  if (device == Device::cuda) return flow_warp_cuda(task, execution.stream);
  flow_warp_cpu(task, execution.threads);
}

void flow_warp_backward(const Array* grad_image, const Array* grad_flow, const Array& grad,
                        const Array& image, const Array& flow, Padding padding, bool interleaved,
                        const Execution& execution) {
  FlowWarpBackwardTask task;
  task.grad = grad.data;
  task.image = image.data;
  const Device device = read_images(task, grad, image, padding, interleaved);
  read_flow(task, flow, grad, image);
  const bool is_float =
      image.dtype == DType::f32 || image.dtype == DType::f16 || image.dtype == DType::bf16;
  if (!is_float || (device == Device::cpu && image.dtype != DType::f32)) {
    throw ShapeError("image must be float32, or on CUDA float16 or bfloat16, to have a gradient");
  }
  for (const Array* out : {grad_image, grad_flow}) {
    if (out == nullptr) continue;
    common_device({&image, out});
    check_array(*out, DType::f32, out == grad_image ? image.shape : flow.shape);
    check_writable(*out);
    for (const Array* input : {&grad, &image, &flow}) check_no_overlap(*out, *input);
  }
  if (grad_image != nullptr && grad_flow != nullptr) check_no_overlap(*grad_image, *grad_flow);
  task.grad_image = grad_image == nullptr ? nullptr : grad_image->as<float>();
  task.grad_flow = grad_flow == nullptr ? nullptr : grad_flow->as<float>();
  if (device == Device::cuda) return flow_warp_backward_cuda(task, execution.stream);
  flow_warp_backward_cpu(task, execution.threads);
}

}  // namespace revisage
