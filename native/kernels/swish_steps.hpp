#pragma once

// Swish on its way to bytes whose scale was found, without the float in between: x / 2 and an even function, in steps
// of that scale, where a vector holds a table of 32 values.

#include "logistic.hpp"
#include "quad.hpp"

namespace {

// a (sigmoid(a) - 1/2) for a >= 0, of the same eighths as kLogistic, of degree 3: absolute error below 7e-7. The last
// eighth is a / 2, for all that is beyond.
constexpr std::size_t kSwishDegree = 3;
constexpr float kSwish[kSwishDegree + 1][32] = {
    {0.346624374f, 0.510486543f, 0.688191414f, 0.873077512f, 1.06035411f, 1.24691474f,
     1.43097568f, 1.61169302f, 1.78883433f, 2.13311172f, 2.46653605f, 2.79228616f, 3.11295819f,
     3.43040347f, 3.74585414f, 4.06009531f, 4.37361431f, 4.99954605f, 5.62485361f, 6.24995327f,
     6.87498522f, 7.49999523f, 8.12499905f, 8.75f, 9.63635145e-08f, 0.00609121844f, 0.0242173802f,
     0.0539474934f, 0.094596833f, 0.14527303f, 0.204932243f, 0.272439122f},
    {0.617157996f, 0.688272119f, 0.729071498f, 0.746980608f, 0.749299943f, 0.742102683f,
     0.729896545f, 0.715735197f, 0.701541185f, 0.6765939f, 0.658167958f, 0.64566952f, 0.63760376f,
     0.632563412f, 0.629483342f, 0.627631783f, 0.626521528f, 0.625506043f, 0.625165045f,
     0.625053048f, 0.625016868f, 0.625005305f, 0.625001669f, 0.625f, -2.46728341e-05f,
     0.0972372442f, 0.192159608f, 0.28256768f, 0.366598308f, 0.442805022f, 0.510214508f,
     0.568332613f},
    {0.175609052f, 0.108004086f, 0.0545979366f, 0.0166717749f, -0.00759290392f, -0.0212865919f,
     -0.0275660716f, -0.0290749501f, -0.0280058682f, -0.0216739178f, -0.015071542f,
     -0.00987444352f, -0.00623289216f, -0.00383617869f, -0.00231847842f, -0.00138206978f,
     -0.000767504738f, -0.000259616267f, -8.57456325e-05f, -2.78208881e-05f, -8.90305546e-06f,
     -2.81784492e-06f, -8.83843541e-07f, 0.0f, 0.391612709f, 0.38681227f, 0.372811347f,
     0.350604206f, 0.321699053f, 0.287931114f, 0.251255006f, 0.213552058f},
    {-0.0897772014f, -0.0712589994f, -0.0508333854f, -0.0326768756f, -0.0185531043f,
     -0.00860414375f, -0.00217696535f, 0.00161152822f, 0.00406164397f, 0.00436647097f,
     0.00347314146f, 0.00244615693f, 0.00161479332f, 0.00102453737f, 0.000632982468f,
     0.000383693521f, 0.00017822627f, 6.11756041e-05f, 2.041876e-05f, 6.67798713e-06f,
     2.15042382e-06f, 6.84046029e-07f, 2.15446917e-07f, 0.0f, -0.0126653528f, -0.0370822139f,
     -0.0588802621f, -0.0766966641f, -0.0896600485f, -0.0974460021f, -0.100240283f, -0.0986319855f},
};

// Whole steps of a scale from sums whose float is sum * scale + shift, with a vector of columns each. Swish itself is
// within 1.5e-6, or 2e-6 of it, of the exact value.
template <class V, std::size_t kVectors>
struct SwishSteps {
  using F = typename V::F;
  static constexpr float kFloor = 1.0f - kLogisticLast;  // what is below becomes zero
  F factor[kVectors], offset[kVectors], half_unit;
  float table[kSwishDegree + 1][32];

  SwishSteps(const F (&scale)[kVectors], const F (&shift)[kVectors], float of_step) {
    const auto unit = V::broadcast(1.0f / kLogisticUnit);
    for (std::size_t v = 0; v < kVectors; ++v) {
      factor[v] = V::mul(scale[v], unit);
      offset[v] = V::mul(shift[v], unit);
    }
    half_unit = V::broadcast(kLogisticUnit / 2 / of_step);
    for (std::size_t i = 0; i <= kSwishDegree; ++i) {
      for (std::size_t j = 0; j < 32; ++j) table[i][j] = kSwish[i][j] / of_step;
    }
  }

  // Of a quad's vectors, or the first of them, in step.
  template <std::size_t kCount>
  [[gnu::always_inline]] void operator()(const typename V::I (&sums)[kCount], typename V::I (&whole)[kCount]) const {
    const auto each = [](const auto& use) INTACT_INLINE { for_each_index<kCount>(use); };
    F x[kCount], past[kCount], y[kCount];
    typename V::I at[kCount];
    each([&](auto i) INTACT_INLINE {
      constexpr std::size_t v = Quad<V, kVectors>::vector(i);
      x[i] = V::max(V::broadcast(kFloor), V::fma(V::to_float(sums[i]), factor[v], offset[v]));
    });
    each([&](auto i) INTACT_INLINE {
      const auto t = V::add(V::abs(x[i]), V::broadcast(1.0f)), top = V::min(t, V::broadcast(kLogisticLast));
      at[i] = V::leading_digits(top);
      past[i] = V::sub(t, V::leading(top));
    });
    each([&](auto i) INTACT_INLINE { y[i] = V::lookup32(table[kSwishDegree], at[i]); });
    for_each_index<kSwishDegree>([&](auto d) INTACT_INLINE {
      each([&](auto i) INTACT_INLINE {
        y[i] = V::fma(y[i], past[i], V::lookup32(table[kSwishDegree - 1 - d], at[i]));
      });
    });
    each([&](auto i) INTACT_INLINE { whole[i] = V::round(V::fma(x[i], half_unit, y[i])); });
  }
};

}  // namespace
