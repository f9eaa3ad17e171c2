// FlowWarp: image [N, C, H, W] or [C, H, W], flow [N, h, w, 2] or [h, w, 2] -> as image.
// Attribute padding_mode, with GridSample's names: "border" (the default), "zeros", "reflection".
#include "revisage/flow_warp.h"

#include "operator.h"
#include "revisage/errors.h"

namespace revisage::onnxruntime {
namespace {

Padding padding_of(const std::string& mode) {
  if (mode == "border") return Padding::border;
  if (mode == "zeros") return Padding::zero;
  if (mode == "reflection") return Padding::reflect;
  throw OptionError("padding_mode must be border, zeros or reflection, got " + mode);
}

struct FlowWarpKernel {
  explicit FlowWarpKernel(const OrtKernelInfo* info)
      : padding(padding_of(Ort::ConstKernelInfo(info).GetAttribute<std::string>("padding_mode"))) {}

  void compute(const Ort::KernelContext& context) {
    const Array image = input(context, 0, "image"), flow = input(context, 1, "flow");
    const Array out = output(context, image.shape);
    SessionExecutor executor(context);
    const HostExecutor host(executor);
    flow_warp(out, image, &flow, nullptr, padding, /*interleaved=*/false, {executor.threads(), 0});
  }

  Padding padding;
};

struct FlowWarp : FloatOperator<FlowWarp, FlowWarpKernel> {
  static constexpr const char* kName = "FlowWarp";
  static constexpr std::size_t kInputs = 2;

  static SymbolicShape infer(const Ort::ShapeInferContext& context) {
    return context.GetInputShape(0);
  }
};

}  // namespace

const OrtCustomOp* flow_warp_operator() {
  static const FlowWarp op;
  return &op;
}

}  // namespace revisage::onnxruntime
