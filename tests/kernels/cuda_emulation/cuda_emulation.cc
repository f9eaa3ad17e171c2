#include "cuda_emulation.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_runtime.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_emulation {
namespace {

constexpr std::size_t kStack = 128 << 10, kPage = 4096, kMaxThreads = 1024;

enum class State { ready, at_block_barrier, at_warp_barrier, ended };

struct Copy {
  std::byte* to;
  const std::byte* from;
  std::size_t bytes, zero_bytes;
};

struct Fiber {
  State state;
  unsigned int mask;       // of the warp barrier
  unsigned int exchanges;  // picks one of two sets of slots, so that one barrier is enough
  bool started;
  uint3 index;
  ucontext_t first;                       // how it starts
  jmp_buf resume;                         // how it goes on: no system call, unlike swapcontext
  std::vector<std::vector<Copy>> copies;  // committed groups and the open one
};

struct Memory {
  std::byte* data = nullptr;
  std::byte* mapping = nullptr;
  std::size_t mapped = 0;
};

std::vector<Fiber> fibers(kMaxThreads);
std::byte* stacks;
std::size_t threads, running;
std::byte slots[2][kMaxThreads / kWarp][kWarp][kSlotBytes];
const std::function<void()>* body;
Memory shared;
jmp_buf scheduler;
sigjmp_buf failed;
std::string failure;
bool launching = false;
bool backwards = false;
std::map<const void*, int> allowed_shared;  // cudaFuncSetAttribute
std::map<const void*, Memory> allocations;
int major_version = 9;
int shared_limit = 227 << 10;
cudaError_t last_error = cudaSuccess;

std::string at(const uint3& index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " +
         std::to_string(index.z) + ")";
}

// `bytes` that end at a page which may not be touched (less than `alignment` before it).
Memory map_guarded(std::size_t bytes, std::size_t alignment) {
  Memory memory;
  const std::size_t body_bytes = (bytes + alignment + kPage - 1) / kPage * kPage;
  memory.mapped = body_bytes + 2 * kPage;
  void* mapping = mmap(nullptr, memory.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  memory.mapping = static_cast<std::byte*>(mapping);
  mprotect(memory.mapping + kPage, body_bytes, PROT_READ | PROT_WRITE);
  memory.data =
      memory.mapping + kPage + body_bytes - (bytes + alignment - 1) / alignment * alignment;
  std::memset(memory.mapping + kPage, 0xFF, body_bytes);
  return memory;
}

void unmap(Memory& memory) {
  if (memory.mapping != nullptr) munmap(memory.mapping, memory.mapped);
  memory = {};
}

void on_fault(int signal, siginfo_t*, void*) {
  if (!launching) {  // not ours: die of it
    ::signal(signal, SIG_DFL);
    return;
  }
  fail(signal == SIGILL ? "misaligned or otherwise undefined access"
                        : "access outside of an array or of shared memory");
}

void start_fiber() {
  (*body)();
  fibers[running].state = State::ended;
  _longjmp(scheduler, 1);
}

// Fibers run in turns; an ended or waiting one hands back to here.
void yield() {
  if (_setjmp(fibers[running].resume) == 0) _longjmp(scheduler, 1);
}

void run(std::size_t index) {
  running = index;
  Fiber& fiber = fibers[index];
  threadIdx = fiber.index;
  if (_setjmp(scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.resume, 1);
  fiber.started = true;
  setcontext(&fiber.first);
}

void release_block_barrier() {
  for (std::size_t i = 0; i < threads; ++i) {
    if (fibers[i].state == State::ended) {
      running = i;
      threadIdx = fibers[i].index;
      fail("this thread ended while others wait in __syncthreads");
    }
  }
  for (std::size_t i = 0; i < threads; ++i) fibers[i].state = State::ready;
}

void release_warps() {
  for (std::size_t first = 0; first < threads; first += kWarp) {
    for (std::size_t i = first; i < first + kWarp && i < threads; ++i) {
      if (fibers[i].state != State::at_warp_barrier) continue;
      const unsigned int mask = fibers[i].mask;
      bool complete = true;
      for (std::size_t lane = 0; lane < kWarp && first + lane < threads; ++lane) {
        if ((mask >> lane & 1u) == 0) continue;
        const Fiber& other = fibers[first + lane];
        complete = complete && other.state == State::at_warp_barrier && other.mask == mask;
      }
      if (!complete) continue;
      for (std::size_t lane = 0; lane < kWarp && first + lane < threads; ++lane) {
        if (mask >> lane & 1u) fibers[first + lane].state = State::ready;
      }
    }
  }
}

void run_block() {
  for (std::size_t i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    const auto n = static_cast<unsigned int>(i);
    fiber.index = {n % blockDim.x, n / blockDim.x % blockDim.y, n / blockDim.x / blockDim.y};
    fiber.state = State::ready;
    fiber.started = false;
    fiber.exchanges = 0;
    fiber.copies.assign(1, {});
    getcontext(&fiber.first);
    fiber.first.uc_stack.ss_sp = stacks + i * kStack;
    fiber.first.uc_stack.ss_size = kStack;
    fiber.first.uc_link = nullptr;
    makecontext(&fiber.first, start_fiber, 0);
  }
  while (true) {
    bool ran = false;
    std::size_t ended = 0, at_barrier = 0;
    for (std::size_t n = 0; n < threads; ++n) {
      const std::size_t i = backwards ? threads - 1 - n : n;
      if (fibers[i].state == State::ready) {
        run(i);
        ran = true;
      }
    }
    release_warps();
    for (std::size_t i = 0; i < threads; ++i) {
      ended += fibers[i].state == State::ended;
      at_barrier += fibers[i].state == State::at_block_barrier;
    }
    if (ended == threads) return;
    if (ran) {
      if (at_barrier + ended == threads) release_block_barrier();
      continue;
    }
    fail("threads wait for each other forever (diverging __syncwarp, shuffle or __syncthreads)");
  }
}

}  // namespace

void fail(const char* message) {
  failure = std::string(message) + ", in thread " + at(threadIdx) + " of block " + at(blockIdx);
  siglongjmp(failed, 1);
}

void launch(const void* kernel, dim3 grid, dim3 block, std::size_t shared_bytes,
            const std::function<void()>& thread) {
  const auto permission = allowed_shared.find(kernel);
  const int allowed = permission == allowed_shared.end() ? 48 << 10 : permission->second;
  threads = std::size_t{1} * block.x * block.y * block.z;
  if (threads == 0 || threads > kMaxThreads || grid.x == 0 || grid.x > 0x7FFFFFFFu || grid.y == 0 ||
      grid.y > 65535 || grid.z == 0 || grid.z > 65535 || block.z > 64 ||
      shared_bytes > static_cast<std::size_t>(allowed)) {
    last_error = cudaErrorInvalidConfiguration;
    return;
  }
  static const bool prepared = [] {
    stacks = static_cast<std::byte*>(mmap(nullptr, kMaxThreads * kStack, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    return true;
  }();
  static_cast<void>(prepared);
  struct sigaction action = {}, before_segv, before_ill;
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSEGV, &action, &before_segv);
  sigaction(SIGILL, &action, &before_ill);
  body = &thread;
  blockDim = block;
  gridDim = grid;
  failure.clear();
  launching = true;
  if (sigsetjmp(failed, 1) == 0) {
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z) {
      for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
        for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
          unmap(shared);
          shared = map_guarded(shared_bytes, 16);
          run_block();
        }
      }
    }
  }
  launching = false;
  sigaction(SIGSEGV, &before_segv, nullptr);
  sigaction(SIGILL, &before_ill, nullptr);
  if (!failure.empty()) throw std::runtime_error("emulated kernel: " + failure);
}

