#pragma once

// Depthwise convolution, a row of the output at a time. Four rows of the input lie side by side in
// 32 bits, so that `dot4` multiplies them by four rows of the kernel; interleaved once, a column
// serves every output pixel whose window holds it.

#include <cstring>

#include "../kernels.hpp"
#include "finish.hpp"

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

// Three columns of four interleaved rows, on their way along the image: 3 x 3 kernels only. Where
// registers are many the columns stay in them, and two lines of the output share them: the second has
// the same weights a row lower.
template <class V, std::size_t kLines>
struct RollingColumns {
  using Column = typename V::B[4];
  const std::uint8_t* at[4];
  std::size_t step[4];
  alignas(64) std::uint8_t outside[V::kBytes];
  alignas(64) std::int8_t weights[kLines][3][4][V::kBytes];

  RollingColumns(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                 std::size_t channel) {
    std::memset(outside, d.x_zero_point, sizeof outside);
    for (std::size_t i = 0; i < 4; ++i) {
      const std::ptrdiff_t row = top + static_cast<std::ptrdiff_t>(i);
      const bool inside = i < 2 + kLines && row >= 0 && row < static_cast<std::ptrdiff_t>(d.height);
      at[i] = inside ? x + static_cast<std::size_t>(row) * d.width * d.channels + channel : outside;
      step[i] = inside ? d.channels : 0;
    }
    std::memcpy(weights[0], d.weights + channel * 3 * 4, sizeof weights[0]);
    if constexpr (kLines == 2) {
      for (std::size_t w = 0; w < 3; ++w) {
        for (std::size_t i = 0; i < 4; ++i) {
          V::store_bytes(weights[1][w][i], V::next_byte(V::load_bytes(weights[0][w][i])));
        }
      }
    }
  }

  // The next column, of which whole vectors are read.
  [[gnu::always_inline]] void next(Column& column) {
    typename V::B t[4];
    for (std::size_t i = 0; i < 4; ++i) {
      t[i] = V::load_bytes(at[i]);
      at[i] += step[i];
    }
    V::interleave(t, column);
  }

  template <class Use>
  [[gnu::always_inline]] void sums(const Column& a, const Column& b, const Column& c,
                                   const typename V::I (&start)[4], const Use& use) const {
#pragma GCC unroll 2
    for (std::size_t line = 0; line < kLines; ++line) {
      typename V::I acc[4] = {start[0], start[1], start[2], start[3]};
#pragma GCC unroll 4
      for (std::size_t i = 0; i < 4; ++i) {
        acc[i] = V::dot4(acc[i], a[i], V::load_bytes(weights[line][0][i]));
        acc[i] = V::dot4(acc[i], b[i], V::load_bytes(weights[line][1][i]));
        acc[i] = V::dot4(acc[i], c[i], V::load_bytes(weights[line][2][i]));
      }
      use(line, acc);
    }
  }
};

// use(line, output, acc) for each pixel of kLines lines; see depthwise_row.
template <class V, std::size_t kLines, std::size_t kStride, class Use>
void depthwise_rolling(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                       std::size_t channel, const typename V::I (&start)[4], const Use& use) {
  using Columns = RollingColumns<V, kLines>;
  Columns columns(d, x, top, channel);
  const auto width = static_cast<std::ptrdiff_t>(d.width);
  std::ptrdiff_t column = -static_cast<std::ptrdiff_t>(d.pad_left);
  const auto next = [&](typename Columns::Column& to) INTACT_INLINE {
    if (column >= 0 && column < width) {
      columns.next(to);
    } else {
      for (auto& v : to) v = V::broadcast_byte(d.x_zero_point);
    }
    ++column;
  };
  typename Columns::Column a, b, c;
  std::size_t o = 0;
  const auto output = [&](const auto& x0, const auto& x1, const auto& x2) INTACT_INLINE {
    columns.sums(x0, x1, x2, start, [&](std::size_t line, const auto& acc) INTACT_INLINE {
      use(line, o, acc);
    });
    return ++o < d.out_width;
  };
  next(a);
  if constexpr (kStride == 1) {
    next(b);
    while (true) {
      next(c);
      if (!output(a, b, c)) return;
      next(a);
      if (!output(b, c, a)) return;
      next(b);
      if (!output(c, a, b)) return;
    }
  } else {
    while (true) {
      next(b);
      next(c);
      if (!output(a, b, c)) return;
      next(b);
      next(a);
      if (!output(c, b, a)) return;
    }
  }
}

