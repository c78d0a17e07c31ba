#include "program.hpp"

#include <algorithm>
#include <chrono>
#include <limits>

#include "steps/steps.hpp"

namespace intact {
namespace {

constexpr std::size_t kNoOffset = 0;
constexpr std::int64_t kUnknownSum = std::numeric_limits<std::int64_t>::max();

std::int64_t largest_of(const std::int8_t* w, std::size_t groups, std::size_t k, std::size_t n) {
  constexpr std::int64_t kLargestByte = 255;
  constexpr std::size_t kMostRows = std::size_t{1} << 24;  // whose sums int32 holds
  if (k >= kMostRows) return kUnknownSum;
  std::int64_t largest = 0;
  std::vector<std::int32_t> above(n), below(n);
  for (std::size_t g = 0; g < groups; ++g) {
    std::fill(above.begin(), above.end(), 0);
    std::fill(below.begin(), below.end(), 0);
    for (std::size_t i = 0; i < k; ++i, w += n) {
      for (std::size_t j = 0; j < n; ++j) {
        above[j] += std::max<std::int32_t>(w[j], 0);
        below[j] -= std::min<std::int32_t>(w[j], 0);
      }
    }
    for (std::size_t j = 0; j < n; ++j) largest = std::max<std::int64_t>({largest, above[j], below[j]});
  }
  return kLargestByte * largest;
}

}  // namespace

Packed::Packed(const Kernels& kernels, Store& store, const std::int8_t* w, std::size_t groups,
               std::size_t k, std::size_t n, const Kernel& kernel)
    : groups(groups), k(k), n(n), kernel(kernel), reading(reading_of(kernels, kernel, groups, k)),
      group_bytes(packed_size(kernels, reading.taps * reading.k, n)),
      largest_sum(kernels.winograd && kernel.h == 3 && kernel.w == 3 ? largest_of(w, groups, k, n) : kUnknownSum),
      kernels(&kernels),
      data(store.take(times(groups, group_bytes))) {
  std::vector<std::int8_t> ordered;
  for (std::size_t g = 0; g < groups; ++g) {
    const std::int8_t* of = w + g * k * n;
    std::size_t depth = k;
    if (reading.order != Order::kGathered && reading.taps * reading.k != k) {
      depth = reading.taps * reading.k;
      ordered.assign(times(depth, n), 0);
      for (std::size_t i = 0; i < k; ++i) {
        std::copy_n(of + i * n, n, &ordered[place_of(kernel, reading, i) * n]);
      }
      of = ordered.data();
    }
    pack(kernels, of, depth, n, reinterpret_cast<std::int8_t*>(data.data()) + g * group_bytes);
  }
}

PackedReals::PackedReals(const float* w, std::size_t groups, std::size_t k, std::size_t n)
    : groups(groups), k(k), n(n), group_floats(times(k, round_up(n, kRealColumns))),
      data(times(times(groups, group_floats), sizeof(float))) {
  auto* to = reinterpret_cast<float*>(data.data());
  std::fill_n(to, groups * group_floats, 0.0f);
  for (std::size_t row = 0; row < groups * k; ++row) {
    float* group = to + row / k * group_floats;
    for (std::size_t j = 0; j < n; ++j) {
      const std::size_t panel = j / kRealColumns * kRealColumns * k;
      group[panel + row % k * kRealColumns + j % kRealColumns] = w[row * n + j];
    }
  }
}

Engine::Engine(std::size_t threads, const char* isa)
    : kernels_(select_kernels(isa)), pool_(threads), scratch_(threads) {
  require(threads >= 1, "an engine needs at least one thread");
}

std::uint8_t* Engine::arena(std::size_t bytes) {
  const bool enough = arena_.data() != nullptr && arena_.bytes() >= bytes && scratch_[0].bytes() >= scratch_bytes_;
  if (enough) return arena_.data();
  // Side by side on large pages, where the memory's addresses do not say by chance which of its lines are in each
  // other's way in a cache. What was there before goes first.
  const std::size_t of_arena = std::max(bytes, arena_.bytes());
  arena_ = {};
  std::fill(scratch_.begin(), scratch_.end(), Buffer());
  Store memory;
  const std::size_t of_threads = times(scratch_.size(), Store::needed(scratch_bytes_));
  memory.reserve(Store::needed(of_arena) + of_threads);
  arena_ = memory.take(of_arena);
  for (Buffer& scratch : scratch_) scratch = memory.take(scratch_bytes_);
  return arena_.data();
}

double Engine::peak() {
  constexpr std::size_t kDepth = 512, kCalls = 2000, kRounds = 9;
  using Clock = std::chrono::steady_clock;
  const std::lock_guard lock(mutex_);
  const Kernels& k = kernels_;
  const std::size_t rows = k.block_rows(k.columns), sums = rows * k.columns * sizeof(std::int32_t);
  reserve_scratch(sums + kDepth * (rows + k.columns));
  arena(0);
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t round = 0; round < kRounds; ++round) {
    const auto start = Clock::now();
    pool_.run(pool_.threads(), [&](std::size_t, std::size_t thread) {
      k.begin();
      std::uint8_t* memory = scratch(thread);
      const std::uint8_t* a = memory + sums;
      const auto* panel = reinterpret_cast<const std::int8_t*>(a + kDepth * rows);
      for (std::size_t call = 0; call < kCalls; ++call) {
        k.gemm({.a = a, .stride = kDepth, .starts = nullptr, .count = rows, .offsets = &kNoOffset,
                .taps = 1, .k = kDepth, .panel = panel, .columns = k.columns,
                .sums = reinterpret_cast<std::int32_t*>(memory), .beside = {}});
      }
    });
    least = std::min(least, std::chrono::duration<double>(Clock::now() - start).count());
  }
  const auto products = static_cast<double>(pool_.threads() * kCalls * kDepth * rows * k.columns);
  return products / least / 1e9;
}

