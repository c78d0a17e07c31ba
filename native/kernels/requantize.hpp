#pragma once

// From exact sums to uint8: in registers, where they came to be, or from memory.

#include <cmath>

#include "../kernels.hpp"
#include "pointwise.hpp"
#include "quad.hpp"

namespace {

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

  // What a quad is between two stages of its way, which other work may lie between.
  struct State {
    typename V::F product[4];
    typename V::I steps[4];
    typename V::B bytes;
  };
  static constexpr std::size_t kStages = 5;

  // One stage of rows from i on: sum(row, vector), where bias is added.
  template <std::size_t kStage, class Sum>
  [[gnu::always_inline]] void stage(State& state, std::size_t i, const Sum& sum) const {
    const auto of_four = [&](const auto& use) INTACT_INLINE { for_each_index<4>(use); };
    if constexpr (kStage == 0) {
      of_four([&](auto v) INTACT_INLINE { state.product[v] = V::to_float(sum(i + Q::row(v), Q::vector(v))); });
    } else if constexpr (kStage == 1) {
      of_four([&](auto v) INTACT_INLINE {
        state.product[v] = V::mul(state.product[v], scale[Q::vector(v)]);
        if constexpr (!kSmall) state.product[v] = V::min(state.product[v], most);
      });
    } else if constexpr (kStage == 2) {
      of_four([&](auto v) INTACT_INLINE { state.steps[v] = V::round(state.product[v]); });
    } else if constexpr (kStage == 3) {
      state.bytes = V::narrow(state.steps, zero_point);
    } else {
      // A product below int32 becomes its least value, and so the lowest byte.
      state.bytes = V::max_u8(V::in_order(state.bytes), low);
      if constexpr (kSmall) state.bytes = V::min_u8(state.bytes, high);
    }
  }

  // All of them.
  template <class Sum, class Use>
  [[gnu::always_inline]] void quad(std::size_t i, std::size_t last, std::size_t columns, const Sum& sum, std::uint8_t* y,
            std::size_t stride, const Use& use) const {
    State state;
    for_each_index<kStages>([&](auto number) INTACT_INLINE { stage<number>(state, i, sum); });
    Q::store(y, stride, i, last, columns, use(state.bytes));
  }
};

// Calls use(look_up), where look_up(bytes) is what `r` says of the bytes; without HasTables they are left.
template <class V, class Use>
void with_look_up(const intact::Requantize& r, const Use& use) {
  if constexpr (HasTables<V>) {
    if (r.table) {
      const typename V::Table table(r.table);
      return use([&](typename V::B bytes) { return V::lookup(bytes, table); });
    }
  }
  use([](typename V::B bytes) { return bytes; });
}

