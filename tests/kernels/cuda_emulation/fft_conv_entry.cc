#include "entry_point.h"
#include "fft_conv_task.h"

namespace revisage {
void fft_conv_cpu(const FftConvTask&, int) { throw std::logic_error("not part of this library"); }
}  // namespace revisage

REVISAGE_ENTRY_POINT(fft_conv) {
  const revisage::Array workspace = array(5);
  revisage::fft_conv(array(0), array(1), array(2), array(3), array(4), {}, &workspace);
}

REVISAGE_ENTRY_POINT(fft_conv_workspace_bytes) {
  numbers[0] = static_cast<double>(revisage::fft_conv_workspace_bytes(array(0), array(1)));
}

extern "C" void emulated_set_cufft(const char* path) { revisage::set_cufft_candidates({path}); }
