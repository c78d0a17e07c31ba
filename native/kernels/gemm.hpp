#pragma once

// Matrix products of u8 activations and packed s8 weights, in blocks whose sums stay in registers.

#include <type_traits>
#include <utility>

#include "../kernels.hpp"

// Of a lambda whose operands have to stay in registers.
#define INTACT_INLINE __attribute__((always_inline))

namespace {

constexpr std::size_t least_of(std::size_t a, std::size_t b) { return a < b ? a : b; }

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

// One step of a block: kVectors vectors of weights, and four values of each of kRows rows.
template <class V, std::size_t kRows, std::size_t kVectors, class Row>
[[gnu::always_inline]] inline void gemm_step(const std::int8_t* panel, const Row& row,
                                             typename V::I (&acc)[kRows][kVectors]) {
  typename V::B weights[kVectors];
  for_each_index<kVectors>([&](auto v) INTACT_INLINE { weights[v] = V::load_bytes(panel + 4 * v * V::kInts); });
  for_each_index<kRows>([&](auto r) INTACT_INLINE {
    const typename V::B x = V::broadcast4(row(r));
    for_each_index<kVectors>([&](auto v) INTACT_INLINE { acc[r][v] = V::dot4(acc[r][v], x, weights[v]); });
  });
}

// Keeps what `value` is from the compiler, so that it computes with it again instead of holding the result
// in another register. Of those there are few, and one that it keeps in a vector or mask register is read
// behind all that the vector units still have to do.
[[gnu::always_inline]] inline void hide(std::size_t& value) { asm volatile("" : "+r"(value)); }

// Rows that are evenly spaced, by addresses of three numbers and what they are multiplied by.
struct EvenRows {
  const std::uint8_t* a;
  std::size_t stride, three, five, seven;

