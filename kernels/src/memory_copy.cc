#include "memory_copy.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "threads.h"

#ifdef REVISAGE_X86
#include <emmintrin.h>
#endif

namespace revisage {
namespace {

constexpr std::int64_t kBytesPerTask = 2 << 20;

#ifdef REVISAGE_X86
// Four stores fill a line of the cache, so wider vectors gain nothing.
template <bool Prefetch>
void copy_part(char* out, const char* in, std::size_t bytes) {
  constexpr std::size_t kLine = 64;
  constexpr std::size_t kAhead = 2048;  // a little more than the hardware's own prefetchers
  const std::size_t past = reinterpret_cast<std::uintptr_t>(out) % kLine;
  const std::size_t head = std::min(bytes, (kLine - past) % kLine);
  std::memcpy(out, in, head);
  std::size_t at = head;
  for (; at + kLine <= bytes; at += kLine) {
    const auto* from = reinterpret_cast<const __m128i*>(in + at);
    auto* to = reinterpret_cast<__m128i*>(out + at);
    if (Prefetch && at + kAhead < bytes) _mm_prefetch(in + at + kAhead, _MM_HINT_NTA);
    for (int k = 0; k < 4; ++k) _mm_stream_si128(to + k, _mm_loadu_si128(from + k));
  }
  std::memcpy(out + at, in + at, bytes - at);
  _mm_sfence();
}
#else
template <bool Prefetch>
void copy_part(char* out, const char* in, std::size_t bytes) {
  std::memcpy(out, in, bytes);
}
#endif

}  // namespace

void copy_nontemporal(void* out, const void* in, std::size_t bytes, int threads, bool prefetch) {
  const auto total = static_cast<std::int64_t>(bytes);
  const std::int64_t tasks = (total + kBytesPerTask - 1) / kBytesPerTask;
  parallel_for(tasks, resolve_threads(threads, tasks), [&](std::int64_t index, int) {
    const std::int64_t begin = index * kBytesPerTask;
    const std::int64_t size = std::min(kBytesPerTask, total - begin);
    (prefetch ? copy_part<true> : copy_part<false>)(static_cast<char*>(out) + begin,
                                                    static_cast<const char*>(in) + begin,
                                                    static_cast<std::size_t>(size));
  });
}

}  // namespace revisage