void* dynamic_shared() { return shared.data; }

void wait_for_block() {
  fibers[running].state = State::at_block_barrier;
  yield();
}

void wait_for_warp(unsigned int mask) {
  if ((mask >> lane() & 1u) == 0)
    fail("a thread takes part in a warp operation whose mask omits it");
  fibers[running].state = State::at_warp_barrier;
  fibers[running].mask = mask;
  yield();
}

const std::byte (*exchange(unsigned int mask, const void* value, std::size_t bytes)) [kSlotBytes] {
  auto& mine = slots[fibers[running].exchanges++ % 2][running / kWarp];
  std::memcpy(mine[lane()], value, bytes);
  wait_for_warp(mask);
  return mine;
}

unsigned int lane() {
  return static_cast<unsigned int>(running % kWarp);
}

void copy_async(void* to, const void* from, std::size_t bytes, std::size_t zero_bytes) {
  require_aligned(to, bytes + zero_bytes);
  if (bytes > 0) require_aligned(from, bytes + zero_bytes);
  fibers[running].copies.back().push_back(
      {static_cast<std::byte*>(to), static_cast<const std::byte*>(from), bytes, zero_bytes});
}

void commit_copies() { fibers[running].copies.emplace_back(); }

void wait_for_copies(std::size_t groups_left) {
  auto& copies = fibers[running].copies;
  while (copies.size() > groups_left + 1) {
    for (const Copy& copy : copies.front()) {
      std::memcpy(copy.to, copy.from, copy.bytes);
      std::memset(copy.to + copy.bytes, 0, copy.zero_bytes);
    }
    copies.erase(copies.begin());
  }
}

}  // namespace cuda_emulation

using namespace cuda_emulation;

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInvalidConfiguration ? "invalid configuration argument"
                                                : "invalid value";
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value > shared_limit) return cudaErrorInvalidValue;
  allowed_shared[kernel] = value;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = major_version;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = shared_limit;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = 2;  // few, so that kernels which stride over their work do so here
      break;
  }
  return cudaSuccess;
}

// For tests: memory that ends at a guard page, the limits of another device, the order of threads.
extern "C" void* emulated_allocate(std::size_t bytes, std::size_t alignment) {
  const Memory memory = map_guarded(bytes, alignment);
  allocations[memory.data] = memory;
  return memory.data;
}

extern "C" void emulated_set_order(int runs_backwards) { backwards = runs_backwards != 0; }

extern "C" void emulated_free(void* data) {
  unmap(allocations[data]);
  allocations.erase(data);
}

extern "C" void emulated_set_device(int major, int shared_bytes_per_block) {
  major_version = major;
  shared_limit = shared_bytes_per_block;
  allowed_shared.clear();
}
