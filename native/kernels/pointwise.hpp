#pragma once

// Operators that work value by value, on rows of uint8.

#include <cstring>

#include "../kernels.hpp"

namespace {

// clamp(rne(x / scale), low, high). Where it is not clamped, the quotient by way of the reciprocal is
// off by at most three roundings of a float32 below 256, 5e-5, so it rounds alike unless it lies that
// near to a half.
constexpr float kNearHalf = 0.4999f;

template <class V>
typename V::I divide_round(typename V::F x, typename V::F scale, typename V::F reciprocal,
                           typename V::F low, typename V::F high) {
  typename V::F steps = V::min(V::max(V::mul(x, reciprocal), low), high);
  const typename V::F off = V::abs(V::sub(steps, V::rounded(steps)));
  if (__builtin_expect(V::any_greater(off, V::broadcast(kNearHalf)), 0)) {
    steps = V::min(V::max(V::div(x, scale), low), high);
  }
  return V::round(steps);
}

// clamp(rne(x / scale), low, high) of four vectors; see divide_round. kBounded: x / scale is known to
// be at most 2**14 in magnitude, and whoever narrows the result clamps it: where it is not clamped it is
// below 256.
template <class V, bool kBounded = false>
void divide_round4(const typename V::F (&x)[4], typename V::F scale, typename V::F reciprocal,
                   typename V::F low, typename V::F high, typename V::I (&y)[4]) {
  const auto clamped = [&](typename V::F steps) {
    if constexpr (kBounded) return steps;
    return V::min(V::max(steps, low), high);
  };
  typename V::F steps[4], most = V::broadcast(0.0f);
  for (std::size_t v = 0; v < 4; ++v) {
    steps[v] = clamped(V::mul(x[v], reciprocal));
    most = V::greater_fraction(most, steps[v]);
  }
  if (__builtin_expect(V::any_greater(most, V::broadcast(kNearHalf)), 0)) {
    for (std::size_t v = 0; v < 4; ++v) steps[v] = clamped(V::div(x[v], scale));
  }
  for (std::size_t v = 0; v < 4; ++v) y[v] = V::round(steps[v]);
}

template <class V>
void add(const std::uint8_t* a, std::size_t a_stride, const std::uint8_t* b, std::size_t b_stride,
         std::size_t rows, std::size_t columns, const intact::Sum& s, std::uint8_t* y,
         std::size_t stride) {
  const auto a_scale = V::broadcast(s.a_scale), b_scale = V::broadcast(s.b_scale);
  const auto a_zero = V::broadcast(s.a_zero_point), b_zero = V::broadcast(s.b_zero_point);
  const auto scale = V::broadcast(s.scale), reciprocal = V::broadcast(1.0f / s.scale);
  const auto low = V::broadcast(s.low), high = V::broadcast(s.high);
  const auto zero_point = V::broadcast(s.zero_point);
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t j = 0; j < columns; j += V::kInts) {
      const std::size_t n = columns - j < V::kInts ? columns - j : V::kInts;
      const auto p = V::mul(V::to_float(V::sub(V::load_u8(a + i * a_stride + j, n), a_zero)), a_scale);
      const auto q = V::mul(V::to_float(V::sub(V::load_u8(b + i * b_stride + j, n), b_zero)), b_scale);
      const auto steps = divide_round<V>(V::add(p, q), scale, reciprocal, low, high);
      V::store_u8(y + i * stride + j, V::add(steps, zero_point), n);
    }
  }
}

// Vectors that hold a table of 32 floats.
template <class V>
concept HasLookup32 = requires(const float (&table)[32], typename V::I index) { V::lookup32(table, index); };

// Vectors that hold a table of 256 bytes.
template <class V>
concept HasTables = requires(const typename V::Table& table, typename V::B x) { V::lookup(x, table); };

