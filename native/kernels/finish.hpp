#pragma once

// From exact sums to what is written: uint8 or float32. Four vectors of sums are on their way at a
// time, because their bytes fill one vector.

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "../kernels.hpp"
#include "gemm.hpp"
#include "pointwise.hpp"
#include "real.hpp"

namespace {

// Four vectors that become the bytes of one: of one row (three are filled up), of two rows, or of four.
template <class V, std::size_t kVectors>
struct Quad {
  static_assert(kVectors >= 1 && kVectors <= 4);
  static constexpr std::size_t kRows = 4 / kVectors, kColumns = kVectors * V::kInts;
  static constexpr std::size_t kRowVectors = kVectors == 3 ? 4 : kVectors;

  // Vector v is one of row `first` + row(v), its last one standing in for one that it does not have.
  static constexpr std::size_t row(std::size_t v) { return v / kRowVectors; }
  static constexpr std::size_t vector(std::size_t v) {
    const std::size_t of = v % kRowVectors;
    return of < kVectors ? of : kVectors - 1;
  }

  // The bytes of the quad from row `first` on, `columns` of each row.
  static void store(std::uint8_t* y, std::size_t stride, std::size_t first, std::size_t last,
                    std::size_t columns, typename V::B bytes) {
    if constexpr (kVectors >= 3) {
      V::store_bytes(y + first * stride, bytes, columns);
    } else if constexpr (kVectors == 2) {
      V::store_low(y + first * stride, bytes, columns);
      if (first < last) V::store_high(y + (first + 1) * stride, bytes, columns);
    } else {
      for (std::size_t i = 0; i < kRows && first + i <= last; ++i) {
        V::store_quarter(y + (first + i) * stride, bytes, i, columns);
      }
    }
  }
};

constexpr std::size_t least_of(std::size_t a, std::size_t b) { return a < b ? a : b; }

// The sums of rows that lie in memory, a panel wide, with their bias; the last stands in for rows beyond.
template <class V, std::size_t kVectors>
struct StoredSums {
  const std::int32_t* sums;
  std::size_t last;
  typename V::I bias[kVectors];

  StoredSums(const std::int32_t* sums, std::size_t last, const std::int32_t* of_columns)
      : sums(sums), last(last) {
    for (std::size_t v = 0; v < kVectors; ++v) bias[v] = V::load(of_columns + v * V::kInts);
  }
  typename V::I operator()(std::size_t row, std::size_t v) const {
    return V::add(V::load(sums + (least_of(row, last) * kVectors + v) * V::kInts), bias[v]);
  }
};

// What becomes of sums as uint8, for a panel. kSmall: no scale reaches 1, so that no product leaves
// int32, and the bytes can be compared instead.
template <class V, std::size_t kVectors, bool kSmall>
struct Requantizer {
  using Q = Quad<V, kVectors>;
  const std::int32_t zero_point;  // a copy, which no byte that is written can change
  typename V::B low, high;
  typename V::F most, scale[kVectors];

  explicit Requantizer(const intact::Requantize& r)
      : zero_point(r.zero_point), low(byte(r.low)), high(byte(r.high)), most(V::broadcast(r.high)) {
    for (std::size_t v = 0; v < kVectors; ++v) scale[v] = V::load(r.scale + v * V::kInts);
  }

  typename V::B byte(float bound) const {
    return V::broadcast_byte(static_cast<std::uint8_t>(static_cast<std::int32_t>(bound) + zero_point));
  }

