// The fastest copy of memory that is too large for the caches.
#pragma once

#include <cstddef>

namespace revisage {

// Copies with stores that bypass the caches, which saves reading `out` before it is written. In
// benchmarks it is the roof of an operation that moves as many bytes. `out` and `in` do not
// overlap. `prefetch` asks for what comes next earlier than the hardware does: the fastest copy,
// and a roof that operations with several inputs cannot reach, whose prefetches compete.
void copy_nontemporal(void* out, const void* in, std::size_t bytes, int threads,
                      bool prefetch = true);

}  // namespace revisage
