// x -> spectrum and mixed -> out, a plane (or two) per block in shared memory.
#include <algorithm>

#include "cuda_launch.h"
#include "cuda_transforms.h"
#include "fft_conv_cuda.h"

namespace revisage {
namespace {

constexpr int kMostThreads = 256;

// --- transforms of a plane -----------------------------------------------------------------------

// All lines of a plane in one direction.
struct Axis {
  float2* plane;
  Divisor lines;
  int line_stride, stride;  // from line to line, from element to element
  const float2* roots;      // exp(-2 pi i j / root_count)
  int root_count;           // a multiple of the length
};

// v[q] *= roots[q * turn].
template <int radix>
__device__ inline void multiply_by_powers(float2 (&v)[radix], const float2* roots, int turn) {
  if (radix == 16) {
    // Six roots and their products: fifteen would not stay in registers.
#pragma unroll
    for (int i = 0; i < 16; i += 4) {
      const float2 fours = roots[i * turn];
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        if (q > 0) v[i + q] = v[i + q] * roots[q * turn];
        if (i > 0) v[i + q] = v[i + q] * fours;
      }
    }
  } else {
#pragma unroll
    for (int q = 1; q < radix; ++q) v[q] = v[q] * roots[q * turn];
  }
}

// Neighbouring threads take neighbouring lines: addresses one apart down the columns, an odd number
// apart along the rows, so no bank conflicts; and they share a root.
template <int radix, bool roots_first>
__device__ void run_stage(const Axis& axis, int length, const FftStages::Stage& stage) {
  const unsigned int butterflies = axis.lines.divisor * static_cast<unsigned int>(length / radix);
  const int rest = static_cast<int>(stage.rest.divisor), step = rest * axis.stride;
  const int root_step = axis.root_count / stage.length;
  for (unsigned int t = threadIdx.x; t < butterflies; t += blockDim.x) {
    const unsigned int butterfly = quotient(t, axis.lines);
    const auto line = static_cast<int>(t - butterfly * axis.lines.divisor);
    const unsigned int block = quotient(butterfly, stage.rest);
    const auto offset = static_cast<int>(butterfly - block * stage.rest.divisor);
    float2* const at = axis.plane + line * axis.line_stride +
                       (static_cast<int>(block) * stage.length + offset) * axis.stride;
    float2 v[radix];
#pragma unroll
    for (int i = 0; i < radix; ++i) v[i] = at[i * step];
    if (!roots_first) transform(v);
    if (rest > 1) multiply_by_powers(v, axis.roots, offset * root_step);
    if (roots_first) transform(v);
#pragma unroll
    for (int i = 0; i < radix; ++i) at[i * step] = v[i];
  }
  __syncthreads();
}

// The roots between a stage with a large prime radix and the stages after it.
__device__ void multiply_by_roots(const Axis& axis, int length, const FftStages::Stage& stage) {
  if (stage.rest.divisor == 1) return;
  const int rest = static_cast<int>(stage.rest.divisor);
  const int root_step = axis.root_count / stage.length;
  const unsigned int elements = axis.lines.divisor * static_cast<unsigned int>(length);
  for (unsigned int t = threadIdx.x; t < elements; t += blockDim.x) {
    const auto element = static_cast<int>(quotient(t, axis.lines));
    const int line = static_cast<int>(t) - element * static_cast<int>(axis.lines.divisor);
    const int inside = element % stage.length;
    float2& value = axis.plane[line * axis.line_stride + element * axis.stride];
    value = value * axis.roots[inside / rest * (inside % rest) * root_step];
  }
  __syncthreads();
}

// A large prime radix by its definition. A thread computes frequencies q and radix - q of one
// butterfly; as many butterflies as the block has room for are read, then written.
__device__ void run_prime_stage(const Axis& axis, int length, const FftStages::Stage& stage) {
  const int radix = stage.radix, half = (radix + 1) / 2;
  const int rest = static_cast<int>(stage.rest.divisor), step = rest * axis.stride;
  const int lines = static_cast<int>(axis.lines.divisor), butterflies = lines * (length / radix);
  const int room = static_cast<int>(blockDim.x) / half;
  const int own = static_cast<int>(threadIdx.x) % room, q = static_cast<int>(threadIdx.x) / room;
  const int root_step = axis.root_count / radix;
  for (int first = 0; first < butterflies; first += room) {
    const int t = first + own;
    const bool works = t < butterflies && q < half;
    float2* at = nullptr;
    float2 even = make_float2(0.0f, 0.0f), odd = even;
    if (works) {
      const int butterfly = t / lines;
      at = axis.plane + t % lines * axis.line_stride +
           (butterfly / rest * stage.length + butterfly % rest) * axis.stride;
      even = at[0];
      int turn = 0;  // j * q mod radix
      for (int j = 1; j < half; ++j) {
        turn += q;
        if (turn >= radix) turn -= radix;
        const float2 root = axis.roots[turn * root_step];
        const float2 a = at[j * step], b = at[(radix - j) * step];
        even = even + (a + b) * root.x;
        odd = odd + (a - b) * root.y;
      }
    }
    __syncthreads();
    if (works) {
      at[q * step] = even + times_i(odd);
      if (q > 0) at[(radix - q) * step] = even - times_i(odd);
    }
    __syncthreads();
  }
}

// In place. Decimation in frequency leaves the frequencies in the order of `fft_position`; with
// roots_first (decimation in time) the stages run backwards, from that order to the natural one.
template <bool roots_first>
__device__ void run_stages(const Axis& axis, const FftStages& fft) {
#pragma unroll 1
  for (int i = 0; i < fft.stages; ++i) {
    const FftStages::Stage& stage = fft.stage[roots_first ? fft.stages - 1 - i : i];
    switch (stage.radix) {
      case 2:
        run_stage<2, roots_first>(axis, fft.length, stage);
        break;
      case 3:
        run_stage<3, roots_first>(axis, fft.length, stage);
        break;
      case 4:
        run_stage<4, roots_first>(axis, fft.length, stage);
        break;
      case 5:
        run_stage<5, roots_first>(axis, fft.length, stage);
        break;
      case 7:
        run_stage<7, roots_first>(axis, fft.length, stage);
        break;
      case 8:
        run_stage<8, roots_first>(axis, fft.length, stage);
        break;
      case 16:
        run_stage<16, roots_first>(axis, fft.length, stage);
        break;
      default:
        if (roots_first) multiply_by_roots(axis, fft.length, stage);
        run_prime_stage(axis, fft.length, stage);
        if (!roots_first) multiply_by_roots(axis, fft.length, stage);
    }
  }
}

// Where frequency `k` stands after run_stages<false>.
__device__ int fft_position(const FftStages& fft, int k) {
  int position = 0;
  for (int i = 0; i < fft.stages; ++i) {
    position += k % fft.stage[i].radix * static_cast<int>(fft.stage[i].rest.divisor);
    k /= fft.stage[i].radix;
  }
  return position;
}

// --- a block's shared memory ---------------------------------------------------------------------

// Column i of a stored half spectrum: where it and its opposite stand in the plane. Even widths
// keep the order of the plane (consecutive addresses), then comes frequency width / 2, which is
// made of frequency 0 of the complex columns. Odd widths have few factors of 2 and take the natural
// order.
struct Column {
  std::uint16_t at, opposite, frequency;
};

struct Shared {
  float2* plane;         // [height][pitch]
  float2* roots_down;    // [height]
  float2* roots_across;  // [width]
  Column* columns;       // [half]
  std::uint16_t* rows;   // [height]: row of a frequency

