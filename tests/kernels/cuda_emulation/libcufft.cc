// The few functions of cuFFT that fft_conv calls, by definition and on the CPU. Like the original
// it takes non-Hermitian input of an inverse transform to be an error of the caller: it gives NaN.
#include <cmath>
#include <complex>
#include <cstddef>
#include <vector>

namespace {

using Complex = std::complex<double>;

struct Plan {
  long long height, width, pitch, planes;
  bool inverse;
  void* work;
};
std::vector<Plan> plans;
constexpr std::size_t kWorkBytes = 1000;

// Along one axis: out[k] = sum of line[j] exp(sign 2 pi i j k / n).
void transform(Complex* first, long long n, long long stride, double sign) {
  std::vector<Complex> line(static_cast<std::size_t>(n));
  for (long long j = 0; j < n; ++j) line[j] = first[j * stride];
  for (long long k = 0; k < n; ++k) {
    Complex sum = 0;
    for (long long j = 0; j < n; ++j) {
      sum += line[j] * std::polar(1.0, sign * 2 * std::acos(-1.0) * static_cast<double>(j * k % n) /
                                           static_cast<double>(n));
    }
    first[k * stride] = sum;
  }
}

void transform(std::vector<Complex>& plane, const Plan& plan, double sign) {
  for (long long y = 0; y < plan.height; ++y)
    transform(&plane[y * plan.width], plan.width, 1, sign);
  for (long long x = 0; x < plan.width; ++x) transform(&plane[x], plan.height, plan.width, sign);
}

bool use_work(const Plan& plan) {
  if (plan.work == nullptr) return false;
  for (std::size_t i = 0; i < kWorkBytes; ++i) static_cast<char*>(plan.work)[i] = 'x';
  return true;
}

}  // namespace

extern "C" {

int cufftCreate(int* handle) {
  *handle = static_cast<int>(plans.size());
  plans.push_back({});
  return 0;
}
int cufftSetAutoAllocation(int, int on) { return on == 0 ? 0 : 1; }
int cufftSetStream(int, void*) { return 0; }
int cufftSetWorkArea(int handle, void* work) { return plans[handle].work = work, 0; }

int cufftMakePlanMany64(int handle, int rank, long long* sides, long long* from, long long,
                        long long from_step, long long* to, long long, long long to_step, int type,
                        long long planes, std::size_t* work_bytes) {
  const bool inverse = type == 0x2c;
  const long long half = sides[1] / 2 + 1, area = sides[0] * sides[1];
  if (rank != 2 || (!inverse && type != 0x2a) || (inverse ? from : to)[1] != half ||
      (inverse ? to : from)[1] != sides[1] || (inverse ? to_step : from_step) != area) {
    return 2;
  }
  plans[handle] = {sides[0], sides[1], inverse ? from_step : to_step, planes, inverse, nullptr};
  *work_bytes = kWorkBytes;
  return 0;
}

int cufftExecR2C(int handle, float* from, std::complex<float>* to) {
  const Plan& plan = plans[handle];
  if (plan.inverse || !use_work(plan)) return 1;
  const long long half = plan.width / 2 + 1;
  for (long long p = 0; p < plan.planes; ++p, from += plan.height * plan.width, to += plan.pitch) {
    std::vector<Complex> plane(from, from + plan.height * plan.width);
    transform(plane, plan, -1);
    for (long long y = 0; y < plan.height; ++y) {
      for (long long x = 0; x < half; ++x) {
        to[y * half + x] = std::complex<float>(plane[y * plan.width + x]);
      }
    }
  }
  return 0;
}

int cufftExecC2R(int handle, std::complex<float>* from, float* to) {
  const Plan& plan = plans[handle];
  if (!plan.inverse || !use_work(plan)) return 1;
  const long long half = plan.width / 2 + 1;
  for (long long p = 0; p < plan.planes; ++p, to += plan.height * plan.width, from += plan.pitch) {
    std::vector<Complex> plane(static_cast<std::size_t>(plan.height * plan.width));
    for (long long y = 0; y < plan.height; ++y) {
      for (long long x = 0; x < plan.width; ++x) {
        const long long opposite = (plan.height - y) % plan.height * half + (plan.width - x);
        Complex value = x < half ? Complex(from[y * half + x]) : std::conj(Complex(from[opposite]));
        if (x == 0 || 2 * x == plan.width) {
          const auto other = from[(plan.height - y) % plan.height * half + x];
          if (std::conj(Complex(other)) != value) value = NAN;
        }
        plane[y * plan.width + x] = value;
      }
    }
    transform(plane, plan, 1);
    for (std::size_t i = 0; i < plane.size(); ++i) to[i] = static_cast<float>(plane[i].real());
    for (long long i = 0; i < plan.height * half; ++i) from[i] = NAN;  // it is allowed to
  }
  return 0;
}

}  // extern "C"
