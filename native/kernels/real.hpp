#pragma once

// float32: functions, sums, LayerNorm, softmax, and the way to uint8.

#include <cstring>
#include <type_traits>

#include "../kernels.hpp"
#include "gelu.hpp"
#include "logistic.hpp"
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

// 2**x for x <= 127; 0 below -126. Relative error below 2e-7.
// Source: Cephes, exp2f: a polynomial of degree 6 for 2**r on [-1/2, 1/2], scaled by 2**n.
template <class V>
typename V::F power_of_two(typename V::F x) {
  const auto lowest = V::broadcast(-126.0f);
  const auto clamped = V::max(lowest, x);
  const auto r = V::fraction(clamped);
  auto p = V::broadcast(1.535336188319500e-4f);
  p = V::fma(p, r, V::broadcast(1.339887440266574e-3f));
  p = V::fma(p, r, V::broadcast(9.618437357674640e-3f));
  p = V::fma(p, r, V::broadcast(5.550332471162809e-2f));
  p = V::fma(p, r, V::broadcast(2.402264791363012e-1f));
  p = V::fma(p, r, V::broadcast(6.931472028550421e-1f));
  p = V::fma(p, r, V::broadcast(1.0f));
  const auto y = V::scale_by_power(p, V::sub(clamped, r));
  return V::select_less(x, lowest, V::broadcast(0.0f), y);
}

// 2**x for x <= 126; 2**-126 below -126. Relative error below 3e-7. The whole part of x is found by adding
// a number whose last digit counts ones, and goes from there to the exponent as it is. The polynomial is
// the one whose greatest relative error on [-1/2, 1/2] is least, 9e-8, of those that are 1 at 0.
template <class V>
typename V::F power_to_126(typename V::F x) {
  const auto shift = V::broadcast(12582912.0f);  // 1.5 * 2**23
  const auto clamped = V::max(V::broadcast(-126.0f), x);
  const auto shifted = V::add(clamped, shift);
  const auto r = V::sub(clamped, V::sub(shifted, shift));
  auto p = V::broadcast(1.326472690e-3f);
  p = V::fma(p, r, V::broadcast(9.671512661e-3f));
  p = V::fma(p, r, V::broadcast(5.550733744e-2f));
  p = V::fma(p, r, V::broadcast(2.402224208e-1f));
  p = V::fma(p, r, V::broadcast(6.931469776e-1f));
  p = V::fma(p, r, V::broadcast(1.0f));
  return V::add_to_exponent(p, shifted);
}

constexpr float kLog2E = 1.44269504f;

// Absolute error below 1e-6 / 4: the rounding of x log2(e) matters less the smaller the result.
template <class V>
typename V::F sigmoid(typename V::F x) {
  if constexpr (HasLookup32<V>) return V::add(logistic_less_half<V>(x), V::broadcast(0.5f));
  const auto power = V::min(V::mul(x, V::broadcast(-kLog2E)), V::broadcast(126.0f));
  return V::reciprocal(V::add(V::broadcast(1.0f), power_to_126<V>(power)));
}

