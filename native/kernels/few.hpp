#pragma once

// Products of few values of K, whose ends take as long as their dots: for AVX-512, in whose registers the
// weights of a panel, or of a part of it, stay for all rows. The sums of some rows are finished between the
// dots of later ones.

#include "bounds.hpp"
#include "product_real.hpp"
#include "requantize.hpp"

namespace {

// Weights that leave enough of the 32 registers to a row's sums and to their end.
constexpr std::size_t kMostKept = 24;

// Quads of sums of which some lie near a half, to be done again.
template <class V>
struct NearQuads {
  static constexpr std::size_t kMost = 64;
  std::size_t count = 0;
  struct At {
    std::size_t row, last;
  } at[kMost];
  alignas(64) std::int32_t sums[kMost][4][V::kInts];

  // sum(vector): of the quad's four.
  template <class Sum>
  [[gnu::always_inline]] void note(std::size_t row, std::size_t last, const Sum& sum) {
    if (count < kMost) {
      at[count] = {row, last};
      for_each_index<4>([&](auto v) INTACT_INLINE { V::store(sums[count][v], sum(v)); });
    }
    ++count;
  }
};

// Ends in bytes by `to`, a Requantizer or the like, with what look_up makes of them.
template <class V, std::size_t kVectors, class To, class LookUp>
struct BytesEnd {
  using State = typename To::State;
  static constexpr std::size_t kStages = To::kStages;
  const To& to;
  const LookUp& look_up;
  std::uint8_t* y;
  std::size_t stride, width;
  NearQuads<V>* near = nullptr;
  std::size_t row = 0;

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
      if constexpr (requires { state.near; }) {
        if (__builtin_expect(state.near, 0)) {
          near->note(row, last, [&](auto v) INTACT_INLINE { return sum(Q::row(v), Q::vector(v)); });
        }
      }
    }
  }
  void skip(std::size_t rows) {
    y += rows * stride;
    row += rows;
  }
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

// Rows of one piece are evenly spaced, those of several are not: see with_few_steps.
template <std::size_t kTaps>
auto rows_of_few(const intact::Multiplication& m) {
  if constexpr (kTaps == 1) {
    return SpacedRows{m.a, m.stride};
  } else {
    return ScatteredRows{m.a, m.starts};
  }
}

// Bounds of sums on either side of `turns`, for as many vectors of the panel.
template <class V, std::size_t kTaps, std::size_t kSteps, std::size_t kVectors, class Rows>
[[gnu::noinline]] void bounds_of_few(const intact::Multiplication& m, Rows rows, std::size_t panel_vectors,
                                     const std::int32_t* turns, std::int32_t* y) {
  constexpr std::size_t kAll = kTaps * kSteps;
  typename V::B weights[kAll][kVectors];
  typename V::I turn[kVectors];
  Bounds<V> found[kVectors];
  for_each_index<kVectors>([&](auto v) INTACT_INLINE {
    turn[v] = V::load(turns + v * V::kInts);
    for_each_index<kAll>([&](auto s) INTACT_INLINE {
      weights[s][v] = V::load_bytes(m.panel + (s * panel_vectors + v) * 4 * V::kInts);
    });
  });
  std::size_t offsets[kTaps];
  for (std::size_t t = 0; t < kTaps; ++t) offsets[t] = m.offsets[t];
  for (std::size_t i = 0; i < m.count; ++i, rows.skip(1)) {
    typename V::I acc[kVectors];
    for_each_index<kVectors>([&](auto v) INTACT_INLINE { acc[v] = V::zero(); });
    for_each_index<kAll>([&](auto s) INTACT_INLINE {
      const auto x = V::broadcast4(rows[0] + offsets[s / kSteps] + s % kSteps * 4);
      for_each_index<kVectors>([&](auto v) INTACT_INLINE { acc[v] = V::dot4(acc[v], x, weights[s][v]); });
    });
    for_each_index<kVectors>([&](auto v) INTACT_INLINE { found[v].add(acc[v], turn[v]); });
  }
  for_each_index<kVectors>([&](auto v) { found[v].store(y + v * V::kInts, panel_vectors * V::kInts, turn[v]); });
}

// use(taps, steps of a tap) as constants, for the rows of `m` if they are among those that are known.
template <class Use>
bool with_few_steps(const intact::Multiplication& m, const Use& use) {
  const auto is = [&]<std::size_t kTaps, std::size_t kSteps>() {
    if (m.taps != kTaps || m.k != 4 * kSteps || (m.starts != nullptr) != (kTaps > 1)) return false;
    use(std::integral_constant<std::size_t, kTaps>(), std::integral_constant<std::size_t, kSteps>());
    return true;
  };
  return is.template operator()<1, 4>() || is.template operator()<1, 6>() ||
         is.template operator()<1, 8>() || is.template operator()<1, 10>() ||
         is.template operator()<1, 12>() || is.template operator()<3, 3>();
}