  __device__ float2& at(const PlanePlan& plan, int row, int column) const {
    return plane[row * plan.pitch + column];
  }
};

std::size_t shared_bytes(const PlanePlan& plan) {
  const auto elements =
      static_cast<std::size_t>(plan.height * plan.pitch + plan.height + plan.width);
  return elements * sizeof(float2) + static_cast<std::size_t>(plan.half) * sizeof(Column) +
         static_cast<std::size_t>(plan.height) * sizeof(std::uint16_t);
}

__device__ void fill_roots(float2* roots, int count) {
  for (int j = static_cast<int>(threadIdx.x); j < count; j += static_cast<int>(blockDim.x)) {
    // From -1 to 1, where the fraction of a turn is most precise.
    const int turn = 2 * j > count ? j - count : j;
    float sine, cosine;
    sincospif(static_cast<float>(2 * turn) / static_cast<float>(count), &sine, &cosine);
    roots[j] = make_float2(cosine, -sine);
  }
}

// The tables; complete after the next barrier.
__device__ Shared prepare_shared(const PlanePlan& plan) {
  Shared shared;
  shared.plane = dynamic_shared<float2>();
  shared.roots_down = shared.plane + plan.height * plan.pitch;
  shared.roots_across = shared.roots_down + plan.height;
  shared.columns = reinterpret_cast<Column*>(shared.roots_across + plan.width);
  shared.rows = reinterpret_cast<std::uint16_t*>(shared.columns + plan.half);
  fill_roots(shared.roots_down, plan.height);
  fill_roots(shared.roots_across, plan.width);
  const auto threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  for (int k = thread; k < plan.height; k += threads) {
    shared.rows[k] = static_cast<std::uint16_t>(fft_position(plan.down, k));
  }
  for (int k = thread; k < plan.half; k += threads) {
    const int turned = k == 0 || k == plan.row_length ? 0 : plan.row_length - k;
    const bool last = !plan.paired && k == plan.row_length;  // width / 2 of an even width
    const int at = last ? 0 : fft_position(plan.across, k);
    const int index = plan.paired || last ? k : at;
    shared.columns[index] = {static_cast<std::uint16_t>(at),
                             static_cast<std::uint16_t>(fft_position(plan.across, turned)),
                             static_cast<std::uint16_t>(k)};
  }
  return shared;
}

// Both directions of the plane: down and across, or, with roots_first, the other way round.
template <bool roots_first>
__device__ void transform_plane(const PlanePlan& plan, const Shared& shared) {
#pragma unroll 1  // one copy of the stages
  for (int i = 0; i < 2; ++i) {
    const bool across = (i == 1) != roots_first;
    const Axis axis = {shared.plane,
                       across ? plan.by_height : plan.by_row_length,
                       across ? plan.pitch : 1,
                       across ? 1 : plan.pitch,
                       across ? shared.roots_across : shared.roots_down,
                       across ? plan.width : plan.height};
    run_stages<roots_first>(axis, across ? plan.across : plan.down);
  }
}

// --- weights -------------------------------------------------------------------------------------

// Rows that a block prepares.
__host__ __device__ inline int weight_rows(int threads) { return threads / 32; }

// A row of the padded weights per warp.
__device__ void prepare_weights(const FftConvCudaTask& task, const Spectra& spectra, int block) {
  const auto thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const int row = block * weight_rows(static_cast<int>(blockDim.x)) + thread / 32;
  if (row >= spectra.rows) return;
  const int channel = row / 16 * 8 + row % 8, from_row = 2 * channel + row / 8 % 2;
  const bool exists = channel < spectra.out_channels;
  const std::int64_t start = static_cast<std::int64_t>(from_row) * 2 * spectra.in_channels;
  const auto weight = [&](int column) {
    return exists && column < 2 * spectra.in_channels
               ? load_sample(task.weight, start + column, task.weight_dtype)
               : 0.0f;
  };
  unsigned int largest = 0;
  for (int column = lane; column < spectra.columns; column += 32) {
    largest = max(largest, magnitude_bits(weight(column)));
  }
  const int exponent = scaling_exponent(__uint_as_float(largest_of_warp(largest)));
  const float power = power_of_two(exponent);
  const std::int64_t part = static_cast<std::int64_t>(spectra.rows) * spectra.columns;
  for (int column = 2 * lane; column < spectra.columns; column += 64) {
    store_parts(spectra.weights, static_cast<std::int64_t>(row) * spectra.columns + column, part,
                spectra.parts, weight(column) * power, weight(column + 1) * power);
  }
  if (lane == 0) {
    spectra.factors[row] = {power_of_two(-exponent),
                            exists ? load_sample(task.scale, from_row, task.scale_dtype) : 0.0f,
                            exists ? load_sample(task.shift, from_row, task.shift_dtype) : 0.0f};
  }
}

__global__ void __launch_bounds__(kMostThreads)
    prepare_all_weights(FftConvCudaTask task, Spectra spectra) {
  prepare_weights(task, spectra, static_cast<int>(blockIdx.x));
}

// --- x -> spectrum -------------------------------------------------------------------------------

template <typename Sample>
struct alignas(2 * sizeof(Sample)) Two {
  Sample first, second;
};

// Which planes a block works on.
struct Planes {
  std::int64_t image, first;  // of the batch; plane of the array
  int channel;
  bool second;  // there are two