template <class V>
void lookup(std::uint8_t* y, std::size_t rows, std::size_t columns, std::size_t stride,
            const std::uint8_t* table) {
  if (stride == columns) {
    columns *= rows;
    rows = 1;
  }
  if constexpr (HasTables<V>) {
    const typename V::Table held(table);
    for (std::size_t i = 0; i < rows; ++i) {
      for (std::size_t j = 0; j < columns; j += V::kBytes) {
        std::uint8_t* p = y + i * stride + j;
        V::store_bytes(p, V::lookup(V::load_bytes(p, columns - j), held), columns - j);
      }
    }
  } else {
    for (std::size_t i = 0; i < rows; ++i) {
      for (std::size_t j = 0; j < columns; ++j) y[i * stride + j] = table[y[i * stride + j]];
    }
  }
}

template <class V>
void maximum(const std::uint8_t* x, const intact::Window& w, std::size_t channels,
             std::uint8_t* y) {
  for (std::size_t c = 0; c < channels; c += V::kBytes) {
    const std::size_t n = channels - c;
    auto most = V::broadcast_byte(0);
    for (std::size_t i = 0; i < w.rows; ++i) {
      for (std::size_t j = 0; j < w.columns; ++j) {
        const std::uint8_t* from = x + i * w.row_stride + j * w.column_stride + c;
        most = V::max_u8(most, V::load_bytes(from, n));
      }
    }
    V::store_bytes(y + c, most, n);
  }
}

// Vectors with a type of half their size, for the last channels.
template <class V>
concept HasHalf = requires { typename V::Half; };

// Calls use(V{}, first, last) for the channels that fill vectors of V, and the same with half vectors for
// the rest where they hold it; see `depthwise_lanes`.
template <class V, class Use>
void with_lanes(std::size_t channels, const Use& use) {
  std::size_t whole = channels;
  if constexpr (HasHalf<V>) {
    const std::size_t rest = channels % V::kBytes;
    if (rest > 0 && rest <= V::Half::kBytes) whole -= rest;
  }
  if (whole > 0) use(V{}, std::size_t{0}, whole);
  if constexpr (HasHalf<V>) {
    if (whole < channels) use(typename V::Half{}, whole, channels);
  }
}

// The sums of V::kBytes channels, four pixels at a time; `zero` is what is subtracted from each sum.
template <class V>
void accumulate_step(const std::uint8_t* x, const intact::Window& w, std::size_t n, std::int32_t zero,
                     std::int32_t* y) {
  const auto ones = V::broadcast_byte(1), nothing = V::broadcast_byte(0);
  typename V::I sums[4];
  for (auto& sum : sums) sum = V::broadcast(-zero);
  for (std::size_t i = 0; i < w.rows; ++i) {
    const std::uint8_t* row = x + i * w.row_stride;
    for (std::size_t j = 0; j < w.columns; j += 4) {
      typename V::B pixels[4], mixed[4];
      for (std::size_t p = 0; p < 4; ++p) {
        pixels[p] = j + p < w.columns ? V::load_bytes(row + (j + p) * w.column_stride, n) : nothing;
      }
      V::interleave(pixels, mixed);
      for (std::size_t v = 0; v < 4; ++v) sums[v] = V::dot4(sums[v], mixed[v], ones);
    }
  }
  typename V::I ordered[4];
  V::channel_order(sums, ordered);
  std::int32_t of_step[V::kBytes];
  for (std::size_t v = 0; v < 4; ++v) V::store(of_step + v * V::kInts, ordered[v]);
  std::memcpy(y, of_step, n * sizeof(std::int32_t));
}

template <class V>
void accumulate(const std::uint8_t* x, const intact::Window& w, std::size_t channels,
                std::int32_t zero_point, std::int32_t* y) {
  const std::int32_t zero = zero_point * static_cast<std::int32_t>(w.rows * w.columns);
  with_lanes<V>(channels, [&](auto v, std::size_t first, std::size_t last) {
    using W = decltype(v);
    for (std::size_t c = first; c < last; c += W::kBytes) {
      const std::size_t n = last - c < W::kBytes ? last - c : W::kBytes;
      accumulate_step<W>(x + c, w, n, zero, y + c);
    }
  });
}

template <class V>
void fill_over(std::uint8_t* to, std::uint8_t value, std::size_t n) {
  for (std::size_t i = 0; i < n; i += V::kBytes) V::store_bytes(to + i, V::broadcast_byte(value));
}

