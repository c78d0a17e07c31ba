#pragma once

// How values and rows are shared out among threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "steps.hpp"

namespace intact {

inline constexpr std::size_t kRowBytesPerJob = 16 * 1024;
inline constexpr std::size_t kValuesPerJob = 16 * 1024;

// Rows of `size` floats that one job takes.
inline std::size_t rows_per_job(std::size_t size) {
  return std::max<std::size_t>(1, kRowBytesPerJob / (size * sizeof(float)));
}

// Calls work(row, thread) for each row.
template <class Work>
void for_rows(const Context& context, std::size_t rows, std::size_t size, const Work& work) {
  const std::size_t per_job = rows_per_job(size);
  context.engine.pool().run((rows + per_job - 1) / per_job, [&](std::size_t job, std::size_t thread) {
    for (std::size_t r = job * per_job; r < std::min(rows, (job + 1) * per_job); ++r) work(r, thread);
  });
}

// Jobs for `units` of so many values each.
inline std::size_t jobs_of(std::size_t units, std::size_t values_per_unit) {
  const std::size_t values = std::max<std::size_t>(1, values_per_unit);
  const std::size_t per_job = std::max<std::size_t>(1, kValuesPerJob / values);
  return (units + per_job - 1) / per_job;
}

// The part of `units` that `job` of `jobs` takes.
struct Part {
  Part(std::size_t units, std::size_t job, std::size_t jobs)
      : begin(job * units / jobs), end((job + 1) * units / jobs) {}
  std::size_t begin, end;
};

// Scale and zero point of values from low <= 0 to high >= 0, as of ONNX's DynamicQuantizeLinear.
inline void row_parameters(float low, float high, float& scale, std::int32_t& zero_point) {
  scale = (high - low) / 255.0f;
  // Also where a value is NaN: nothing sensible follows, but nothing harmful either.
  if (!(scale >= std::numeric_limits<float>::min())) scale = 1.0f;
  const float point = std::nearbyint(-low / scale);
  zero_point = point >= 0.0f && point <= 255.0f ? static_cast<std::int32_t>(point)
                                                : (point > 255.0f ? 255 : 0);
}

}  // namespace intact
