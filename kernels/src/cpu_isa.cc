#include "cpu_isa.h"

#include <atomic>
#include <cstdlib>
#include <string>

#include "revisage/errors.h"
#include "revisage/runtime.h"

#ifdef REVISAGE_X86
#include <cpuid.h>
#endif

namespace revisage {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};
constexpr int kUnset = -1;
std::atomic<int> chosen{kUnset};

#ifdef REVISAGE_X86
// Clang's __builtin_cpu_supports does not know the name before version 19.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

CpuIsa best_isa() {
#ifdef REVISAGE_X86
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) {
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return avx512 ? CpuIsa::avx512 : CpuIsa::avx2;
  }
#endif
  return CpuIsa::baseline;
}

CpuIsa parse_isa(const std::string& name) {
  for (int isa = 0; isa < 3; ++isa) {
    if (name != kNames[isa]) continue;
    if (isa > static_cast<int>(best_isa())) {
      throw OptionError("this machine or build has no " + name + "; the best it has is " +
                        kNames[static_cast<int>(best_isa())]);
    }
    return static_cast<CpuIsa>(isa);
  }
  throw OptionError("the CPU instruction set must be baseline, avx2 or avx512, got " + name);
}

}  // namespace

CpuIsa current_cpu_isa() {
  int isa = chosen.load();
  if (isa == kUnset) {
    const char* wanted = std::getenv("REVISAGE_CPU_ISA");
    isa = static_cast<int>(wanted && *wanted ? parse_isa(wanted) : best_isa());
    chosen.store(isa);
  }
  return static_cast<CpuIsa>(isa);
}

std::string cpu_isa() { return kNames[static_cast<int>(current_cpu_isa())]; }

void set_cpu_isa(const std::string& name) { chosen.store(static_cast<int>(parse_isa(name))); }

}  // namespace revisage
