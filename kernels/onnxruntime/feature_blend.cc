// FeatureBlend: style and image [N, C, H, W], spatial_logits [N, 2, H, W], channel_logits [N, 2,
// C], strength [] or [N, 1, 1, 1] -> [N, C, H, W].
#include "revisage/feature_blend.h"

#include "checks.h"
#include "operator.h"

namespace revisage::onnxruntime {
namespace {

// Sample `index` of a batch, as a batch of one.
Array sample(Array batch, std::int64_t index) {
  const std::int64_t samples = batch.samples() / batch.shape[0];
  batch.data = batch.as<float>() + index * samples;
  batch.shape[0] = 1;
  return batch;
}

struct FeatureBlendKernel {
  explicit FeatureBlendKernel(const OrtKernelInfo*) {}

  void compute(const Ort::KernelContext& context) {
    const Array style = input(context, 0, "style"), image = input(context, 1, "image");
    const Array spatial = input(context, 2, "spatial_logits");
    const Array channel = input(context, 3, "channel_logits");
    const Array strength = input(context, 4, "strength");
    const Array out = output(context, style.shape);
    SessionExecutor executor(context);
    const HostExecutor host(executor);
    const Execution execution{executor.threads(), 0};
    const float* strengths = strength.as<const float>();
    if (strength.shape.empty()) {
      return feature_blend(out, style, image, spatial, channel, *strengths, execution);
    }
    check_array(style, DType::f32, {-1, -1, -1, -1});
    const std::int64_t batch = style.shape[0];
    check_array(strength, DType::f32, {batch, 1, 1, 1});
    check_array(image, DType::f32, style.shape);
    check_array(spatial, DType::f32, {batch, 2, style.shape[2], style.shape[3]});
    check_array(channel, DType::f32, {batch, 2, style.shape[1]});
    for (std::int64_t n = 0; n < batch; ++n) {
      feature_blend(sample(out, n), sample(style, n), sample(image, n), sample(spatial, n),
                    sample(channel, n), strengths[n], execution);
    }
  }
};

struct FeatureBlend : FloatOperator<FeatureBlend, FeatureBlendKernel> {
  static constexpr const char* kName = "FeatureBlend";
  static constexpr std::size_t kInputs = 5;

  static SymbolicShape infer(const Ort::ShapeInferContext& context) {
    return context.GetInputShape(0);
  }
};

}  // namespace

const OrtCustomOp* feature_blend_operator() {
  static const FeatureBlend op;
  return &op;
}

}  // namespace revisage::onnxruntime
