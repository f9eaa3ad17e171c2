// Which instruction set the CPU kernels use.
#pragma once

namespace revisage {

enum class CpuIsa { baseline, avx2, avx512 };

// The best that this machine has, or what REVISAGE_CPU_ISA or set_cpu_isa asked for. Throws
// OptionError where that is unknown or missing.
CpuIsa current_cpu_isa();

// An operation's kernels for the current instruction set: `name`_baseline(), `name`_avx2() or
// `name`_avx512().
#ifdef REVISAGE_X86
#define REVISAGE_CURRENT_KERNELS(name)                   \
  (current_cpu_isa() == CpuIsa::avx512 ? name##_avx512() \
   : current_cpu_isa() == CpuIsa::avx2 ? name##_avx2()   \
                                       : name##_baseline())
#else
#define REVISAGE_CURRENT_KERNELS(name) name##_baseline()
#endif

}  // namespace revisage
