#pragma once

// Operators that work value by value, on rows of uint8.

#include "../kernels.hpp"

namespace {

// clamp(rne(x / scale), low, high). The quotient by way of the reciprocal is off by less than 1e-3
// where it is not clamped, so it rounds alike unless it lies that near to a half.
template <class V>
typename V::I divide_round(typename V::F x, typename V::F scale, typename V::F reciprocal,
                           typename V::F low, typename V::F high) {
  typename V::F steps = V::min(V::max(V::mul(x, reciprocal), low), high);
  const typename V::F off = V::abs(V::sub(steps, V::rounded(steps)));
  if (__builtin_expect(V::any_greater(off, V::broadcast(0.499f)), 0)) {
    steps = V::min(V::max(V::div(x, scale), low), high);
  }
  return V::round(steps);
}

template <class V>
void add(const std::uint8_t* a, std::size_t a_stride, const std::uint8_t* b, std::size_t b_stride,
         std::size_t rows, std::size_t columns, const intact::Sum& s, std::uint8_t* y,
         std::size_t stride) {
  const auto a_scale = V::broadcast(s.a_scale), b_scale = V::broadcast(s.b_scale);
  const auto a_zero = V::broadcast(s.a_zero_point), b_zero = V::broadcast(s.b_zero_point);
  const auto scale = V::broadcast(s.scale), reciprocal = V::broadcast(1.0f / s.scale);
  const auto low = V::broadcast(s.low), high = V::broadcast(s.high);
  const auto zero_point = V::broadcast(s.zero_point);
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t j = 0; j < columns; j += V::kInts) {
      const std::size_t n = columns - j < V::kInts ? columns - j : V::kInts;
      const auto p = V::mul(V::to_float(V::sub(V::load_u8(a + i * a_stride + j, n), a_zero)), a_scale);
      const auto q = V::mul(V::to_float(V::sub(V::load_u8(b + i * b_stride + j, n), b_zero)), b_scale);
      const auto steps = divide_round<V>(V::add(p, q), scale, reciprocal, low, high);
      V::store_u8(y + i * stride + j, V::add(steps, zero_point), n);
    }
  }
}

template <class V>
void gate(const std::uint8_t* a, const std::uint8_t* gate, std::size_t rows, std::size_t columns,
          const intact::Product& p, std::uint8_t* y) {
  const auto a_zero = V::broadcast(p.a_zero_point), b_zero = V::broadcast(p.b_zero_point);
  const auto scale = V::broadcast(p.scale), low = V::broadcast(p.low), high = V::broadcast(p.high);
  const auto zero_point = V::broadcast(p.zero_point);
  for (std::size_t j = 0; j < columns; j += V::kInts) {
    const std::size_t n = columns - j < V::kInts ? columns - j : V::kInts;
    const auto factor = V::to_float(V::sub(V::load_u8(gate + j, n), b_zero));
    for (std::size_t i = 0; i < rows; ++i) {
      const auto x = V::to_float(V::sub(V::load_u8(a + i * columns + j, n), a_zero));
      // Exact: at most 255 * 255, well below 2**24.
      const auto steps = V::mul(V::mul(x, factor), scale);
      const auto whole = V::round(V::min(V::max(steps, low), high));
      V::store_u8(y + i * columns + j, V::add(whole, zero_point), n);
    }
  }
}

inline void lookup_bytes(std::uint8_t* y, std::size_t rows, std::size_t columns,
                         std::size_t stride, const std::uint8_t* table) {
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t j = 0; j < columns; ++j) y[i * stride + j] = table[y[i * stride + j]];
  }
}

template <class V>
void maximum(std::uint8_t* y, const std::uint8_t* x, std::size_t size) {
  for (std::size_t i = 0; i < size; i += V::kBytes) {
    const std::size_t n = size - i;
    V::store_bytes(y + i, V::max_u8(V::load_bytes(y + i, n), V::load_bytes(x + i, n)), n);
  }
}

template <class V>
void accumulate(std::int32_t* y, const std::uint8_t* x, std::size_t size) {
  std::size_t i = 0;
  for (; i + V::kInts <= size; i += V::kInts) {
    V::store(y + i, V::add(V::load(y + i), V::load_u8(x + i, V::kInts)));
  }
  for (; i < size; ++i) y[i] += x[i];
}

}  // namespace