// of(part, column, vectors) for parts of the panel of at most kMost vectors, the first at `column`.
template <class V, std::size_t kMost, class Use>
void in_parts(const intact::Multiplication& m, const Use& of) {
  const std::size_t vectors = m.columns / V::kInts, times = (vectors + kMost - 1) / kMost;
  const std::size_t at_once = (vectors + times - 1) / times;
  for (std::size_t first = 0; first < vectors; first += at_once) {
    intact::Multiplication part = m;
    part.panel += 4 * first * V::kInts;
    with_vectors<V, kMost>(least_of(at_once, vectors - first) * V::kInts,
                           [&](auto count) { of(part, first * V::kInts, count); });
  }
}

// Whether it was done: products of few values, without a summand, whose scales are small.
template <class V>
bool product_few(const intact::Multiplication& m, const intact::Bytes& b) {
  if (b.other || !b.requantize.small) return false;
  return with_few_steps(m, [&](auto taps, auto steps) {
    constexpr std::size_t kMost = least_of(V::kMostVectors, kMostKept / (taps * steps));
    in_parts<V, kMost>(m, [&](const intact::Multiplication& part, std::size_t column, auto count) {
      constexpr std::size_t kVectors = count;
      intact::Requantize r = b.requantize;
      r.bias += column;
      r.scale += column;
      const Requantizer<V, kVectors, true> to(r);
      with_look_up<V>(r, [&](const auto& look_up) {
        const BytesEnd<V, kVectors, std::decay_t<decltype(to)>, std::decay_t<decltype(look_up)>> end{
            to, look_up, b.y + column, b.stride, b.width - column};
        product_of_few<V, taps, steps, kVectors>(part, rows_of_few<taps>(part), m.columns / V::kInts, r.bias, end);
      });
    });
    if (b.requantize.table && !HasTables<V>) {
      lookup<V>(b.y, m.count, b.width, b.stride, b.requantize.table);
    }
  });
}

// Rows [first, first + count) of a product.
inline intact::Multiplication rows_of(const intact::Multiplication& m, std::size_t first, std::size_t count) {
  intact::Multiplication part = m;
  part.a += first * m.stride;
  if (part.starts) part.starts += first;
  part.count = count;
  return part;
}

// Rows whose quads near a half are noted before they are done again: one in a hundred is usual.
constexpr std::size_t kNearRows = 448;

// The same of floats that become bytes by parameters that were found; see FoundSteps.
template <class V>
bool product_real_few(const intact::Multiplication& m, std::size_t width, const intact::Finish& f) {
  if (!f.bounded) return false;
  bool possible = true;
  const bool few = with_few_steps(m, [&](auto taps, auto steps) {
    constexpr std::size_t kMost = least_of(V::kMostVectors, kMostKept / (taps * steps));
    in_parts<V, kMost>(m, [&](const intact::Multiplication& part, std::size_t column, auto count) {
      constexpr std::size_t kVectors = count;
      intact::Finish of = f;
      of.bias += column;
      of.scale += column;
      if (of.shift) of.shift += column;
      if (of.q) of.q += column;
      const Ending<V, kVectors> ending(of);
      const FoundSteps<V, kVectors> found(ending, of, most_sum_of(m, f));
      possible = possible && found.possible;
      if (!possible) return;
      const auto same = [](typename V::B bytes) { return bytes; };
      std::int32_t bias[kVectors * V::kInts];
      for (std::size_t v = 0; v < kVectors; ++v) V::store(bias + v * V::kInts, ending.start.bias[v]);
      for (std::size_t row = 0; possible && row < m.count; row += kNearRows) {
        NearQuads<V> near;
        std::uint8_t* y = of.q + row * of.stride;
        const BytesEnd<V, kVectors, std::decay_t<decltype(found)>, decltype(same)> end{
            found, same, y, of.stride, width - column, &near};
        const auto some = rows_of(part, row, least_of(kNearRows, m.count - row));
        product_of_few<V, taps, steps, kVectors>(some, rows_of_few<taps>(some), m.columns / V::kInts, bias, end);
        possible = near.count <= NearQuads<V>::kMost;
        for (std::size_t i = 0; possible && i < near.count; ++i) {
          const auto [at, last] = near.at[i];
          Quad<V, kVectors>::store(y + at * of.stride, of.stride, 0, last, width - column,
                                   found.exact_bytes(near.sums[i]));
        }
      }
    });
  });
  return few && possible;
}

// Registers for what is found beside the weights: four bounds, where it turns, and the sum.
constexpr std::size_t kBoundsAtOnce = 6, kMostRegisters = 31;

template <class V>
bool product_bounds_few(const intact::Multiplication& m, const std::int32_t* turns, std::int32_t* y) {
  if (!turns) return false;
  return with_few_steps(m, [&](auto taps, auto steps) {
    constexpr std::size_t kMost = least_of(V::kMostVectors, kMostRegisters / (taps * steps + kBoundsAtOnce));
    in_parts<V, kMost>(m, [&](const intact::Multiplication& part, std::size_t column, auto count) {
      bounds_of_few<V, taps, steps, count>(part, rows_of_few<taps>(part), m.columns / V::kInts, turns + column,
                                           y + column);
    });
  });
}

}  // namespace
