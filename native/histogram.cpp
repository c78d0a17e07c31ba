#include "histogram.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

namespace intact {
namespace {

constexpr int kBinsPerSign = 2048;
constexpr int kBinsPerSignLog2 = 11;
constexpr int kSmallestExponent = -100;
// Neighbouring values share a bin more often than not (zeros behind a ReLU), and a counter that was
// just written is slow to read: neighbours count in tables of their own.
constexpr int kTables = 4;
constexpr std::size_t kChunk = 2048;  // values whose bins are held at a time

struct Extremes {
  float low, high;
  bool nan;
};

Extremes extremes(const float* x, std::size_t size) {
  constexpr std::size_t kLanes = 32;
  std::array<float, kLanes> low, high;
  std::array<std::int32_t, kLanes> nan{};
  low.fill(x[0]);
  high.fill(x[0]);
  std::size_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (std::size_t j = 0; j < kLanes; ++j) {
      const float v = x[i + j];
      low[j] = v < low[j] ? v : low[j];
      high[j] = v > high[j] ? v : high[j];
      nan[j] |= v != v;
    }
  }
  for (; i < size; ++i) {
    low[0] = std::min(low[0], x[i]);
    high[0] = std::max(high[0], x[i]);
    nan[0] |= x[i] != x[i];
  }
  return {*std::min_element(low.begin(), low.end()), *std::max_element(high.begin(), high.end()),
          std::any_of(nan.begin(), nan.end(), [](std::int32_t v) { return v != 0; })};
}

// The smallest e with `absmax < kBinsPerSign * 2**e`.
int bin_exponent(float absmax) {
  if (absmax == 0) return kSmallestExponent;
  int e;
  std::frexp(absmax, &e);
  return std::max(e - kBinsPerSignLog2, kSmallestExponent);
}

}  // namespace

Description describe(const float* values, std::size_t size) {
  const auto [low, high, nan] = extremes(values, size);
  Description result;
  result.low = nan ? std::numeric_limits<float>::quiet_NaN() : low;
  result.high = high;
  if (nan || std::isinf(low) || std::isinf(high)) return result;
  result.exponent = bin_exponent(std::max(-low, high));
  const float factor = std::ldexp(1.0f, -result.exponent);
  const auto first = static_cast<std::int32_t>(low * factor);
  const auto last = static_cast<std::int32_t>(high * factor);
  result.first = first;
  const std::size_t bins = static_cast<std::size_t>(last - first) + 1;
  result.counts.assign(bins, 0);

  static thread_local std::array<std::array<std::uint32_t, 2 * kBinsPerSign>, kTables> tables;
  static thread_local std::array<std::int32_t, kChunk> index;
  // 32-bit counters are emptied before they can overflow.
  constexpr std::size_t kBetween = std::size_t{1} << 30;
  for (std::size_t begin = 0; begin < size; begin += kBetween) {
    const std::size_t end = std::min(size, begin + kBetween);
    for (auto& table : tables) std::fill_n(table.begin(), bins, 0u);
    for (std::size_t i = begin; i < end; i += kChunk) {
      const std::size_t count = std::min(kChunk, end - i);
      for (std::size_t j = 0; j < count; ++j) {
        index[j] = static_cast<std::int32_t>(values[i + j] * factor) - first;
      }
      std::size_t j = 0;
      for (; j + kTables <= count; j += kTables) {
        for (int t = 0; t < kTables; ++t) ++tables[t][static_cast<std::size_t>(index[j + t])];
      }
      for (; j < count; ++j) ++tables[0][static_cast<std::size_t>(index[j])];
    }
    for (const auto& table : tables) {
      for (std::size_t b = 0; b < bins; ++b) result.counts[b] += table[b];
    }
  }
  return result;
}

}  // namespace intact
