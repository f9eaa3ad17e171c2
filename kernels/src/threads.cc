#include "threads.h"

#include <algorithm>
#include <atomic>
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

struct Job {
  const std::function<void(std::int64_t, int)>* task;
  std::int64_t count;
  std::atomic<std::int64_t> next{0};
  std::atomic<int> next_slot{1};  // slot 0 is the caller's
  int helping = 0;                // workers inside the job; guarded by the pool's mutex

  void work(int slot) {
    for (std::int64_t index = next++; index < count; index = next++) (*task)(index, slot);
  }
};

// Workers that wait for tickets. A ticket is a request for one helper of a job; the caller of a job
// never waits for a ticket that nobody took, so busy workers slow a call down but cannot block it.
class Pool {
 public:
  void run(Job& job, int helpers) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      while (static_cast<int>(workers_.size()) < helpers) {
        workers_.emplace_back([this] { serve(); });
      }
      for (int i = 0; i < helpers; ++i) tickets_.push_back(&job);
    }
    wake_.notify_all();
    job.work(0);
    std::unique_lock<std::mutex> lock(mutex_);
    tickets_.erase(std::remove(tickets_.begin(), tickets_.end(), &job), tickets_.end());
    left_.wait(lock, [&job] { return job.helping == 0; });
  }

 private:
  [[noreturn]] void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return !tickets_.empty(); });
      Job* job = tickets_.front();
      tickets_.pop_front();
      ++job->helping;
      lock.unlock();
      job->work(job->next_slot++);
      lock.lock();
      if (--job->helping == 0) left_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, left_;
  std::deque<Job*> tickets_;
  std::vector<std::thread> workers_;
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

void parallel_for(std::int64_t count, int threads,
                  const std::function<void(std::int64_t, int)>& task) {
  if (threads <= 1 || count <= 1) {
    for (std::int64_t index = 0; index < count; ++index) task(index, 0);
    return;
  }
  Job job;
  job.task = &task;
  job.count = count;
  pool().run(job, threads - 1);
}

}  // namespace revisage
