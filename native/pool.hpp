#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

namespace intact {

// A fork-join pool of its own size: the caller works too. Workers that wait first spin, because the
// next operator comes within microseconds, and then sleep, so that an idle session costs nothing.
//
// The caller waits for jobs, not for workers: one that the system does not let run (a busy machine)
// finds nothing left to do when it comes.
class Pool {
 public:
  explicit Pool(std::size_t threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  std::size_t threads() const { return workers_.size() + 1; }

  // Calls `work(job, thread)` for each job in [0, jobs); returns when all are done.
  template <class Work>
  void run(std::size_t jobs, const Work& work) {
    if (workers_.empty() || jobs <= 1) {
      for (std::size_t job = 0; job < jobs; ++job) work(job, std::size_t{0});
      return;
    }
    for (std::size_t first = 0; first < jobs; first += kMostJobs) {
      first_ = first;
      fork_join(jobs - first < kMostJobs ? jobs - first : kMostJobs, &call<Work>, &work);
    }
  }

 private:
  using Call = void (*)(const void* work, std::size_t job, std::size_t thread);

  template <class Work>
  static void call(const void* work, std::size_t job, std::size_t thread) {
    (*static_cast<const Work*>(work))(job, thread);
  }

  void fork_join(std::size_t jobs, Call call, const void* work);
  void serve(std::size_t thread);
  void take_jobs(std::size_t thread);

  // Every thread has a part of the jobs, the same part of as many jobs each time, so that it finds in
  // its cache what it wrote there; when it is done it takes those of others. A ticket holds the round,
  // the end of a part and the next job to take, in one word: whoever takes a job that exists holds up
  // the end of its round, and with it what belongs to the round.
  struct alignas(64) Ticket {
    std::atomic<std::uint64_t> word{0};
  };
  static constexpr int kJobBits = 20;
  static constexpr std::size_t kMostJobs = (std::size_t{1} << kJobBits) - 4096;  // threads overshoot
  static bool has_job(std::uint64_t ticket);
  bool any_job() const;

  std::vector<std::thread> workers_;
  Call call_ = nullptr;
  const void* work_ = nullptr;
  std::size_t first_ = 0;
  std::vector<Ticket> tickets_;  // one per thread
  alignas(64) std::atomic<std::size_t> done_{0};
  alignas(64) std::atomic<std::uint32_t> round_{0};  // what workers sleep on
  std::atomic<bool> stop_{false};
};

}  // namespace intact
