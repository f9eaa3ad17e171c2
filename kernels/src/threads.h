// Work sharing for the CPU kernels.
#pragma once

#include <cstdint>
#include <functional>

namespace revisage {

// Cores that this process may run on, at least 1.
int available_cores();

// The number of threads for `count` tasks: `requested` (0: all cores), at most `count`, at least 1.
int resolve_threads(int requested, std::int64_t count);

// Who runs the parts of a job: this library's own pool, or the pool of a host program.
class Executor {
 public:
  Executor() = default;
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;
  virtual ~Executor() = default;

  // How many parts can run at the same time, at least 1.
  virtual int threads() const = 0;

  // Calls part(slot) once for every slot in [0, slots), in any order and perhaps at the same time;
  // returns when all are done. Parts do not wait for each other and do not throw.
  virtual void run(int slots, const std::function<void(int slot)>& part) = 0;
};

// The library's own pool, with at most `requested` threads (0: all cores) of which the caller is
// one. Cheap to make: all of them share one set of workers.
class PoolExecutor final : public Executor {
 public:
  explicit PoolExecutor(int requested);
  int threads() const override { return threads_; }
  void run(int slots, const std::function<void(int slot)>& part) override;

 private:
  int threads_;
};

// While it lives, kernels that this thread calls by a number of threads run on `executor` instead
// of the library's own pool: for a host program that calls an operation through its checks.
class HostExecutor {
 public:
  explicit HostExecutor(Executor& executor);
  ~HostExecutor();
  HostExecutor(const HostExecutor&) = delete;
  HostExecutor& operator=(const HostExecutor&) = delete;
};

// Calls task(index, slot) once for every index in [0, count); returns when all are done. `slot` is
// below `executor.threads()` and never in use twice at a time, so it may index scratch memory.
// Which thread does which task varies, so a task must compute the same bits on any. Tasks must not
// throw.
void parallel_for(Executor& executor, std::int64_t count,
                  const std::function<void(std::int64_t index, int slot)>& task);

// The same on `threads` threads of the library's own pool.
void parallel_for(std::int64_t count, int threads,
                  const std::function<void(std::int64_t index, int slot)>& task);

}  // namespace revisage
