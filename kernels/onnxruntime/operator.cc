#include "operator.h"

#include <utility>

namespace revisage::onnxruntime {

void SessionExecutor::run(int slots, const std::function<void(int slot)>& part) {
  const auto call = [](void* user, std::size_t slot) {
    (*static_cast<const std::function<void(int)>*>(user))(static_cast<int>(slot));
  };
  auto* user = const_cast<std::function<void(int)>*>(&part);
  context_.ParallelFor(call, static_cast<std::size_t>(slots), 0, user);
}

Array borrow(const Ort::ConstValue& value, const char* name) {
  Array array;
  array.name = name;
  array.shape = value.GetTensorTypeAndShapeInfo().GetShape();
  array.data = const_cast<float*>(value.GetTensorData<float>());
  return array;
}

Array input(const Ort::KernelContext& context, std::size_t index, const char* name) {
  return borrow(context.GetInput(index), name);
}

Array output(const Ort::KernelContext& context, const Shape& shape) {
  Ort::UnownedValue value = context.GetOutput(0, shape);
  Array array;
  array.name = "output";
  array.shape = shape;
  array.data = value.GetTensorMutableData<float>();
  array.writable = true;
  return array;
}

}  // namespace revisage::onnxruntime
