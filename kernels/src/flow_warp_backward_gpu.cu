#include "flow_warp_device.h"
#include "revisage/errors.h"

namespace revisage {

void flow_warp_backward_cuda(const FlowWarpBackwardTask&, std::uintptr_t) {
  throw DeviceError("flow_warp_backward runs on the CPU only; copy the arrays to the host");
}

}  // namespace revisage
