#pragma once

// From exact sums to what is written: uint8 or float32. Four vectors of sums are on their way at a
// time, because their bytes fill one vector.

#include <cstring>

#include "../kernels.hpp"
#include "pointwise.hpp"
#include "real.hpp"

namespace {

// Four vectors of one row, or two of each of two rows where a panel has no more: see `Quad::store`.
template <class V, std::size_t kVectors>
struct Quad {
  static_assert(kVectors == 2 || kVectors == 4);
  static constexpr std::size_t kRows = 4 / kVectors, kColumns = kVectors * V::kInts;

  // The row of vector v; `last` stands in for a row beyond the end.
  static std::size_t row(std::size_t v, std::size_t first, std::size_t last) {
    const std::size_t r = first + v / kVectors;
    return r < last ? r : last;
  }
  static std::size_t column(std::size_t v) { return v % kVectors * V::kInts; }

  // The bytes of the quad from row `first` on, `columns` of each row.
  static void store(std::uint8_t* y, std::size_t stride, std::size_t first, std::size_t last,
                    std::size_t columns, typename V::B bytes) {
    if constexpr (kVectors == 4) {
      V::store_bytes(y + first * stride, bytes, columns);
    } else {
      V::store_low(y + first * stride, bytes, columns);
      if (first < last) V::store_high(y + (first + 1) * stride, bytes, columns);
    }
  }
};

// kSmall: no scale reaches 1, so that no product leaves int32, and the bytes can be compared instead.
template <class V, std::size_t kVectors, bool kSmall>
void requantize_rows(const std::int32_t* sums, std::size_t count, std::size_t columns,
                     const intact::Requantize& r, std::uint8_t* y, std::size_t stride) {
  using Q = Quad<V, kVectors>;
  const std::int32_t zero_point = r.zero_point;  // a copy, which no byte that is written can change
  const auto byte = [&](float bound) {
    return V::broadcast_byte(static_cast<std::uint8_t>(static_cast<std::int32_t>(bound) + zero_point));
  };
  const auto low = byte(r.low), high = byte(r.high);
  const auto most = V::broadcast(r.high);
  typename V::I bias[kVectors];
  typename V::F scale[kVectors];
  for (std::size_t v = 0; v < kVectors; ++v) {
    bias[v] = V::load(r.bias + v * V::kInts);
    scale[v] = V::load(r.scale + v * V::kInts);
  }
  for (std::size_t i = 0; i < count; i += Q::kRows) {
    typename V::I steps[4];
    for (std::size_t v = 0; v < 4; ++v) {
      const auto sum = V::load(sums + Q::row(v, i, count - 1) * Q::kColumns + Q::column(v));
      auto product = V::mul(V::to_float(V::add(sum, bias[v % kVectors])), scale[v % kVectors]);
      if constexpr (!kSmall) product = V::min(product, most);
      steps[v] = V::round(product);
    }
    // A product below int32 becomes its least value, and so the lowest byte.
    auto bytes = V::max_u8(V::in_order(V::narrow(steps, zero_point)), low);
    if constexpr (kSmall) bytes = V::min_u8(bytes, high);
    Q::store(y, stride, i, count - 1, columns, bytes);
  }
}

template <class V, std::size_t kVectors>
void requantize(const std::int32_t* sums, std::size_t count, std::size_t columns,
                const intact::Requantize& r, std::uint8_t* y, std::size_t stride) {
  if (r.small) {
    requantize_rows<V, kVectors, true>(sums, count, columns, r, y, stride);
  } else {
    requantize_rows<V, kVectors, false>(sums, count, columns, r, y, stride);
  }
}

// clamp(rne(x / scale), low, high) of four vectors; see divide_round.
template <class V>
void divide_round4(const typename V::F (&x)[4], typename V::F scale, typename V::F reciprocal,
                   typename V::F low, typename V::F high, typename V::I (&y)[4]) {
  typename V::F steps[4], most = V::broadcast(0.0f);
  for (std::size_t v = 0; v < 4; ++v) {
    steps[v] = V::min(V::max(V::mul(x[v], reciprocal), low), high);
    most = V::greater_fraction(most, steps[v]);
  }
  if (__builtin_expect(V::any_greater(most, V::broadcast(kNearHalf)), 0)) {
    for (std::size_t v = 0; v < 4; ++v) {
      steps[v] = V::min(V::max(V::div(x[v], scale), low), high);
    }
  }
  for (std::size_t v = 0; v < 4; ++v) y[v] = V::round(steps[v]);
}

template <class V, std::size_t kVectors>
void requantize_add(const std::int32_t* sums, std::size_t count, std::size_t columns,
                    const intact::Requantize& r, const intact::Sum& s, const std::uint8_t* other,
                    std::uint8_t* y, std::size_t stride) {
  using Q = Quad<V, kVectors>;
  const auto a_low = V::broadcast(r.low), a_high = V::broadcast(r.high);
  const auto a_scale = V::broadcast(s.a_scale), b_scale = V::broadcast(s.b_scale);
  const auto b_zero = V::broadcast(s.b_zero_point);
  const auto scale = V::broadcast(s.scale), reciprocal = V::broadcast(1.0f / s.scale);
  const auto low = V::broadcast(s.low), high = V::broadcast(s.high);
  for (std::size_t i = 0; i < count; i += Q::kRows) {
    typename V::F total[4];
    for (std::size_t v = 0; v < 4; ++v) {
      const std::size_t row = Q::row(v, i, count - 1), column = Q::column(v);
      const auto sum = V::add(V::load(sums + row * Q::kColumns + column), V::load(r.bias + column));
      const auto steps = V::mul(V::to_float(sum), V::load(r.scale + column));
      const auto a = V::mul(V::rounded(V::min(V::max(steps, a_low), a_high)), a_scale);
      const std::size_t n = columns <= column ? 0 : columns - column;
      const auto q = V::sub(n == 0 ? V::zero() : V::load_u8(other + row * stride + column, n), b_zero);
      total[v] = V::add(a, V::mul(V::to_float(q), b_scale));
    }
    typename V::I steps[4];
    divide_round4<V>(total, scale, reciprocal, low, high, steps);
    Q::store(y, stride, i, count - 1, columns, V::in_order(V::narrow(steps, s.zero_point)));
  }
}

// What `f` says, up to the floats that are written; and their extremes.
template <class V, bool kOfRows, class Function>
struct Real {
  const intact::Finish& f;
  const Function& function;
  typename V::F low, high, least, most;

