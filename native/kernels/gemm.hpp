#pragma once

// Matrix products of u8 activations and packed s8 weights, in blocks whose sums stay in registers.

#include "../kernels.hpp"

namespace {

// kRows x kVectors accumulators, kVectors weights and one broadcast activation are live at a time:
// 6 x 4 + 4 + 1 of the 32 registers of AVX-512; 6 x 2 + 2 + 1 of the 16 of AVX-VNNI.
template <class V, std::size_t kRows, std::size_t kVectors>
void gemm_block(const intact::Multiplication& m) {
  typename V::I acc[kRows][kVectors];
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) acc[r][v] = V::zero();
  }
  const std::int8_t* panel = m.panel;
  for (std::size_t t = 0; t < m.taps; ++t) {
    const std::uint8_t* a = m.a + m.offsets[t];
    for (std::size_t i = 0; i < m.k; i += 4, panel += 4 * kVectors * V::kInts) {
      typename V::B weights[kVectors];
#pragma GCC unroll 8
      for (std::size_t v = 0; v < kVectors; ++v) weights[v] = V::load_bytes(panel + 4 * v * V::kInts);
#pragma GCC unroll 8
      for (std::size_t r = 0; r < kRows; ++r) {
        const typename V::B x = V::broadcast4(a + r * m.stride + i);
#pragma GCC unroll 8
        for (std::size_t v = 0; v < kVectors; ++v) acc[r][v] = V::dot4(acc[r][v], x, weights[v]);
      }
    }
  }
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) {
      V::store(m.sums + (r * kVectors + v) * V::kInts, acc[r][v]);
    }
  }
}

template <class V, std::size_t kRows, std::size_t kVectors>
void gemm_rows(const intact::Multiplication& m) {
  if (m.count == kRows) return gemm_block<V, kRows, kVectors>(m);
  if constexpr (kRows > 1) gemm_rows<V, kRows - 1, kVectors>(m);
}

template <class V, std::size_t kRows, std::size_t kVectors>
void gemm(const intact::Multiplication& m) {
  m.beside.run(0, m.beside.parts);
  gemm_rows<V, kRows, kVectors>(m);
}

}  // namespace
