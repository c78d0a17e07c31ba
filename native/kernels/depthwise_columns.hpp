#pragma once

// Depthwise convolution of any kernel, a line of the output at a time. Four rows of the input lie side by side in
// 32 bits, so that `dot4` multiplies them by four rows of the kernel; interleaved once, a column serves every output
// pixel whose window holds it.

#include "../kernels.hpp"
#include "gemm.hpp"

namespace {

// `height` rows from `top` on.
template <class V>
void interleave_columns(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                        std::size_t height, std::size_t channel, std::size_t n, std::size_t groups,
                        std::uint8_t* columns) {
  const std::size_t width = (d.out_width - 1) * d.stride_w + (d.kernel_w - 1) * d.dilation_w + 1;
  const auto padding = V::broadcast_byte(d.x_zero_point);
  for (std::size_t g = 0; g < groups; ++g) {
    const std::uint8_t* rows[4];
    for (std::size_t i = 0; i < 4; ++i) {
      const std::ptrdiff_t row = top + static_cast<std::ptrdiff_t>((4 * g + i) * d.dilation_h);
      const bool inside = 4 * g + i < height && row >= 0 &&
                          row < static_cast<std::ptrdiff_t>(d.height);
      rows[i] = inside ? x + static_cast<std::size_t>(row) * d.width * d.channels + channel : nullptr;
    }
    for (std::size_t c = 0; c < width; ++c) {
      const std::ptrdiff_t column =
          static_cast<std::ptrdiff_t>(c) - static_cast<std::ptrdiff_t>(d.pad_left);
      const bool inside = column >= 0 && column < static_cast<std::ptrdiff_t>(d.width);
      typename V::B t[4], out[4];
      for (std::size_t i = 0; i < 4; ++i) {
        t[i] = inside && rows[i]
                   ? V::load_bytes(rows[i] + static_cast<std::size_t>(column) * d.channels, n)
                   : padding;
      }
      V::interleave(t, out);
      for (std::size_t i = 0; i < 4; ++i) {
        V::store_bytes(columns + ((c * groups + g) * 4 + i) * V::kBytes, out[i]);
      }
    }
  }
}

// The sums of one output row, a step of channels: use(output, acc) for each pixel, in the order of
// depthwise_order. kWidth and kGroups: known sizes keep the weights in registers; 0 takes those of `d`.
template <class V, std::size_t kWidth, std::size_t kGroups, class Use>
void depthwise_row(const intact::Depthwise& d, std::size_t channel, const typename V::I (&start)[4],
                   const std::uint8_t* columns, const Use& use) {
  const std::size_t width = kWidth ? kWidth : d.kernel_w;
  const std::size_t groups = kGroups ? kGroups : (d.kernel_h + 3) / 4;
  const std::int8_t* weights = d.weights + channel * width * groups * 4;
  const std::size_t step = groups * 4 * V::kBytes;
  for (std::size_t o = 0; o < d.out_width; ++o) {
    typename V::I acc[4] = {start[0], start[1], start[2], start[3]};
    for (std::size_t w = 0; w < width; ++w) {
      const std::uint8_t* column = columns + (o * d.stride_w + w * d.dilation_w) * step;
      for (std::size_t g = 0; g < groups; ++g) {
        for (std::size_t i = 0; i < 4; ++i) {
          const std::size_t at = (g * 4 + i) * V::kBytes;
          acc[i] = V::dot4(acc[i], V::load_bytes(column + at), V::load_bytes(weights + w * step + at));
        }
      }
    }
    use(o, acc);
  }
}

template <class V, class Use>
void depthwise_line(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                    std::size_t channel, std::size_t n, const typename V::I (&start)[4],
                    std::uint8_t* scratch, const Use& use) {
  const std::size_t groups = (d.kernel_h + 3) / 4;
  interleave_columns<V>(d, x, top, d.kernel_h, channel, n, groups, scratch);
  if (d.kernel_w == 3 && groups == 1) {
    depthwise_row<V, 3, 1>(d, channel, start, scratch, use);
  } else if (d.kernel_w == 5 && groups == 2) {
    depthwise_row<V, 5, 2>(d, channel, start, scratch, use);
  } else {
    depthwise_row<V, 0, 0>(d, channel, start, scratch, use);
  }
}

}  // namespace
