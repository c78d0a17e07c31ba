#include "pool.hpp"

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace intact {
namespace {

constexpr auto kSpin = std::chrono::microseconds(50);
constexpr int kSpinsBetweenClocks = 64;

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Spins until `done()`, at most kSpin. Whether it is done.
template <class Done>
bool spin(const Done& done) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < kSpinsBetweenClocks; ++i) {
      if (done()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

}  // namespace

Pool::Pool(std::size_t threads) {
  for (std::size_t t = 1; t < threads; ++t) workers_.emplace_back([this, t] { serve(t); });
}

Pool::~Pool() {
  stop_.store(true);
  round_.fetch_add(1);
  round_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void Pool::fork_join(std::size_t jobs, Call call, const void* work) {
  call_ = call;
  work_ = work;
  jobs_ = jobs;
  next_.store(0, std::memory_order_relaxed);
  busy_.store(workers_.size(), std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  take_jobs(0);
  const auto done = [this] { return busy_.load(std::memory_order_acquire) == 0; };
  while (!spin(done)) {
    if (const std::size_t busy = busy_.load(std::memory_order_acquire)) busy_.wait(busy);
  }
}

void Pool::serve(std::size_t thread) {
  std::uint32_t seen = 0;
  while (true) {
    const auto called = [&] { return round_.load(std::memory_order_acquire) != seen; };
    while (!spin(called)) round_.wait(seen, std::memory_order_acquire);
    if (stop_.load()) return;
    ++seen;
    take_jobs(thread);
    if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
  }
}

void Pool::take_jobs(std::size_t thread) {
  while (true) {
    const std::size_t job = next_.fetch_add(1, std::memory_order_relaxed);
    if (job >= jobs_) return;
    call_(work_, job, thread);
  }
}

}  // namespace intact
