// The Fourier unit on CUDA: what its kernels share. Three launches (fft_conv_planes_gpu.cu,
// fft_conv_mix_gpu.cu) over a workspace of the caller:
//   x -> spectrum: a plane in shared memory, both transforms in place;
//   spectrum -> mixed: [2D, 2C] by [2C, frequencies] on tensor cores, affine and ReLU at its end;
//   mixed -> out: a plane in shared memory again.
// Planes that are too large for shared memory go through cuFFT (fft_conv_large_gpu.cu) instead of
// the first and the last.
#pragma once

#include <cuda_fp16.h>

#include "cuda_check.h"
#include "fft_conv_task.h"
#include "half.h"
#include "revisage/errors.h"

namespace revisage {

// Note [Spectrum in fp16]
// Tensor cores multiply fp16 with all 11 bits and add in fp32, but fp16 ends at 65504, and a
// spectrum spans many orders of magnitude. So each plane is scaled by a power of two such that
// nothing in it can exceed 2^15: |X| <= sqrt(HW) max|x| for an ortho transform. The exponent goes
// beside the plane. The product sums over planes, so it brings all planes of an image to the
// smallest of their exponents first, in fp16; values that vanish by this lie 2^-39 below the
// largest possible one. Weights are scaled the same way, row by row. Powers of two are exact, and
// no exponent depends on another image, so a batch does not change bits.
// float32 x: a value is the sum of two fp16 (high + low, 22 bits), a product the sum of three
// (high high + low high + high low): relative error about 2^-22, as 3xTF32, in half its time.
// float16 and bfloat16 x: high alone, 2^-11.

// What undoes the scaling of a row of the weights, and its affine map.
struct RowFactor {
  float power;  // 2^-exponent
  float scale, shift;
};

// The workspace, and what its arrays have in common.
struct Spectra {
  std::int64_t batch;
  int in_channels, out_channels;
  int frequencies;     // H (W / 2 + 1), in an order of their own where planes fit
  int pitch;           // from plane to plane: frequencies rounded up to 8, the rest 0
  int rows, columns;   // of the padded weights, see mix_tile_rows and kMixDepth
  int parts;           // 2: high and low; 1: high
  float ortho;         // 1 / sqrt(HW)
  __half* weights;     // [parts][rows][columns]; of each 16 rows 8 are re, then 8 im of a channel
  RowFactor* factors;  // [rows]
  int* exponents;      // [batch][in_channels]: planes are scaled by 2^exponent
  __half* spectrum;    // [parts][batch][2 in_channels][pitch]
  float2* mixed;       // [batch][out_channels][pitch], times ortho
};

constexpr int kMixDepth = 32;  // columns of the weights are padded to a multiple

// Rows of the weights that one block of the product takes: what pads less.
inline int mix_tile_rows(std::int64_t rows) { return (rows + 63) / 64 % 2 == 0 ? 128 : 64; }

// --- division by a number that is the same for all threads ---------------------------------------

struct Divisor {
  unsigned int divisor, multiplier;
};

inline Divisor make_divisor(int divisor) {
  const auto d = static_cast<unsigned int>(divisor);
  return {d, d == 1 ? 0 : static_cast<unsigned int>((std::uint64_t{1} << 32) / d + 1)};
}

// value / divisor, exact while value * divisor < 2^32.
__device__ inline unsigned int quotient(unsigned int value, const Divisor& by) {
  return by.divisor == 1 ? value : __umulhi(value, by.multiplier);
}

// --- planes in shared memory ---------------------------------------------------------------------

constexpr int kMostStages = 16;
constexpr int kLargestPrime = 251;  // O(length * prime) work; cuFFT is better above

// A transform of one length, in place: stage i splits sub-transforms of `length` into `radix` of
// length `rest`. Afterwards frequency k is where `fft_position` says.
struct FftStages {
  int length, stages;
  struct Stage {
    int radix, length;
    Divisor rest;
  } stage[kMostStages];
};

// How a block holds planes. Even widths: samples 2j and 2j + 1 of a row are re and im of complex
// column j. Odd widths: two planes are re and im of one.
struct PlanePlan {
  int height, width;
  bool paired;     // two planes in one
  int row_length;  // complex: width / 2, or width where paired
  int pitch;       // of a row in shared memory, odd: columns of rows meet all banks
  int half;        // width / 2 + 1
  Divisor by_height, by_row_length, by_half;
  FftStages down, across;  // lengths height and row_length
  int threads;
  std::size_t shared_bytes;
  int shared_limit;  // of a block on this device
};

// Whether planes of this size have a plan within `shared_limit` bytes; fills `plan` if so.
bool plan_planes(std::int64_t height, std::int64_t width, std::int64_t shared_limit,
                 PlanePlan* plan);

// Also prepares weights, factors and exponents.
void launch_forward_planes(const FftConvCudaTask& task, const PlanePlan& plan,
                           const Spectra& spectra, cudaStream_t stream);
void launch_prepare_weights(const FftConvCudaTask& task, const Spectra& spectra,
                            cudaStream_t stream);
void launch_inverse_planes(const FftConvCudaTask& task, const PlanePlan& plan,
                           const Spectra& spectra, cudaStream_t stream);
void launch_mix(const Spectra& spectra, cudaStream_t stream);

// --- planes too large for that -------------------------------------------------------------------

// Hands out pieces of the workspace, aligned to 256 bytes; without memory it only counts.
class Arena {
 public:
  explicit Arena(void* memory)
      : start_((reinterpret_cast<std::uintptr_t>(memory) + kAlignment - 1) / kAlignment *
               kAlignment) {}