  // Rows from i on: sum(row, vector), where bias is added.
  template <class Sum, class Use>
  [[gnu::always_inline]] void quad(std::size_t i, std::size_t last, std::size_t columns, const Sum& sum, std::uint8_t* y,
            std::size_t stride, const Use& use) const {
    typename V::I steps[4];
#pragma GCC unroll 4
    for (std::size_t v = 0; v < 4; ++v) {
      const std::size_t of = Q::vector(v);
      auto product = V::mul(V::to_float(sum(i + Q::row(v), of)), scale[of]);
      if constexpr (!kSmall) product = V::min(product, most);
      steps[v] = V::round(product);
    }
    // A product below int32 becomes its least value, and so the lowest byte.
    auto bytes = V::max_u8(V::in_order(V::narrow(steps, zero_point)), low);
    if constexpr (kSmall) bytes = V::min_u8(bytes, high);
    Q::store(y, stride, i, last, columns, use(bytes));
  }
};

// Calls use(requantizer, look_up), where look_up(bytes) is what `r` says of the bytes.
template <class V, std::size_t kVectors, class Use>
void with_requantizer(const intact::Requantize& r, const Use& use) {
  const auto known = [&](const auto& look_up) {
    if (r.small) return use(Requantizer<V, kVectors, true>(r), look_up);
    use(Requantizer<V, kVectors, false>(r), look_up);
  };
  if constexpr (HasTables<V>) {
    if (r.table) {
      const typename V::Table table(r.table);
      return known([&](typename V::B bytes) { return V::lookup(bytes, table); });
    }
  }
  known([](typename V::B bytes) { return bytes; });
}

template <class V>
void requantize(const std::int32_t* sums, std::size_t panel, std::size_t count, std::size_t columns,
                const intact::Requantize& r, std::uint8_t* y, std::size_t stride) {
  with_vectors<V>(panel, [&](auto vectors) {
    const StoredSums<V, vectors> stored(sums, count - 1, r.bias);
    with_requantizer<V, vectors>(r, [&](const auto& to, const auto& look_up) {
      for (std::size_t i = 0; i < count; i += Quad<V, vectors>::kRows) {
        to.quad(i, count - 1, columns, stored, y, stride, look_up);
      }
    });
  });
  if (r.table && !HasTables<V>) lookup<V>(y, count, columns, stride, r.table);
}

// What becomes of sums and another uint8 tensor, for a panel. kBounded: the sum lies between -2**14 and
// 2**14 of its steps, so that the bytes can be clamped instead.
template <class V, std::size_t kVectors, bool kBounded>
struct Adder {
  using Q = Quad<V, kVectors>;
  const std::int32_t zero_point;
  typename V::F a_low, a_high, a_scale, b_scale, scale, reciprocal, low, high, factor[kVectors];
  typename V::I b_zero;
  typename V::B lowest, highest;

  Adder(const intact::Requantize& r, const intact::Sum& s)
      : zero_point(s.zero_point), a_low(V::broadcast(r.low)), a_high(V::broadcast(r.high)),
        a_scale(V::broadcast(s.a_scale)), b_scale(V::broadcast(s.b_scale)),
        scale(V::broadcast(s.scale)), reciprocal(V::broadcast(1.0f / s.scale)),
        low(V::broadcast(s.low)), high(V::broadcast(s.high)), b_zero(V::broadcast(s.b_zero_point)),
        lowest(byte(s.low)), highest(byte(s.high)) {
    for (std::size_t v = 0; v < kVectors; ++v) factor[v] = V::load(r.scale + v * V::kInts);
  }

  typename V::B byte(float bound) const {
    return V::broadcast_byte(static_cast<std::uint8_t>(static_cast<std::int32_t>(bound) + zero_point));
  }

