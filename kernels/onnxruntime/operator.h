// What the custom operators for ONNX Runtime have in common: float32 tensors in, one out, on the
// CPU; every exception becomes a status, because none may cross the C interface.
#pragma once

#include <exception>
#include <string>
#include <vector>

#include "api.h"
#include "revisage/array.h"
#include "threads.h"

namespace revisage::onnxruntime {

using Shape = std::vector<std::int64_t>;
using SymbolicShape = Ort::ShapeInferContext::Shape;

template <typename Body>
OrtStatusPtr as_status(const Body& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    return Ort::GetApi().CreateStatus(ORT_INVALID_ARGUMENT, error.what());
  }
}

// Runs the parts of a kernel on the session's own threads. The session does not say how many it
// has; parts beyond that number find nothing left to do.
class SessionExecutor final : public Executor {
 public:
  explicit SessionExecutor(const Ort::KernelContext& context) : context_(context) {}
  int threads() const override { return available_cores(); }
  void run(int slots, const std::function<void(int slot)>& part) override;

 private:
  const Ort::KernelContext& context_;
};

// A tensor of the node, borrowed.
Array borrow(const Ort::ConstValue& value, const char* name);
Array input(const Ort::KernelContext& context, std::size_t index, const char* name);
Array output(const Ort::KernelContext& context, const Shape& shape);

// `Kernel` is made from a const OrtKernelInfo* and perhaps more, and has compute(const
// Ort::KernelContext&).
template <typename Kernel>
struct Adapter {
  template <typename... More>
  explicit Adapter(const OrtKernelInfo* info, const More&... more) : kernel(info, more...) {}

  OrtStatusPtr ComputeV2(OrtKernelContext* context) noexcept {
    return as_status([&] { kernel.compute(Ort::KernelContext(context)); });
  }

  Kernel kernel;
};

// `Operator` has the constants kName and kInputs, and infer(inputs), the shape of its output.
template <typename Operator, typename Kernel>
struct FloatOperator : Ort::CustomOpBase<Operator, Adapter<Kernel>, true> {
  OrtStatusPtr CreateKernelV2(const OrtApi&, const OrtKernelInfo* info, void** kernel) const {
    return as_status([&] { *kernel = new Adapter<Kernel>(info); });
  }
  const char* GetName() const { return Operator::kName; }
  std::size_t GetInputTypeCount() const { return Operator::kInputs; }
  std::size_t GetOutputTypeCount() const { return 1; }
  ONNXTensorElementDataType GetInputType(std::size_t) const {
    return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }
  ONNXTensorElementDataType GetOutputType(std::size_t) const {
    return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }

  // What does not have the right rank is refused when it runs.
  static OrtStatusPtr InferOutputShape(Ort::ShapeInferContext& context) {
    return as_status([&] {
      const SymbolicShape shape = Operator::infer(context);
      if (!shape.empty()) Ort::ThrowOnError(context.SetOutputShape(0, shape));
    });
  }
};

const OrtCustomOp* feature_blend_operator();
const OrtCustomOp* fft_conv_operator();
const OrtCustomOp* flow_warp_operator();
std::vector<const OrtCustomOp*> winograd_conv_operators();

}  // namespace revisage::onnxruntime
