#pragma once

// Matrix products of u8 activations and packed s8 weights, in blocks whose sums stay in registers.

#include <type_traits>
#include <utility>

#include "../kernels.hpp"

// Of a lambda whose operands have to stay in registers.
#define INTACT_INLINE __attribute__((always_inline))

namespace {

// Calls use(std::integral_constant<std::size_t, n>) for the n vectors of a panel's columns.
template <class V, std::size_t kMost = V::kMostVectors, class Use>
void with_vectors(std::size_t columns, const Use& use) {
  const std::size_t vectors = columns / V::kInts;
  const auto call = [&]<std::size_t kVectors>(auto& self) {
    if (vectors == kVectors) return use(std::integral_constant<std::size_t, kVectors>());
    if constexpr (kVectors > 1) self.template operator()<kVectors - 1>(self);
  };
  call.template operator()<kMost>(call);
}

// use(std::integral_constant<std::size_t, i>) for each i below kCount: indices that are constants, so that
// what they index can stay in registers.
template <std::size_t kCount, class Use>
[[gnu::always_inline]] inline void for_each_index(const Use& use) {
  [&]<std::size_t... kIndices>(std::index_sequence<kIndices...>) INTACT_INLINE {
    (use(std::integral_constant<std::size_t, kIndices>()), ...);
  }(std::make_index_sequence<kCount>());
}

// Weights that are read into the cache while others are multiplied, as many lines during each block. No
// line is asked for twice: for one that is there already that takes longer than a step.
template <class V>
struct Ahead {
  static constexpr std::size_t kLine = 64;
  const std::int8_t* at;
  std::size_t lines, left;  // of a block

  Ahead(const intact::Multiplication& m, std::size_t blocks)
      : at(m.next), lines((m.next_bytes / kLine + blocks - 1) / blocks), left(0) {}
  void begin() { left = lines; }
  [[gnu::always_inline]] void step() {
    if (left == 0) return;
    V::prefetch(at);
    at += kLine;
    --left;
  }
};

struct NothingAhead {
  void begin() {}
  void step() {}
};

// kRows x kVectors accumulators, kVectors weights and one broadcast activation are live at a time:
// 6 x 4 + 4 + 1 of the 32 registers of AVX-512; 6 x 2 + 2 + 1 of the 16 of AVX-VNNI. Sums begin at
// `start`, and end in use(sums). Rows beyond the last repeat it.
template <class V, std::size_t kRows, std::size_t kVectors, class Ahead, class Use>
[[gnu::always_inline]] inline void gemm_block(const intact::Multiplication& m, std::size_t first,
                                              const typename V::I (&start)[kVectors], Ahead& ahead,
                                              const Use& use) {
  const std::uint8_t* rows[kRows];
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
    const std::size_t row = first + r < m.count ? first + r : m.count - 1;
    rows[r] = m.a + (m.starts ? m.starts[row] : row * m.stride);
  }
  typename V::I acc[kRows][kVectors];
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) acc[r][v] = start[v];
  }
  const std::int8_t* panel = m.panel;
  ahead.begin();
  for (std::size_t t = 0; t < m.taps; ++t) {
    const std::size_t end = m.offsets[t] + m.k;
    for (std::size_t i = m.offsets[t]; i < end; i += 4, panel += 4 * kVectors * V::kInts) {
      ahead.step();
      typename V::B weights[kVectors];
#pragma GCC unroll 8
      for (std::size_t v = 0; v < kVectors; ++v) weights[v] = V::load_bytes(panel + 4 * v * V::kInts);
#pragma GCC unroll 8
      for (std::size_t r = 0; r < kRows; ++r) {
        const typename V::B x = V::broadcast4(rows[r] + i);
#pragma GCC unroll 8
        for (std::size_t v = 0; v < kVectors; ++v) acc[r][v] = V::dot4(acc[r][v], x, weights[v]);
      }
    }
  }
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) V::pin(acc[r][v]);
  }
  use(acc);
}

// The last rows of a product in the smallest block that holds them: of kRows, or half as many, and so on.
template <class V, std::size_t kRows, std::size_t kVectors, class Use>
void gemm_rest(const intact::Multiplication& m, std::size_t first,
               const typename V::I (&start)[kVectors], const Use& use) {
  if constexpr (kRows > 1) {
    if (m.count - first <= kRows / 2) return gemm_rest<V, kRows / 2, kVectors>(m, first, start, use);
  }
  NothingAhead nothing;
  gemm_block<V, kRows, kVectors>(m, first, start, nothing,
                                 [&](const auto& acc) INTACT_INLINE { use(first, acc); });
}

// use(row, sums) for each block of all rows.
template <class V, std::size_t kVectors, class Use>
void gemm_panel(const intact::Multiplication& m, const typename V::I (&start)[kVectors],
                const Use& use) {
  constexpr std::size_t kRows = V::kBlockRows[kVectors - 1];
  std::size_t row = 0;
  if constexpr (requires { V::prefetch(m.next); }) {
    if (m.next_bytes > 0 && m.count >= kRows) {
      Ahead<V> ahead(m, m.count / kRows);
      for (; row + kRows <= m.count; row += kRows) {
        gemm_block<V, kRows, kVectors>(m, row, start, ahead,
                                       [&](const auto& acc) INTACT_INLINE { use(row, acc); });
      }
    }
  }
  NothingAhead nothing;
  for (; row + kRows <= m.count; row += kRows) {
    gemm_block<V, kRows, kVectors>(m, row, start, nothing,
                                   [&](const auto& acc) INTACT_INLINE { use(row, acc); });
  }
  if (row < m.count) gemm_rest<V, kRows, kVectors>(m, row, start, use);
}

// The same in whole blocks alone, whose rows beyond the last repeat it: less code.
template <class V, std::size_t kVectors, class Use>
void gemm_whole(const intact::Multiplication& m, const typename V::I (&start)[kVectors],
                const Use& use) {
  constexpr std::size_t kRows = V::kBlockRows[kVectors - 1];
  const auto blocks = [&](auto& ahead) {
    for (std::size_t row = 0; row < m.count; row += kRows) {
      gemm_block<V, kRows, kVectors>(m, row, start, ahead,
                                     [&](const auto& acc) INTACT_INLINE { use(row, acc); });
    }
  };
  if constexpr (requires { V::prefetch(m.next); }) {
    if (m.next_bytes > 0) {
      Ahead<V> ahead(m, (m.count + kRows - 1) / kRows);
      return blocks(ahead);
    }
  }
  NothingAhead nothing;
  blocks(nothing);
}

template <class V>
constexpr std::size_t block_rows(std::size_t columns) {
  return V::kBlockRows[columns / V::kInts - 1];
}

template <class V>
void gemm(const intact::Multiplication& m) {
  m.beside.run(0, m.beside.parts);
  with_vectors<V>(m.columns, [&](auto vectors) {
    constexpr std::size_t kVectors = vectors;
    typename V::I zero[kVectors];
    for (auto& v : zero) v = V::zero();
    gemm_panel<V, kVectors>(m, zero, [&]<std::size_t kRows>(
                                         std::size_t row, const typename V::I (&acc)[kRows][kVectors])
                                         INTACT_INLINE {
#pragma GCC unroll 8
      for (std::size_t r = 0; r < kRows; ++r) {
        if (row + r >= m.count) break;
#pragma GCC unroll 4
        for (std::size_t v = 0; v < kVectors; ++v) {
          V::store(m.sums + ((row + r) * kVectors + v) * V::kInts, acc[r][v]);
        }
      }
    });
  });
}

}  // namespace
