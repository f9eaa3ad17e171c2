// The warp's hot loops for any machine: see flow_warp_kernels.h.
#define REVISAGE_ISA_FUNCTION warp_kernels_baseline
#include "flow_warp_arithmetic.h"
#include "flow_warp_group.h"

namespace revisage {
namespace {

constexpr int kGroup = 4;
typedef int Ints __attribute__((vector_size(16)));
typedef float Floats __attribute__((vector_size(16)));
typedef double Doubles __attribute__((vector_size(16)));

struct Pair {
  Floats first, second;
};

inline Pair deinterleave(Floats a, Floats b) {
  return {Floats{a[0], a[2], b[0], b[2]}, Floats{a[1], a[3], b[1], b[3]}};
}

template <typename Reals>
inline Reals clamp_far(Reals position) {
  const Reals far = Reals{} + 1073741824;
  const Reals clamped = position > -far ? position : -far;
  return clamped < far ? clamped : far;
}

inline Floats floor_of(Floats v) {
  const Floats truncated = __builtin_convertvector(__builtin_convertvector(v, Ints), Floats);
  return truncated > v ? truncated - 1.0f : truncated;
}

inline Doubles floor_of(Doubles v) {
  const auto floor_one = [](double one) {
    const double truncated = static_cast<int32_t>(one);
    return truncated > one ? truncated - 1.0 : truncated;
  };
  return Doubles{floor_one(v[0]), floor_one(v[1])};
}

template <typename Sample, int Channels>
constexpr int kSlack = 0;

template <int Channels>
inline bool all_inside(const Interior& interior, const int32_t* column, const int32_t* row,
                       uint32_t* offset) {
  unsigned outside = 0;
  for (int i = 0; i < kGroup; ++i) {
    const auto c = static_cast<uint32_t>(column[i]), r = static_cast<uint32_t>(row[i]);
    outside |= c >= interior.columns || r >= interior.rows;
    offset[i] = r * interior.row_samples + c * Channels;
  }
  return outside == 0;
}

template <int Channels, typename Sample>
inline void sample_group(const Group<Sample>& group, Sample* out) {
  for (int i = 0; i < kGroup; ++i) {
    const Sample* top = group.image + group.offset[i];
    const Sample* bottom = top + group.row_samples;
    const TapMixer<Sample> mixer(group.fx[i], group.fy[i]);
    for (int c = 0; c < Channels; ++c) {
      out[i * Channels + c] = mixer(top[c], top[Channels + c], bottom[c], bottom[Channels + c]);
    }
  }
}

}  // namespace
}  // namespace revisage

#include "flow_warp_loops.h"