  __device__ Planes(const PlanePlan& plan, std::int64_t block, int channels) {
    const int per_image = plan.paired ? (channels + 1) / 2 : channels;
    image = block / per_image;
    channel = static_cast<int>(block % per_image) * (plan.paired ? 2 : 1);
    first = image * channels + channel;
    second = plan.paired && channel + 1 < channels;
  }
};

// Loads the block's samples and returns the largest magnitude of those that this thread loaded.
template <typename Sample>
__device__ unsigned int load_planes(const PlanePlan& plan, const Shared& shared,
                                    const Planes& planes, const Sample* x) {
  const int area = plan.height * plan.width, elements = plan.height * plan.row_length;
  const auto threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  const Sample* from = x + planes.first * area;
  const bool aligned = reinterpret_cast<std::uintptr_t>(from) % sizeof(Two<Sample>) == 0;
  unsigned int largest = 0;
  const auto keep = [&](int t, float a, float b) {
    const auto row = static_cast<int>(quotient(static_cast<unsigned int>(t), plan.by_row_length));
    shared.at(plan, row, t - row * plan.row_length) = make_float2(a, b);
    largest = max(largest, max(magnitude_bits(a), magnitude_bits(b)));
  };
  if (plan.paired) {
    for (int t = thread; t < elements; t += threads) {
      keep(t, to_float(from[t]), planes.second ? to_float(from[area + t]) : 0.0f);
    }
  } else if (aligned) {
#pragma unroll 8
    for (int t = thread; t < elements; t += threads) {
      const Two<Sample> pair = reinterpret_cast<const Two<Sample>*>(from)[t];
      keep(t, to_float(pair.first), to_float(pair.second));
    }
  } else {
    for (int t = thread; t < elements; t += threads) {
      keep(t, to_float(from[2 * t]), to_float(from[2 * t + 1]));
    }
  }
  return largest;
}

// Separates what was transformed as one complex plane and writes [2 channels][pitch] per plane.
__device__ void store_spectrum(const PlanePlan& plan, const Shared& shared, const Planes& planes,
                               const Spectra& spectra, float factor) {
  const std::int64_t plane = 2 * static_cast<std::int64_t>(spectra.pitch);
  const std::int64_t part = spectra.batch * spectra.in_channels * plane;
  const std::int64_t start = planes.first * plane;
  const auto threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  for (int f = 2 * thread; f < spectra.pitch; f += 2 * threads) {
    float2 even[2] = {}, odd[2] = {};  // twice the spectra of re and of im
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (f + i >= spectra.frequencies) continue;
      const auto k = static_cast<int>(quotient(static_cast<unsigned int>(f + i), plan.by_half));
      const Column column = shared.columns[f + i - k * plan.half];
      const float2 a = shared.at(plan, shared.rows[k], column.at);
      const float2 b =
          conjugate(shared.at(plan, shared.rows[k == 0 ? 0 : plan.height - k], column.opposite));
      even[i] = a + b;
      odd[i] = times_i(b - a);
      if (!plan.paired) even[i] = even[i] + odd[i] * shared.roots_across[column.frequency];
    }
    store_parts(spectra.spectrum, start + f, part, spectra.parts, even[0].x * factor,
                even[1].x * factor);
    store_parts(spectra.spectrum, start + spectra.pitch + f, part, spectra.parts,
                even[0].y * factor, even[1].y * factor);
    if (!planes.second) continue;
    store_parts(spectra.spectrum, start + plane + f, part, spectra.parts, odd[0].x * factor,
                odd[1].x * factor);
    store_parts(spectra.spectrum, start + plane + spectra.pitch + f, part, spectra.parts,
                odd[0].y * factor, odd[1].y * factor);
  }
}

