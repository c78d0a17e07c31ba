#pragma once

// What differs from channel to channel only, and the pieces of interpolation.

#include "../kernels.hpp"
#include "pointwise.hpp"

namespace {

// body(first, n): the values from `first` on, n of them.
template <class V, class Body>
void in_vectors(std::size_t size, const Body& body) {
  for (std::size_t i = 0; i < size; i += V::kInts) body(i, size - i < V::kInts ? size - i : V::kInts);
}

// The numbers of one vector of channels, and what they make of x.
template <class V>
struct Affine {
  Affine(const intact::Channelwise& c, std::size_t column, std::size_t n)
      : factor(V::load(c.factor + column, n)), shift(V::load(c.shift + column, n)),
        slope(V::load(c.slope + column, n)) {}
  typename V::F operator()(typename V::F x) const {
    const auto y = V::add(V::mul(x, factor), shift);
    return V::select_less(y, V::broadcast(0.0f), V::mul(y, slope), y);
  }
  typename V::F factor, shift, slope;
};

template <class V>
void channelwise(const std::uint8_t* x, std::size_t rows, std::size_t columns,
                 const intact::Channelwise& c, std::uint8_t* y) {
  const auto x_zero = V::broadcast(c.x_zero_point), zero_point = V::broadcast(c.zero_point);
  const auto x_scale = V::broadcast(c.x_scale);
  const auto scale = V::broadcast(c.scale), reciprocal = V::broadcast(1.0f / c.scale);
  const auto low = V::broadcast(c.low), high = V::broadcast(c.high);
  in_vectors<V>(columns, [&](std::size_t j, std::size_t n) {
    const Affine<V> affine(c, j, n);
    for (std::size_t i = 0; i < rows; ++i) {
      const auto steps = V::sub(V::load_u8(x + i * columns + j, n), x_zero);
      const auto value = affine(V::mul(V::to_float(steps), x_scale));
      const auto whole = divide_round<V>(value, scale, reciprocal, low, high);
      V::store_u8(y + i * columns + j, V::add(whole, zero_point), n);
    }
  });
}

template <class V>
void channelwise_real(const float* x, std::size_t rows, std::size_t columns,
                      const intact::Channelwise& c, float* y) {
  in_vectors<V>(columns, [&](std::size_t j, std::size_t n) {
    const Affine<V> affine(c, j, n);
    for (std::size_t i = 0; i < rows; ++i) {
      V::store(y + i * columns + j, affine(V::load(x + i * columns + j, n)), n);
    }
  });
}

template <class V>
void dequantize_bytes(const std::uint8_t* x, std::size_t size, float scale, std::int32_t zero_point,
                      float* y) {
  const auto s = V::broadcast(scale);
  const auto zero = V::broadcast(zero_point);
  in_vectors<V>(size, [&](std::size_t i, std::size_t n) {
    V::store(y + i, V::mul(V::to_float(V::sub(V::load_u8(x + i, n), zero)), s), n);
  });
}

template <class V>
void scale_real(const float* x, float factor, float* y, std::size_t size) {
  const auto f = V::broadcast(factor);
  in_vectors<V>(size, [&](std::size_t i, std::size_t n) {
    V::store(y + i, V::mul(V::load(x + i, n), f), n);
  });
}

template <class V>
void add_scaled(const float* x, float factor, float* y, std::size_t size) {
  const auto f = V::broadcast(factor);
  in_vectors<V>(size, [&](std::size_t i, std::size_t n) {
    V::store(y + i, V::add(V::load(y + i, n), V::mul(V::load(x + i, n), f)), n);
  });
}

template <class V>
void sub_real(const float* a, const float* b, float* y, std::size_t size) {
  in_vectors<V>(size, [&](std::size_t i, std::size_t n) {
    V::store(y + i, V::sub(V::load(a + i, n), V::load(b + i, n)), n);
  });
}

template <class V>
void div_real(const float* a, const float* b, float* y, std::size_t size) {
  in_vectors<V>(size, [&](std::size_t i, std::size_t n) {
    V::store(y + i, V::div(V::load(a + i, n), V::load(b + i, n)), n);
  });
}

}  // namespace
