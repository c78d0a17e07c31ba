#pragma once

// float32: functions, sums, LayerNorm, softmax, and the way to uint8.

#include <cstring>

#include "../kernels.hpp"
#include "gelu.hpp"
#include "pointwise.hpp"

namespace {

// e**x for x <= 88; 0 below -87. Relative error below 2e-7.
// Source: Cephes, expf: x = n ln 2 + r, a polynomial of degree 5 in r, and 2**n.
template <class V>
typename V::F exp(typename V::F x) {
  const auto lowest = V::broadcast(-87.0f);
  const auto clamped = V::max(x, lowest);
  const auto n = V::rounded(V::mul(clamped, V::broadcast(1.44269504f)));
  auto r = V::fma(n, V::broadcast(-0.693359375f), clamped);
  r = V::fma(n, V::broadcast(2.12194440e-4f), r);
  auto p = V::broadcast(1.9875691500e-4f);
  p = V::fma(p, r, V::broadcast(1.3981999507e-3f));
  p = V::fma(p, r, V::broadcast(8.3334519073e-3f));
  p = V::fma(p, r, V::broadcast(4.1665795894e-2f));
  p = V::fma(p, r, V::broadcast(1.6666665459e-1f));
  p = V::fma(p, r, V::broadcast(5.0000001201e-1f));
  const auto y = V::add(V::fma(V::mul(p, r), r, r), V::broadcast(1.0f));
  // Exactly zero where a smaller number would be denormal, and slow to go on with.
  return V::select_less(x, lowest, V::broadcast(0.0f), V::scale_by_power(y, n));
}

template <class V>
typename V::F sigmoid(typename V::F x) {
  const auto one = V::broadcast(1.0f);
  const auto e = exp<V>(V::min(V::sub(V::broadcast(0.0f), x), V::broadcast(87.0f)));
  return V::div(one, V::add(one, e));
}

template <class V>
typename V::F tanh(typename V::F x) {
  // 2 sigmoid(2 x) - 1 cancels around zero, where a polynomial serves. Source: Cephes, tanhf.
  const auto s = V::mul(x, x);
  auto p = V::broadcast(-5.70498872745e-3f);
  p = V::fma(p, s, V::broadcast(2.06390887954e-2f));
  p = V::fma(p, s, V::broadcast(-5.37397155531e-2f));
  p = V::fma(p, s, V::broadcast(1.33314422036e-1f));
  p = V::fma(p, s, V::broadcast(-3.33332819422e-1f));
  const auto near = V::fma(V::mul(p, s), x, x);
  const auto two = V::broadcast(2.0f);
  const auto far = V::sub(V::mul(two, sigmoid<V>(V::mul(two, x))), V::broadcast(1.0f));
  return V::select_less(V::abs(x), V::broadcast(0.625f), near, far);
}

// Calls use(f), where f(x) applies the function to a vector.
template <class V, class Use>
void with_function(const intact::Applied& applied, const Use& use) {
  using F = typename V::F;
  using intact::Unary;
  const F zero = V::broadcast(0.0f), one = V::broadcast(1.0f), half = V::broadcast(0.5f);
  const F a = V::broadcast(applied.alpha), b = V::broadcast(applied.beta);
  switch (applied.function) {
    case Unary::kNone: return use([](F x) { return x; });
    case Unary::kClip: return use([&](F x) { return V::min(V::max(x, a), b); });
    case Unary::kGelu: return use([](F x) { return gelu<V>(x); });
    case Unary::kGeluTanh:
      return use([&](F x) {
        const F cube = V::mul(V::mul(x, x), x);
        const F inner = V::mul(V::fma(cube, V::broadcast(0.044715f), x), V::broadcast(0.79788456f));
        return V::mul(V::mul(half, x), V::add(one, tanh<V>(inner)));
      });
    case Unary::kHardSigmoid:
      return use([&](F x) { return V::min(V::max(V::fma(x, a, b), zero), one); });
    case Unary::kHardSwish:
      return use([&](F x) {
        const F gate = V::fma(x, V::broadcast(1.0f / 6), half);
        return V::mul(x, V::min(V::max(gate, zero), one));
      });
    case Unary::kLeakyRelu:
      return use([&](F x) { return V::add(V::max(x, zero), V::mul(V::min(x, zero), a)); });
    case Unary::kRelu: return use([&](F x) { return V::max(x, zero); });
    case Unary::kSigmoid: return use([&](F x) { return sigmoid<V>(x); });
    case Unary::kSwish: return use([&](F x) { return V::mul(x, sigmoid<V>(x)); });
    case Unary::kTanh: return use([&](F x) { return tanh<V>(x); });
  }
}

template <class V>
void unary(const intact::Applied& applied, float* y, std::size_t size) {
  with_function<V>(applied, [&](const auto& f) {
    for (std::size_t i = 0; i < size; i += V::kInts) {
      const std::size_t n = size - i < V::kInts ? size - i : V::kInts;
      V::store(y + i, f(V::load(y + i, n)), n);
    }
  });
}

template <class V>
void add_real(const float* a, const float* b, float* y, std::size_t size) {
  for (std::size_t i = 0; i < size; i += V::kInts) {
    const std::size_t n = size - i < V::kInts ? size - i : V::kInts;
    V::store(y + i, V::add(V::load(a + i, n), V::load(b + i, n)), n);
  }
}

template <class V>
void maximum_real(float* y, const float* x, std::size_t size) {
  for (std::size_t i = 0; i < size; i += V::kInts) {
    const std::size_t n = size - i < V::kInts ? size - i : V::kInts;
    V::store(y + i, V::max(V::load(y + i, n), V::load(x + i, n)), n);
  }
}

template <class V>
void mul_real(const float* a, const float* b, float* y, std::size_t size) {
  for (std::size_t i = 0; i < size; i += V::kInts) {
    const std::size_t n = size - i < V::kInts ? size - i : V::kInts;
    V::store(y + i, V::mul(V::load(a + i, n), V::load(b + i, n)), n);
  }
}

template <class V>
void quantize(const float* x, std::size_t rows, std::size_t columns, std::size_t x_stride,
              float scale, std::int32_t zero_point, std::uint8_t* y, std::size_t stride) {
  const auto s = V::broadcast(scale), reciprocal = V::broadcast(1.0f / scale);
  const auto low = V::broadcast(static_cast<float>(-zero_point));
  const auto high = V::broadcast(static_cast<float>(255 - zero_point));
  const auto point = V::broadcast(zero_point);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t i = 0; i < columns; i += V::kInts) {
      const std::size_t n = columns - i < V::kInts ? columns - i : V::kInts;
      const auto steps = divide_round<V>(V::load(x + r * x_stride + i, n), s, reciprocal, low, high);
      V::store_u8(y + r * stride + i, V::add(steps, point), n);
    }
  }
}

