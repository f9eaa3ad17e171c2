// Devices and errors; no kernels.
#include <string>

#include "cuda_check.h"
#include "revisage/errors.h"
#include "revisage/runtime.h"

namespace revisage {
namespace {

// Whether this build holds code for a compute capability (see CMAKE_CUDA_ARCHITECTURES): binaries
// run on their own major version, and the PTX of 12.0 on everything later.
bool has_code_for(int major) { return (major >= 8 && major <= 10) || major >= 12; }

}  // namespace

bool built_with_cuda() { return true; }

int cuda_device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // no driver is an answer, not a fault of the next call
    return 0;
  }
  int usable = 0;
  for (int device = 0; device < count; ++device) {
    int major = 0;
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
        !has_code_for(major)) {
      break;  // "cuda:i" must stay the i-th device
    }
    ++usable;
  }
  return usable;
}

int cuda_device_of(const void* pointer) {
  cudaPointerAttributes attributes = {};
  if (cudaPointerGetAttributes(&attributes, pointer) == cudaSuccess &&
      attributes.type == cudaMemoryTypeDevice) {
    return attributes.device;
  }
  cudaGetLastError();  // no driver, or no such memory, is no fault of the next call
  return -1;
}

void queue_after(std::uintptr_t stream, std::uintptr_t other) {
  const auto address = [](std::uintptr_t s) { return s == 1 ? 0 : s; };
  if (address(stream) == address(other)) return;
  require_cuda();
  cudaEvent_t event;
  cuda_check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
  cudaError_t status = cudaEventRecord(event, to_stream(other));
  if (status == cudaSuccess) status = cudaStreamWaitEvent(to_stream(stream), event, 0);
  cudaEventDestroy(event);  // when it has happened
  cuda_check(status, "waiting for the stream that an array names");
}

CurrentCudaDevice::CurrentCudaDevice(int index) {
  int current = index;
  if (cudaGetDevice(&current) == cudaSuccess && current != index &&
      cudaSetDevice(index) == cudaSuccess) {
    previous_ = current;
  }
  cudaGetLastError();  // no driver, or no such device, is no fault of the next call
}

CurrentCudaDevice::~CurrentCudaDevice() {
  if (previous_ >= 0) cudaSetDevice(previous_);
}

void cuda_check(cudaError_t status, const char* doing) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  throw DeviceError(std::string("CUDA failed while ") + doing + ": " + cudaGetErrorString(status) +
                    "; check the device with nvidia-smi, or copy the arrays to the host");
}

void require_cuda() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return;
  cudaGetLastError();
  throw DeviceError(std::string("CUDA arrays were given, and no CUDA device can be used here (") +
                    (status == cudaSuccess ? "none found" : cudaGetErrorString(status)) +
                    "); install NVIDIA's driver for CUDA " + std::to_string(CUDART_VERSION / 1000) +
                    " or later, or copy the arrays to the host");
}

unsigned int whole_grid(std::int64_t batch, std::int64_t per_image, const char* name) {
  if (batch > INT32_MAX / per_image) {
    throw ShapeError(std::string(name) +
                     " has more pixels than one call can do on CUDA; give it in parts");
  }
  return static_cast<unsigned int>(batch * per_image);
}

CudaDeviceGuard::CudaDeviceGuard(const void* pointer) {
  require_cuda();
  cudaPointerAttributes attributes;
  cuda_check(cudaPointerGetAttributes(&attributes, pointer), "looking up an array");
  if (attributes.type != cudaMemoryTypeDevice && attributes.type != cudaMemoryTypeManaged) {
    throw DeviceError("an array that claims to be on a CUDA device is not; copy it there first");
  }
  cuda_check(cudaGetDevice(&previous_), "asking for the current device");
  int major = 0;
  cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, attributes.device),
             "asking for the compute capability");
  if (!has_code_for(major)) {
    throw DeviceError(
        "this Revisage holds no code for the CUDA device of the arrays (compute "
        "capability " +
        std::to_string(major) + ".x); it supports 8.0 to 10.x and 12.0 on");
  }
  cuda_check(cudaSetDevice(attributes.device), "selecting the arrays' device");
}

CudaDeviceGuard::~CudaDeviceGuard() { cudaSetDevice(previous_); }

}  // namespace revisage