template <class V>
typename V::F tanh(typename V::F x) {
  if constexpr (HasLookup32<V>) {
    const auto half = logistic_less_half<V>(V::add(x, x));
    return V::add(half, half);
  }
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

// x sigmoid(x). Within 1e-6, or 2e-6 of it.
template <class V>
struct Swish {
  using F = typename V::F;

  F operator()(F x) const {
    F of[1] = {x};
    all(of);
    return of[0];
  }
  template <std::size_t kCount>
  [[gnu::always_inline]] void all(F (&x)[kCount]) const {
    if constexpr (HasLookup32<V>) {
      F h[kCount];
      logistic_less_half<V>(x, h);
      for_each_index<kCount>([&](auto v) INTACT_INLINE {
        x[v] = V::fma(x[v], h[v], V::mul(x[v], V::broadcast(0.5f)));
      });
    } else {
      for_each_index<kCount>([&](auto v) INTACT_INLINE { x[v] = V::mul(x[v], sigmoid<V>(x[v])); });
    }
  }
};

// A function of a few vectors, in step where it can be.
template <class Function, class F, std::size_t kCount>
[[gnu::always_inline]] inline void apply(const Function& function, F (&x)[kCount]) {
  if constexpr (requires { function.all(x); }) {
    function.all(x);
  } else {
    for_each_index<kCount>([&](auto v) INTACT_INLINE { x[v] = function(x[v]); });
  }
}

// Functions of more than a few instructions are of types derived from this one.
struct Long {};
template <class Function>
constexpr bool kLong = std::is_base_of_v<Long, Function>;

template <class Function>
struct LongFunction : Long, Function {
  explicit LongFunction(const Function& function) : Function(function) {}
  using Function::operator();
};

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
    case Unary::kGelu: return use(LongFunction([](F x) { return gelu<V>(x); }));
    case Unary::kGeluTanh:
      return use(LongFunction([&](F x) {
        const F cube = V::mul(V::mul(x, x), x);
        const F inner = V::mul(V::fma(cube, V::broadcast(0.044715f), x), V::broadcast(0.79788456f));
        return V::mul(V::mul(half, x), V::add(one, tanh<V>(inner)));
      }));
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
    case Unary::kSwish: return use(Swish<V>());
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

// The largest values, or the sums, of a window's channels.
template <class V>
void pool_real(const float* x, const intact::Window& w, std::size_t channels, bool largest,
               float* y) {
  for (std::size_t c = 0; c < channels; c += V::kInts) {
    const std::size_t n = channels - c < V::kInts ? channels - c : V::kInts;
    auto result = V::broadcast(largest ? -__builtin_inff() : 0.0f);
    for (std::size_t i = 0; i < w.rows; ++i) {
      for (std::size_t j = 0; j < w.columns; ++j) {
        const auto v = V::load(x + i * w.row_stride + j * w.column_stride + c, n);
        result = largest ? V::max(result, v) : V::add(result, v);
      }
    }
    V::store(y + c, result, n);
  }
}

template <class V>
void mul_real(const float* a, const float* b, float* y, std::size_t size) {
  for (std::size_t i = 0; i < size; i += V::kInts) {
    const std::size_t n = size - i < V::kInts ? size - i : V::kInts;
    V::store(y + i, V::mul(V::load(a + i, n), V::load(b + i, n)), n);
  }
}

// Floats that are read one after another; of(offset, n): the n of them that lie `offset` further on.
template <class V>
struct PlainFloats {
  const float* x;

  [[gnu::always_inline]] typename V::F of(std::size_t offset, std::size_t n) const { return V::load(x + offset, n); }
  void skip(std::size_t n) { x += n; }
};
// Multiplied by factors that repeat after `period`, and go on so for kSlack of them beyond.
template <class V>
struct ScaledFloats {
  const float *x, *factors;
  std::size_t period, at = 0;

  [[gnu::always_inline]] typename V::F of(std::size_t offset, std::size_t n) const {
    return V::mul(V::load(x + offset, n), V::load(factors + at + offset, n));
  }
  void skip(std::size_t n) {
    x += n;
    for (at += n; at >= period;) at -= period;
  }
};

// kBounded: see divide_round4.
template <class V, bool kBounded, class Floats>
void quantize_floats(Floats floats, std::size_t size, float scale, std::int32_t zero_point, std::uint8_t* y) {
  const auto s = V::broadcast(scale), reciprocal = V::broadcast(1.0f / scale);
  const auto low = V::broadcast(static_cast<float>(-zero_point));
  const auto high = V::broadcast(static_cast<float>(255 - zero_point));
  std::size_t i = 0;
  for (; i + V::kBytes <= size; i += V::kBytes, floats.skip(V::kBytes)) {
    typename V::F values[4];
    typename V::I steps[4];
    for (std::size_t v = 0; v < 4; ++v) values[v] = floats.of(v * V::kInts, V::kInts);
    divide_round4<V, kBounded>(values, s, reciprocal, low, high, steps);
    V::store_bytes(y + i, V::in_order(V::narrow(steps, zero_point)));
  }
  for (; i < size; i += V::kInts, floats.skip(V::kInts)) {
    const std::size_t n = size - i < V::kInts ? size - i : V::kInts;
    const auto steps = divide_round<V>(floats.of(0, n), s, reciprocal, low, high);
    V::store_u8(y + i, V::add(steps, V::broadcast(zero_point)), n);
  }
}

template <class V>
void quantize(const float* x, std::size_t size, float scale, std::int32_t zero_point, bool bounded,
              std::uint8_t* y) {
  const auto of = bounded ? quantize_floats<V, true, PlainFloats<V>> : quantize_floats<V, false, PlainFloats<V>>;
  of({x}, size, scale, zero_point, y);
}

template <class V>
void quantize_scaled(const float* x, std::size_t size, const float* factors, std::size_t period, float scale,
                     std::int32_t zero_point, std::uint8_t* y) {
  quantize_floats<V, true>(ScaledFloats<V>{x, factors, period}, size, scale, zero_point, y);
}

// Widens least and most, which hold zero.
template <class V>
void extremes(const float* x, std::size_t size, float* least, float* most) {
  typename V::F low[4], high[4];
  for (std::size_t v = 0; v < 4; ++v) low[v] = high[v] = V::broadcast(0.0f);
  std::size_t i = 0;
  for (; i + 4 * V::kInts <= size; i += 4 * V::kInts) {
    for (std::size_t v = 0; v < 4; ++v) {
      const auto values = V::load(x + i + v * V::kInts);
      low[v] = V::min(low[v], values);
      high[v] = V::max(high[v], values);
    }
  }
  for (; i < size; i += V::kInts) {
    const auto values = V::load(x + i, size - i < V::kInts ? size - i : V::kInts);
    low[0] = V::min(low[0], values);
    high[0] = V::max(high[0], values);
  }
  const float l = V::least(V::min(V::min(low[0], low[1]), V::min(low[2], low[3])));
  const float h = V::greatest(V::max(V::max(high[0], high[1]), V::max(high[2], high[3])));
  if (l < *least) *least = l;
  if (h > *most) *most = h;
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
float greatest(const float* x, std::size_t size) {
  float result = -__builtin_inff();
  std::size_t i = 0;
  if (size >= V::kInts) {
    auto most = V::load(x);
    for (i = V::kInts; i + V::kInts <= size; i += V::kInts) most = V::max(most, V::load(x + i));
    result = V::greatest(most);
  }
  for (; i < size; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

template <class V>
void softmax(float* y, std::size_t size, bool empty_is_zero) {
  const float high = greatest<V>(y, size);
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