// Copies n bytes, and up to kSlack - 1 more. Short pieces lie across cache lines less often when they
// are copied as such.
template <class V, class Use>
void with_copy(std::size_t n, const Use& use) {
  using Bytes = std::uint8_t;
  if (n <= 16) return use([](Bytes* to, const Bytes* from) { std::memcpy(to, from, 16); });
  if (n <= 32) return use([](Bytes* to, const Bytes* from) { std::memcpy(to, from, 32); });
  if (n <= V::kBytes) {
    return use([](Bytes* to, const Bytes* from) { V::store_bytes(to, V::load_bytes(from)); });
  }
  use([n](Bytes* to, const Bytes* from) {
    for (std::size_t i = 0; i < n; i += V::kBytes) V::store_bytes(to + i, V::load_bytes(from + i));
  });
}

// One window that lies across the edge of the image, in the order of the places, so that what is
// written beyond one is overwritten by the next.
template <class V>
void gather_edge(const intact::Patches& p, const std::uint8_t* image, std::ptrdiff_t top,
                 std::ptrdiff_t left, std::uint8_t zero, std::uint8_t* to) {
  with_copy<V>(p.channels, [&](const auto& copy) {
    for (std::size_t i = 0; i < p.kernel_h; ++i) {
      const std::ptrdiff_t y = top + static_cast<std::ptrdiff_t>(i * p.dilation_h);
      for (std::size_t j = 0; j < p.kernel_w; ++j, to += p.channels) {
        const std::ptrdiff_t x = left + static_cast<std::ptrdiff_t>(j * p.dilation_w);
        if (y < 0 || y >= static_cast<std::ptrdiff_t>(p.height) || x < 0 ||
            x >= static_cast<std::ptrdiff_t>(p.width)) {
          fill_over<V>(to, zero, p.channels);
        } else {
          const std::size_t at = static_cast<std::size_t>(y) * p.width + static_cast<std::size_t>(x);
          copy(to, image + at * p.pixel);
        }
      }
    }
  });
}

template <class V>
void gather(const intact::Patches& p, const std::uint8_t* image, std::ptrdiff_t top,
            std::ptrdiff_t left, std::size_t step, std::size_t count, std::uint8_t zero,
            std::uint8_t* to, std::size_t stride) {
  // Pieces of a window that are adjacent in the image are copied as one.
  const bool lines = p.dilation_w == 1 && p.channels == p.pixel;
  const std::size_t pieces = lines ? 1 : p.kernel_w, size = lines ? p.kernel_w * p.channels : p.channels;
  const auto reach = static_cast<std::ptrdiff_t>((p.kernel_w - 1) * p.dilation_w);
  const bool rows_inside = top >= 0 && top + static_cast<std::ptrdiff_t>((p.kernel_h - 1) * p.dilation_h) <
                                           static_cast<std::ptrdiff_t>(p.height);
  with_copy<V>(size, [&](const auto& copy) {
    for (std::size_t w = 0; w < count; ++w, left += static_cast<std::ptrdiff_t>(step), to += stride) {
      if (!rows_inside || left < 0 || left + reach >= static_cast<std::ptrdiff_t>(p.width)) {
        gather_edge<V>(p, image, top, left, zero, to);
        continue;
      }
      const std::uint8_t* from =
          image + (static_cast<std::size_t>(top) * p.width + static_cast<std::size_t>(left)) * p.pixel;
      std::uint8_t* piece = to;
      for (std::size_t i = 0; i < p.kernel_h; ++i) {
        for (std::size_t j = 0; j < pieces; ++j, piece += size) {
          copy(piece, from + (i * p.dilation_h * p.width + j * p.dilation_w) * p.pixel);
        }
      }
    }
  });
}

inline void interleave3_bytes(const std::uint8_t* const (&x)[3], std::size_t size,
                              std::uint8_t* y) {
  for (std::size_t i = 0; i < size; ++i) {
    for (std::size_t c = 0; c < 3; ++c) y[3 * i + c] = x[c][i];
  }
}

}  // namespace
