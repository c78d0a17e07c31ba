#pragma once

#include "steps.hpp"

namespace intact {

// What is left to do with `count` rows of `width` floats, which belong at value `at` of the output,
// whose rows are `columns` wide.
inline void finish_rows(const Context& context, const Kernels& k, const RealTail& real,
                        const Region& y, std::size_t at, std::size_t count, std::size_t width,
                        std::size_t columns, float* rows, std::size_t stride) {
  const auto apply = [&](const std::optional<Applied>& f) {
    if (f) k.unary(f->function, f->alpha, f->beta, rows, count, width, stride);
  };
  apply(real.function);
  if (real.other) {
    const float* other = context.at<const float>(*real.other) + at;
    for (std::size_t r = 0; r < count; ++r) {
      k.add_real(rows + r * stride, other + r * columns, rows + r * stride, width);
    }
  }
  apply(real.after);
  if (real.quantized) {
    std::uint8_t* q = context.at<std::uint8_t>(y) + at;
    k.quantize(rows, count, width, stride, real.scale, real.zero_point, q, columns);
  }
}

}  // namespace intact
