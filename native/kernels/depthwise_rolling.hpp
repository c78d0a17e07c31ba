#pragma once

// Depthwise convolutions with 3 x 3 kernels where registers are many: the columns of four interleaved rows
// stay in them on their way along the image, and two lines of the output share them: the second has the same
// weights a row lower.

#include <cstring>

#include "bounds.hpp"
#include "quad.hpp"

namespace {

template <class V>
constexpr bool kManyRegisters = requires(typename V::B v) { V::next_byte(v); };

template <class V>
bool rolls(const intact::Depthwise& d) {
  return kManyRegisters<V> && d.kernel_h == 3 && d.kernel_w == 3 && d.dilation_h == 1 &&
         d.dilation_w == 1 && d.stride_w <= 2;
}

inline std::uint8_t byte_of(float bound, const intact::Requantize& r) {
  return static_cast<std::uint8_t>(static_cast<std::int32_t>(bound) + r.zero_point);
}

// From sums of a step of channels, in the order of depthwise_order, to whole steps, 16 bits and bytes. kSmall: no
// scale reaches 1; see Requantizer.
template <class V, bool kSmall>
struct FixedSteps {
  typename V::I bias[4];
  typename V::F scale[4], most;
  typename V::B low, high, zero_point;

  // load(values, i): vector i of what is given per channel.
  template <class Load>
  FixedSteps(const intact::Requantize& r, const Load& load)
      : most(V::broadcast(r.high)), low(V::broadcast_byte(byte_of(r.low, r))),
        high(V::broadcast_byte(byte_of(r.high, r))), zero_point(V::broadcast_words(r.zero_point)) {
    for (std::size_t i = 0; i < 4; ++i) {
      bias[i] = load(r.bias, i);
      scale[i] = load(r.scale, i);
    }
  }
  // Vectors kFirst on of output number `at`.
  template <std::size_t kFirst, std::size_t kCount>
  [[gnu::always_inline]] void whole(const typename V::I (&sums)[kCount], std::size_t,
                                    typename V::I (&steps)[kCount]) const {
    for_each_index<kCount>([&](auto i) INTACT_INLINE {
      auto product = V::mul(V::to_float(sums[i]), scale[kFirst + i]);
      if constexpr (!kSmall) product = V::min(product, most);
      steps[i] = V::round(product);
    });
  }
  [[gnu::always_inline]] typename V::B clamp(typename V::B bytes) const {
    bytes = V::max_u8(bytes, low);
    if constexpr (kSmall) bytes = V::min_u8(bytes, high);
    return bytes;
  }
  // One of the vectors, with what that needs alone.
  struct OfVector {
    typename V::F scale, most;
    typename V::B low, high, zero_point;

    [[gnu::always_inline]] typename V::I whole(typename V::I sum, std::size_t) const {
      auto product = V::mul(V::to_float(sum), scale);
      if constexpr (!kSmall) product = V::min(product, most);
      return V::round(product);
    }
    [[gnu::always_inline]] typename V::B clamp(typename V::B bytes) const {
      bytes = V::max_u8(bytes, low);
      if constexpr (kSmall) bytes = V::min_u8(bytes, high);
      return bytes;
    }
  };
  OfVector of_vector(std::size_t i) const { return {scale[i], most, low, high, zero_point}; }
};

// Calls use(lines, stride) with constants.
template <class Use>
void with_rolling(const intact::Depthwise& d, std::size_t lines, const Use& use) {
  constexpr std::integral_constant<std::size_t, 1> one;
  constexpr std::integral_constant<std::size_t, 2> two;
  if (lines == 2) return d.stride_w == 1 ? use(two, one) : use(two, two);
  return d.stride_w == 1 ? use(one, one) : use(one, two);
}

// Bytes of a line of padding, which stands in for rows beyond the image.
inline std::size_t padding_bytes(const intact::Depthwise& d) { return d.width * d.channels + intact::kSlack; }

// Fills that line if one of the rows of `lines` lines of the output lies beyond.
inline void fill_padding(const intact::Depthwise& d, std::ptrdiff_t top, std::size_t lines, std::uint8_t* to) {
  const auto end = top + static_cast<std::ptrdiff_t>((lines - 1) * d.stride_h + d.kernel_h);
  if (top < 0 || end > static_cast<std::ptrdiff_t>(d.height)) std::memset(to, d.x_zero_point, padding_bytes(d));
}

// Where the four rows of a line, or two, of the output begin.
struct FourRows {
  const std::uint8_t* at[4];

