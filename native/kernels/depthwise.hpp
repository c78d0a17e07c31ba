#pragma once

// Depthwise convolution, a row of the output at a time. Four rows of the input lie side by side in
// 32 bits, so that `dot4` multiplies them by four rows of the kernel; interleaved once, a column
// serves every output pixel whose window holds it.

#include <cstring>

#include "../kernels.hpp"

namespace {

template <class V>
void interleave_columns(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                        std::size_t channel, std::size_t n, std::size_t groups,
                        std::uint8_t* columns) {
  const std::size_t width = (d.out_width - 1) * d.stride_w + (d.kernel_w - 1) * d.dilation_w + 1;
  const auto padding = V::broadcast_byte(d.x_zero_point);
  for (std::size_t g = 0; g < groups; ++g) {
    const std::uint8_t* rows[4];
    for (std::size_t i = 0; i < 4; ++i) {
      const std::ptrdiff_t row = top + static_cast<std::ptrdiff_t>((4 * g + i) * d.dilation_h);
      const bool inside = 4 * g + i < d.kernel_h && row >= 0 &&
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

// Sums in the order of channels, which is that of the lanes of 128 bits; see depthwise_order.
template <class V>
void store_sums(const typename V::I (&acc)[4], std::int32_t* y, std::size_t n) {
  std::int32_t sums[4 * V::kInts];
  for (std::size_t i = 0; i < 4; ++i) V::store(sums + i * V::kInts, acc[i]);
  for (std::size_t c = 0; c < n; c += 4) {
    const std::int32_t* from = sums + c % 16 / 4 * V::kInts + c / 16 * 4;
    std::memcpy(y + c, from, (n - c < 4 ? n - c : 4) * sizeof(std::int32_t));
  }
}

// kWidth and kGroups: known sizes keep the weights in registers; 0 takes those of `d`.
template <class V, std::size_t kWidth, std::size_t kGroups, bool kFinished>
void depthwise_row(const intact::Depthwise& d, std::size_t channel, std::size_t n,
                   std::size_t all_groups, const std::uint8_t* columns, void* y) {
  const std::size_t width = kWidth ? kWidth : d.kernel_w;
  const std::size_t groups = kGroups ? kGroups : all_groups;
  const std::int8_t* weights = d.weights + channel * width * groups * 4;
  const auto high = V::broadcast(d.output.high);
  const std::int32_t lowest = static_cast<std::int32_t>(d.output.low) + d.output.zero_point;
  const auto low = V::broadcast_byte(static_cast<std::uint8_t>(lowest));
  typename V::I bias[4];
  typename V::F scale[4];
  for (std::size_t i = 0; i < 4; ++i) {
    bias[i] = kFinished ? V::load(d.output.bias + channel + i * V::kInts) : V::zero();
    scale[i] = kFinished ? V::load(d.output.scale + channel + i * V::kInts) : V::broadcast(0.0f);
  }
  const std::size_t step = groups * 4 * V::kBytes;
  for (std::size_t o = 0; o < d.out_width; ++o) {
    typename V::I acc[4] = {bias[0], bias[1], bias[2], bias[3]};
    for (std::size_t w = 0; w < width; ++w) {
      const std::uint8_t* column = columns + (o * d.stride_w + w * d.dilation_w) * step;
      for (std::size_t g = 0; g < groups; ++g) {
        for (std::size_t i = 0; i < 4; ++i) {
          const std::size_t at = (g * 4 + i) * V::kBytes;
          acc[i] = V::dot4(acc[i], V::load_bytes(column + at), V::load_bytes(weights + w * step + at));
        }
      }
    }
    if constexpr (!kFinished) {
      store_sums<V>(acc, static_cast<std::int32_t*>(y) + o * d.channels + channel, n);
      continue;
    }
    for (std::size_t i = 0; i < 4; ++i) {
      acc[i] = V::round(V::min(V::mul(V::to_float(acc[i]), scale[i]), high));
    }
    const auto bytes = V::max_u8(V::narrow(acc, d.output.zero_point), low);
    V::store_bytes(static_cast<std::uint8_t*>(y) + o * d.channels + channel, bytes, n);
  }
}

template <class V, bool kFinished>
void depthwise_channels(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                        std::size_t first, std::size_t last, void* y, std::uint8_t* scratch) {
  const std::size_t groups = (d.kernel_h + 3) / 4;
  for (std::size_t channel = first; channel < last; channel += V::kBytes) {
    const std::size_t n = last - channel < V::kBytes ? last - channel : V::kBytes;
    interleave_columns<V>(d, x, top, channel, n, groups, scratch);
    if (d.kernel_w == 3 && groups == 1) {
      depthwise_row<V, 3, 1, kFinished>(d, channel, n, groups, scratch, y);
    } else if (d.kernel_w == 5 && groups == 2) {
      depthwise_row<V, 5, 2, kFinished>(d, channel, n, groups, scratch, y);
    } else {
      depthwise_row<V, 0, 0, kFinished>(d, channel, n, groups, scratch, y);
    }
  }
}

template <class V>
void depthwise(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
               std::size_t first, std::size_t last, std::uint8_t* y, std::uint8_t* scratch) {
  depthwise_channels<V, true>(d, x, top, first, last, y, scratch);
}

template <class V>
void depthwise_sums(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                    std::int32_t* sums, std::uint8_t* scratch) {
  depthwise_channels<V, false>(d, x, top, 0, d.channels, sums, scratch);
}

}  // namespace
