// Checks and dispatch.
#include "checks.h"
#include "feature_blend_task.h"

namespace revisage {

void feature_blend(const Array& out, const Array& style, const Array& image,
                   const Array& spatial_logits, const Array& channel_logits, float strength,
                   const Execution& execution) {
  const Device device = common_device({&out, &style, &image, &spatial_logits, &channel_logits});
  check_array(style, DType::f32, {-1, -1, -1, -1});
  const std::int64_t n = style.shape[0], c = style.shape[1];
  const std::int64_t h = style.shape[2], w = style.shape[3];
  check_array(image, DType::f32, style.shape);
  check_array(out, DType::f32, style.shape);
  check_array(spatial_logits, DType::f32, {n, 2, h, w});
  check_array(channel_logits, DType::f32, {n, 2, c});
  check_writable(out);
  check_no_overlap(out, style, /*allow_same=*/true);
  check_no_overlap(out, image, /*allow_same=*/true);
  check_no_overlap(out, spatial_logits);
  check_no_overlap(out, channel_logits);
  check_strength(strength);

  FeatureBlendTask task;
  task.out = out.as<float>();
  task.style = style.as<const float>();
  task.image = image.as<const float>();
  task.spatial_logits = spatial_logits.as<const float>();
  task.channel_logits = channel_logits.as<const float>();
  task.batch = n;
  task.channels = c;
  task.pixels = h * w;
  task.strength = strength;
  if (device == Device::cuda) return feature_blend_cuda(task, execution.stream);
  feature_blend_cpu(task, execution.threads);
}

void feature_blend_backward(const FeatureBlendGradients& gradients, const Array& grad,
                            const Array& style, const Array& image, const Array& spatial_logits,
                            const Array& channel_logits, float strength,
                            const Execution& execution) {
  const auto inputs = {&grad, &style, &image, &spatial_logits, &channel_logits};
  const auto outputs = {&gradients.style, &gradients.image, &gradients.spatial_logits,
                        &gradients.channel_logits};
  const Device device = common_device(inputs);
  check_array(style, DType::f32, {-1, -1, -1, -1});
  const std::int64_t n = style.shape[0], c = style.shape[1];
  const std::int64_t h = style.shape[2], w = style.shape[3];
  check_array(grad, DType::f32, style.shape);
  check_array(image, DType::f32, style.shape);
  check_array(spatial_logits, DType::f32, {n, 2, h, w});
  check_array(channel_logits, DType::f32, {n, 2, c});
  check_array(gradients.style, DType::f32, style.shape);
  check_array(gradients.image, DType::f32, style.shape);
  check_array(gradients.spatial_logits, DType::f32, spatial_logits.shape);
  check_array(gradients.channel_logits, DType::f32, channel_logits.shape);
  for (const Array* out : outputs) {
    common_device({out, &grad});
    check_writable(*out);
    for (const Array* input : inputs) check_no_overlap(*out, *input);
    for (const Array* other : outputs) {
      if (other != out) check_no_overlap(*out, *other);
    }
  }
  check_strength(strength);

  FeatureBlendBackwardTask task;
  task.grad_style = gradients.style.as<float>();
  task.grad_image = gradients.image.as<float>();
  task.grad_spatial_logits = gradients.spatial_logits.as<float>();
  task.grad_channel_logits = gradients.channel_logits.as<float>();
  task.grad = grad.as<const float>();
  task.style = style.as<const float>();
  task.image = image.as<const float>();
  task.spatial_logits = spatial_logits.as<const float>();
  task.channel_logits = channel_logits.as<const float>();
  task.batch = n;
  task.channels = c;
  task.pixels = h * w;
  task.strength = strength;
  if (device == Device::cuda) return feature_blend_backward_cuda(task, execution.stream);
  feature_blend_backward_cpu(task, execution.threads);
}

}  // namespace revisage
