#pragma once

// Depthwise convolution, a few lines of the output at a time, in the way that suits the kernel and the registers.

#include "depthwise_found.hpp"
#include "depthwise_rolling.hpp"
#include "depthwise_shared.hpp"
#include "finish.hpp"

namespace {

// Lines of the output whose rows of the input lie in as many groups of four as one line's.
template <class V>
std::size_t depthwise_lines(const intact::Depthwise& d) {
  if constexpr (!kManyRegisters<V>) return 1;
  if (d.dilation_h != 1) return 1;
  return ((d.kernel_h + 3) / 4 * 4 - d.kernel_h) / d.stride_h + 1;
}

// What the sums of some lines need beside themselves: padding, or interleaved columns and sums in another order.
template <class V>
std::size_t depthwise_beside_sums(const intact::Depthwise& d) {
  if (rolls<V>(d)) return padding_bytes(d);
  const std::size_t width = (d.out_width - 1) * d.stride_w + (d.kernel_w - 1) * d.dilation_w + 1;
  return (width * ((d.kernel_h + 3) / 4) + d.out_width * depthwise_lines<V>(d)) * 4 * V::kBytes;
}

// Bytes of a step of channels, as `to` says, where registers are many; whether it was done.
template <class V, class Steps>
bool step_bytes(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top, std::size_t lines,
                std::size_t channel, std::size_t n, const Steps& to, std::uint8_t* y, std::uint8_t* scratch) {
  if (rolls<V>(d)) {
    rolling_step<V>(d, x, top, lines, channel, n, to, y, scratch);
  } else if (shares<5, 2>(d)) {
    shared_bytes<V, 5, 2>(d, x, top, lines, channel, n, to, y, scratch);
  } else if (shares<7, 2>(d)) {
    shared_bytes<V, 7, 2>(d, x, top, lines, channel, n, to, y, scratch);
  } else {
    return false;
  }
  return true;
}

// `lines` lines of the output, at most `depthwise_lines`: use(line, output, acc).
template <class V, class Use>
void depthwise_step(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                    std::size_t lines, std::size_t channel, std::size_t n,
                    const typename V::I (&start)[4], std::uint8_t* scratch, const Use& use) {
  if constexpr (kManyRegisters<V>) {
    if (rolls<V>(d)) {
      return with_rolling(d, lines, [&](auto of, auto stride) {
        depthwise_rolling<V, of, stride>(d, x, top, channel, start, scratch, use);
      });
    }
    if (shares<5, 2>(d)) {
      return depthwise_shared<V, 5, 2>(d, x, top, lines, channel, n, start, scratch, use);
    }
    if (shares<7, 2>(d)) {
      return depthwise_shared<V, 7, 2>(d, x, top, lines, channel, n, start, scratch, use);
    }
  }
  for (std::size_t line = 0; line < lines; ++line) {
    const auto of_line = [&](std::size_t o, const auto& acc) { use(line, o, acc); };
    depthwise_line<V>(d, x, top + static_cast<std::ptrdiff_t>(line * d.stride_h), channel, n, start,
                      scratch, of_line);
  }
}

// kSmall: no scale reaches 1; see Requantizer.
template <class V, bool kSmall>
void depthwise_bytes(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                     std::size_t lines, std::size_t first, std::size_t last, std::uint8_t* y,
                     std::uint8_t* scratch) {
  const intact::Requantize r = d.output;
  for (std::size_t channel = first; channel < last; channel += V::kBytes) {
    const std::size_t n = last - channel < V::kBytes ? last - channel : V::kBytes;
    if constexpr (kManyRegisters<V>) {
      const FixedSteps<V, kSmall> to(r, [&](const auto* values, std::size_t i) {
        return V::load(values + channel + i * V::kInts);
      });
      if (step_bytes<V>(d, x, top, lines, channel, n, to, y, scratch)) continue;
    }
    typename V::I bias[4];
    typename V::F scale[4];
    for (std::size_t i = 0; i < 4; ++i) {
      bias[i] = V::load(r.bias + channel + i * V::kInts);
      scale[i] = V::load(r.scale + channel + i * V::kInts);
    }
    const auto low = V::broadcast_byte(byte_of(r.low, r)), high = V::broadcast_byte(byte_of(r.high, r));
    const auto most = V::broadcast(r.high);
    const auto finish = [&](std::size_t o, const typename V::I (&acc)[4]) INTACT_INLINE {
      typename V::I steps[4];
#pragma GCC unroll 4
      for (std::size_t i = 0; i < 4; ++i) {
        auto product = V::mul(V::to_float(acc[i]), scale[i]);
        if constexpr (!kSmall) product = V::min(product, most);
        steps[i] = V::round(product);
      }
      auto bytes = V::max_u8(V::narrow(steps, r.zero_point), low);
      if constexpr (kSmall) bytes = V::min_u8(bytes, high);
      V::store_bytes(y + o * d.channels + channel, bytes, n);
    };
    for (std::size_t line = 0; line < lines; ++line) {
      depthwise_line<V>(d, x, top + static_cast<std::ptrdiff_t>(line * d.stride_h), channel, n, bias, scratch,
                        [&](std::size_t o, const auto& acc) INTACT_INLINE { finish(line * d.out_width + o, acc); });
    }
  }
}

template <class V, bool kSmall>
void depthwise_whole(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                     std::size_t lines, std::uint8_t* y, std::uint8_t* scratch) {
  if (rolls<V>(d)) fill_padding(d, top, lines, scratch);
  if constexpr (kPairs<V>) {
    if (rolls_in_pairs<V>(d)) {
      const FixedSteps<V, kSmall> to(d.output, [](const auto* values, std::size_t i) {
        return V::load_twice(values + i * V::kInts / 2);
      });
      return rolling_pairs<V>(d, x, top, lines, to, y, scratch);
    }
  }
  with_lanes<V>(d.channels, [&](auto v, std::size_t first, std::size_t last) {
    depthwise_bytes<decltype(v), kSmall>(d, x, top, lines, first, last, y, scratch);
  });
}

template <class V>
void depthwise(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
               std::size_t lines, std::uint8_t* y, std::uint8_t* scratch) {
  const auto of = d.output.small ? depthwise_whole<V, true> : depthwise_whole<V, false>;
  of(d, x, top, lines, y, scratch);
}

// The bounds of kCount vectors of sums, which each(add) gives one output after another.
template <class V, std::size_t kCount, class Each>
void find_bounds(bool turns, const typename V::I (&turn)[kCount], Bounds<V>* found, const Each& each) {
  Bounds<V> here[kCount];
  if (turns) {
    each([&](const typename V::I (&sums)[kCount]) INTACT_INLINE {
      for_each_index<kCount>([&](auto i) INTACT_INLINE { here[i].add(sums[i], turn[i]); });
    });
  } else {
    each([&](const typename V::I (&sums)[kCount]) INTACT_INLINE {
      for_each_index<kCount>([&](auto i) INTACT_INLINE { here[i].add(sums[i]); });
    });
  }
  for (std::size_t i = 0; i < kCount; ++i) found[i] = here[i];
}

template <class V, std::size_t kWidth, std::size_t kGroups>
void shared_bounds(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top, std::size_t lines,
                   std::size_t channel, std::size_t n, bool turns, const typename V::I (&turn)[4],
                   Bounds<V> (&found)[4], std::uint8_t* scratch) {
  const typename V::I nothing[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  depthwise_quarters<V, kWidth, kGroups>(
      d, x, top, lines, channel, n, nothing, scratch, [&](auto i, std::size_t, const auto& each) INTACT_INLINE {
        Bounds<V> of_line;
        find_bounds<V, 1>(turns, {turn[i]}, &of_line, [&](const auto& add) INTACT_INLINE {
          each([&](std::size_t, typename V::I acc) INTACT_INLINE { add({acc}); });
        });
        found[i].join(of_line);
      });
}

template <class V>
void gathered_bounds(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top, std::size_t lines,
                     std::size_t channel, std::size_t n, bool turns, const typename V::I (&turn)[4],
                     Bounds<V> (&found)[4], std::uint8_t* scratch) {
  const typename V::I nothing[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  find_bounds<V, 4>(turns, turn, found, [&](const auto& add) {
    for (std::size_t line = 0; line < lines; ++line) {
      depthwise_line<V>(d, x, top + static_cast<std::ptrdiff_t>(line * d.stride_h), channel, n, nothing, scratch,
                        [&](std::size_t, const auto& acc) INTACT_INLINE { add(acc); });
    }
  });
}

template <class V>
void depthwise_bounds(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                      std::size_t lines, const std::int32_t* turns, std::int32_t* y,
                      std::uint8_t* scratch) {
  const std::size_t stride = (d.channels + V::kBytes - 1) / V::kBytes * V::kBytes;
  if (rolls<V>(d)) fill_padding(d, top, lines, scratch);
  with_lanes<V>(d.channels, [&](auto lanes, std::size_t first, std::size_t last) {
    using W = decltype(lanes);
    for (std::size_t channel = first; channel < last; channel += W::kBytes) {
      const std::size_t n = last - channel < W::kBytes ? last - channel : W::kBytes;
      Bounds<W> found[4];
      typename W::I turn[4];
      for (std::size_t i = 0; i < 4; ++i) {
        turn[i] = turns ? W::load(turns + channel + i * W::kInts) : W::zero();
      }
      if constexpr (kManyRegisters<W>) {
        if (rolls<W>(d)) {
          rolling_bounds<W>(d, x, top, lines, channel, scratch, [&](auto half, const auto& each) {
            find_bounds<W, 2>(turns, {turn[2 * half], turn[2 * half + 1]}, &found[2 * half], each);
          });
        } else if (shares<5, 2>(d)) {
          shared_bounds<W, 5, 2>(d, x, top, lines, channel, n, turns, turn, found, scratch);
        } else if (shares<7, 2>(d)) {
          shared_bounds<W, 7, 2>(d, x, top, lines, channel, n, turns, turn, found, scratch);
        } else {
          gathered_bounds<W>(d, x, top, lines, channel, n, turns, turn, found, scratch);
        }
      } else {
        gathered_bounds<W>(d, x, top, lines, channel, n, turns, turn, found, scratch);
      }
      // In the order of the channels, row by row.
      std::int32_t rows[4][W::kBytes];
      for (std::size_t i = 0; i < 4; ++i) {
        std::int32_t* to = rows[0] + i * W::kInts;
        turns ? found[i].store(to, W::kBytes, turn[i]) : found[i].store(to, W::kBytes);
      }
      for (std::size_t row = 0; row < (turns ? 4 : 2); ++row) {
        typename W::I of[4], ordered[4];
        for (std::size_t i = 0; i < 4; ++i) of[i] = W::load(rows[row] + i * W::kInts);
        W::channel_order(of, ordered);
        for (std::size_t i = 0; i < 4; ++i) W::store(y + row * stride + channel + i * W::kInts, ordered[i]);
      }
    }
  });
}

// Whether it was done: bytes whose parameters were found, by one product.
template <class V>
bool found_bytes(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top, std::size_t lines,
                 std::size_t channel, std::size_t n, const intact::Finish& f, std::uint8_t* scratch) {
  if (!f.q || !f.bounded || f.other || !intact::ends_in_registers(f.function, false)) return false;
  NearSums<V> near;
  const FoundOfStep<V> to(d, f, channel, near);
  return to.possible && step_bytes<V>(d, x, top, lines, channel, n, to, f.q, scratch) &&
         to.redo(f, n, d.channels, f.q + channel);
}

// Sums in the order of the channels, finished a few lines at a time while they are in the cache.
template <class V>
void depthwise_real(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                    std::size_t lines, const intact::Finish& f, std::uint8_t* scratch) {
  if (rolls<V>(d)) fill_padding(d, top, lines, scratch);
  auto* sums = reinterpret_cast<std::int32_t*>(scratch + depthwise_beside_sums<V>(d));
  with_lanes<V>(d.channels, [&](auto lanes, std::size_t first, std::size_t last) {
    using W = decltype(lanes);
    const typename W::I nothing[4] = {W::zero(), W::zero(), W::zero(), W::zero()};
    for (std::size_t channel = first; channel < last; channel += W::kBytes) {
      const std::size_t n = last - channel < W::kBytes ? last - channel : W::kBytes;
      if constexpr (kManyRegisters<W>) {
        if (found_bytes<W>(d, x, top, lines, channel, n, f, scratch)) continue;
      }
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
      if (!of.of_columns.sum) {
        finish<V>(sums, W::kBytes, lines * d.out_width, n, of);
        continue;
      }
      // What is found of each line, whoever computes how many of them.
      of.of_columns.skip(channel);
      for (std::size_t line = 0; line < lines; ++line) {
        finish<V>(sums + line * d.out_width * W::kBytes, W::kBytes, d.out_width, n, of);
        of.y += d.out_width * d.channels;
        of.of_columns.skip(d.channels);
      }
    }
  });
}

}  // namespace
