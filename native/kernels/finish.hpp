#pragma once

// From exact sums to what is written: uint8 or float32. Four vectors of sums are on their way at a
// time, because their bytes fill one vector.

#include <cstring>
#include <type_traits>

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
template <class V, std::size_t kVectors, bool kSmall, class Use>
void requantize_rows(const std::int32_t* sums, std::size_t count, std::size_t columns,
                     const intact::Requantize& r, std::uint8_t* y, std::size_t stride,
                     const Use& use) {
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
    Q::store(y, stride, i, count - 1, columns, use(bytes));
  }
}

template <class V, std::size_t kVectors>
void requantize(const std::int32_t* sums, std::size_t count, std::size_t columns,
                const intact::Requantize& r, std::uint8_t* y, std::size_t stride) {
  const auto rows = [&](const auto& use) {
    if (r.small) {
      requantize_rows<V, kVectors, true>(sums, count, columns, r, y, stride, use);
    } else {
      requantize_rows<V, kVectors, false>(sums, count, columns, r, y, stride, use);
    }
  };
  if constexpr (HasTables<V>) {
    if (r.table) {
      const typename V::Table table(r.table);
      return rows([&](typename V::B bytes) { return V::lookup(bytes, table); });
    }
  }
  rows([](typename V::B bytes) { return bytes; });
  if (r.table) lookup<V>(y, count, columns, stride, r.table);
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

// The least and the greatest sum of each column: two rows of a panel.
template <class V, std::size_t kVectors>
void bounds(const std::int32_t* sums, std::size_t count, std::int32_t* y) {
  constexpr std::size_t kColumns = kVectors * V::kInts;
  for (std::size_t j = 0; j < kColumns; j += V::kInts) {
    auto least = V::load(sums + j), most = least;
    for (std::size_t i = 1; i < count; ++i) {
      const auto sum = V::load(sums + i * kColumns + j);
      least = V::min(least, sum);
      most = V::max(most, sum);
    }
    V::store(y + j, least);
    V::store(y + kColumns + j, most);
  }
}

// Whose parameters the sums have.
enum class Of { kTensor, kImage, kRows };

// What is given for a vector of columns, as far as it does not depend on the row.
template <class V>
struct Columns {
  typename V::I bias;
  typename V::F scale, shift;
};

// What `f` says, up to the floats that are written; and their extremes.
template <class V, Of kOf, class Function>
struct Real {
  const intact::Finish& f;
  const Function& function;
  bool clamps;
  typename V::F low, high, least, most;

  Real(const intact::Finish& finish, const Function& apply)
      : f(finish), function(apply),
        clamps(finish.low > -__builtin_inff() || finish.high < __builtin_inff()),
        low(V::broadcast(finish.low)), high(V::broadcast(finish.high)), least(V::broadcast(0.0f)),
        most(least) {}

  Columns<V> columns(std::size_t column) const {
    Columns<V> c{V::load(f.bias + column), V::load(f.scale + column), V::broadcast(0.0f)};
    if (f.shift) c.shift = V::load(f.shift + column);
    if constexpr (kOf == Of::kImage) {
      c.bias = V::sub(V::zero(), V::mul(c.bias, V::broadcast(f.zero_points[0])));
      c.scale = V::mul(V::broadcast(f.scales[0]), c.scale);
    }
    return c;
  }

  // Of the first `n` sums of a vector, whose place in y is `at`. Operands of the clamp stand so that NaN
  // stays NaN.
  typename V::F value(typename V::I sum, const Columns<V>& c, std::size_t row, std::size_t at,
                      std::size_t n) const {
    auto scale = c.scale;
    if constexpr (kOf == Of::kRows) {
      sum = V::sub(sum, V::mul(c.bias, V::broadcast(f.zero_points[row])));
      scale = V::mul(V::broadcast(f.scales[row]), scale);
    } else {
      sum = V::add(sum, c.bias);
    }
    auto x = V::mul(V::to_float(sum), scale);
    if (f.shift) x = V::add(x, c.shift);
    x = function(x);
    if (f.other) x = V::add(x, V::load(f.other + at, n));
    return clamps ? V::min(high, V::max(low, x)) : x;
  }

  void store(typename V::F x, std::size_t at, std::size_t n) {
    if (f.y) V::store(f.y + at, x, n);
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

template <class V, std::size_t kVectors, Of kOf, class Function>
void finish_floats(const std::int32_t* sums, std::size_t count, std::size_t columns,
                   const intact::Finish& f, const Function& function) {
  Real<V, kOf, Function> real(f, function);
  for (std::size_t j = 0; j < columns; j += V::kInts) {
    const std::size_t n = columns - j < V::kInts ? columns - j : V::kInts;
    const Columns<V> c = real.columns(j);
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t at = i * f.stride + j;
      real.store(real.value(V::load(sums + i * kVectors * V::kInts + j), c, i, at, n), at, n);
    }
  }
  real.end();
}

template <class V, std::size_t kVectors, Of kOf, class Function>
void finish_bytes(const std::int32_t* sums, std::size_t count, std::size_t columns,
                  const intact::Finish& f, const Function& function) {
  using Q = Quad<V, kVectors>;
  const Real<V, kOf, Function> real(f, function);
  const auto scale = V::broadcast(f.q_scale), reciprocal = V::broadcast(1.0f / f.q_scale);
  const auto low = V::broadcast(static_cast<float>(-f.q_zero_point));
  const auto high = V::broadcast(static_cast<float>(255 - f.q_zero_point));
  Columns<V> c[kVectors];
  for (std::size_t v = 0; v < kVectors; ++v) c[v] = real.columns(v * V::kInts);
  for (std::size_t i = 0; i < count; i += Q::kRows) {
    typename V::F x[4];
    for (std::size_t v = 0; v < 4; ++v) {
      const std::size_t row = Q::row(v, i, count - 1), column = Q::column(v);
      const std::size_t n = columns <= column ? 0 : columns - column;
      const auto sum = V::load(sums + row * Q::kColumns + column);
      x[v] = n == 0 ? V::broadcast(0.0f)
                    : real.value(sum, c[v % kVectors], row, row * f.stride + column,
                                 n < V::kInts ? n : V::kInts);
    }
    typename V::I steps[4];
    divide_round4<V>(x, scale, reciprocal, low, high, steps);
    Q::store(f.q, f.stride, i, count - 1, columns, V::in_order(V::narrow(steps, f.q_zero_point)));
  }
}

template <class V, std::size_t kVectors, Of kOf>
void finish_panel(const std::int32_t* sums, std::size_t count, std::size_t columns,
                  const intact::Finish& f) {
  with_function<V>(f.function, [&](const auto& function) {
    if (f.q) {
      finish_bytes<V, kVectors, kOf>(sums, count, columns, f, function);
    } else {
      finish_floats<V, kVectors, kOf>(sums, count, columns, f, function);
    }
  });
}

template <class V, std::size_t kVectors>
void finish(const std::int32_t* sums, std::size_t count, std::size_t columns,
            const intact::Finish& f) {
  if (!f.scales) return finish_panel<V, kVectors, Of::kTensor>(sums, count, columns, f);
  if (f.one_image) return finish_panel<V, kVectors, Of::kImage>(sums, count, columns, f);
  finish_panel<V, kVectors, Of::kRows>(sums, count, columns, f);
}

}  // namespace
