#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace intact {

// What calibration keeps of one sample's values; see core/statistics.py for the terms.
struct Description {
  float low = 0, high = 0;  // NaN where a value is NaN
  int exponent = 0;
  std::int64_t first = 0;
  std::vector<std::int64_t> counts;  // empty where a value is not finite
};

// size > 0.
Description describe(const float* values, std::size_t size);

}  // namespace intact
