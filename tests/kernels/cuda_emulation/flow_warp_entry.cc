#include "entry_point.h"
#include "flow_warp_task.h"

namespace revisage {

void flow_warp_cpu(const FlowWarpTask&, int) { throw std::logic_error("not emulated"); }
void flow_warp_backward_cpu(const FlowWarpBackwardTask&, int) {
  throw std::logic_error("not emulated");
}

}  // namespace revisage

// out, image, flow (or none); padding, interleaved, and six numbers of the matrix if there is no
// flow.
REVISAGE_ENTRY_POINT(flow_warp) {
  const revisage::Array flow = array(2);
  const revisage::Affine matrix{numbers[2], numbers[3], numbers[4],
                                numbers[5], numbers[6], numbers[7]};
  const bool has_flow = flow.data != nullptr;
  revisage::flow_warp(array(0), array(1), has_flow ? &flow : nullptr, has_flow ? nullptr : &matrix,
                      static_cast<revisage::Padding>(static_cast<int>(numbers[0])), numbers[1] != 0,
                      {});
}

// grad_image and grad_flow (or none), grad, image, flow; padding, interleaved.
REVISAGE_ENTRY_POINT(flow_warp_backward) {
  const revisage::Array grad_image = array(0), grad_flow = array(1);
  revisage::flow_warp_backward(
      grad_image.data != nullptr ? &grad_image : nullptr,
      grad_flow.data != nullptr ? &grad_flow : nullptr, array(2), array(3), array(4),
      static_cast<revisage::Padding>(static_cast<int>(numbers[0])), numbers[1] != 0, {});
}
