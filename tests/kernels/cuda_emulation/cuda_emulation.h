// Runs CUDA kernels on the CPU, one block after another, each thread of a block a fiber of its own.
// A fiber runs until it waits (barrier, shuffle) or ends, so a missing barrier shows up as a wrong
// result. Errors that would be undefined behaviour on a GPU throw std::runtime_error from `launch`:
// shared or guarded memory read or written past its end, misaligned vectors, diverging barriers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "vector_types.h"

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace cuda_emulation {

constexpr unsigned int kWarp = 32;
constexpr std::size_t kSlotBytes = 64;

// Runs `thread` once per thread of the grid. `kernel` names the function, for its attributes.
void launch(const void* kernel, dim3 grid, dim3 block, std::size_t shared_bytes,
            const std::function<void()>& thread);

// Of the running block: exactly `shared_bytes` long, filled with NaN, a guard page behind it.
void* dynamic_shared();

void wait_for_block();
void wait_for_warp(unsigned int mask);

// Every lane of `mask` gives a value; afterwards each sees all (those of other lanes are stale).
const std::byte (*exchange(unsigned int mask, const void* value, std::size_t bytes))[kSlotBytes];

template <typename T>
struct Lanes {
  const std::byte (*slots)[kSlotBytes];
  const T& operator[](unsigned int lane) const {
    return *reinterpret_cast<const T*>(slots[lane % kWarp]);
  }
};

template <typename T>
Lanes<T> all_lanes(const T& mine, unsigned int mask = 0xFFFFFFFFu) {
  static_assert(sizeof(T) <= kSlotBytes, "slots are small");
  return {exchange(mask, &mine, sizeof(T))};
}

unsigned int lane();

// cp.async: a copy happens when its group is waited for, as late as the hardware may be.
void copy_async(void* to, const void* from, std::size_t bytes, std::size_t zero_bytes);
void commit_copies();
void wait_for_copies(std::size_t groups_left);

// Stops the launch with this message and the indices of the running thread.
[[noreturn]] void fail(const char* message);

inline void require_aligned(const void* pointer, std::size_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % bytes != 0) fail("misaligned address");
}

}  // namespace cuda_emulation