template <class V>
constexpr bool kManyRegisters = requires(typename V::B v) { V::next_byte(v); };

template <class V>
bool rolls(const intact::Depthwise& d) {
  return kManyRegisters<V> && d.kernel_h == 3 && d.kernel_w == 3 && d.dilation_h == 1 &&
         d.dilation_w == 1 && d.stride_w <= 2;
}

// Of the interleaved columns, and the sums of a line beside them.
template <class V>
std::size_t depthwise_columns_bytes(const intact::Depthwise& d) {
  const std::size_t width = (d.out_width - 1) * d.stride_w + (d.kernel_w - 1) * d.dilation_w + 1;
  return (width * ((d.kernel_h + 3) / 4) + d.out_width) * 4 * V::kBytes;
}

// Lines of the output whose rows of the input lie in as many groups of four as one line's.
template <class V>
std::size_t depthwise_lines(const intact::Depthwise& d) {
  if constexpr (!kManyRegisters<V>) return 1;
  if (d.dilation_h != 1) return 1;
  return ((d.kernel_h + 3) / 4 * 4 - d.kernel_h) / d.stride_h + 1;
}

// A quarter of a step's channels along a line, its weights in registers: sums[output][4 * V::kInts].
template <class V, std::size_t kWidth, std::size_t kGroups>
void quarter_sums(const intact::Depthwise& d, const std::uint8_t* columns,
                  const typename V::B (&weights)[kWidth][kGroups], typename V::I start,
                  std::int32_t* sums) {
  constexpr std::size_t kStep = kGroups * 4 * V::kBytes;
  const std::size_t dilation = d.dilation_w * kStep, stride = d.stride_w * kStep;
  for (std::size_t o = 0; o < d.out_width; ++o, columns += stride, sums += 4 * V::kInts) {
    typename V::I acc = start;
#pragma GCC unroll 8
    for (std::size_t w = 0; w < kWidth; ++w) {
#pragma GCC unroll 2
      for (std::size_t g = 0; g < kGroups; ++g) {
        const auto x = V::load_bytes(columns + w * dilation + g * 4 * V::kBytes);
        acc = V::dot4(acc, x, weights[w][g]);
      }
    }
    V::store(sums, acc);
  }
}

// Lines that share their interleaved rows: each has the weights further down.
template <class V, std::size_t kWidth, std::size_t kGroups, class Use>
void depthwise_shared(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                      std::size_t lines, std::size_t channel, std::size_t n,
                      const typename V::I (&start)[4], std::uint8_t* scratch, const Use& use) {
  const std::size_t height = d.kernel_h + (lines - 1) * d.stride_h;
  interleave_columns<V>(d, x, top, height, channel, n, kGroups, scratch);
  const std::size_t width = (d.out_width - 1) * d.stride_w + (d.kernel_w - 1) * d.dilation_w + 1;
  auto* sums = reinterpret_cast<std::int32_t*>(scratch + width * kGroups * 4 * V::kBytes);
  const std::int8_t* from = d.weights + channel * kWidth * kGroups * 4;
  for (std::size_t line = 0; line < lines; ++line) {
    for (std::size_t i = 0; i < 4; ++i) {
      typename V::B weights[kWidth][kGroups];
      for (std::size_t w = 0; w < kWidth; ++w) {
        for (std::size_t g = 0; g < kGroups; ++g) {
          weights[w][g] = V::load_bytes(from + ((w * kGroups + g) * 4 + i) * V::kBytes);
        }
        for (std::size_t row = 0; row < line * d.stride_h; ++row) {
          for (std::size_t g = kGroups; g-- > 0;) {
            weights[w][g] = g > 0 ? V::next_byte(weights[w][g], weights[w][g - 1]) : V::next_byte(weights[w][g]);
          }
        }
      }
      quarter_sums<V, kWidth, kGroups>(d, scratch + i * V::kBytes, weights, start[i], sums + i * V::kInts);
    }
    for (std::size_t o = 0; o < d.out_width; ++o) {
      typename V::I acc[4];
      for (std::size_t i = 0; i < 4; ++i) acc[i] = V::load(sums + (o * 4 + i) * V::kInts);
      use(line, o, acc);
    }
  }
}

