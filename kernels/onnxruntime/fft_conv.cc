// FftConv: x [N, C, H, W], weight [2D, 2C], scale [2D], shift [2D] -> [N, D, H, W].
#include "revisage/fft_conv.h"

#include "checks.h"
#include "operator.h"

namespace revisage::onnxruntime {
namespace {

struct FftConvKernel {
  explicit FftConvKernel(const OrtKernelInfo*) {}

  void compute(const Ort::KernelContext& context) {
    const Array x = input(context, 0, "x"), weight = input(context, 1, "weight");
    const Array scale = input(context, 2, "scale"), shift = input(context, 3, "shift");
    check_array(x, DType::f32, {-1, -1, -1, -1});
    check_array(weight, DType::f32, {-1, 2 * x.shape[1]});
    const Array out = output(context, {x.shape[0], weight.shape[0] / 2, x.shape[2], x.shape[3]});
    SessionExecutor executor(context);
    fft_conv(out, x, weight, scale, shift, {executor.threads(), 0});
  }
};

struct FftConv : FloatOperator<FftConv, FftConvKernel> {
  static constexpr const char* kName = "FftConv";
  static constexpr std::size_t kInputs = 4;

  static SymbolicShape infer(const Ort::ShapeInferContext& context) {
    SymbolicShape shape = context.GetInputShape(0);
    const SymbolicShape& weight = context.GetInputShape(1);
    if (shape.size() != 4 || weight.size() != 2 || !weight[0].IsInt()) return {};
    shape[1] = weight[0].AsInt() / 2;
    return shape;
  }
};

}  // namespace

const OrtCustomOp* fft_conv_operator() {
  static const FftConv op;
  return &op;
}

}  // namespace revisage::onnxruntime
