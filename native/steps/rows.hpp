#pragma once

#include <algorithm>

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

}  // namespace intact