// `lines` lines of the output, at most `depthwise_lines`.
template <class V, class Use>
void depthwise_step(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                    std::size_t lines, std::size_t channel, std::size_t n,
                    const typename V::I (&start)[4], std::uint8_t* scratch, const Use& use) {
  if constexpr (kManyRegisters<V>) {
    if (rolls<V>(d)) {
      if (lines == 2) {
        return d.stride_w == 1 ? depthwise_rolling<V, 2, 1>(d, x, top, channel, start, use)
                               : depthwise_rolling<V, 2, 2>(d, x, top, channel, start, use);
      }
      return d.stride_w == 1 ? depthwise_rolling<V, 1, 1>(d, x, top, channel, start, use)
                             : depthwise_rolling<V, 1, 2>(d, x, top, channel, start, use);
    }
    const std::size_t groups = (d.kernel_h + 3) / 4;
    if (d.kernel_w == 5 && groups == 2) {
      return depthwise_shared<V, 5, 2>(d, x, top, lines, channel, n, start, scratch, use);
    }
    if (d.kernel_w == 7 && groups == 2) {
      return depthwise_shared<V, 7, 2>(d, x, top, lines, channel, n, start, scratch, use);
    }
  }
  for (std::size_t line = 0; line < lines; ++line) {
    const auto of_line = [&](std::size_t o, const auto& acc) { use(line, o, acc); };
    depthwise_line<V>(d, x, top + static_cast<std::ptrdiff_t>(line * d.stride_h), channel, n, start,
                      scratch, of_line);
  }
}

// kSmall: no scale reaches 1; see requantize_rows.
template <class V, bool kSmall>
void depthwise_bytes(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                     std::size_t lines, std::size_t first, std::size_t last, std::uint8_t* y,
                     std::uint8_t* scratch) {
  const intact::Requantize r = d.output;
  const auto byte = [&](float bound) {
    return V::broadcast_byte(static_cast<std::uint8_t>(static_cast<std::int32_t>(bound) + r.zero_point));
  };
  const auto low = byte(r.low), high = byte(r.high);
  const auto most = V::broadcast(r.high);
  for (std::size_t channel = first; channel < last; channel += V::kBytes) {
    const std::size_t n = last - channel < V::kBytes ? last - channel : V::kBytes;
    typename V::I bias[4];
    typename V::F scale[4];
    for (std::size_t i = 0; i < 4; ++i) {
      bias[i] = V::load(r.bias + channel + i * V::kInts);
      scale[i] = V::load(r.scale + channel + i * V::kInts);
    }
    const auto finish = [&](std::size_t line, std::size_t o, const typename V::I (&acc)[4]) INTACT_INLINE {
      typename V::I steps[4];
#pragma GCC unroll 4
      for (std::size_t i = 0; i < 4; ++i) {
        auto product = V::mul(V::to_float(acc[i]), scale[i]);
        if constexpr (!kSmall) product = V::min(product, most);
        steps[i] = V::round(product);
      }
      auto bytes = V::max_u8(V::narrow(steps, r.zero_point), low);
      if constexpr (kSmall) bytes = V::min_u8(bytes, high);
      V::store_bytes(y + (line * d.out_width + o) * d.channels + channel, bytes, n);
    };
    depthwise_step<V>(d, x, top, lines, channel, n, bias, scratch, finish);
  }
}

