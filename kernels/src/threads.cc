#include "threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#endif

namespace revisage {
namespace {

// Waking a sleeping thread can take longer than a small layer does; the gap between two layers is
// usually shorter than this.
constexpr std::chrono::microseconds kSpin{100};

inline void pause_cpu() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// Waits for `ready` without giving the core away; false if that took too long.
template <typename Condition>
bool spin_until(const Condition& ready) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      pause_cpu();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

struct Job {
  const std::function<void(int)>* part;
  int slots;
  std::atomic<int> next{0};
  std::atomic<int> helping{0};  // workers inside the job; raised under the pool's mutex

  void work() {
    for (int slot = next++; slot < slots; slot = next++) (*part)(slot);
  }
};

// Workers that wait for tickets, awake for a moment and then asleep. A ticket is a request for one
// helper of a job; the caller of a job never waits for a ticket that nobody took, so busy workers
// slow a call down but cannot block it.
class Pool {
 public:
  void run(Job& job, int helpers) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      while (static_cast<int>(workers_.size()) < helpers) {
        workers_.emplace_back([this] { serve(); });
      }
      for (int i = 0; i < helpers; ++i) tickets_.push_back(&job);
      count_tickets();
    }
    if (sleepers_ > 0) wake_.notify_all();
    job.work();
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      tickets_.erase(std::remove(tickets_.begin(), tickets_.end(), &job), tickets_.end());
      count_tickets();
    }
    const auto left = [&job] { return job.helping == 0; };
    if (spin_until(left)) return;
    std::unique_lock<std::mutex> lock(mutex_);
    ++waiting_callers_;
    left_.wait(lock, left);
    --waiting_callers_;
  }

 private:
  [[noreturn]] void serve() {
    for (;;) {
      Job& job = take();
      job.work();
      // The caller may return, and the job end, at the moment that the last helper is counted out.
      if (--job.helping == 0 && waiting_callers_ > 0) {
        const std::lock_guard<std::mutex> lock(mutex_);
        left_.notify_all();
      }
    }
  }

  Job& take() {
    for (;;) {
      spin_until([this] { return ticket_count_ > 0; });
      std::unique_lock<std::mutex> lock(mutex_);
      if (tickets_.empty()) {
        ++sleepers_;
        wake_.wait(lock, [this] { return !tickets_.empty(); });
        --sleepers_;
      }
      Job& job = *tickets_.front();
      tickets_.pop_front();
      count_tickets();
      ++job.helping;
      return job;
    }
  }

  void count_tickets() { ticket_count_ = static_cast<int>(tickets_.size()); }

  std::mutex mutex_;
  std::condition_variable wake_, left_;
  std::deque<Job*> tickets_;
  std::vector<std::thread> workers_;
  // For those who look without the mutex.
  std::atomic<int> ticket_count_{0}, sleepers_{0}, waiting_callers_{0};
};

// The pool is never destroyed: at exit its workers may be asleep inside it, and joining them from a
// static destructor of a shared library can deadlock. After a fork the child has no workers, so it
// starts with a new pool and leaves the parent's memory alone.
std::atomic<Pool*> the_pool{nullptr};

Pool& pool() {
  Pool* current = the_pool.load();
  if (current == nullptr) {
    static std::mutex creation;
    const std::lock_guard<std::mutex> lock(creation);
    current = the_pool.load();
    if (current == nullptr) {
#ifdef __linux__
      static const bool registered =
          pthread_atfork(nullptr, nullptr, [] { the_pool.store(nullptr); }) == 0;
      (void)registered;
#endif
      current = new Pool;
      the_pool.store(current);
    }
  }
  return *current;
}

}  // namespace

int available_cores() {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int resolve_threads(int requested, std::int64_t count) {
  const int wanted = requested > 0 ? requested : available_cores();
  return static_cast<int>(std::max<std::int64_t>(1, std::min<std::int64_t>(wanted, count)));
}

PoolExecutor::PoolExecutor(int requested)
    : threads_(requested > 0 ? requested : available_cores()) {}

void PoolExecutor::run(int slots, const std::function<void(int)>& part) {
  Job job;
  job.part = &part;
  job.slots = slots;
  pool().run(job, std::min(slots, threads_) - 1);
}

namespace {

thread_local Executor* host_executor = nullptr;

void share(Executor& executor, std::int64_t count, int threads,
           const std::function<void(std::int64_t, int)>& task) {
  const int slots = static_cast<int>(std::min<std::int64_t>(threads, count));
  if (slots <= 1) {
    for (std::int64_t index = 0; index < count; ++index) task(index, 0);
    return;
  }
  std::atomic<std::int64_t> next{0};
  executor.run(slots, [&](int slot) {
    for (std::int64_t index = next++; index < count; index = next++) task(index, slot);
  });
}

}  // namespace

HostExecutor::HostExecutor(Executor& executor) { host_executor = &executor; }
HostExecutor::~HostExecutor() { host_executor = nullptr; }

void parallel_for(Executor& executor, std::int64_t count,
                  const std::function<void(std::int64_t, int)>& task) {
  share(executor, count, executor.threads(), task);
}

void parallel_for(std::int64_t count, int threads,
                  const std::function<void(std::int64_t, int)>& task) {
  PoolExecutor own(std::max(1, threads));
  Executor& executor = host_executor == nullptr ? own : *host_executor;
  share(executor, count, std::min(threads, executor.threads()), task);
}

}  // namespace revisage
