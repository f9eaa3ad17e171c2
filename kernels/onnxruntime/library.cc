// The entry point that SessionOptions.register_custom_ops_library looks for.
#include "operator.h"

namespace {

constexpr std::uint32_t kOldestApi = 1;  // every ONNX Runtime has it: enough to say what is wrong

}  // namespace

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(
    OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (api == nullptr) {
    const std::string message = std::string("built with the headers of ONNX Runtime 1.") +
                                std::to_string(ORT_API_VERSION) + ", which is newer than " +
                                base->GetVersionString() + ": build with older headers";
    return base->GetApi(kOldestApi)->CreateStatus(ORT_NOT_IMPLEMENTED, message.c_str());
  }
  Ort::InitApi(api);
  using namespace revisage::onnxruntime;
  return as_status([&] {
    static const Ort::CustomOpDomain domain = [] {
      Ort::CustomOpDomain made("revisage");
      made.Add(feature_blend_operator());
      made.Add(fft_conv_operator());
      made.Add(flow_warp_operator());
      for (const OrtCustomOp* op : winograd_conv_operators()) made.Add(op);
      return made;
    }();
    Ort::UnownedSessionOptions(options).Add(domain);
  });
}