template <class V>
void depthwise(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
               std::size_t lines, std::uint8_t* y, std::uint8_t* scratch) {
  with_lanes<V>(d.channels, [&](auto v, std::size_t first, std::size_t last) {
    using W = decltype(v);
    const auto of = d.output.small ? depthwise_bytes<W, true> : depthwise_bytes<W, false>;
    of(d, x, top, lines, first, last, y, scratch);
  });
}

template <class V>
void depthwise_bounds(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                      std::size_t lines, const std::int32_t* turns, std::int32_t* y,
                      std::uint8_t* scratch) {
  const std::size_t stride = (d.channels + V::kBytes - 1) / V::kBytes * V::kBytes;
  with_lanes<V>(d.channels, [&](auto lanes, std::size_t first, std::size_t last) {
    using W = decltype(lanes);
    const typename W::I nothing[4] = {W::zero(), W::zero(), W::zero(), W::zero()};
    for (std::size_t channel = first; channel < last; channel += W::kBytes) {
      const std::size_t n = last - channel < W::kBytes ? last - channel : W::kBytes;
      Bounds<W> found[4];
      typename W::I turn[4];
      for (std::size_t i = 0; i < 4; ++i) {
        turn[i] = turns ? W::load(turns + channel + i * W::kInts) : W::zero();
      }
      const auto step = [&](const auto& add) {
        depthwise_step<W>(d, x, top, lines, channel, n, nothing, scratch,
                          [&](std::size_t, std::size_t, const typename W::I (&acc)[4]) INTACT_INLINE {
                            for (std::size_t i = 0; i < 4; ++i) add(found[i], acc[i], i);
                          });
      };
      if (turns) {
        step([&](Bounds<W>& of, typename W::I sum, std::size_t i) INTACT_INLINE { of.add(sum, turn[i]); });
      } else {
        step([](Bounds<W>& of, typename W::I sum, std::size_t) INTACT_INLINE { of.add(sum); });
      }
      // In the order of the channels, row by row.
      std::int32_t rows[4][W::kBytes];
      for (std::size_t i = 0; i < 4; ++i) found[i].store(rows[0] + i * W::kInts, W::kBytes, turns != nullptr);
      for (std::size_t row = 0; row < (turns ? 4 : 2); ++row) {
        typename W::I of[4], ordered[4];
        for (std::size_t i = 0; i < 4; ++i) of[i] = W::load(rows[row] + i * W::kInts);
        W::channel_order(of, ordered);
        for (std::size_t i = 0; i < 4; ++i) W::store(y + row * stride + channel + i * W::kInts, ordered[i]);
      }
    }
  });
}

// Sums in the order of the channels, finished a few lines at a time while they are in the cache.
template <class V>
void depthwise_real(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                    std::size_t lines, const intact::Finish& f, std::uint8_t* scratch) {
  auto* sums = reinterpret_cast<std::int32_t*>(scratch + depthwise_columns_bytes<V>(d));
  with_lanes<V>(d.channels, [&](auto lanes, std::size_t first, std::size_t last) {
    using W = decltype(lanes);
    const typename W::I nothing[4] = {W::zero(), W::zero(), W::zero(), W::zero()};
    for (std::size_t channel = first; channel < last; channel += W::kBytes) {
      const std::size_t n = last - channel < W::kBytes ? last - channel : W::kBytes;
      depthwise_step<W>(d, x, top, lines, channel, n, nothing, scratch,
                        [&](std::size_t line, std::size_t o, const typename W::I (&acc)[4]) INTACT_INLINE {
                          typename W::I ordered[4];
                          W::channel_order(acc, ordered);
                          std::int32_t* to = sums + (line * d.out_width + o) * W::kBytes;
                          for (std::size_t i = 0; i < 4; ++i) W::store(to + i * W::kInts, ordered[i]);
                        });
      intact::Finish of = f;
      of.bias += channel;
      of.scale += channel;
      if (of.shift) of.shift += channel;
      if (of.other) of.other += channel;
      if (of.y) of.y += channel;
      if (of.q) of.q += channel;
      finish<V>(sums, W::kBytes, lines * d.out_width, n, of);
    }
  });
}

}  // namespace
