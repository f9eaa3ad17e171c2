// Stands in for the .cu files where there is no nvcc.
#include "composite_task.h"
#include "feature_blend_task.h"
#include "fft_conv_task.h"
#include "flow_warp_task.h"
#include "revisage/errors.h"
#include "revisage/runtime.h"

namespace revisage {
namespace {

[[noreturn]] void refuse() {
  throw DeviceError(
      "CUDA arrays were given, and this Revisage was built without CUDA; install nvcc and build "
      "with -Ccmake.define.REVISAGE_CUDA=ON, or copy the arrays to the host");
}

}  // namespace

bool built_with_cuda() { return false; }
int cuda_device_count() { return 0; }
int cuda_device_of(const void*) { return -1; }
void queue_after(std::uintptr_t, std::uintptr_t) { refuse(); }
CurrentCudaDevice::CurrentCudaDevice(int) {}
CurrentCudaDevice::~CurrentCudaDevice() = default;
void composite_cuda(const CompositeTask&, std::uintptr_t) { refuse(); }
void fft_conv_cuda(const FftConvCudaTask&, void*, std::uintptr_t) { refuse(); }
std::size_t fft_conv_cuda_workspace_bytes(const FftConvCudaTask&) { refuse(); }
void set_cufft_candidates(const std::vector<std::string>&) {}
template <typename Sample>
void feature_blend_cuda(const FeatureBlendTaskOf<Sample>&, std::uintptr_t) {
  refuse();
}
template <typename Sample>
void feature_blend_backward_cuda(const FeatureBlendBackwardTaskOf<Sample>&, std::uintptr_t) {
  refuse();
}
template void feature_blend_cuda(const FeatureBlendTaskOf<float>&, std::uintptr_t);
template void feature_blend_cuda(const FeatureBlendTaskOf<Half>&, std::uintptr_t);
template void feature_blend_cuda(const FeatureBlendTaskOf<BFloat16>&, std::uintptr_t);
template void feature_blend_backward_cuda(const FeatureBlendBackwardTaskOf<float>&, std::uintptr_t);
template void feature_blend_backward_cuda(const FeatureBlendBackwardTaskOf<Half>&, std::uintptr_t);
template void feature_blend_backward_cuda(const FeatureBlendBackwardTaskOf<BFloat16>&,
                                          std::uintptr_t);
void flow_warp_cuda(const FlowWarpTask&, std::uintptr_t) { refuse(); }
void flow_warp_backward_cuda(const FlowWarpBackwardTask&, std::uintptr_t) { refuse(); }

}  // namespace revisage