Program::Program(std::shared_ptr<Engine> engine, std::size_t arena_bytes,
                 std::vector<std::size_t> input_bytes, std::vector<std::size_t> output_bytes)
    : engine_(std::move(engine)), arena_bytes_(arena_bytes), input_bytes_(std::move(input_bytes)),
      output_bytes_(std::move(output_bytes)) {
  require(arena_bytes <= SIZE_MAX / 4, "the arena is too large");
}

void Program::check(const Region& region) const {
  switch (region.space) {
    case Space::kArena:
      require(region.offset <= arena_bytes_ && region.bytes <= arena_bytes_ - region.offset,
              "a tensor lies outside the arena");
      require(region.offset % 64 == 0, "a tensor is not aligned to 64 bytes");
      break;
    case Space::kInput:
      require(region.offset < input_bytes_.size() && region.bytes <= input_bytes_[region.offset],
              "a tensor lies outside its input");
      break;
    case Space::kOutput:
      require(region.offset < output_bytes_.size() && region.bytes <= output_bytes_[region.offset],
              "a tensor lies outside its output");
      break;
    case Space::kLines:
      require(stages_.has_value(), "a tensor lies in a chain that has not begun");
      break;
  }
}

void Program::begin_chain() {
  require(!stages_, "a chain begins within a chain");
  stages_.emplace();
}

void Program::end_chain(std::string label) {
  require(stages_.has_value(), "a chain ends that has not begun");
  auto stages = std::move(*stages_);
  stages_.reset();
  add(make_chain(*this, std::move(stages)), std::move(label));
}

void Program::add(std::unique_ptr<Step> step, std::string label) {
  if (stages_) {
    stages_->push_back(std::move(step));
    return;
  }
  const std::lock_guard lock(engine_->mutex());
  engine_->reserve_scratch(step->scratch());
  label += step->way();
  steps_.push_back(std::move(step));
  labels_.push_back(std::move(label));
}

void Program::run(const std::vector<std::uint8_t*>& inputs,
                  const std::vector<std::uint8_t*>& outputs) {
  require(!stages_, "a chain has no end");
  const std::lock_guard lock(engine_->mutex());
  const Context context{*engine_, engine_->arena(arena_bytes_), inputs, outputs};
  for (const auto& step : steps_) step->run(context);
}

std::vector<double> Program::profile(const std::vector<std::uint8_t*>& inputs,
                                     const std::vector<std::uint8_t*>& outputs,
                                     std::size_t repetitions) {
  using Clock = std::chrono::steady_clock;
  require(!stages_, "a chain has no end");
  const std::lock_guard lock(engine_->mutex());
  const Context context{*engine_, engine_->arena(arena_bytes_), inputs, outputs};
  std::vector<double> least(steps_.size(), std::numeric_limits<double>::infinity());
  for (std::size_t r = 0; r < repetitions; ++r) {
    for (std::size_t i = 0; i < steps_.size(); ++i) {
      const auto start = Clock::now();
      steps_[i]->run(context);
      least[i] = std::min(least[i], std::chrono::duration<double>(Clock::now() - start).count());
    }
  }
  return least;
}

}  // namespace intact
