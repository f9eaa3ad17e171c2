// Work sharing for the CPU kernels.
#pragma once

#include <cstdint>
#include <functional>

namespace revisage {

// Cores that this process may run on, at least 1.
int available_cores();

// The number of threads for `count` tasks: `requested` (0: all cores), at most `count`, at least 1.
int resolve_threads(int requested, std::int64_t count);

// Calls task(index, slot) once for every index in [0, count), on `threads` threads of which the
// caller is one; returns when all are done. `slot` is below `threads` and never in use twice at a
// time, so it may index scratch memory. Which thread does which task varies, so a task must compute
// the same bits on any. Tasks must not throw.
void parallel_for(std::int64_t count, int threads,
                  const std::function<void(std::int64_t index, int slot)>& task);

}  // namespace revisage