  Real(const intact::Finish& finish, const Function& apply)
      : f(finish), function(apply), low(V::broadcast(finish.low)), high(V::broadcast(finish.high)),
        least(V::broadcast(0.0f)), most(least) {}

  // Of `n` sums at `from`. Operands of the clamp stand so that NaN stays NaN.
  typename V::F value(const std::int32_t* from, std::size_t row, std::size_t column,
                      std::size_t n) const {
    const auto bias = V::load(f.bias + column);
    typename V::F x;
    if constexpr (kOfRows) {
      const auto share = V::mul(bias, V::broadcast(f.zero_points[row]));
      const auto scale = V::mul(V::broadcast(f.scales[row]), V::load(f.scale + column));
      x = V::mul(V::to_float(V::sub(V::load(from, n), share)), scale);
    } else {
      x = V::mul(V::to_float(V::add(V::load(from, n), bias)), V::load(f.scale + column));
    }
    if (f.shift) x = V::add(x, V::load(f.shift + column));
    x = function(x);
    if (f.other) x = V::add(x, V::load(f.other + row * f.stride + column, n));
    return V::min(high, V::max(low, x));
  }

  void store(typename V::F x, std::size_t row, std::size_t column, std::size_t n) {
    V::store(f.y + row * f.stride + column, x, n);
    if (!f.extremes) return;
    // Zero, which every range holds, stands in for what is beyond the end.
    if (n < V::kInts) x = V::first_values(x, n);
    least = V::min(least, x);
    most = V::max(most, x);
  }

  void end() const {
    if (!f.extremes) return;
    const float l = V::least(least), m = V::greatest(most);
    if (l < f.extremes[0]) f.extremes[0] = l;
    if (m > f.extremes[1]) f.extremes[1] = m;
  }
};

template <class V, bool kOfRows, class Function>
void finish_floats(const std::int32_t* sums, std::size_t sums_stride, std::size_t count,
                   std::size_t columns, const intact::Finish& f, const Function& function) {
  Real<V, kOfRows, Function> real(f, function);
  for (std::size_t i = 0; i < count; ++i) {
    for (std::size_t j = 0; j < columns; j += V::kInts) {
      const std::size_t n = columns - j < V::kInts ? columns - j : V::kInts;
      real.store(real.value(sums + i * sums_stride + j, i, j, n), i, j, n);
    }
  }
  real.end();
}

template <class V, std::size_t kVectors, bool kOfRows, class Function>
void finish_bytes(const std::int32_t* sums, std::size_t count, std::size_t columns,
                  const intact::Finish& f, const Function& function) {
  using Q = Quad<V, kVectors>;
  const Real<V, kOfRows, Function> real(f, function);
  const auto scale = V::broadcast(f.q_scale), reciprocal = V::broadcast(1.0f / f.q_scale);
  const auto low = V::broadcast(static_cast<float>(-f.q_zero_point));
  const auto high = V::broadcast(static_cast<float>(255 - f.q_zero_point));
  for (std::size_t i = 0; i < count; i += Q::kRows) {
    typename V::F x[4];
    for (std::size_t v = 0; v < 4; ++v) {
      const std::size_t row = Q::row(v, i, count - 1), column = Q::column(v);
      const std::size_t n = columns <= column ? 0 : columns - column;
      const std::int32_t* from = sums + row * Q::kColumns + column;
      x[v] = n == 0 ? V::broadcast(0.0f) : real.value(from, row, column, n < V::kInts ? n : V::kInts);
    }
    typename V::I steps[4];
    divide_round4<V>(x, scale, reciprocal, low, high, steps);
    Q::store(f.q, f.stride, i, count - 1, columns, V::in_order(V::narrow(steps, f.q_zero_point)));
  }
}

template <class V, std::size_t kVectors, bool kOfRows>
void finish_panel(const std::int32_t* sums, std::size_t count, std::size_t columns,
                  const intact::Finish& f) {
  with_function<V>(f.function, [&](const auto& function) {
    if (f.q) {
      finish_bytes<V, kVectors, kOfRows>(sums, count, columns, f, function);
    } else {
      finish_floats<V, kOfRows>(sums, kVectors * V::kInts, count, columns, f, function);
    }
  });
}

template <class V, std::size_t kVectors>
void finish(const std::int32_t* sums, std::size_t count, std::size_t columns,
            const intact::Finish& f) {
  const auto of = f.scales ? finish_panel<V, kVectors, true> : finish_panel<V, kVectors, false>;
  of(sums, count, columns, f);
}

template <class V>
void finish_wide(const std::int32_t* sums, std::size_t count, std::size_t columns,
                 const intact::Finish& f) {
  with_function<V>(f.function, [&](const auto& function) {
    finish_floats<V, true>(sums, f.stride, count, columns, f, function);
  });
}

}  // namespace
