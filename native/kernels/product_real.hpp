#pragma once

// Products that end as float32, or as the uint8 that those become, in the registers where their sums are.

#include <algorithm>

#include "finish.hpp"

namespace {

// The clamp after the function, or the function itself if it is one.
inline void clamp_of(const intact::Finish& f, float& low, float& high) {
  low = f.low;
  high = f.high;
  const auto within = [](float x, float least, float most) { return x < least ? least : x > most ? most : x; };
  if (f.function.function == intact::Unary::kRelu) {
    low = within(0.0f, f.low, f.high);
    high = within(high, low, f.high);
  } else if (f.function.function == intact::Unary::kClip) {
    low = within(f.function.alpha, f.low, f.high);
    high = within(f.function.beta, f.low, f.high);
  }
}

// What becomes of sums that hold their bias, whoever's parameters they have.
template <class V, std::size_t kVectors>
struct Ending {
  const intact::Finish& f;
  bool clamps;
  typename V::F scale[kVectors], shift[kVectors], low, high;
  BiasStart<V, kVectors> start;
  Quantizer<V> quantizer;

  explicit Ending(const intact::Finish& finish) : f(finish), start(finish.bias), quantizer(finish) {
    float least, most;
    clamp_of(f, least, most);
    clamps = least > -__builtin_inff() || most < __builtin_inff();
    low = V::broadcast(least);
    high = V::broadcast(most);
    for (std::size_t v = 0; v < kVectors; ++v) {
      const Columns<V> c = columns_of<V>(f, v * V::kInts, f.scales != nullptr);
      start.bias[v] = c.bias;
      scale[v] = c.scale;
      shift[v] = c.shift;
    }
  }

  [[gnu::always_inline]] typename V::F value(typename V::I sum, std::size_t v, const float* other,
                                             std::size_t n) const {
    auto x = V::mul(V::to_float(sum), scale[v]);
    if (f.shift) x = V::add(x, shift[v]);
    if (other) x = V::add(x, V::load(other, n));
    return clamps ? V::min(high, V::max(low, x)) : x;
  }
};

template <class V, std::size_t kVectors>
void product_ending(const intact::Multiplication& m, std::size_t width, const intact::Finish& f) {
  using Q = Quad<V, kVectors>;
  const Ending<V, kVectors> ending(f);
  const auto columns = [&](std::size_t v) {
    return width <= v * V::kInts ? 0 : least_of(width - v * V::kInts, V::kInts);
  };
  typename V::F extremes[2] = {V::broadcast(0.0f), V::broadcast(0.0f)};
  gemm_whole<V, kVectors>(m, ending.start, [&]<std::size_t kRows>(
                                 std::size_t row, const typename V::I (&acc)[kRows][kVectors])
                                 INTACT_INLINE {
    const auto& e = in_memory(ending);
    const std::size_t last = least_of(kRows, m.count - row) - 1;
    if (f.q) {
      for_each_index<(kRows + Q::kRows - 1) / Q::kRows>([&](auto quad) INTACT_INLINE {
        constexpr std::size_t i = quad * Q::kRows;
        if (i > last) return;
        typename V::F x[4];
        for_each_index<4>([&](auto v) INTACT_INLINE {
          constexpr std::size_t of = Q::vector(v), r = least_of(i + Q::row(v), kRows - 1);
          const std::size_t n = columns(of), at = (row + least_of(r, last)) * f.stride + of * V::kInts;
          x[v] = e.value(acc[r][of], of, f.other && n ? f.other + at : nullptr, n);
        });
        Q::store(f.q + row * f.stride, f.stride, i, last, width, e.quantizer.bytes(x));
      });
      return;
    }
    auto* found = &extremes[0];
    asm volatile("" : "+r"(found)::"memory");
    auto least = found[0], most = found[1];
    for_each_index<kRows>([&](auto r) INTACT_INLINE {
      if (r > last) return;
      for_each_index<kVectors>([&](auto v) INTACT_INLINE {
        const std::size_t n = columns(v), at = (row + r) * f.stride + v * V::kInts;
        if (n == 0) return;
        auto x = e.value(acc[r][v], v, f.other ? f.other + at : nullptr, n);
        if (f.y) V::store(f.y + at, x, n);
        // Zero, which every range holds, stands in for what is beyond the end.
        if (n < V::kInts) x = V::first_values(x, n);
        least = V::min(least, x);
        most = V::max(most, x);
      });
    });
    found[0] = least;
    found[1] = most;
  });
  if (!f.extremes) return;
  f.extremes[0] = std::min(f.extremes[0], V::least(extremes[0]));
  f.extremes[1] = std::max(f.extremes[1], V::greatest(extremes[1]));
}

template <class V>
void product_real(const intact::Multiplication& m, std::size_t width, const intact::Finish& f) {
  with_vectors<V>(m.columns, [&](auto vectors) {
    product_ending<V, vectors>(m, width, f);
  });
}

}  // namespace
