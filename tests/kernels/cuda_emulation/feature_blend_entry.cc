#include "entry_point.h"
#include "feature_blend_task.h"

namespace revisage {

void feature_blend_cpu(const FeatureBlendTask&, int) { throw std::logic_error("not emulated"); }
void feature_blend_backward_cpu(const FeatureBlendBackwardTask&, int) {
  throw std::logic_error("not emulated");
}

}  // namespace revisage

// out, style, image, spatial_logits, channel_logits; strength.
REVISAGE_ENTRY_POINT(feature_blend) {
  revisage::feature_blend(array(0), array(1), array(2), array(3), array(4),
                          static_cast<float>(numbers[0]), {});
}

// The four gradients, grad, style, image, spatial_logits, channel_logits; strength.
REVISAGE_ENTRY_POINT(feature_blend_backward) {
  revisage::feature_blend_backward({array(0), array(1), array(2), array(3)}, array(4), array(5),
                                   array(6), array(7), array(8), static_cast<float>(numbers[0]),
                                   {});
}