  FourRows(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top, std::size_t lines,
           std::size_t channel, const std::uint8_t* padding) {
    for (std::size_t i = 0; i < 4; ++i) {
      // The weights of a row that no line has are zero.
      const std::ptrdiff_t row = top + static_cast<std::ptrdiff_t>(i < 2 + lines ? i : 0);
      const bool inside = row >= 0 && row < static_cast<std::ptrdiff_t>(d.height);
      at[i] = (inside ? x + static_cast<std::size_t>(row) * d.width * d.channels : padding) + channel;
    }
  }
};

// A step of channels of one pixel after another.
template <class V>
struct Pixels {
  FourRows rows;
  const std::ptrdiff_t width;
  const std::size_t step, outputs;
  const std::uint8_t zero;
  const std::int8_t* weights;

  Pixels(const intact::Depthwise& d, const FourRows& rows, std::size_t channel)
      : rows(rows), width(static_cast<std::ptrdiff_t>(d.width)), step(d.channels), outputs(d.out_width),
        zero(d.x_zero_point), weights(d.weights + channel * 3 * 4) {}

  // Those of pixel number `column`: rows[4], of which whole vectors are read.
  [[gnu::always_inline]] void load(std::ptrdiff_t column, typename V::B (&to)[4]) const {
    if (column >= 0 && column < width) {
      const std::size_t at = static_cast<std::size_t>(column) * step;
      for_each_index<4>([&](auto i) INTACT_INLINE { to[i] = V::load_bytes(rows.at[i] + at); });
    } else {
      for_each_index<4>([&](auto i) INTACT_INLINE { to[i] = V::broadcast_byte(zero); });
    }
  }
  // Vector i of the weights of a column of the kernel.
  typename V::B weight(std::size_t column, std::size_t i) const {
    return V::load_bytes(weights + (column * 4 + i) * V::kBytes);
  }
};

// All channels, half a vector, of two pixels side by side.
template <class V>
struct PairsOfPixels {
  static constexpr std::size_t kHalf = V::kBytes / 2;
  FourRows rows;
  const std::ptrdiff_t width;
  const std::size_t outputs;
  const std::uint8_t zero;
  const std::int8_t* weights;
  alignas(64) std::uint8_t edges[3][4][V::kBytes];

  PairsOfPixels(const intact::Depthwise& d, const FourRows& rows)
      : rows(rows), width(static_cast<std::ptrdiff_t>(d.width)), outputs((d.out_width + 1) / 2),
        zero(d.x_zero_point), weights(d.weights) {
    fill_edges();
  }