template <typename Sample>
__global__ void __launch_bounds__(kMostThreads, 3)
    forward_planes(FftConvCudaTask task, PlanePlan plan, Spectra spectra, int weight_blocks) {
  __shared__ unsigned int largest_word;
  const std::int64_t block = static_cast<std::int64_t>(blockIdx.x) - weight_blocks;
  if (block < 0) return prepare_weights(task, spectra, static_cast<int>(blockIdx.x));
  if (threadIdx.x == 0) largest_word = 0;
  __syncthreads();
  const Planes planes(plan, block, spectra.in_channels);
  const Shared shared = prepare_shared(plan);
  const unsigned int own = load_planes(plan, shared, planes, static_cast<const Sample*>(task.x));
  largest_of_block(own, &largest_word);
  transform_plane<false>(plan, shared);
  // Read only now: there is no register for it during the transforms.
  const int exponent = scaling_exponent(__uint_as_float(largest_word) / spectra.ortho);
  store_spectrum(plan, shared, planes, spectra, 0.5f * spectra.ortho * power_of_two(exponent));
  if (threadIdx.x == 0) {
    spectra.exponents[planes.first] = exponent;
    if (planes.second) spectra.exponents[planes.first + 1] = exponent;
  }
}

// --- mixed -> out --------------------------------------------------------------------------------

