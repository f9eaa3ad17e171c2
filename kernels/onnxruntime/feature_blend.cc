// FeatureBlend: style and image [N, C, H, W], spatial_logits [N, 2, H, W], channel_logits [N, 2,
// C], strength [] -> [N, C, H, W].
#include "revisage/feature_blend.h"

#include "checks.h"
#include "operator.h"

namespace revisage::onnxruntime {
namespace {

struct FeatureBlendKernel {
  explicit FeatureBlendKernel(const OrtKernelInfo*) {}

  void compute(const Ort::KernelContext& context) {
    const Array style = input(context, 0, "style"), image = input(context, 1, "image");
    const Array spatial = input(context, 2, "spatial_logits");
    const Array channel = input(context, 3, "channel_logits");
    const Array strength = input(context, 4, "strength");
    check_array(strength, DType::f32, {});
    const Array out = output(context, style.shape);
    SessionExecutor executor(context);
    const HostExecutor host(executor);
    feature_blend(out, style, image, spatial, channel, *strength.as<const float>(),
                  {executor.threads(), 0});
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
