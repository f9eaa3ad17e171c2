// Which instruction set the CPU kernels use.
#pragma once

namespace revisage {

enum class CpuIsa { baseline, avx2, avx512 };

// The best that this machine has, or what REVISAGE_CPU_ISA or set_cpu_isa asked for. Throws
// OptionError where that is unknown or missing.
CpuIsa current_cpu_isa();

}  // namespace revisage
