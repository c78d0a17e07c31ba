#pragma once

// Products of few values of K, whose ends take as long as their dots: for AVX-512, in whose registers the
// weights of a panel, or of a part of it, stay for all rows. The sums of some rows are finished between the
// dots of later ones.

#include "requantize.hpp"

namespace {

// Weights that leave enough of the 32 registers to a row's sums and to their end.
constexpr std::size_t kMostKept = 24;

// Ends in bytes by `to`, with what look_up makes of them.
template <class V, std::size_t kVectors, class To, class LookUp>
struct BytesEnd {
  using State = typename To::State;
  static constexpr std::size_t kStages = To::kStages;
  const To& to;
  const LookUp& look_up;
  std::uint8_t* y;
  std::size_t stride, width;

  // Of a quad of sums in memory, whose rows from the first at y on to number `last` are written.
  template <std::size_t kStage>
  [[gnu::always_inline]] void stage(State& state, const std::int32_t* sums, std::size_t last) const {
    using Q = Quad<V, kVectors>;
    const auto sum = [&](std::size_t r, std::size_t v) INTACT_INLINE {
      return V::load(sums + (r * kVectors + v) * V::kInts);
    };
    in_memory(to).template stage<kStage>(state, 0, sum);
    if constexpr (kStage == kStages - 1) {
      Q::store(y, stride, 0, last, width, look_up(state.bytes));
    }
  }
  void skip(std::size_t rows) { y += rows * stride; }
};

// Where the rows of a product begin: a fixed distance apart, or where `starts` says.
struct SpacedRows {
  const std::uint8_t* a;
  std::size_t stride;
  const std::uint8_t* operator[](std::size_t row) const { return a + row * stride; }
  void skip(std::size_t rows) { a += rows * stride; }
};
struct ScatteredRows {
  const std::uint8_t* a;
  const std::uint32_t* starts;
  const std::uint8_t* operator[](std::size_t row) const { return a + starts[row]; }
  void skip(std::size_t rows) { starts += rows; }
};

// kVectors vectors of a panel of panel_vectors, for rows of kTaps pieces of 4 * kSteps values.
template <class V, std::size_t kTaps, std::size_t kSteps, std::size_t kVectors, class Rows, class End>
[[gnu::noinline]] void product_of_few(const intact::Multiplication& m, Rows rows, std::size_t panel_vectors,
                                      const std::int32_t* bias, End end) {
  using Q = Quad<V, kVectors>;
  constexpr std::size_t kRows = Q::kRows, kAll = kTaps * kSteps;
  static_assert(kAll * kVectors <= kMostKept);
  // So many quads later sums are finished: those of long rows are long in coming.
  constexpr std::size_t kBehind = kAll > 4 && kVectors > 1 ? 4 : 1;
  typename V::B weights[kAll][kVectors];
  for_each_index<kAll>([&](auto s) INTACT_INLINE {
    for_each_index<kVectors>([&](auto v) INTACT_INLINE {
      weights[s][v] = V::load_bytes(m.panel + (s * panel_vectors + v) * 4 * V::kInts);
    });
  });
  std::size_t offsets[kTaps];
  for (std::size_t t = 0; t < kTaps; ++t) offsets[t] = m.offsets[t];
  alignas(64) std::int32_t waiting[kBehind][kRows * kVectors * V::kInts];

  // The sums of the next quad of rows, up to `last`, and the end of the quad kBehind before.
  const auto turn = [&]<bool kDots, bool kEnds>(std::int32_t* sums, std::size_t last,
                                                std::size_t last_ended) INTACT_INLINE {
    typename End::State state;
    typename V::I acc[kRows][kVectors];
    if constexpr (kDots) {
      for_each_index<kRows * kVectors>([&](auto i) INTACT_INLINE {
        acc[i / kVectors][i % kVectors] = V::load(bias + i % kVectors * V::kInts);
      });
    }
    for_each_index<kAll * kRows>([&](auto i) INTACT_INLINE {
      constexpr std::size_t s = i / kRows, r = i % kRows;
      if constexpr (kDots) {
        const auto x = V::broadcast4(rows[least_of(r, last)] + offsets[s / kSteps] + s % kSteps * 4);
        for_each_index<kVectors>([&](auto v) INTACT_INLINE {
          acc[r][v] = V::dot4(acc[r][v], x, weights[s][v]);
        });
      }
      if constexpr (kEnds) {
        for_each_index<End::kStages>([&](auto stage) INTACT_INLINE {
          if constexpr (stage * kAll * kRows / End::kStages == i) {
            end.template stage<stage>(state, sums, last_ended);
          }
        });
      }
    });
    if constexpr (kDots) {
      for_each_index<kRows * kVectors>([&](auto i) INTACT_INLINE {
        V::store(sums + i * V::kInts, acc[i / kVectors][i % kVectors]);
      });
      rows.skip(kRows);
    }
    if constexpr (kEnds) end.skip(kRows);
  };
  const std::size_t whole = m.count / kRows, rest = m.count % kRows;
  const std::size_t first = least_of(whole, kBehind);
  for (std::size_t i = 0; i < first; ++i) {
    turn.template operator()<true, false>(waiting[i], kRows - 1, 0);
  }
  std::size_t slot = 0;
  for (std::size_t i = first; i < whole; ++i) {
    turn.template operator()<true, true>(waiting[slot], kRows - 1, kRows - 1);
    slot = slot + 1 == kBehind ? 0 : slot + 1;
  }
  for (std::size_t i = 0; i < first; ++i) {
    turn.template operator()<false, true>(waiting[slot], 0, kRows - 1);
    slot = slot + 1 == kBehind ? 0 : slot + 1;
  }
  if (rest == 0) return;
  turn.template operator()<true, false>(waiting[0], rest - 1, 0);
  turn.template operator()<false, true>(waiting[0], 0, rest - 1);
}

// use(taps, steps of a tap) as constants, for the rows of `m` if they are among those that are known.
template <class Use>
bool with_few_steps(const intact::Multiplication& m, const Use& use) {
  const auto is = [&]<std::size_t kTaps, std::size_t kSteps>() {
    if (m.taps != kTaps || m.k != 4 * kSteps) return false;
    use(std::integral_constant<std::size_t, kTaps>(), std::integral_constant<std::size_t, kSteps>());
    return true;
  };
  return is.template operator()<1, 4>() || is.template operator()<1, 6>() ||
         is.template operator()<1, 8>() || is.template operator()<1, 10>() ||
         is.template operator()<1, 12>() || is.template operator()<3, 3>();
}

// Whether it was done: products of few values, without a summand, whose scales are small.
template <class V>
bool product_few(const intact::Multiplication& m, const intact::Bytes& b) {
  if (b.other || !b.requantize.small) return false;
  return with_few_steps(m, [&](auto taps, auto steps) {
    constexpr std::size_t kMost = least_of(V::kMostVectors, kMostKept / (taps * steps));
    const std::size_t vectors = m.columns / V::kInts, times = (vectors + kMost - 1) / kMost;
    const std::size_t at_once = (vectors + times - 1) / times;
    for (std::size_t first = 0; first < vectors; first += at_once) {
      const std::size_t column = first * V::kInts;
      intact::Multiplication of = m;
      of.panel += 4 * column;
      intact::Requantize r = b.requantize;
      r.bias += column;
      r.scale += column;
      with_vectors<V, kMost>(least_of(at_once, vectors - first) * V::kInts, [&](auto count) {
        constexpr std::size_t kVectors = count;
        const auto ends = [&](const auto& look_up) {
          const Requantizer<V, kVectors, true> to(r);
          const BytesEnd<V, kVectors, std::decay_t<decltype(to)>, std::decay_t<decltype(look_up)>> end{
              to, look_up, b.y + column, b.stride, b.width - column};
          if (m.starts) {
            product_of_few<V, taps, steps, kVectors>(of, ScatteredRows{m.a, m.starts}, vectors, r.bias, end);
          } else {
            product_of_few<V, taps, steps, kVectors>(of, SpacedRows{m.a, m.stride}, vectors, r.bias, end);
          }
        };
        with_look_up<V>(r, ends);
      });
    }
    if (b.requantize.table && !HasTables<V>) {
      lookup<V>(b.y, m.count, b.width, b.stride, b.requantize.table);
    }
  });
}

}  // namespace
