#pragma once

// From exact sums that lie in memory to float32, and to the uint8 that those become.

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "../kernels.hpp"
#include "bounds.hpp"
#include "quad.hpp"
#include "real.hpp"
#include "requantize.hpp"
#include "swish_steps.hpp"

namespace {

// Whose parameters the sums have.
enum class Of { kTensor, kImage, kRows };

// What is given for a vector of columns, as far as it does not depend on the row.
template <class V>
struct Columns {
  typename V::I bias;
  typename V::F scale, shift;
};

// of_image: with the image's scale and zero point.
template <class V>
Columns<V> columns_of(const intact::Finish& f, std::size_t column, bool of_image) {
  Columns<V> c{V::load(f.bias + column), V::load(f.scale + column), V::broadcast(0.0f)};
  if (f.shift) c.shift = V::load(f.shift + column);
  if (of_image) {
    c.bias = V::sub(V::zero(), V::mul(c.bias, V::broadcast(f.zero_points[0])));
    c.scale = V::mul(V::broadcast(f.scales[0]), c.scale);
  }
  return c;
}

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
    return columns_of<V>(f, column, kOf == Of::kImage);
  }

  typename V::F scaled(typename V::I sum, const Columns<V>& c, std::size_t row) const {
    if constexpr (kOf == Of::kRows) {
      sum = V::sub(sum, V::mul(c.bias, V::broadcast(f.zero_points[row])));
      return V::mul(V::to_float(sum), V::mul(V::broadcast(f.scales[row]), c.scale));
    } else {
      return V::mul(V::to_float(V::add(sum, c.bias)), c.scale);
    }
  }

  // Of the first `n` sums of a vector, whose place in y is `at`. Operands of the clamp stand so that NaN
  // stays NaN.
  typename V::F value(typename V::I sum, const Columns<V>& c, std::size_t row, std::size_t at,
                      std::size_t n) const {
    auto x = scaled(sum, c, row);
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

// What is found of a vector of columns; see OfColumns.
template <class V>
struct ColumnFloats {
  typename V::F sum = V::broadcast(0.0f), most = V::broadcast(-__builtin_inff()), least = V::sub(sum, most);

  [[gnu::always_inline]] void add(typename V::F x) {
    sum = V::add(sum, x);
    most = V::max(most, x);
    least = V::min(least, x);
  }
  void store(const intact::OfColumns& to, std::size_t column, std::size_t n) const {
    V::store(to.sum + column, sum, n);
    V::store(to.most + column, most, n);
    V::store(to.negative + column, V::sub(V::broadcast(0.0f), least), n);
  }
};
struct NothingOfColumns {
  template <class F>
  void add(F) {}
  void store(const intact::OfColumns&, std::size_t, std::size_t) const {}
};

// Found: what is found of each vector of columns.
template <class V, Of kOf, class Found, class Function>
void finish_floats(const std::int32_t* sums, std::size_t panel, std::size_t count, std::size_t columns,
                   const intact::Finish& f, const Function& function) {
  constexpr std::size_t kRows = 4;  // whose functions go in step
  Real<V, kOf, Function> real(f, function);
  const bool plain = !f.other && !real.clamps;
  for (std::size_t j = 0; j < columns; j += V::kInts) {
    const std::size_t n = columns - j < V::kInts ? columns - j : V::kInts;
    const Columns<V> c = real.columns(j);
    Found found;
    std::size_t i = 0;
    for (; plain && n == V::kInts && i + kRows <= count; i += kRows) {
      typename V::F x[kRows];
      for_each_index<kRows>([&](auto r) INTACT_INLINE {
        x[r] = V::add(real.scaled(V::load(sums + (i + r) * panel + j), c, i + r), c.shift);
      });
      apply(function, x);
      for_each_index<kRows>([&](auto r) INTACT_INLINE {
        real.store(x[r], (i + r) * f.stride + j, V::kInts);
        found.add(x[r]);
      });
    }
    for (; i < count; ++i) {
      const std::size_t at = i * f.stride + j;
      const auto x = real.value(V::load(sums + i * panel + j), c, i, at, n);
      real.store(x, at, n);
      found.add(x);
    }
    found.store(f.of_columns, j, n);
  }
  real.end();
}

template <class V>
void turns(const intact::Finish& f, std::size_t columns, float turn, std::int32_t* y) {
  const auto nothing = [](typename V::F x) { return x; };
  const auto find = [&](const auto& real) {
    const auto at = V::broadcast(turn), one = V::broadcast(1.0f), zero = V::broadcast(0.0f);
    const auto limit = V::broadcast(1e9f), least = V::broadcast(-1e9f);
    for (std::size_t j = 0; j < columns; j += V::kInts) {
      const Columns<V> c = real.columns(j);
      const auto becomes = [&](typename V::I total) {
        return V::add(V::mul(V::to_float(total), c.scale), c.shift);
      };
      const auto quotient = V::div(V::sub(at, c.shift), c.scale);
      auto total = V::round(V::min(V::max(quotient, least), limit));
      // The quotient is rounded; one or two steps lead to where the float itself turns.
      for (std::size_t i = 0; i < 2; ++i) {
        const auto above = V::select_less(at, becomes(total), one, zero);
        total = V::sub(total, V::round(above));
      }
      for (std::size_t i = 0; i < 2; ++i) {
        const auto next = V::add(total, V::broadcast(1));
        const auto above = V::select_less(at, becomes(next), zero, one);
        total = V::add(total, V::round(above));
      }
      V::store(y + j, V::sub(total, c.bias));
    }
  };
  if (f.scales) return find(Real<V, Of::kImage, decltype(nothing)>(f, nothing));
  find(Real<V, Of::kTensor, decltype(nothing)>(f, nothing));
}

// The way of floats to uint8, four vectors at a time.
template <class V>
struct Quantizer {
  typename V::F scale, reciprocal, low, high;
  std::int32_t zero_point;
  bool bounded;

  explicit Quantizer(const intact::Finish& f)
      : scale(V::broadcast(f.q_scale)), reciprocal(V::broadcast(1.0f / f.q_scale)),
        low(V::broadcast(static_cast<float>(-f.q_zero_point))),
        high(V::broadcast(static_cast<float>(255 - f.q_zero_point))), zero_point(f.q_zero_point),
        bounded(f.bounded) {}

  typename V::B bytes(const typename V::F (&x)[4]) const {
    typename V::I steps[4];
    if (bounded) {
      divide_round4<V, true>(x, scale, reciprocal, low, high, steps);
    } else {
      divide_round4<V>(x, scale, reciprocal, low, high, steps);
    }
    return V::in_order(V::narrow(steps, zero_point));
  }
};

// `plain`: whole panels, and nothing is added after the function, which is short.
template <class V, std::size_t kVectors, Of kOf, class Function>
void finish_plain_bytes(const std::int32_t* sums, std::size_t count, std::size_t columns,
                        const intact::Finish& f, const Function& function) {
  using Q = Quad<V, kVectors>;
  constexpr std::size_t kOwn = Q::kRows * kVectors;  // of the quad's four
  const Real<V, kOf, Function> real(f, function);
  const Quantizer<V> quantizer(f);
  Columns<V> c[kVectors];
  for (std::size_t v = 0; v < kVectors; ++v) c[v] = real.columns(v * V::kInts);
  for (std::size_t i = 0; i < count; i += Q::kRows) {
    typename V::F x[kOwn];
    for_each_index<kOwn>([&](auto v) INTACT_INLINE {
      const std::size_t row = least_of(i + Q::row(v), count - 1), of = Q::vector(v);
      const auto sum = V::load(sums + (row * kVectors + of) * V::kInts);
      x[v] = V::add(real.scaled(sum, c[of], row), c[of].shift);
    });
    apply(function, x);
    if (real.clamps) {
      for (auto& value : x) value = V::min(real.high, V::max(real.low, value));
    }
    typename V::F four[4];
    for_each_index<4>([&](auto v) INTACT_INLINE { four[v] = x[least_of(v, kOwn - 1)]; });
    Q::store(f.q, f.stride, i, count - 1, columns, quantizer.bytes(four));
  }
}

// The same of Swish of an image, by steps of the scale that was found for it.
template <class V, std::size_t kVectors>
void finish_swish_bytes(const std::int32_t* sums, std::size_t count, std::size_t columns, const intact::Finish& f) {
  using Q = Quad<V, kVectors>;
  constexpr std::size_t kOwn = Q::kRows * kVectors;
  typename V::I bias[kVectors];
  typename V::F scale[kVectors], shift[kVectors];
  for (std::size_t v = 0; v < kVectors; ++v) {
    const Columns<V> c = columns_of<V>(f, v * V::kInts, true);
    bias[v] = c.bias;
    scale[v] = c.scale;
    shift[v] = c.shift;
  }
  const SwishSteps<V, kVectors> to(scale, shift, f.q_scale);
  for (std::size_t i = 0; i < count; i += Q::kRows) {
    typename V::I of[kOwn], whole[kOwn], four[4];
    for_each_index<kOwn>([&](auto v) INTACT_INLINE {
      const std::size_t row = least_of(i + Q::row(v), count - 1), vector = Q::vector(v);
      of[v] = V::add(V::load(sums + (row * kVectors + vector) * V::kInts), bias[vector]);
    });
    to(of, whole);
    for_each_index<4>([&](auto v) INTACT_INLINE { four[v] = whole[least_of(v, kOwn - 1)]; });
    Q::store(f.q, f.stride, i, count - 1, columns, V::in_order(V::narrow(four, f.q_zero_point)));
  }
}

// Floats of a few rows, a vector of columns after another, so that what the function needs stays in the
// registers; then their bytes.
template <class V, std::size_t kVectors, Of kOf, class Function>
void finish_bytes(const std::int32_t* sums, std::size_t count, std::size_t columns,
                  const intact::Finish& f, const Function& function) {
  constexpr std::size_t kRowsAtOnce = 16, kColumns = kVectors * V::kInts;
  using Q = Quad<V, kVectors>;
  const Real<V, kOf, Function> real(f, function);
  const Quantizer<V> quantizer(f);
  alignas(64) float floats[kRowsAtOnce * kColumns] = {};
  for (std::size_t first = 0; first < count; first += kRowsAtOnce) {
    const std::size_t rows = least_of(kRowsAtOnce, count - first);
    for (std::size_t j = 0; j < columns; j += V::kInts) {
      const std::size_t n = least_of(columns - j, V::kInts);
      const Columns<V> c = real.columns(j);
      for (std::size_t r = 0; r < rows; ++r) {
        const std::size_t row = first + r;
        V::store(floats + r * kColumns + j,
                 real.value(V::load(sums + row * kColumns + j), c, row, row * f.stride + j, n));
      }
    }
    for (std::size_t i = 0; i < rows; i += Q::kRows) {
      typename V::F x[4];
      for (std::size_t v = 0; v < 4; ++v) {
        const std::size_t row = least_of(i + Q::row(v), rows - 1);
        x[v] = V::load(floats + row * kColumns + Q::vector(v) * V::kInts);
      }
      Q::store(f.q + first * f.stride, f.stride, i, rows - 1, columns, quantizer.bytes(x));
    }
  }
}

template <class V, Of kOf>
void finish_panel(const std::int32_t* sums, std::size_t panel, std::size_t count, std::size_t columns,
                  const intact::Finish& f) {
  with_function<V>(f.function, [&](const auto& function) {
    if constexpr (kOf == Of::kImage) {
      if (f.of_columns.sum) {
        return finish_floats<V, kOf, ColumnFloats<V>>(sums, panel, count, columns, f, function);
      }
    }
    if (!f.q) return finish_floats<V, kOf, NothingOfColumns>(sums, panel, count, columns, f, function);
    constexpr std::size_t kMost = 4;  // a depthwise convolution's step is as wide as that
    with_vectors<V, kMost>(panel, [&](auto vectors) {
      if constexpr (!kLong<std::decay_t<decltype(function)>>) {
        if (!f.other && columns == panel) {
          constexpr bool kIsSwish = std::is_same_v<std::decay_t<decltype(function)>, Swish<V>>;
          if constexpr (kIsSwish && kOf == Of::kImage && HasLookup32<V>) {
            const bool clamps = f.low > -__builtin_inff() || f.high < __builtin_inff();
            if (f.bounded && !clamps) return finish_swish_bytes<V, vectors>(sums, count, columns, f);
          }
          return finish_plain_bytes<V, vectors, kOf>(sums, count, columns, f, function);
        }
      }
      finish_bytes<V, vectors, kOf>(sums, count, columns, f, function);
    });
  });
}

template <class V>
void finish(const std::int32_t* sums, std::size_t panel, std::size_t count, std::size_t columns,
            const intact::Finish& f) {
  if (!f.scales) return finish_panel<V, Of::kTensor>(sums, panel, count, columns, f);
  if (f.one_image) return finish_panel<V, Of::kImage>(sums, panel, count, columns, f);
  finish_panel<V, Of::kRows>(sums, panel, count, columns, f);
}

}  // namespace