  EvenRows(const std::uint8_t* a, std::size_t stride)
      : a(a), stride(stride), three(3 * stride), five(5 * stride), seven(7 * stride) {}
  template <std::size_t kRows>
  [[gnu::always_inline]] void hide_strides() {
    hide(stride);
    if constexpr (kRows > 3) hide(three);
    if constexpr (kRows > 5) hide(five);
    if constexpr (kRows > 7) hide(seven);
  }
  template <std::size_t kRow>
  [[gnu::always_inline]] const std::uint8_t* row() const {
    static_assert(kRow < 8);
    if constexpr (kRow == 3) return a + three;
    if constexpr (kRow == 5) return a + five;
    if constexpr (kRow == 6) return a + 2 * three;
    if constexpr (kRow == 7) return a + seven;
    return a + kRow * stride;
  }
};

// What sums begin at. A bias in registers costs a block that is finished in registers less than its
// addition later; one whose sums are stored waits some 20 cycles for it.
template <class V>
struct ZeroStart {
  typename V::I operator()(std::size_t) const { return V::zero(); }
};
template <class V, std::size_t kVectors>
struct BiasStart {
  typename V::I bias[kVectors];
  explicit BiasStart(const std::int32_t* of_columns) {
    for (std::size_t v = 0; v < kVectors; ++v) bias[v] = V::load(of_columns + v * V::kInts);
  }
  typename V::I operator()(std::size_t v) const { return bias[v]; }
};

struct NothingBeside {
  static constexpr bool kNothing = true;
};

// kRows x kVectors accumulators, kVectors weights and one broadcast activation are live at a time:
// 6 x 4 + 4 + 1 of the 32 registers of AVX-512; 6 x 2 + 2 + 1 of the 16 of AVX-VNNI. Sums begin at
// start(vector), and end in use(sums). Rows beyond the last repeat it. beside: other work, done in parts
// between the steps.
template <class V, std::size_t kRows, std::size_t kVectors, class Start, class Ahead, class Beside, class Use>
[[gnu::always_inline]] inline void gemm_block(const intact::Multiplication& m, std::size_t first,
                                              const Start& start, Ahead& ahead, Beside& beside,
                                              const Use& use) {
  constexpr std::size_t kPanelStep = 4 * kVectors * V::kInts;
  typename V::I acc[kRows][kVectors];
  for_each_index<kRows>([&](auto r) INTACT_INLINE {
    for_each_index<kVectors>([&](auto v) INTACT_INLINE { acc[r][v] = start(v); });
  });
  const std::int8_t* panel = m.panel;
  ahead.begin();
  // Rows that are evenly spaced need few registers for their addresses, and one loop.
  if (m.taps == 1 && !m.starts && first + kRows <= m.count) {
    EvenRows rows(m.a + m.offsets[0] + first * m.stride, m.stride);
    std::size_t steps = m.k / 4;
    const auto step = [&]() INTACT_INLINE {
      ahead.step();
      rows.template hide_strides<kRows>();
      gemm_step<V>(panel, [&](auto r) INTACT_INLINE { return rows.template row<r>(); }, acc);
      rows.a += 4;
      panel += kPanelStep;
    };
    if constexpr (!requires { Beside::kNothing; }) {
      // As far apart as can be: the vector units take instructions in their order.
      if (beside.left > 0 && steps >= beside.left) {
        const std::size_t each = steps / beside.left;
        steps -= each * beside.left;
        for (; beside.left > 0; --beside.left) {
          for (std::size_t n = each; n > 0; --n) step();
          beside.part();
        }
      }
    }
    for (; steps > 0; --steps) step();
  } else {
    const std::uint8_t* rows[kRows];
    for_each_index<kRows>([&](auto r) INTACT_INLINE {
      const std::size_t row = first + r < m.count ? first + r : m.count - 1;
      rows[r] = m.a + (m.starts ? m.starts[row] : row * m.stride);
    });
    for (std::size_t t = 0; t < m.taps; ++t) {
      const std::size_t end = m.offsets[t] + m.k;
      for (std::size_t i = m.offsets[t]; i < end; i += 4, panel += kPanelStep) {
        ahead.step();
        gemm_step<V>(panel, [&](auto r) INTACT_INLINE { return rows[r] + i; }, acc);
      }
      if constexpr (!requires { Beside::kNothing; }) beside.parts(m.taps - t);
    }
  }
  for_each_index<kRows>([&](auto r) INTACT_INLINE {
    for_each_index<kVectors>([&](auto v) INTACT_INLINE { V::pin(acc[r][v]); });
  });
  use(acc);
}

// The last rows of a product in the smallest block that holds them: of kRows, or half as many, and so on.
template <class V, std::size_t kRows, std::size_t kVectors, class Start, class Use>
void gemm_rest(const intact::Multiplication& m, std::size_t first, const Start& start, const Use& use) {
  if constexpr (kRows > 1) {
    if (m.count - first <= kRows / 2) return gemm_rest<V, kRows / 2, kVectors>(m, first, start, use);
  }
  NothingAhead nothing;
  NothingBeside alone;
  gemm_block<V, kRows, kVectors>(m, first, start, nothing, alone, [&](const auto& acc) INTACT_INLINE { use(first, acc); });
}

// use(row, sums) for each block of all rows.
template <class V, std::size_t kVectors, class Start, class Use>
void gemm_panel(const intact::Multiplication& m, const Start& start, const Use& use) {
  constexpr std::size_t kRows = V::kBlockRows[kVectors - 1];
  NothingBeside alone;
  std::size_t row = 0;
  if constexpr (requires { V::prefetch(m.next); }) {
    if (m.next_bytes > 0 && m.count >= kRows) {
      Ahead<V> ahead(m, m.count / kRows);
      for (; row + kRows <= m.count; row += kRows) {
        gemm_block<V, kRows, kVectors>(m, row, start, ahead, alone,
                                       [&](const auto& acc) INTACT_INLINE { use(row, acc); });
      }
    }
  }
  NothingAhead nothing;
  for (; row + kRows <= m.count; row += kRows) {
    gemm_block<V, kRows, kVectors>(m, row, start, nothing, alone,
                                   [&](const auto& acc) INTACT_INLINE { use(row, acc); });
  }
  if (row < m.count) gemm_rest<V, kRows, kVectors>(m, row, start, use);
}

// The same in whole blocks alone, whose rows beyond the last repeat it: less code.
template <class V, std::size_t kVectors, class Start, class Use>
void gemm_whole(const intact::Multiplication& m, const Start& start, const Use& use) {
  constexpr std::size_t kRows = V::kBlockRows[kVectors - 1];
  NothingBeside alone;
  const auto blocks = [&](auto& ahead) {
    for (std::size_t row = 0; row < m.count; row += kRows) {
      gemm_block<V, kRows, kVectors>(m, row, start, ahead, alone,
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
    gemm_panel<V, kVectors>(m, ZeroStart<V>(), [&]<std::size_t kRows>(
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