  // What lies at the edges, and beyond, is put together beforehand.
  enum Edge { kLeft, kRight, kBeyond };
  void fill_edges() {
    std::memset(edges, zero, sizeof edges);
    for (std::size_t i = 0; i < 4; ++i) {
      std::memcpy(edges[kLeft][i] + kHalf, rows.at[i], kHalf);
      std::memcpy(edges[kRight][i], rows.at[i] + static_cast<std::size_t>(width - 1) * kHalf, kHalf);
    }
  }
  [[gnu::always_inline]] void load(std::ptrdiff_t column, typename V::B (&to)[4]) const {
    if (column >= 0 && column + 1 < width) {
      const std::size_t at = static_cast<std::size_t>(column) * kHalf;
      for_each_index<4>([&](auto i) INTACT_INLINE { to[i] = V::load_bytes(rows.at[i] + at); });
    } else {
      const auto& edge = edges[column == -1 ? kLeft : column + 1 == width ? kRight : kBeyond];
      for_each_index<4>([&](auto i) INTACT_INLINE { to[i] = V::load_bytes(edge[i]); });
    }
  }
  typename V::B weight(std::size_t column, std::size_t i) const {
    return V::load_twice(weights + (column * 4 + i) * kHalf);
  }
};

// Goes along a line, kStep columns from output to output: next(column, where) fills what lies there, and
// use(output, a, b, c) takes three.
template <class Column, std::size_t kStep, class Next, class Use>
[[gnu::always_inline]] inline void roll(std::size_t pad_left, std::size_t outputs, const Next& next_of,
                                        const Use& use) {
  std::ptrdiff_t column = -static_cast<std::ptrdiff_t>(pad_left);
  const auto next = [&](Column& to) INTACT_INLINE { next_of(to, column++); };
  Column a, b, c;
  std::size_t o = 0;
  const auto output = [&](const Column& x0, const Column& x1, const Column& x2) INTACT_INLINE {
    use(o, x0, x1, x2);
    return ++o < outputs;
  };
  next(a);
  if constexpr (kStep == 1) {
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

// The weights of a line, or of the next one, a row lower.
template <class V, class Source>
typename V::B weight_of_line(const Source& source, std::size_t line, std::size_t column, std::size_t i) {
  const typename V::B weights = source.weight(column, i);
  return line == 0 ? weights : V::next_byte(weights);
}

// use(line, output, acc) for each pixel of kLines lines; see depthwise_row.
template <class V, std::size_t kLines, std::size_t kStride, class Use>
void depthwise_rolling(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                       std::size_t channel, const typename V::I (&start)[4], const std::uint8_t* padding,
                       const Use& use) {
  using Column = typename V::B[4];
  const Pixels<V> pixels(d, FourRows(d, x, top, kLines, channel, padding), channel);
  alignas(64) std::int8_t weights[kLines][3][4][V::kBytes];
  for_each_index<kLines * 12>([&](auto n) {
    constexpr std::size_t line = n / 12, column = n / 4 % 3, i = n % 4;
    V::store_bytes(weights[line][column][i], weight_of_line<V>(pixels, line, column, i));
  });
  const auto next = [&](Column& column, std::ptrdiff_t where) INTACT_INLINE {
    typename V::B t[4];
    pixels.load(where, t);
    V::interleave(t, column);
  };
  roll<Column, kStride>(d.pad_left, d.out_width, next, [&](std::size_t o, const Column& a, const Column& b,
                                                           const Column& c) INTACT_INLINE {
    for_each_index<kLines>([&](auto line) INTACT_INLINE {
      typename V::I acc[4] = {start[0], start[1], start[2], start[3]};
      for_each_index<4>([&](auto i) INTACT_INLINE {
        acc[i] = V::dot4(acc[i], a[i], V::load_bytes(weights[line][0][i]));
        acc[i] = V::dot4(acc[i], b[i], V::load_bytes(weights[line][1][i]));
        acc[i] = V::dot4(acc[i], c[i], V::load_bytes(weights[line][2][i]));
      });
      use(line, o, acc);
    });
  });
}

// The same for one half of a step's channels, whose weights stay in registers too: vectors 2 * kHalf and the
// next of depthwise_order. start[2]; use(line, output, acc[2]).
template <class V, std::size_t kLines, std::size_t kStep, std::size_t kHalf, class Source, class Use>
[[gnu::always_inline]] inline void depthwise_half(const Source& source, std::size_t pad_left,
                                                  const typename V::I (&start)[2], const Use& use) {
  using Column = typename V::B[2];
  typename V::B weights[kLines][3][2];
  for_each_index<kLines * 6>([&](auto n) INTACT_INLINE {
    constexpr std::size_t line = n / 6, column = n / 2 % 3, i = n % 2;
    weights[line][column][i] = weight_of_line<V>(source, line, column, 2 * kHalf + i);
  });
  const auto next = [&](Column& column, std::ptrdiff_t where) INTACT_INLINE {
    typename V::B t[4];
    source.load(where, t);
    V::template interleave_half<kHalf>(t, column);
  };
  roll<Column, kStep>(pad_left, source.outputs, next, [&](std::size_t o, const Column& a, const Column& b,
                                                          const Column& c) INTACT_INLINE {
    typename V::I acc[kLines][2];
    for_each_index<kLines * 2>([&](auto n) INTACT_INLINE { acc[n / 2][n % 2] = start[n % 2]; });
    for_each_index<3>([&](auto t) INTACT_INLINE {
      const Column& column = t == 0 ? a : t == 1 ? b : c;
      for_each_index<kLines * 2>([&](auto n) INTACT_INLINE {
        constexpr std::size_t line = n / 2, i = n % 2;
        acc[line][i] = V::dot4(acc[line][i], column[i], weights[line][t][i]);
      });
    });
    for_each_index<kLines>([&](auto line) INTACT_INLINE { use(line, o, acc[line]); });
  });
}

// Lines of bytes, `width` of them a line from y on: the 16-bit steps of one half of the channels wait in
// memory for those of the other.
template <class V, std::size_t kLines, std::size_t kStep, class Source, class Steps>
void rolling_bytes(const Source& source, std::size_t pad_left, Steps to, std::size_t n, std::size_t width,
                   std::uint8_t* y, std::size_t y_step, std::uint8_t* waiting) {
  const std::size_t outputs = source.outputs;
  const auto half = [&](auto of, const auto& store) INTACT_INLINE {
    constexpr std::size_t kHalf = of;
    const typename V::I start[2] = {to.bias[2 * kHalf], to.bias[2 * kHalf + 1]};
    depthwise_half<V, kLines, kStep, kHalf>(
        source, pad_left, start, [&](std::size_t line, std::size_t o, const typename V::I (&acc)[2]) INTACT_INLINE {
          typename V::I steps[2];
          to.template whole<2 * kHalf>(acc, line * outputs + o, steps);
          store(line, o, V::narrow_half(steps, to.zero_point));
        });
  };
  half(std::integral_constant<std::size_t, 0>(),
       [=](std::size_t line, std::size_t o, typename V::B words) INTACT_INLINE {
         V::store_bytes(waiting + (o * kLines + line) * V::kBytes, words);
       });
  half(std::integral_constant<std::size_t, 1>(),
       [&](std::size_t line, std::size_t o, typename V::B words) INTACT_INLINE {
         const auto before = V::load_bytes(waiting + (o * kLines + line) * V::kBytes);
         V::store_bytes(y + line * width + o * y_step, to.clamp(V::bytes_of_words(before, words)),
                        least_of(n, width - o * y_step));
       });
}

// A line of bytes, all of a step's channels at once: without the weights of a second one registers suffice.
template <class V, std::size_t kStride, class Steps>
void rolling_line(const Pixels<V>& pixels, std::size_t pad_left, const Steps& to, std::size_t n, std::uint8_t* y) {
  using Column = typename V::B[4];
  typename V::B weights[3][4];
  for_each_index<12>([&](auto n) INTACT_INLINE { weights[n / 4][n % 4] = pixels.weight(n / 4, n % 4); });
  const auto next = [&](Column& column, std::ptrdiff_t where) INTACT_INLINE {
    typename V::B t[4];
    pixels.load(where, t);
    V::interleave(t, column);
  };
  const std::size_t step = pixels.step;
  roll<Column, kStride>(pad_left, pixels.outputs, next, [&](std::size_t o, const Column& a, const Column& b,
                                                            const Column& c) INTACT_INLINE {
    const auto& end = in_memory(to);
    typename V::I acc[4], steps[4];
    for_each_index<4>([&](auto i) INTACT_INLINE { acc[i] = V::dot4(end.bias[i], a[i], weights[0][i]); });
    for_each_index<4>([&](auto i) INTACT_INLINE { acc[i] = V::dot4(acc[i], b[i], weights[1][i]); });
    for_each_index<4>([&](auto i) INTACT_INLINE { acc[i] = V::dot4(acc[i], c[i], weights[2][i]); });
    end.template whole<0>(acc, o, steps);
    const auto first = V::narrow_half({steps[0], steps[1]}, end.zero_point);
    const auto second = V::narrow_half({steps[2], steps[3]}, end.zero_point);
    V::store_bytes(y + o * step, end.clamp(V::bytes_of_words(first, second)), n);
  });
}

// A step of channels; scratch begins with what `fill_padding` filled.
template <class V, class Steps>
void rolling_step(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top, std::size_t lines,
                  std::size_t channel, std::size_t n, const Steps& to, std::uint8_t* y, std::uint8_t* scratch) {
  const Pixels<V> pixels(d, FourRows(d, x, top, lines, channel, scratch), channel);
  with_rolling(d, lines, [&](auto of, auto stride) {
    if constexpr (of == 1) {
      rolling_line<V, stride>(pixels, d.pad_left, to, n, y + channel);
    } else {
      rolling_bytes<V, of, stride>(pixels, d.pad_left, to, n, d.out_width * d.channels, y + channel, d.channels,
                                   scratch + padding_bytes(d));
    }
  });
}

// The bounds of a step's sums, by halves of its channels: found(half, each), where each(add) calls add(sums[2])
// of one output after another.
template <class V, class Found>
void rolling_bounds(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top, std::size_t lines,
                    std::size_t channel, const std::uint8_t* padding, const Found& found) {
  const Pixels<V> pixels(d, FourRows(d, x, top, lines, channel, padding), channel);
  with_rolling(d, lines, [&](auto of, auto stride) {
    for_each_index<2>([&](auto half) {
      const typename V::I nothing[2] = {V::zero(), V::zero()};
      found(half, [&](const auto& add) INTACT_INLINE {
        depthwise_half<V, of, stride, half>(
            pixels, d.pad_left, nothing,
            [&](std::size_t, std::size_t, const typename V::I (&acc)[2]) INTACT_INLINE { add(acc); });
      });
    });
  });
}

template <class V>
constexpr bool kPairs = requires(const std::int8_t* p) { V::load_twice(p); };

// Whether two pixels fill a vector that one leaves half empty.
template <class V>
bool rolls_in_pairs(const intact::Depthwise& d) {
  return kPairs<V> && rolls<V>(d) && d.stride_w == 1 && d.channels == V::kBytes / 2;
}

// to: of both halves of a vector.
template <class V, class Steps>
void rolling_pairs(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top, std::size_t lines,
                   const Steps& to, std::uint8_t* y, std::uint8_t* scratch) {
  const PairsOfPixels<V> pairs(d, FourRows(d, x, top, lines, 0, scratch));
  const auto of_lines = [&](auto of) {
    rolling_bytes<V, of, 2>(pairs, d.pad_left, to, V::kBytes, d.out_width * d.channels, y, V::kBytes,
                            scratch + padding_bytes(d));
  };
  if (lines == 2) return of_lines(std::integral_constant<std::size_t, 2>());
  of_lines(std::integral_constant<std::size_t, 1>());
}

}  // namespace