template <class V>
void extremes(const float* x, std::size_t size, float* low, float* high) {
  auto least = V::broadcast(x[0]), most = least;
  std::size_t i = 0;
  for (; i + V::kInts <= size; i += V::kInts) {
    const auto v = V::load(x + i);
    least = V::min(least, v);
    most = V::max(most, v);
  }
  float l = V::least(least), m = V::greatest(most);
  for (; i < size; ++i) {
    l = x[i] < l ? x[i] : l;
    m = x[i] > m ? x[i] : m;
  }
  *low = l;
  *high = m;
}

// The sum of f(v) of all vectors; four sums at a time, so that none waits for the one before.
template <class V, class Function>
float total(const float* x, std::size_t size, const Function& f) {
  typename V::F sums[4];
  for (auto& sum : sums) sum = V::broadcast(0.0f);
  std::size_t i = 0;
  for (; i + 4 * V::kInts <= size; i += 4 * V::kInts) {
    for (std::size_t v = 0; v < 4; ++v) sums[v] = f(V::load(x + i + v * V::kInts), sums[v]);
  }
  for (; i < size; i += V::kInts) {
    const std::size_t n = size - i < V::kInts ? size - i : V::kInts;
    sums[0] = V::add(sums[0], V::first_values(f(V::load(x + i, n), V::broadcast(0.0f)), n));
  }
  return V::sum(V::add(V::add(sums[0], sums[1]), V::add(sums[2], sums[3])));
}

template <class V>
void layer_norm(const float* x, std::size_t size, const float* gamma, const float* beta,
                float epsilon, float* y) {
  using F = typename V::F;
  const float sum = total<V>(x, size, [](F v, F all) { return V::add(all, v); });
  const auto m = V::broadcast(sum / static_cast<float>(size));
  const float squares = total<V>(x, size, [&](F v, F all) {
    const F off = V::sub(v, m);
    return V::fma(off, off, all);
  });
  const float variance = squares / static_cast<float>(size);
  const auto factor = V::broadcast(1.0f / __builtin_sqrtf(variance + epsilon));
  for (std::size_t i = 0; i < size; i += V::kInts) {
    const std::size_t n = size - i < V::kInts ? size - i : V::kInts;
    auto v = V::mul(V::mul(V::sub(V::load(x + i, n), m), factor), V::load(gamma + i, n));
    if (beta) v = V::add(v, V::load(beta + i, n));
    V::store(y + i, v, n);
  }
}

template <class V>
void softmax(float* y, std::size_t size, bool empty_is_zero) {
  float low, high;
  extremes<V>(y, size, &low, &high);
  if (high == -__builtin_inff()) {
    for (std::size_t i = 0; i < size; ++i) y[i] = empty_is_zero ? 0.0f : __builtin_nanf("");
    return;
  }
  const auto most = V::broadcast(high);
  auto sum = V::broadcast(0.0f);
  std::size_t i = 0;
  for (; i + V::kInts <= size; i += V::kInts) {
    const auto e = exp<V>(V::sub(V::load(y + i), most));
    V::store(y + i, e);
    sum = V::add(sum, e);
  }
  float all = V::sum(sum);
  if (i < size) {
    const std::size_t n = size - i;
    V::store(y + i, exp<V>(V::sub(V::load(y + i, n), most)), n);
    for (; i < size; ++i) all += y[i];
  }
  const auto factor = V::broadcast(1.0f / all);
  for (i = 0; i < size; i += V::kInts) {
    const std::size_t n = size - i < V::kInts ? size - i : V::kInts;
    V::store(y + i, V::mul(V::load(y + i, n), factor), n);
  }
}

}  // namespace
