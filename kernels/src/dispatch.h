// Runtime dtype -> template parameter.
#pragma once

#include "revisage/array.h"
#include "samples.h"

namespace revisage {

// Calls visit(Sample{}) with the C++ type of `dtype`.
template <typename Visitor>
void dispatch_sample(DType dtype, Visitor&& visit) {
  switch (dtype) {
    case DType::u8:
      return visit(std::uint8_t{});
    case DType::u16:
      return visit(std::uint16_t{});
    case DType::f16:
      return visit(Half{});
    case DType::f32:
      return visit(float{});
  }
}

}  // namespace revisage
