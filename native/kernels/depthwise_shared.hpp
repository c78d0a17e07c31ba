#pragma once

// Depthwise convolution of large kernels (5 x 5, 7 x 7), a few lines of the output at a time, which share their
// interleaved rows; for many registers.

#include "depthwise_columns.hpp"

namespace {

template <std::size_t kWidth, std::size_t kGroups>
bool shares(const intact::Depthwise& d) {
  return d.kernel_w == kWidth && (d.kernel_h + 3) / 4 == kGroups && d.dilation_h == 1 && d.dilation_w == 1;
}

// Without dilation; each line has the weights further down. of(i, line, each) for each quarter of a step's channels
// and each line, where each(use) calls use(output, sums of the quarter); the weights stay in registers from line to
// line.
template <class V, std::size_t kWidth, std::size_t kGroups, class Use>
void depthwise_quarters(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                        std::size_t lines, std::size_t channel, std::size_t n,
                        const typename V::I (&start)[4], std::uint8_t* scratch, const Use& of) {
  constexpr std::size_t kStep = kGroups * 4 * V::kBytes;
  const std::size_t height = d.kernel_h + (lines - 1) * d.stride_h;
  interleave_columns<V>(d, x, top, height, channel, n, kGroups, scratch);
  const std::int8_t* from = d.weights + channel * kWidth * kGroups * 4;
  const std::size_t stride = d.stride_w * kStep, outputs = d.out_width;
  for_each_index<4>([&](auto i) {
    typename V::B weights[kWidth][kGroups];
    for_each_index<kWidth * kGroups>([&](auto k) INTACT_INLINE {
      weights[k / kGroups][k % kGroups] = V::load_bytes(from + (k * 4 + i) * V::kBytes);
    });
    const typename V::I begin = start[i];
    for (std::size_t line = 0; line < lines; ++line) {
      for (std::size_t row = line == 0 ? 0 : d.stride_h; row > 0; --row) {
        for_each_index<kWidth>([&](auto w) INTACT_INLINE {
          for_each_index<kGroups>([&](auto back) INTACT_INLINE {
            constexpr std::size_t g = kGroups - 1 - back;
            if constexpr (g > 0) {
              weights[w][g] = V::next_byte(weights[w][g], weights[w][g - 1]);
            } else {
              weights[w][g] = V::next_byte(weights[w][g]);
            }
          });
        });
      }
      of(i, line, [&](const auto& use) INTACT_INLINE {
        const std::uint8_t* columns = scratch + i * V::kBytes;
        for (std::size_t o = 0; o < outputs; ++o, columns += stride) {
          typename V::I acc[2] = {begin, V::zero()};
          for_each_index<kWidth * kGroups>([&](auto k) INTACT_INLINE {
            constexpr std::size_t w = k / kGroups, g = k % kGroups;
            const auto at = columns + w * kStep + g * 4 * V::kBytes;
            acc[g % 2] = V::dot4(acc[g % 2], V::load_bytes(at), weights[w][g]);
          });
          use(o, V::add(acc[0], acc[1]));
        }
      });
    }
  });
}

// What lies behind the interleaved columns of such lines.
template <class V, std::size_t kGroups>
std::uint8_t* behind_columns(const intact::Depthwise& d, std::uint8_t* scratch) {
  const std::size_t width = (d.out_width - 1) * d.stride_w + (d.kernel_w - 1) * d.dilation_w + 1;
  return scratch + width * kGroups * 4 * V::kBytes;
}

// use(line, output, acc): see depthwise_row.
template <class V, std::size_t kWidth, std::size_t kGroups, class Use>
void depthwise_shared(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                      std::size_t lines, std::size_t channel, std::size_t n,
                      const typename V::I (&start)[4], std::uint8_t* scratch, const Use& use) {
  const std::size_t width = d.out_width;
  auto* sums = reinterpret_cast<std::int32_t*>(behind_columns<V, kGroups>(d, scratch));
  depthwise_quarters<V, kWidth, kGroups>(
      d, x, top, lines, channel, n, start, scratch, [&](auto i, std::size_t line, const auto& each) INTACT_INLINE {
        std::int32_t* to = sums + (line * width * 4 + i) * V::kInts;
        each([=](std::size_t o, typename V::I acc) INTACT_INLINE { V::store(to + o * 4 * V::kInts, acc); });
      });
  for (std::size_t at = 0; at < lines * width; ++at) {
    typename V::I acc[4];
    for_each_index<4>([&](auto i) INTACT_INLINE { acc[i] = V::load(sums + (at * 4 + i) * V::kInts); });
    use(at / width, at % width, acc);
  }
}

// Lines of bytes: each quarter is finished as far as it can be, and waits in memory for the others.
template <class V, std::size_t kWidth, std::size_t kGroups, class Steps>
void shared_bytes(const intact::Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top, std::size_t lines,
                  std::size_t channel, std::size_t n, const Steps& to, std::uint8_t* y, std::uint8_t* scratch) {
  std::uint8_t* waiting = behind_columns<V, kGroups>(d, scratch);
  const std::size_t channels = d.channels, outputs = d.out_width, line_bytes = outputs * V::kBytes;
  depthwise_quarters<V, kWidth, kGroups>(
      d, x, top, lines, channel, n, to.bias, scratch, [&](auto i, std::size_t line, const auto& each) INTACT_INLINE {
        const auto end = to.of_vector(i);
        const std::size_t first = line * outputs;
        std::uint8_t* steps = waiting + 2 * line * line_bytes;
        std::uint8_t* words = steps + line_bytes;
        std::uint8_t* bytes = y + line * outputs * channels + channel;
        each([=](std::size_t o, typename V::I acc) INTACT_INLINE {
          const typename V::I step = end.whole(acc, first + o);
          if constexpr (i % 2 == 0) {
            V::store_bytes(steps + o * V::kBytes, step);
          } else {
            const auto pair = V::narrow_half({V::load_bytes(steps + o * V::kBytes), step}, end.zero_point);
            if constexpr (i == 1) {
              V::store_bytes(words + o * V::kBytes, pair);
            } else {
              const auto before = V::load_bytes(words + o * V::kBytes);
              V::store_bytes(bytes + o * channels, end.clamp(V::bytes_of_words(before, pair)), n);
            }
          }
        });
      });
}

}  // namespace
