#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "steps.hpp"

namespace intact {

inline constexpr std::size_t kRowBytesPerJob = 16 * 1024;

// Rows of `size` floats that one job takes.
inline std::size_t rows_per_job(std::size_t size) {
  return std::max<std::size_t>(1, kRowBytesPerJob / (size * sizeof(float)));
}

template <class Work>
void for_rows(const Context& context, std::size_t rows, std::size_t size, const Work& work) {
  const std::size_t per_job = rows_per_job(size);
  context.engine.pool().run((rows + per_job - 1) / per_job, [&](std::size_t job, std::size_t) {
    for (std::size_t r = job * per_job; r < std::min(rows, (job + 1) * per_job); ++r) work(r);
  });
}

// Scale and zero point of values from `low` to `high`, as of ONNX's DynamicQuantizeLinear.
inline void row_parameters(float low, float high, float& scale, std::int32_t& zero_point) {
  low = std::min(low, 0.0f);
  high = std::max(high, 0.0f);
  scale = (high - low) / 255.0f;
  // Also where a value is NaN: nothing sensible follows, but nothing harmful either.
  if (!(scale >= std::numeric_limits<float>::min())) scale = 1.0f;
  const float point = std::nearbyint(-low / scale);
  zero_point = point >= 0.0f && point <= 255.0f ? static_cast<std::int32_t>(point)
                                                : (point > 255.0f ? 255 : 0);
}

}  // namespace intact
