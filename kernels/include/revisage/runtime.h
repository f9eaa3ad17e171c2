// What this build and this machine can run.
#pragma once

#include <string>

namespace revisage {

bool built_with_cuda();
// Devices that this build holds code for; 0 where there is no driver.
int cuda_device_count();

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
