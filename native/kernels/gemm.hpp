#pragma once

// Matrix products of u8 activations and packed s8 weights, in blocks whose sums stay in registers.

#include "../kernels.hpp"

namespace {

// kRows x kVectors accumulators, kVectors weights and one broadcast activation are live at a time:
// 6 x 4 + 4 + 1 of the 32 registers of AVX-512; 6 x 2 + 2 + 1 of the 16 of AVX-VNNI.
template <class V, std::size_t kRows, std::size_t kVectors>
void gemm_block(const std::uint8_t* a, std::size_t stride, const std::int8_t* panel, std::size_t k,
                std::int32_t* sums) {
  typename V::I acc[kRows][kVectors];
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) acc[r][v] = V::zero();
  }
  for (std::size_t i = 0; i < k; i += 4) {
    typename V::B weights[kVectors];
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) {
      weights[v] = V::load_bytes(panel + (i * kVectors + 4 * v) * V::kInts);
    }
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) {
      const typename V::B x = V::broadcast4(a + r * stride + i);
#pragma GCC unroll 8
      for (std::size_t v = 0; v < kVectors; ++v) acc[r][v] = V::dot4(acc[r][v], x, weights[v]);
    }
  }
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) {
      V::store(sums + (r * kVectors + v) * V::kInts, acc[r][v]);
    }
  }
}

template <class V, std::size_t kRows, std::size_t kVectors>
void gemm(const std::uint8_t* a, std::size_t stride, std::size_t count, const std::int8_t* panel,
          std::size_t k, std::int32_t* sums) {
  if (count == kRows) return gemm_block<V, kRows, kVectors>(a, stride, panel, k, sums);
  if constexpr (kRows > 1) gemm<V, kRows - 1, kVectors>(a, stride, count, panel, k, sums);
}

template <class V>
void requantize(const std::int32_t* sums, std::size_t panel_columns, std::size_t count,
                std::size_t columns, const intact::Requantize& r, std::uint8_t* y,
                std::size_t stride) {
  const auto low = V::broadcast(r.low), high = V::broadcast(r.high);
  const auto zero_point = V::broadcast(r.zero_point);
  for (std::size_t j = 0; j < columns; j += V::kInts) {
    const auto bias = V::load(r.bias + j);
    const auto scale = V::load(r.scale + j);
    const std::size_t n = columns - j < V::kInts ? columns - j : V::kInts;
    for (std::size_t i = 0; i < count; ++i) {
      const auto sum = V::add(V::load(sums + i * panel_columns + j), bias);
      const auto steps = V::mul(V::to_float(sum), scale);
      const auto clamped = V::round(V::min(V::max(steps, low), high));
      V::store_u8(y + i * stride + j, V::add(clamped, zero_point), n);
    }
  }
}

template <class V>
void dequantize(const std::int32_t* sums, std::size_t panel_columns, std::size_t count,
                std::size_t columns, const intact::Dequantize& d, float* y, std::size_t stride) {
  for (std::size_t j = 0; j < columns; j += V::kInts) {
    const auto bias = V::load(d.bias + j);
    const auto scale = V::load(d.scale + j);
    const std::size_t n = columns - j < V::kInts ? columns - j : V::kInts;
    for (std::size_t i = 0; i < count; ++i) {
      const auto sum = V::add(V::load(sums + i * panel_columns + j), bias);
      auto real = V::mul(V::to_float(sum), scale);
      if (d.shift) real = V::add(real, V::load(d.shift + j));
      V::store(y + i * stride + j, real, n);
    }
  }
}

template <class V>
void dequantize_rows(const std::int32_t* sums, std::size_t panel_columns, std::size_t count,
                     std::size_t columns, const intact::DequantizeRows& d, float* y,
                     std::size_t stride) {
  for (std::size_t j = 0; j < columns; j += V::kInts) {
    const auto weight_sums = V::load(d.weight_sums + j);
    const auto scale = V::load(d.scale + j);
    const std::size_t n = columns - j < V::kInts ? columns - j : V::kInts;
    for (std::size_t i = 0; i < count; ++i) {
      const auto share = V::mul(weight_sums, V::broadcast(d.zero_points[i]));
      const auto sum = V::sub(V::load(sums + i * panel_columns + j, n), share);
      auto real = V::mul(V::to_float(sum), V::mul(V::broadcast(d.scales[i]), scale));
      if (d.shift) real = V::add(real, V::load(d.shift + j));
      V::store(y + i * stride + j, real, n);
    }
  }
}

}  // namespace
