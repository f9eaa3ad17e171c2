// FftConv: x [N, C, H, W], weight [2D, 2C], scale [2D], shift [2D] -> [N, D, H, W]. A graph also
// gives it the matrices of the transform, for engines that have no kernel; they are not read here.
#include <optional>

#include "checks.h"
#include "fft_conv_task.h"
#include "fft_conv_weights.h"
#include "operator.h"

namespace revisage::onnxruntime {
namespace {

// Weights that are constants of the graph, as they are in an exported network, are packed once.
class FftConvKernel {
 public:
  explicit FftConvKernel(const OrtKernelInfo* info) {
    const Ort::ConstKernelInfo kernel(info);
    int weight_is_constant = 0, scale_is_constant = 0;
    const Ort::ConstValue weight = kernel.GetTensorConstantInput(1, &weight_is_constant);
    const Ort::ConstValue scale = kernel.GetTensorConstantInput(2, &scale_is_constant);
    if (weight_is_constant == 0 || scale_is_constant == 0) return;
    const FftConvTask task = weights_task(borrow(weight, "weight"), borrow(scale, "scale"));
    PoolExecutor caller(1);
    packed_.emplace(task, caller, memory_);
  }

  void compute(const Ort::KernelContext& context) {
    const Array x = input(context, 0, "x"), weight = input(context, 1, "weight");
    const Array scale = input(context, 2, "scale"), shift = input(context, 3, "shift");
    FftConvTask task = weights_task(weight, scale);
    check_array(x, DType::f32, {-1, task.in_channels, -1, -1});
    check_array(shift, DType::f32, scale.shape);
    task.batch = x.shape[0];
    task.height = x.shape[2];
    task.width = x.shape[3];
    task.x = x.as<const float>();
    task.shift = shift.as<const float>();
    task.out =
        output(context, {task.batch, task.out_channels, task.height, task.width}).as<float>();
    SessionExecutor executor(context);
    if (packed_) return fft_conv_cpu(task, *packed_, executor);
    thread_local Workspace memory;
    fft_conv_cpu(task, FftConvWeights(task, executor, memory), executor);
    memory.trim();
  }

 private:
  // What packing needs of a task.
  static FftConvTask weights_task(const Array& weight, const Array& scale) {
    check_array(weight, DType::f32, {-1, -1});
    if (weight.shape[0] % 2 != 0 || weight.shape[1] % 2 != 0) {
      throw ShapeError("weight must have an even number of rows and columns (re and im), got " +
                       shape_text(weight.shape));
    }
    check_array(scale, DType::f32, {weight.shape[0]});
    FftConvTask task{};
    task.weight = weight.as<const float>();
    task.scale = scale.as<const float>();
    task.out_channels = weight.shape[0] / 2;
    task.in_channels = weight.shape[1] / 2;
    return task;
  }

  Workspace memory_;  // of packed_
  std::optional<FftConvWeights> packed_;
};

struct FftConv : FloatOperator<FftConv, FftConvKernel> {
  static constexpr const char* kName = "FftConv";
  static constexpr std::size_t kInputs = 7, kRequired = 4;

  OrtCustomOpInputOutputCharacteristic GetInputCharacteristic(std::size_t index) const {
    return index < kRequired ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
  }

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
