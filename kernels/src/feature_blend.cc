// Checks and dispatch.
#include <type_traits>

#include "checks.h"
#include "feature_blend_task.h"

namespace revisage {
namespace {

// Checks the inputs that forward and backward share: [N, C, H, W] twice, and the logits.
void check_inputs(const Array& style, const Array& image, const Array& spatial_logits,
                  const Array& channel_logits) {
  check_array(style, style.dtype, {-1, -1, -1, -1});
  const bool on_cuda = style.device == Device::cuda;
  if (style.dtype != DType::f32 &&
      !(on_cuda && (style.dtype == DType::f16 || style.dtype == DType::bf16))) {
    throw ShapeError("style must be float32, or on CUDA float16 or bfloat16, got " +
                     std::string(dtype_name(style.dtype)));
  }
  const std::int64_t n = style.shape[0], c = style.shape[1];
  check_array(image, style.dtype, style.shape);
  check_array(spatial_logits, DType::f32, {n, 2, style.shape[2], style.shape[3]});
  check_array(channel_logits, DType::f32, {n, 2, c});
}

// Calls visit(Sample{}) with the C++ type of features.
template <typename Visitor>
void dispatch_features(DType dtype, Visitor&& visit) {
  if (dtype == DType::f16) return visit(Half{});
  if (dtype == DType::bf16) return visit(BFloat16{});
  visit(float{});
}

}  // namespace

void feature_blend(const Array& out, const Array& style, const Array& image,
                   const Array& spatial_logits, const Array& channel_logits, float strength,
                   const Execution& execution) {
  const Device device = common_device({&out, &style, &image, &spatial_logits, &channel_logits});
  check_inputs(style, image, spatial_logits, channel_logits);
  check_array(out, style.dtype, style.shape);
  check_writable(out);
  check_no_overlap(out, style, /*allow_same=*/true);
  check_no_overlap(out, image, /*allow_same=*/true);
  check_no_overlap(out, spatial_logits);
  check_no_overlap(out, channel_logits);
  check_strength(strength);

  dispatch_features(style.dtype, [&](auto sample) {
    using Sample = decltype(sample);
    FeatureBlendTaskOf<Sample> task;
    task.out = out.as<Sample>();
    task.style = style.as<const Sample>();
    task.image = image.as<const Sample>();
    task.spatial_logits = spatial_logits.as<const float>();
    task.channel_logits = channel_logits.as<const float>();
    task.batch = style.shape[0];
    task.channels = style.shape[1];
    task.pixels = style.shape[2] * style.shape[3];
    task.strength = strength;
    if (device == Device::cuda) return feature_blend_cuda(task, execution.stream);
    if constexpr (std::is_same_v<Sample, float>) feature_blend_cpu(task, execution.threads);
  });
}

void feature_blend_backward(const FeatureBlendGradients& gradients, const Array& grad,
                            const Array& style, const Array& image, const Array& spatial_logits,
                            const Array& channel_logits, float strength,
                            const Execution& execution) {
  const auto inputs = {&grad, &style, &image, &spatial_logits, &channel_logits};
  const auto outputs = {&gradients.style, &gradients.image, &gradients.spatial_logits,
                        &gradients.channel_logits};
  const Device device = common_device(inputs);
  check_inputs(style, image, spatial_logits, channel_logits);
  check_array(grad, style.dtype, style.shape);
  check_array(gradients.style, style.dtype, style.shape);
  check_array(gradients.image, style.dtype, style.shape);
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

  dispatch_features(style.dtype, [&](auto sample) {
    using Sample = decltype(sample);
    FeatureBlendBackwardTaskOf<Sample> task;
    task.grad_style = gradients.style.as<Sample>();
    task.grad_image = gradients.image.as<Sample>();
    task.grad_spatial_logits = gradients.spatial_logits.as<float>();
    task.grad_channel_logits = gradients.channel_logits.as<float>();
    task.grad = grad.as<const Sample>();
    task.style = style.as<const Sample>();
    task.image = image.as<const Sample>();
    task.spatial_logits = spatial_logits.as<const float>();
    task.channel_logits = channel_logits.as<const float>();
    task.batch = style.shape[0];
    task.channels = style.shape[1];
    task.pixels = style.shape[2] * style.shape[3];
    task.strength = strength;
    if (device == Device::cuda) return feature_blend_backward_cuda(task, execution.stream);
    if constexpr (std::is_same_v<Sample, float>) {
      feature_blend_backward_cpu(task, execution.threads);
    }
  });
}

}  // namespace revisage