__device__ inline float2 swapped(float2 a) { return make_float2(a.y, a.x); }

// One complex plane from the half spectra of its parts. Values are stored with re and im swapped,
// which turns a forward transform into an inverse one. What stands at frequency 0 of the rows (and
// width / 2) counts by its part that is the spectrum of real columns, as in numpy.fft.irfft2.
__device__ void load_spectrum(const PlanePlan& plan, const Shared& shared, const Planes& planes,
                              const Spectra& spectra) {
  const float2* const first = spectra.mixed + planes.first * spectra.pitch;
  const float2* const second = first + spectra.pitch;
  const float2 zero = make_float2(0.0f, 0.0f);
  // Frequencies k and -k of the columns go together.
  const int pairs = (plan.height / 2 + 1) * plan.half;
  for (int t = static_cast<int>(threadIdx.x); t < pairs; t += static_cast<int>(blockDim.x)) {
    const auto k = static_cast<int>(quotient(static_cast<unsigned int>(t), plan.by_half));
    const int i = t - k * plan.half;
    const int minus_k = k == 0 ? 0 : plan.height - k;
    const int up = k * plan.half, down = minus_k * plan.half;
    const Column column = shared.columns[i];
    float2 even, odd;  // spectra of re and of im at (k, column)
    if (plan.paired) {
      even = first[up + i];
      odd = planes.second ? second[up + i] : zero;
      if (column.frequency == 0) {
        even = (even + conjugate(first[down])) * 0.5f;
        if (planes.second) odd = (odd + conjugate(second[down])) * 0.5f;
      } else {
        // (-k, column) is not the opposite of (k, column), so it comes from memory as well.
        const float2 below = first[down + i], below_odd = planes.second ? second[down + i] : zero;
        shared.at(plan, shared.rows[minus_k], column.at) = swapped(below + times_i(below_odd));
        shared.at(plan, shared.rows[k], column.opposite) =
            swapped(conjugate(below) + times_i(conjugate(below_odd)));
      }
    } else {
      if (column.frequency == plan.row_length) continue;          // done with frequency 0
      if (k == minus_k && column.opposite < column.at) continue;  // done from the other side
      float2 here = first[up + i], there;
      if (column.frequency == 0) {
        const int last = plan.row_length;
        here = (here + conjugate(first[down])) * 0.5f;
        there = (first[up + last] + conjugate(first[down + last])) * 0.5f;
      } else {
        there = conjugate(first[down + column.opposite]);
      }
      even = here + there;
      odd = (here - there) * conjugate(shared.roots_across[column.frequency]);
    }
    shared.at(plan, shared.rows[k], column.at) = swapped(even + times_i(odd));
    shared.at(plan, shared.rows[minus_k], column.opposite) =
        swapped(conjugate(even) + times_i(conjugate(odd)));
  }
}

