#include "composite_task.h"
#include "entry_point.h"

namespace revisage {

void composite_cpu(const CompositeTask&, int) { throw std::logic_error("not emulated"); }

}  // namespace revisage

// out, original, delta, mask; six numbers of the matrix, strength.
REVISAGE_ENTRY_POINT(composite) {
  const revisage::Affine matrix{numbers[0], numbers[1], numbers[2],
                                numbers[3], numbers[4], numbers[5]};
  revisage::composite(array(0), array(1), array(2), array(3), matrix,
                      static_cast<float>(numbers[6]), {});
}