  template <class Sum>
  [[gnu::always_inline]] void quad(std::size_t i, std::size_t last, std::size_t columns, const Sum& sum,
            const std::uint8_t* other, std::uint8_t* y, std::size_t stride) const {
    typename V::F total[4];
#pragma GCC unroll 4
    for (std::size_t v = 0; v < 4; ++v) {
      const std::size_t row = i + Q::row(v), of = Q::vector(v), column = of * V::kInts;
      const auto steps = V::mul(V::to_float(sum(row, of)), factor[of]);
      const auto a = V::mul(V::rounded(V::min(V::max(steps, a_low), a_high)), a_scale);
      const std::size_t n = columns <= column ? 0 : columns - column;
      const auto q = V::sub(n == 0 ? V::zero() : V::load_u8(other + least_of(row, last) * stride + column, n), b_zero);
      total[v] = V::add(a, V::mul(V::to_float(q), b_scale));
    }
    typename V::I steps[4];
    divide_round4<V, kBounded>(total, scale, reciprocal, low, high, steps);
    auto bytes = V::in_order(V::narrow(steps, zero_point));
    if constexpr (kBounded) bytes = V::min_u8(V::max_u8(bytes, lowest), highest);
    Q::store(y, stride, i, last, columns, bytes);
  }
};

// Calls use(adder).
template <class V, std::size_t kVectors, class Use>
void with_adder(const intact::Requantize& r, const intact::Sum& s, const Use& use) {
  constexpr float kMostSteps = 1 << 14, kMostValues = 256;
  if (kMostValues * (s.a_scale + s.b_scale) < kMostSteps * s.scale) {
    use(Adder<V, kVectors, true>(r, s));
  } else {
    use(Adder<V, kVectors, false>(r, s));
  }
}

template <class V>
void requantize_add(const std::int32_t* sums, std::size_t panel, std::size_t count,
                    std::size_t columns, const intact::Requantize& r, const intact::Sum& s,
                    const std::uint8_t* other, std::uint8_t* y, std::size_t stride) {
  with_vectors<V>(panel, [&](auto vectors) {
    const StoredSums<V, vectors> stored(sums, count - 1, r.bias);
    with_adder<V, vectors>(r, s, [&](const auto& adder) {
      for (std::size_t i = 0; i < count; i += Quad<V, vectors>::kRows) {
        adder.quad(i, count - 1, columns, stored, other, y, stride);
      }
    });
  });
}

// What the compiler has to read again from memory, so that no register holds it during a product.
template <class T>
[[gnu::always_inline]] inline const T& in_memory(const T& value) {
  const T* place = &value;
  asm volatile("" : "+r"(place)::"memory");
  return *place;
}

// Finishes sums in the registers where they came to be.
template <class V>
void product(const intact::Multiplication& m, const intact::Bytes& b) {
  const intact::Requantize& r = b.requantize;
  with_vectors<V>(m.columns, [&](auto vectors) {
    constexpr std::size_t kVectors = vectors;
    using Q = Quad<V, kVectors>;
    typename V::I bias[kVectors];
    for (std::size_t v = 0; v < kVectors; ++v) bias[v] = V::load(r.bias + v * V::kInts);
    // quad(i, last, sum): rows i to `last` of a block, whose first row is number `row` of all.
    const auto each = [&](const auto& quad) {
      gemm_panel<V, kVectors>(m, bias, [&]<std::size_t kRows>(
                                           std::size_t row, const typename V::I (&acc)[kRows][kVectors])
                                           INTACT_INLINE {
        const std::size_t last = m.count - row < kRows ? m.count - row - 1 : kRows - 1;
#pragma GCC unroll 8
        for (std::size_t i = 0; i < kRows; i += Q::kRows) {
          if (i > last) break;
          quad(row, i, last, [&](std::size_t of, std::size_t v) INTACT_INLINE {
            return acc[least_of(of, kRows - 1)][v];
          });
        }
      });
    };
    if (b.other) {
      return with_adder<V, kVectors>(r, b.sum, [&](const auto& adder) {
        each([&](std::size_t row, std::size_t i, std::size_t last, const auto& sum) INTACT_INLINE {
          const std::size_t at = row * b.stride;
          in_memory(adder).quad(i, last, b.width, sum, b.other + at, b.y + at, b.stride);
        });
      });
    }
    with_requantizer<V, kVectors>(r, [&](const auto& to, const auto& look_up) {
      each([&](std::size_t row, std::size_t i, std::size_t last, const auto& sum) INTACT_INLINE {
        in_memory(to).quad(i, last, b.width, sum, b.y + row * b.stride, b.stride, look_up);
      });
    });
  });
  if (r.table && !HasTables<V>) lookup<V>(b.y, m.count, b.width, b.stride, r.table);
}

// The least and the greatest sum of a vector of columns, and those on either side of where a function
// turns.
template <class V>
struct Bounds {
  typename V::I least = V::broadcast(INT32_MAX), most = V::broadcast(INT32_MIN);
  typename V::I below = most, above = least;