template <typename Sample>
__device__ void store_planes(const PlanePlan& plan, const Shared& shared, const Planes& planes,
                             Sample* out) {
  const int area = plan.height * plan.width, elements = plan.height * plan.row_length;
  const auto threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  Sample* const to = out + planes.first * area;
  const bool aligned = reinterpret_cast<std::uintptr_t>(to) % sizeof(Two<Sample>) == 0;
  for (int t = thread; t < elements; t += threads) {
    const auto row = static_cast<int>(quotient(static_cast<unsigned int>(t), plan.by_row_length));
    const float2 value = shared.at(plan, row, t - row * plan.row_length);
    const Two<Sample> pair = {from_float<Sample>(value.y), from_float<Sample>(value.x)};
    if (plan.paired) {
      to[t] = pair.first;
      if (planes.second) to[area + t] = pair.second;
    } else if (aligned) {
      reinterpret_cast<Two<Sample>*>(to)[t] = pair;
    } else {
      to[2 * t] = pair.first;
      to[2 * t + 1] = pair.second;
    }
  }
}

template <typename Sample>
__global__ void __launch_bounds__(kMostThreads, 3)
    inverse_planes(FftConvCudaTask task, PlanePlan plan, Spectra spectra) {
  const Planes planes(plan, blockIdx.x, spectra.out_channels);
  const Shared shared = prepare_shared(plan);
  __syncthreads();
  load_spectrum(plan, shared, planes, spectra);
  __syncthreads();
  transform_plane<true>(plan, shared);
  store_planes(plan, shared, planes, static_cast<Sample*>(task.out));
}

// --- host ----------------------------------------------------------------------------------------

// False where a prime factor is too large.
bool plan_stages(int length, FftStages* fft) {
  *fft = {};
  fft->length = length;
  int left = length;
  const auto add = [&](int radix) {
    FftStages::Stage& stage = fft->stage[fft->stages++];
    stage.radix = radix;
    stage.length = left;
    left /= radix;
    stage.rest = make_divisor(left);
  };
  int twos = 0;
  while (left >> twos > 1 && left % (2 << twos) == 0) ++twos;
  // As few stages as possible, none above 16, all about the same.
  for (int stages = (twos + 3) / 4; stages > 0; --stages) {
    const int bits = (twos + stages - 1) / stages;
    add(1 << bits);
    twos -= bits;
  }
  for (int prime = 3; left > 1; prime += 2) {
    if (prime > left / prime) prime = left;  // what is left is prime
    while (left % prime == 0 && left > 1) {
      if (prime > kLargestPrime) return false;
      add(prime);
    }
  }
  return true;
}

