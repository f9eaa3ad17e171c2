// What this build and this machine can run.
#pragma once

#include <cstdint>
#include <string>

namespace revisage {

bool built_with_cuda();
// Devices that this build holds code for; 0 where there is no driver.
int cuda_device_count();

// The CUDA device whose own memory `pointer` is; -1 for managed memory, and where nobody knows.
int cuda_device_of(const void* pointer);

// Work queued on `stream` from now on comes after what is queued on `other`, a stream of the
// current device. Addresses; 0 and 1 are the legacy default stream. Throws DeviceError.
void queue_after(std::uintptr_t stream, std::uintptr_t other);

// Makes the CUDA device `index` current, and the previous one again at the end. Does nothing where
// there is no such device: the operation will say so.
class CurrentCudaDevice {
 public:
  explicit CurrentCudaDevice(int index);
  CurrentCudaDevice(const CurrentCudaDevice&) = delete;
  CurrentCudaDevice& operator=(const CurrentCudaDevice&) = delete;
  ~CurrentCudaDevice();

 private:
  [[maybe_unused]] int previous_ = -1;  // -1: nothing to bring back
};

// Instruction set of the CPU kernels: "baseline", "avx2" or "avx512".
std::string cpu_isa();
// Throws OptionError for an unknown name or one that this machine lacks. Not for use while kernels
// run. REVISAGE_CPU_ISA calls it at the first use.
void set_cpu_isa(const std::string& name);

}  // namespace revisage