  template <typename T>
  T* take(std::int64_t count) {
    T* const piece = reinterpret_cast<T*>(start_ + used_);
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return piece;
  }

  // Of memory for all pieces, wherever it begins.
  std::size_t bytes() const { return used_ + kAlignment - 1; }

 private:
  static constexpr std::size_t kAlignment = 256;
  std::uintptr_t start_;
  std::size_t used_ = 0;
};

struct LargePlanes {
  float2* spectrum;  // [batch][in_channels][pitch], in natural order
  float* samples;    // x and later out, where these are not float32; else null
  char* work;        // cuFFT's
};

LargePlanes lay_out_large(const FftConvCudaTask& task, const Spectra& spectra, Arena& arena);
void run_large(const FftConvCudaTask& task, const Spectra& spectra, const LargePlanes& large,
               cudaStream_t stream);

// --- samples -------------------------------------------------------------------------------------

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(Half value) { return __half2float(__ushort_as_half(value.bits)); }
__device__ inline float to_float(BFloat16 value) { return bfloat16_to_float(value); }

template <typename Sample>
__device__ Sample from_float(float value);
template <>
__device__ inline float from_float<float>(float value) {
  return value;
}
template <>
__device__ inline Half from_float<Half>(float value) {
  return Half{__half_as_ushort(__float2half_rn(value))};
}
template <>
__device__ inline BFloat16 from_float<BFloat16>(float value) {
  return float_to_bfloat16(value);
}

// A sample of a dtype that is known at run time only, for what is read once.
__device__ inline float load_sample(const void* samples, std::int64_t index, DType dtype) {
  if (dtype == DType::f32) return static_cast<const float*>(samples)[index];
  if (dtype == DType::f16) return to_float(static_cast<const Half*>(samples)[index]);
  return to_float(static_cast<const BFloat16*>(samples)[index]);
}

// Calls visit(Sample{}) with the C++ type of a network's dtype.
template <typename Visitor>
void dispatch_float(DType dtype, Visitor&& visit) {
  if (dtype == DType::f16) return visit(Half{});
  if (dtype == DType::bf16) return visit(BFloat16{});
  visit(float{});
}

// --- scaling (Note [Spectrum in fp16]) -----------------------------------------------------------

__device__ inline float power_of_two(int exponent) {  // from -126 to 127
  return __int_as_float((exponent + 127) << 23);
}

// The exponent that brings `bound` into [2^14, 2^15); what is not finite stays so.
__device__ inline int scaling_exponent(float bound) {
  const int exponent = (__float_as_int(bound) >> 23 & 255) - 127;
  return min(14 - exponent, 100);
}

// As integers magnitudes keep their order, and NaN stands above infinity.
__device__ inline unsigned int magnitude_bits(float value) {
  return __float_as_uint(value) & 0x7FFFFFFFu;
}

__device__ inline unsigned int largest_of_warp(unsigned int bits) {
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    bits = max(bits, __shfl_xor_sync(0xFFFFFFFFu, bits, lanes));
  }
  return bits;
}

// The largest of all threads' magnitudes. Has a barrier.
__device__ inline float largest_of_block(unsigned int bits, unsigned int* shared_word) {
  bits = largest_of_warp(bits);
  if (threadIdx.x % 32 == 0) atomicMax(shared_word, bits);
  __syncthreads();
  return __uint_as_float(*shared_word);
}

// a = high + low, b likewise, each pair of parts as one word at `index` (even) of its array.
__device__ inline void store_parts(__half* high, std::int64_t index, std::int64_t part_stride,
                                   int parts, float a, float b) {
  const __half2 rounded = __floats2half2_rn(a, b);
  *reinterpret_cast<__half2*>(high + index) = rounded;
  if (parts == 1) return;
  const float2 back = __half22float2(rounded);
  *reinterpret_cast<__half2*>(high + part_stride + index) =
      __floats2half2_rn(a - back.x, b - back.y);
}

}  // namespace revisage
