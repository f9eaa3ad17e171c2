// [Pad]WinogradConv[Add][Relu|LeakyRelu|Relu6][Add]: a 3x3 convolution with what its name says
// around it.
//     x [N, C, H, W], weight [D, C, 3, 3], bias [D], then for each Add one input as the result
//     -> [N, D, H, W]
// With Pad the surroundings are the mirror image (ONNX's mode "reflect"), else zeros. LeakyRelu has
// the attribute alpha.
#include <deque>
#include <optional>

#include "checks.h"
#include "operator.h"
#include "revisage/errors.h"
#include "winograd_conv_weights.h"

namespace revisage::onnxruntime {
namespace {

enum class Follows { nothing, relu, leaky_relu, relu6 };

const char* name_of(Follows follows) {
  switch (follows) {
    case Follows::nothing:
      return "";
    case Follows::relu:
      return "Relu";
    case Follows::leaky_relu:
      return "LeakyRelu";
    case Follows::relu6:
      return "Relu6";
  }
  return "";
}

// What a name says.
struct Fused {
  bool pad, residual, skip;
  Follows follows;

  std::string name() const {
    std::string text = pad ? "PadWinogradConv" : "WinogradConv";
    if (residual) text += "Add";
    text += name_of(follows);
    if (skip) text += "Add";
    return text;
  }
};

// Weights that are constants of the graph, as they are in an exported network, are packed once.
class WinogradConvKernel {
 public:
  WinogradConvKernel(const OrtKernelInfo* info, const Fused& fused) : fused_(fused) {
    const Ort::ConstKernelInfo kernel(info);
    if (fused.follows != Follows::nothing) activation_.slope = 0;
    if (fused.follows == Follows::relu6) activation_.ceiling = 6;
    if (fused.follows == Follows::leaky_relu) {
      activation_.slope = kernel.GetAttribute<float>("alpha");
    }
    int weight_is_constant = 0;
    const Ort::ConstValue weight = kernel.GetTensorConstantInput(1, &weight_is_constant);
    if (weight_is_constant == 0) return;
    PoolExecutor caller(1);
    packed_.emplace(weights_task(borrow(weight, "weight")), caller, memory_);
  }

  void compute(const Ort::KernelContext& context) {
    const Array x = input(context, 0, "x"), weight = input(context, 1, "weight");
    const Array bias = input(context, 2, "bias");
    WinogradConvTask task = weights_task(weight);
    task.surroundings = fused_.pad ? Surroundings::reflection : Surroundings::zeros;
    task.activation = activation_;
    check_winograd_conv(x, weight, task.surroundings, task.activation);
    check_array(bias, DType::f32, {task.out_channels});
    task.batch = x.shape[0];
    task.height = x.shape[2];
    task.width = x.shape[3];
    task.x = x.as<const float>();
    task.bias = bias.as<const float>();
    const Shape shape = {task.batch, task.out_channels, task.height, task.width};
    std::size_t next = 3;
    if (fused_.residual) task.residual = addend(context, next++, "residual", shape);
    if (fused_.skip) task.skip = addend(context, next++, "skip", shape);
    task.out = output(context, shape).as<float>();
    SessionExecutor executor(context);
    if (packed_) return winograd_conv_cpu(task, *packed_, executor);
    thread_local Workspace memory;
    winograd_conv_cpu(task, WinogradConvWeights(task, executor, memory), executor);
    memory.trim();
  }

 private:
  // What packing needs of a task.
  static WinogradConvTask weights_task(const Array& weight) {
    check_array(weight, DType::f32, {-1, -1, 3, 3});
    WinogradConvTask task{};
    task.weight = weight.as<const float>();
    task.out_channels = weight.shape[0];
    task.in_channels = weight.shape[1];
    return task;
  }

  static const float* addend(const Ort::KernelContext& context, std::size_t index, const char* name,
                             const Shape& shape) {
    const Array array = input(context, index, name);
    check_array(array, DType::f32, shape);
    return array.as<const float>();
  }

  Fused fused_;
  Activation activation_;
  Workspace memory_;  // of packed_
  std::optional<WinogradConvWeights> packed_;
};

struct WinogradConv : FloatOperator<WinogradConv, WinogradConvKernel> {
  explicit WinogradConv(const Fused& what) : fused(what), name(what.name()) {}

  OrtStatusPtr CreateKernelV2(const OrtApi&, const OrtKernelInfo* info, void** kernel) const {
    return as_status([&] { *kernel = new Adapter<WinogradConvKernel>(info, fused); });
  }
  const char* GetName() const { return name.c_str(); }
  std::size_t GetInputTypeCount() const { return 3u + fused.residual + fused.skip; }

  static SymbolicShape infer(const Ort::ShapeInferContext& context) {
    SymbolicShape shape = context.GetInputShape(0);
    const SymbolicShape& weight = context.GetInputShape(1);
    if (shape.size() != 4 || weight.size() != 4) return {};
    shape[1] = weight[0];
    return shape;
  }

  Fused fused;
  std::string name;
};

}  // namespace

std::vector<const OrtCustomOp*> winograd_conv_operators() {
  static const std::deque<WinogradConv> all = [] {
    std::deque<WinogradConv> made;
    for (const bool pad : {false, true}) {
      for (const bool residual : {false, true}) {
        for (const Follows follows :
             {Follows::nothing, Follows::relu, Follows::leaky_relu, Follows::relu6}) {
          for (const bool skip : {false, true}) {
            // Without an activation between them, the second Add stays outside.
            if (skip && follows == Follows::nothing) continue;
            made.emplace_back(Fused{pad, residual, skip, follows});
          }
        }
      }
    }
    return made;
  }();
  std::vector<const OrtCustomOp*> operators;
  for (const WinogradConv& op : all) operators.push_back(&op);
  return operators;
}

}  // namespace revisage::onnxruntime