  [[gnu::always_inline]] void add(typename V::I sum) {
    least = V::min(least, sum);
    most = V::max(most, sum);
  }
  [[gnu::always_inline]] void add(typename V::I sum, typename V::I turn) {
    add(sum);
    below = V::max_up_to(below, sum, turn);
    above = V::min_beyond(above, sum, turn);
  }
  // Rows 0 and 1 at y, or 0 to 3, `stride` apart.
  void store(std::int32_t* y, std::size_t stride, bool turns) const {
    V::store(y, least);
    V::store(y + stride, most);
    if (!turns) return;
    // Where there is none on a side, the bound stands on the other one.
    V::store(y + 2 * stride, V::max(below, least));
    V::store(y + 3 * stride, V::min(above, most));
  }
};

template <class V>
void bounds(const std::int32_t* sums, std::size_t panel, std::size_t count,
            const std::int32_t* turns, std::int32_t* y) {
  for (std::size_t j = 0; j < panel; j += V::kInts) {
    Bounds<V> found;
    for (std::size_t i = 0; i < count; ++i) {
      const auto sum = V::load(sums + i * panel + j);
      turns ? found.add(sum, V::load(turns + j)) : found.add(sum);
    }
    found.store(y + j, panel, turns != nullptr);
  }
}

template <class V>
void product_bounds(const intact::Multiplication& m, const std::int32_t* turns, std::int32_t* y) {
  with_vectors<V>(m.columns, [&](auto vectors) {
    constexpr std::size_t kVectors = vectors;
    typename V::I zero[kVectors];
    for (auto& v : zero) v = V::zero();
    Bounds<V> found[kVectors];
    const auto each = [&](const auto& add) {
      gemm_panel<V, kVectors>(m, zero, [&]<std::size_t kRows>(
                                           std::size_t, const typename V::I (&acc)[kRows][kVectors])
                                           INTACT_INLINE {
        // Rows beyond the last repeat it.
        auto* of = &found[0];
        asm volatile("" : "+r"(of)::"memory");
#pragma GCC unroll 4
        for (std::size_t v = 0; v < kVectors; ++v) {
#pragma GCC unroll 8
          for (std::size_t r = 0; r < kRows; ++r) add(of[v], acc[r][v], v);
        }
      });
    };
    if (turns) {
      each([&](Bounds<V>& of, typename V::I sum, std::size_t v) INTACT_INLINE {
        of.add(sum, V::load(turns + v * V::kInts));
      });
    } else {
      each([](Bounds<V>& of, typename V::I sum, std::size_t) INTACT_INLINE { of.add(sum); });
    }
    for (std::size_t v = 0; v < kVectors; ++v) {
      found[v].store(y + v * V::kInts, m.columns, turns != nullptr);
    }
  });
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

template <class V, Of kOf, class Function>
void finish_floats(const std::int32_t* sums, std::size_t panel, std::size_t count, std::size_t columns,
                   const intact::Finish& f, const Function& function) {
  Real<V, kOf, Function> real(f, function);
  for (std::size_t j = 0; j < columns; j += V::kInts) {
    const std::size_t n = columns - j < V::kInts ? columns - j : V::kInts;
    const Columns<V> c = real.columns(j);
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t at = i * f.stride + j;
      real.store(real.value(V::load(sums + i * panel + j), c, i, at, n), at, n);
    }
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

// Other functions than a clamp take longer than it takes to write sums and read them again.
inline bool ends_in_registers(const intact::Finish& f) {
  using intact::Unary;
  switch (f.function.function) {
    case Unary::kNone: return true;
    // Taken for the clamp that follows.
    case Unary::kRelu:
    case Unary::kClip: return f.other == nullptr;
    default: return false;
  }
}

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

// What becomes of sums that hold their bias, whoever's parameters they have.
template <class V, std::size_t kVectors>
struct Ending {
  const intact::Finish& f;
  bool clamps;
  typename V::F scale[kVectors], shift[kVectors], low, high;
  typename V::I start[kVectors];
  Quantizer<V> quantizer;

  explicit Ending(const intact::Finish& finish) : f(finish), quantizer(finish) {
    float least, most;
    clamp_of(f, least, most);
    clamps = least > -__builtin_inff() || most < __builtin_inff();
    low = V::broadcast(least);
    high = V::broadcast(most);
  }

  void set(std::size_t v, typename V::I bias, typename V::F factor, typename V::F added) {
    if (f.scales) {
      bias = V::sub(V::zero(), V::mul(bias, V::broadcast(f.zero_points[0])));
      factor = V::mul(V::broadcast(f.scales[0]), factor);
    }
    start[v] = bias;
    scale[v] = factor;
    shift[v] = added;
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
  Ending<V, kVectors> ending(f);
  for (std::size_t v = 0; v < kVectors; ++v) {
    const std::size_t column = v * V::kInts;
    ending.set(v, V::load(f.bias + column), V::load(f.scale + column),
               f.shift ? V::load(f.shift + column) : V::broadcast(0.0f));
  }
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

// `plain`: whole panels, and nothing is added after the function, which is short.
template <class V, std::size_t kVectors, Of kOf, class Function>
void finish_plain_bytes(const std::int32_t* sums, std::size_t count, std::size_t columns,
                        const intact::Finish& f, const Function& function) {
  using Q = Quad<V, kVectors>;
  const Real<V, kOf, Function> real(f, function);
  const Quantizer<V> quantizer(f);
  Columns<V> c[kVectors];
  for (std::size_t v = 0; v < kVectors; ++v) c[v] = real.columns(v * V::kInts);
  for (std::size_t i = 0; i < count; i += Q::kRows) {
    typename V::F x[4];
#pragma GCC unroll 4
    for (std::size_t v = 0; v < 4; ++v) {
      const std::size_t row = least_of(i + Q::row(v), count - 1), of = Q::vector(v);
      const auto sum = V::load(sums + (row * kVectors + of) * V::kInts);
      x[v] = function(V::add(real.scaled(sum, c[of], row), c[of].shift));
    }
    if (real.clamps) {
      for (auto& value : x) value = V::min(real.high, V::max(real.low, value));
    }
    Q::store(f.q, f.stride, i, count - 1, columns, quantizer.bytes(x));
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
    if (!f.q) return finish_floats<V, kOf>(sums, panel, count, columns, f, function);
    constexpr std::size_t kMost = 4;  // a depthwise convolution's step is as wide as that
    with_vectors<V, kMost>(panel, [&](auto vectors) {
      if constexpr (!kLong<std::decay_t<decltype(function)>>) {
        if (!f.other && columns == panel) {
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
