#pragma once

#include "steps.hpp"

namespace intact {

// What the kernels are told of a float32 result whose first value is number `at` of `y`, in column
// `column` of the (padded) parameters, in rows of `stride`.
inline Finish finish_of(const Context& context, const Output& output, const Region& y,
                        std::size_t at, std::size_t column, std::size_t stride) {
  const RealTail& real = *output.real;
  return {.bias = &output.bias[column],
          .scale = &output.scale[column],
          .shift = real.shift.empty() ? nullptr : &real.shift[column],
          .scales = nullptr,
          .zero_points = nullptr,
          .one_image = false,
          .function = real.function,
          .other = real.other ? context.at<const float>(*real.other) + at : nullptr,
          .low = real.low,
          .high = real.high,
          .y = real.quantized ? nullptr : context.at<float>(y) + at,
          .q = real.quantized ? context.at<std::uint8_t>(y) + at : nullptr,
          .q_scale = real.scale,
          .q_zero_point = real.zero_point,
          .stride = stride,
          .extremes = nullptr,
          .far = y.bytes > kFarBytes};
}

}  // namespace intact