std::int64_t blocks(const PlanePlan& plan, std::int64_t batch, int channels) {
  return batch * (plan.paired ? (channels + 1) / 2 : channels);
}

template <typename... Parameters, typename... Arguments>
void launch_planes(void (*kernel)(Parameters...), std::int64_t count, const PlanePlan& plan,
                   cudaStream_t stream, const Arguments&... arguments) {
  if (count > INT32_MAX) throw ShapeError("x or out has too many planes for one CUDA launch");
  cuda_check(allow_shared_memory(kernel, plan.shared_limit), "asking for shared memory");
  launch(kernel, static_cast<unsigned int>(count), static_cast<unsigned int>(plan.threads),
         plan.shared_bytes, stream, arguments...);
  cuda_check(cudaGetLastError(), "launching fft_conv");
}

int weight_blocks(const Spectra& spectra, int threads) {
  return (spectra.rows + weight_rows(threads) - 1) / weight_rows(threads);
}

}  // namespace

bool plan_planes(std::int64_t height, std::int64_t width, std::int64_t shared_limit,
                 PlanePlan* plan) {
  // A first, rough bound, so that nothing below overflows.
  if (height > shared_limit || width > shared_limit || height * width > shared_limit) return false;
  *plan = {};
  plan->height = static_cast<int>(height);
  plan->width = static_cast<int>(width);
  plan->paired = width % 2 != 0;
  plan->row_length = plan->paired ? plan->width : plan->width / 2;
  plan->pitch = plan->row_length | 1;
  plan->half = plan->width / 2 + 1;
  plan->by_height = make_divisor(plan->height);
  plan->by_row_length = make_divisor(plan->row_length);
  plan->by_half = make_divisor(plan->half);
  plan->shared_bytes = shared_bytes(*plan);
  // Beside the dynamic memory a kernel has a word of its own.
  plan->shared_limit = static_cast<int>(shared_limit) - 16;
  if (plan->shared_bytes > static_cast<std::size_t>(plan->shared_limit)) return false;
  if (!plan_stages(plan->height, &plan->down)) return false;
  if (!plan_stages(plan->row_length, &plan->across)) return false;
  int threads = std::max(1, plan->height * plan->row_length / 8);
  for (const FftStages* fft : {&plan->down, &plan->across}) {
    for (int i = 0; i < fft->stages; ++i) threads = std::max(threads, fft->stage[i].radix);
  }
  plan->threads = std::min(kMostThreads, (threads + 31) / 32 * 32);
  return true;
}

void launch_forward_planes(const FftConvCudaTask& task, const PlanePlan& plan,
                           const Spectra& spectra, cudaStream_t stream) {
  const int others = weight_blocks(spectra, plan.threads);
  const std::int64_t count = others + blocks(plan, spectra.batch, spectra.in_channels);
  dispatch_float(task.dtype, [&](auto sample) {
    launch_planes(forward_planes<decltype(sample)>, count, plan, stream, task, plan, spectra,
                  others);
  });
}

void launch_prepare_weights(const FftConvCudaTask& task, const Spectra& spectra,
                            cudaStream_t stream) {
  launch(prepare_all_weights, static_cast<unsigned int>(weight_blocks(spectra, kMostThreads)),
         kMostThreads, 0, stream, task, spectra);
}

void launch_inverse_planes(const FftConvCudaTask& task, const PlanePlan& plan,
                           const Spectra& spectra, cudaStream_t stream) {
  const std::int64_t count = blocks(plan, spectra.batch, spectra.out_channels);
  dispatch_float(task.dtype, [&](auto sample) {
    launch_planes(inverse_planes<decltype(sample)>, count, plan, stream, task, plan, spectra);
  });
}

}  // namespace revisage
