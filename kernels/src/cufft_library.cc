#include "cufft_library.h"

#include <dlfcn.h>

#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "cuda_check.h"
#include "revisage/errors.h"
#include "revisage/fft_conv.h"

namespace revisage {
namespace {

// From cufft.h, version 11 and 12 alike.
using Handle = int;
using Result = int;
constexpr Result kSuccess = 0;
constexpr int kRealToComplex = 0x2a, kComplexToReal = 0x2c;

std::mutex mutex;
std::vector<std::string> candidates;

void* open_library() {
  std::vector<std::string> names = candidates;
  // What this process has already (torch brings it), or what the system finds.
  for (const char* name : {"libcufft.so.12", "libcufft.so.11"}) names.emplace_back(name);
  std::string problem;
  for (const std::string& name : names) {
    if (void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    problem = dlerror();
  }
  throw DeviceError(
      "x has planes too large for the shared memory of its GPU; fft_conv transforms those with "
      "cuFFT, which could not be loaded (" +
      problem +
      "); install it with: pip install nvidia-cufft (CUDA 13) or nvidia-cufft-cu12 (CUDA 12), or "
      "copy the arrays to the host");
}

struct Library {
  void* const library = open_library();

  template <typename Function>
  void find(Function*& function, const char* name) {
    function = reinterpret_cast<Function*>(dlsym(library, name));
    if (function == nullptr) {
      throw DeviceError(std::string("the cuFFT library that was loaded has no ") + name +
                        "; install nvidia-cufft 11 or 12");
    }
  }

  Result (*create)(Handle*);
  Result (*set_auto_allocation)(Handle, int);
  Result (*make_plan)(Handle, int, long long*, long long*, long long, long long, long long*,
                      long long, long long, int, long long, std::size_t*);
  Result (*set_stream)(Handle, cudaStream_t);
  Result (*set_work_area)(Handle, void*);
  Result (*real_to_complex)(Handle, void*, void*);
  Result (*complex_to_real)(Handle, void*, void*);

  Library() {
    find(create, "cufftCreate");
    find(set_auto_allocation, "cufftSetAutoAllocation");
    find(make_plan, "cufftMakePlanMany64");
    find(set_stream, "cufftSetStream");
    find(set_work_area, "cufftSetWorkArea");
    find(real_to_complex, "cufftExecR2C");
    find(complex_to_real, "cufftExecC2R");
  }
};

void check(Result result, const char* doing) {
  if (result == kSuccess) return;
  throw DeviceError(std::string("cuFFT failed while ") + doing + " (error " +
                    std::to_string(result) +
                    "); call fft_conv once before capturing a graph, check free memory with "
                    "nvidia-smi, or copy the arrays to the host");
}

struct Plan {
  Handle handle;
  std::size_t work_bytes;
};

// With `mutex` held.
const Library& library() {
  static const Library loaded;
  return loaded;
}

const Plan& plan_of(const CufftShape& shape) {
  using Key = std::tuple<int, bool, std::int64_t, std::int64_t, std::int64_t, std::int64_t>;
  static std::map<Key, Plan> plans;
  const Library& cufft = library();
  int device = 0;
  cuda_check(cudaGetDevice(&device), "asking for the current device");
  const Key key{device, shape.inverse, shape.height, shape.width, shape.pitch, shape.planes};
  const auto found = plans.find(key);
  if (found != plans.end()) return found->second;
  Plan plan;
  check(cufft.create(&plan.handle), "creating a plan");
  check(cufft.set_auto_allocation(plan.handle, 0), "creating a plan");
  long long sides[] = {shape.height, shape.width};
  long long real[] = {shape.height, shape.width};
  long long complex[] = {shape.height, shape.width / 2 + 1};
  const long long area = shape.height * shape.width;
  check(shape.inverse
            ? cufft.make_plan(plan.handle, 2, sides, complex, 1, shape.pitch, real, 1, area,
                              kComplexToReal, shape.planes, &plan.work_bytes)
            : cufft.make_plan(plan.handle, 2, sides, real, 1, area, complex, 1, shape.pitch,
                              kRealToComplex, shape.planes, &plan.work_bytes),
        "planning");
  return plans[key] = plan;
}

}  // namespace

void set_cufft_candidates(const std::vector<std::string>& paths) {
  const std::lock_guard<std::mutex> lock(mutex);
  candidates = paths;
}

std::size_t cufft_work_bytes(const CufftShape& shape) {
  const std::lock_guard<std::mutex> lock(mutex);
  return plan_of(shape).work_bytes;
}

void cufft_execute(const CufftShape& shape, void* from, void* to, void* work, cudaStream_t stream) {
  // A plan remembers its stream and memory until it is executed.
  const std::lock_guard<std::mutex> lock(mutex);
  const Library& cufft = library();
  const Plan& plan = plan_of(shape);
  check(cufft.set_stream(plan.handle, stream), "setting the stream");
  check(cufft.set_work_area(plan.handle, work), "setting the workspace");
  check(shape.inverse ? cufft.complex_to_real(plan.handle, from, to)
                      : cufft.real_to_complex(plan.handle, from, to),
        "transforming");
}

}  // namespace revisage
