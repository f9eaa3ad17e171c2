// Runtime dtype -> template parameter.
#pragma once

#include "revisage/array.h"
#include "revisage/errors.h"
#include "samples.h"

namespace revisage {

// Calls visit(Sample{}) with the C++ type of `dtype`, one of those that photos have.
template <typename Visitor>
void dispatch_sample(DType dtype, Visitor&& visit) {
  switch (dtype) {
    case DType::u8:
      return visit(std::uint8_t{});
    case DType::u16:
      return visit(std::uint16_t{});
    case DType::f16:
      return visit(Half{});
    case DType::bf16:
      throw ShapeError("bfloat16 is for networks on CUDA, not for photos or the CPU; use float32");
    case DType::f32:
      return visit(float{});
  }
}

}  // namespace revisage