// Calls use(requantizer, look_up).
template <class V, std::size_t kVectors, class Use>
void with_requantizer(const intact::Requantize& r, const Use& use) {
  with_look_up<V>(r, [&](const auto& look_up) {
    if (r.small) return use(Requantizer<V, kVectors, true>(r), look_up);
    use(Requantizer<V, kVectors, false>(r), look_up);
  });
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

// What of V adds two bytes in fixed point.
template <class V>
concept HasFixedPoint = requires(typename V::I v) { V::template shift_right<1>(v), V::any_up_to(v, v); };

// The sum of two scaled integers in steps of a third scale, in fixed point: 2**kBits a step. What is within
// `near` of where rounding changes, by which the fixed point may be off, is left to floats.
struct FixedSum {
  static constexpr int kBits = 21;
  static constexpr double kMostSteps = 768;  // and a zero point more, times 2**kBits, fit int32
  std::int32_t a, b, start, near;
  bool fits;

  explicit FixedSum(const intact::Sum& s) {
    constexpr double kOne = 1 << kBits, kMostByte = 256, kRoundings = 4.0 / (1 << 24);
    const double of_a = static_cast<double>(s.a_scale) / static_cast<double>(s.scale);
    const double of_b = static_cast<double>(s.b_scale) / static_cast<double>(s.scale);
    const double most = kMostByte * (of_a + of_b);
    fits = most < kMostSteps;
    if (!fits) return;
    a = static_cast<std::int32_t>(std::lround(of_a * kOne));
    b = static_cast<std::int32_t>(std::lround(of_b * kOne));
    // Half a unit of each factor times what it multiplies, and four roundings of float32 to `most` steps.
    near = static_cast<std::int32_t>(kMostByte + kRoundings * most * kOne) + 1;
    start = (s.zero_point << kBits) + (1 << (kBits - 1)) + near - b * s.b_zero_point;
  }
};

// What becomes of sums and another uint8 tensor, for a panel. kBounded: the sum lies between -2**14 and
// 2**14 of its steps, so that the bytes can be clamped instead. kFixed: it is a FixedSum that fits, and no scale
// reaches 1.
template <class V, std::size_t kVectors, bool kBounded, bool kFixed = false>
struct Adder {
  using Q = Quad<V, kVectors>;
  const std::int32_t zero_point;
  typename V::F a_low, a_high, a_scale, b_scale, scale, reciprocal, low, high, factor[kVectors];
  typename V::I b_zero;
  typename V::B lowest, highest;
  typename V::I least_a, most_a, fixed_a, fixed_b, start, fraction, near;  // of kFixed alone

  Adder(const intact::Requantize& r, const intact::Sum& s, const FixedSum& fixed)
      : zero_point(s.zero_point), a_low(V::broadcast(r.low)), a_high(V::broadcast(r.high)),
        a_scale(V::broadcast(s.a_scale)), b_scale(V::broadcast(s.b_scale)),
        scale(V::broadcast(s.scale)), reciprocal(V::broadcast(1.0f / s.scale)),
        low(V::broadcast(s.low)), high(V::broadcast(s.high)), b_zero(V::broadcast(s.b_zero_point)),
        lowest(byte(s.low)), highest(byte(s.high)) {
    for (std::size_t v = 0; v < kVectors; ++v) factor[v] = V::load(r.scale + v * V::kInts);
    if constexpr (kFixed) {
      least_a = V::broadcast(static_cast<std::int32_t>(r.low));
      most_a = V::broadcast(static_cast<std::int32_t>(r.high));
      fixed_a = V::broadcast(fixed.a);
      fixed_b = V::broadcast(fixed.b);
      start = V::broadcast(fixed.start);
      fraction = V::broadcast((1 << FixedSum::kBits) - 1);
      near = V::broadcast(2 * fixed.near);
    }
  }

  typename V::B byte(float bound) const {
    return V::broadcast_byte(static_cast<std::uint8_t>(static_cast<std::int32_t>(bound) + zero_point));
  }

  static typename V::I other_of(const std::uint8_t* other, std::size_t row, std::size_t stride, std::size_t columns,
                                std::size_t of) {
    const std::size_t column = of * V::kInts, n = columns <= column ? 0 : columns - column;
    return n == 0 ? V::zero() : V::load_u8(other + row * stride + column, n);
  }

  template <class Sum>
  [[gnu::always_inline]] void quad(std::size_t i, std::size_t last, std::size_t columns, const Sum& sum,
            const std::uint8_t* other, std::uint8_t* y, std::size_t stride) const {
    if constexpr (kFixed) {
      typename V::I steps[4], off = fraction;
      for_each_index<4>([&](auto v) INTACT_INLINE {
        constexpr std::size_t kOf = Q::vector(v);
        const std::size_t row = i + Q::row(v);
        const auto whole = V::round(V::mul(V::to_float(sum(row, kOf)), factor[kOf]));
        const auto a = V::mul(V::min(V::max(whole, least_a), most_a), fixed_a);
        const auto b = V::mul(other_of(other, least_of(row, last), stride, columns, kOf), fixed_b);
        const auto total = V::add(V::add(a, b), start);
        off = V::min(off, V::bits_of_both(total, fraction));
        steps[v] = V::template shift_right<FixedSum::kBits>(total);
      });
      if (__builtin_expect(!V::any_up_to(off, near), 1)) return store(i, last, columns, V::narrow(steps, 0), y, stride);
    }
    by_floats(i, last, columns, sum, other, y, stride);
  }

  // As the reference does.
  template <class Sum>
  [[gnu::always_inline]] void by_floats(std::size_t i, std::size_t last, std::size_t columns, const Sum& sum,
                 const std::uint8_t* other, std::uint8_t* y, std::size_t stride) const {
    typename V::F total[4];
#pragma GCC unroll 4
    for (std::size_t v = 0; v < 4; ++v) {
      const std::size_t row = i + Q::row(v), of = Q::vector(v);
      const auto steps = V::mul(V::to_float(sum(row, of)), factor[of]);
      const auto a = V::mul(V::rounded(V::min(V::max(steps, a_low), a_high)), a_scale);
      const auto q = V::sub(other_of(other, least_of(row, last), stride, columns, of), b_zero);
      total[v] = V::add(a, V::mul(V::to_float(q), b_scale));
    }
    typename V::I steps[4];
    divide_round4<V, kBounded>(total, scale, reciprocal, low, high, steps);
    store(i, last, columns, V::narrow(steps, zero_point), y, stride);
  }

  [[gnu::always_inline]] void store(std::size_t i, std::size_t last, std::size_t columns, typename V::B narrowed,
             std::uint8_t* y, std::size_t stride) const {
    auto bytes = V::in_order(narrowed);
    if constexpr (kBounded) bytes = V::min_u8(V::max_u8(bytes, lowest), highest);
    Q::store(y, stride, i, last, columns, bytes);
  }
};

// Calls use(adder).
template <class V, std::size_t kVectors, class Use>
void with_adder(const intact::Requantize& r, const intact::Sum& s, const Use& use) {
  constexpr float kMostSteps = 1 << 14, kMostValues = 256;
  const FixedSum fixed(s);
  if constexpr (HasFixedPoint<V>) {
    if (r.small && fixed.fits) return use(Adder<V, kVectors, true, true>(r, s, fixed));
  }
  if (kMostValues * (s.a_scale + s.b_scale) < kMostSteps * s.scale) {
    use(Adder<V, kVectors, true>(r, s, fixed));
  } else {
    use(Adder<V, kVectors, false>(r, s, fixed));
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

// Finishes sums in the registers where they came to be.
template <class V>
void product(const intact::Multiplication& m, const intact::Bytes& b) {
  const intact::Requantize& r = b.requantize;
  with_vectors<V>(m.columns, [&](auto vectors) {
    constexpr std::size_t kVectors = vectors;
    using Q = Quad<V, kVectors>;
    // quad(at, i, last, sum): rows i to `last` of those that begin at byte `at` of the output.
    const auto each = [&](const auto& quad) {
      const BiasStart<V, kVectors> start(r.bias);
      gemm_panel<V, kVectors>(m, start, [&]<std::size_t kRows>(
                                     std::size_t row, const typename V::I (&acc)[kRows][kVectors])
                                     INTACT_INLINE {
        const std::size_t last = m.count - row < kRows ? m.count - row - 1 : kRows - 1;
#pragma GCC unroll 8
        for (std::size_t i = 0; i < kRows; i += Q::kRows) {
          if (i > last) break;
          quad(row * b.stride, i, last, [&](std::size_t of, std::size_t v) INTACT_INLINE {
            return acc[least_of(of, kRows - 1)][v];
          });
        }
      });
    };
    if (b.other) {
      return with_adder<V, kVectors>(r, b.sum, [&](const auto& adder) {
        each([&](std::size_t at, std::size_t i, std::size_t last, const auto& sum) INTACT_INLINE {
          in_memory(adder).quad(i, last, b.width, sum, b.other + at, b.y + at, b.stride);
        });
      });
    }
    with_requantizer<V, kVectors>(r, [&](const auto& to, const auto& look_up) {
      each([&](std::size_t at, std::size_t i, std::size_t last, const auto& sum) INTACT_INLINE {
        in_memory(to).quad(i, last, b.width, sum, b.y + at, b.stride, look_up);
      });
    });
  });
  if (r.table && !HasTables<V>) lookup<V>(b.y, m.count, b.width, b.stride, r.table);
}

}  // namespace
