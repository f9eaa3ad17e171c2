// Body of feature_blend_<isa>.cc: no include guard, once per file. Before including it, define
// REVISAGE_ISA_FUNCTION, the name of the function that returns the kernels. Compiled with
// -ffp-contract=off: multiply_add says where products are fused, so that every pixel takes the same
// roundings, whichever loop it falls into.
#include "feature_blend_kernels.h"
#include "float_vector.h"

namespace revisage {
namespace {

// exp(x) for x <= 0, within 2e-7: 2^n * exp(r) with |r| <= ln(2) / 2, exp(r) by its Taylor series.
inline Floats exp_negative(Floats x) {
  constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: the sum's low bits are the integer n
  x = x < -87.0f ? Floats{} - 87.0f : x;   // a NaN stays
  const Floats shifted = x * 1.44269504f + kRounder;
  const Floats n = shifted - kRounder;
  const Floats r = (x - n * 0.693145752f) - n * 1.42860677e-6f;  // ln 2 in two parts
  constexpr float kTerms[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  Floats sum = Floats{} + 1.0f / 5040;
  for (const float term : kTerms) sum = multiply_add(sum, r, Floats{} + term);
  return sum * (Floats)(((Ints)shifted + 127) << 23);
}

inline Floats exp_of_distance(Floats first, Floats second) {
  const Floats difference = first - second;
  return exp_negative(difference < 0.0f ? difference : -difference);
}

// A sigmoid of the difference, which cannot overflow.
void softmax_first(const float* first, const float* second, float* out, int64_t count) {
  for_each_vector(0, count, [=](int64_t i, auto lanes) {
    const Floats a = load(first + i, lanes), b = load(second + i, lanes);
    const Floats decay = exp_of_distance(a, b);
    store(out + i, (a >= b ? Floats{} + 1.0f : decay) / (decay + 1.0f), lanes);
  });
}

void softmax_backward(const float* first, const float* second, const float* sums, float* grad_first,
                      float* grad_second, int64_t count) {
  for_each_vector(0, count, [=](int64_t i, auto lanes) {
    const Floats decay = exp_of_distance(load(first + i, lanes), load(second + i, lanes));
    const Floats slope = decay / ((decay + 1.0f) * (decay + 1.0f));
    const Floats grad = load(sums + i, lanes) * slope;
    store(grad_first + i, grad, lanes);
    store(grad_second + i, -grad, lanes);
  });
}

template <bool Stream>
void blend_run(const BlendRun& run) {
  const float channel = run.channel, rest = 1.0f - channel;
  const int64_t head = Stream ? floats_to_alignment(run.out, run.pixels) : 0;
  for_each_vector(head, run.pixels, [&, run](int64_t i, auto lanes) {
    const Floats spatial = load(run.spatial + i, lanes);
    const Floats from_image = ((1.0f - spatial) * rest) * load(run.image + i, lanes);
    const Floats value = multiply_add(spatial * channel, load(run.style + i, lanes), from_image);
    Stream ? stream(run.out + i, value, lanes) : store(run.out + i, value, lanes);
  });
}

void blend(const BlendRun& run) { run.stream ? blend_run<true>(run) : blend_run<false>(run); }

// A rotation of the lanes to the left.
inline Floats rotated(Floats value, int64_t by) {
  Floats result;
  for (int lane = 0; lane < kLanes; ++lane) result[lane] = value[(lane + by) % kLanes];
  return result;
}

// Lane k of the sum takes pixels k, k + kLanes, ... of the run. Where whole vectors start `head`
// pixels later, the lanes are turned by as much, so alignment changes no bit.
template <bool Stream>
float blend_backward_run(const BlendBackwardRun& run) {
  const float channel = run.channel, rest = 1.0f - channel;
  const int64_t head = Stream ? floats_to_alignment(run.grad_style, run.pixels) : 0;
  Floats sum{};
  for_each_vector(head, run.pixels, [&, run](int64_t i, auto lanes) {
    const Floats spatial = load(run.spatial + i, lanes), grad = load(run.grad + i, lanes);
    const Floats style = load(run.style + i, lanes), image = load(run.image + i, lanes);
    const Floats to_style = grad * spatial, to_image = grad * (1.0f - spatial);
    const Floats grad_style = to_style * channel, grad_image = to_image * rest;
    const Floats by_pixel =
        multiply_add(grad, style * channel - image * rest, load(run.by_pixel + i, lanes));
    Stream ? stream(run.grad_style + i, grad_style, lanes)
           : store(run.grad_style + i, grad_style, lanes);
    Stream ? stream(run.grad_image + i, grad_image, lanes)
           : store(run.grad_image + i, grad_image, lanes);
    store(run.by_pixel + i, by_pixel, lanes);
    sum = multiply_add(to_style, style, multiply_add(-to_image, image, sum));
    if (i == 0 && head > 0) sum = rotated(sum, head);
  });
  const Floats in_order = rotated(sum, kLanes - head);
  float total = 0.0f;
  for (int lane = 0; lane < kLanes; ++lane) total += in_order[lane];
  return total;
}

float blend_backward(const BlendBackwardRun& run) {
  return run.stream ? blend_backward_run<true>(run) : blend_backward_run<false>(run);
}

void fence() { stream_fence(); }

}  // namespace

const FeatureBlendKernels& REVISAGE_ISA_FUNCTION() {
  static const FeatureBlendKernels kernels = {&softmax_first, &softmax_backward, &blend,
                                              &blend_backward, &fence};
  return kernels;
}

}  // namespace revisage
