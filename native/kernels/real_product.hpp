#pragma once

// Matrix products of float32: rows of activations and a packed panel of weights.

#include "../kernels.hpp"

namespace {

// kRows x kVectors accumulators. Every sum is added up in the order of k, whatever the block, so
// that a row's result does not depend on how many rows there are.
template <class V, std::size_t kRows, std::size_t kVectors>
void real_product_block(const float* a, std::size_t stride, const float* panel, std::size_t k,
                        float* y, std::size_t y_stride) {
  typename V::F acc[kRows][kVectors];
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) acc[r][v] = V::broadcast(0.0f);
  }
  for (std::size_t i = 0; i < k; ++i) {
    typename V::F weights[kVectors];
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) {
      weights[v] = V::load(panel + i * intact::kRealColumns + v * V::kInts);
    }
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) {
      const auto x = V::broadcast(a[r * stride + i]);
#pragma GCC unroll 8
      for (std::size_t v = 0; v < kVectors; ++v) acc[r][v] = V::fma(x, weights[v], acc[r][v]);
    }
  }
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) V::store(y + r * y_stride + v * V::kInts, acc[r][v]);
  }
}

// One row needs eight accumulators to hide the latency of multiply-adds; six rows bring enough with
// fewer: 6 x 4 + 4 + 1 of the 32 registers of AVX-512, 6 x 2 + 2 + 1 of the 16 of AVX2.
template <class V, std::size_t kRows>
void real_product_rows(const float* a, std::size_t stride, const float* panel, std::size_t k,
                       float* y, std::size_t y_stride) {
  constexpr std::size_t kWide = V::kInts >= 16 ? 4 : kRows == 1 ? 8 : 2;
  for (std::size_t j = 0; j < intact::kRealColumns; j += kWide * V::kInts) {
    real_product_block<V, kRows, kWide>(a, stride, panel + j, k, y + j, y_stride);
  }
}

template <class V, std::size_t kRows>
void real_product_rest(const float* a, std::size_t stride, std::size_t count, const float* panel,
                       std::size_t k, float* y, std::size_t y_stride) {
  if (count == kRows) return real_product_rows<V, kRows>(a, stride, panel, k, y, y_stride);
  if constexpr (kRows > 1) real_product_rest<V, kRows - 1>(a, stride, count, panel, k, y, y_stride);
}

template <class V>
void real_product(const float* a, std::size_t stride, std::size_t count, const float* panel,
                  std::size_t k, float* y, std::size_t y_stride) {
  constexpr std::size_t kRows = 6;
  for (; count >= kRows; count -= kRows, a += kRows * stride, y += kRows * y_stride) {
    real_product_rows<V, kRows>(a, stride, panel, k, y, y_stride);
  }
  if (count > 0) real_product_rest<V, kRows - 1>(a, stride, count, panel, k, y, y_stride);
}

}  // namespace
