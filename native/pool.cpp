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

bool Pool::has_job(std::uint64_t ticket) {
  constexpr std::uint64_t kMask = (std::uint64_t{1} << kJobBits) - 1;
  return (ticket & kMask) < (ticket >> kJobBits & kMask);
}

bool Pool::any_job() const {
  for (const Ticket& ticket : tickets_) {
    if (has_job(ticket.word.load(std::memory_order_relaxed))) return true;
  }
  return false;
}

Pool::Pool(std::size_t threads) : tickets_(threads) {
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
  done_.store(0, std::memory_order_relaxed);
  const std::uint32_t round = round_.load(std::memory_order_relaxed) + 1;
  const std::size_t threads = tickets_.size();
  for (std::size_t t = 0; t < threads; ++t) {
    const std::uint64_t first = t * jobs / threads, last = (t + 1) * jobs / threads;
    tickets_[t].word.store(std::uint64_t{round} << 2 * kJobBits | last << kJobBits | first,
                           std::memory_order_release);
  }
  round_.store(round, std::memory_order_release);
  round_.notify_all();
  take_jobs(0);
  const auto done = [&] { return done_.load(std::memory_order_acquire) == jobs; };
  while (!spin(done)) std::this_thread::yield();
}

void Pool::serve(std::size_t thread) {
  while (true) {
    const std::uint32_t seen = round_.load(std::memory_order_acquire);
    const auto called = [&] {
      return any_job() || stop_.load(std::memory_order_relaxed);
    };
    if (!spin(called)) round_.wait(seen, std::memory_order_acquire);
    if (stop_.load()) return;
    take_jobs(thread);
  }
}

void Pool::take_jobs(std::size_t thread) {
  for (std::size_t i = 0; i < tickets_.size(); ++i) {
    std::atomic<std::uint64_t>& word = tickets_[(thread + i) % tickets_.size()].word;
    // Looking before taking keeps idle workers from counting beyond the end for ever.
    while (has_job(word.load(std::memory_order_acquire))) {
      const std::uint64_t ticket = word.fetch_add(1, std::memory_order_acq_rel);
      if (!has_job(ticket)) break;
      const std::size_t job = ticket & ((std::uint64_t{1} << kJobBits) - 1);
      call_(work_, first_ + job, thread);
      done_.fetch_add(1, std::memory_order_release);
    }
  }
}

}  // namespace intact
