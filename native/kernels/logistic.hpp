#pragma once

// The logistic function 1 / (1 + e**-x), less one half: what sigmoid, tanh and Swish are made of where a vector
// holds a table of 32 values.

#include "gemm.hpp"
#include "pointwise.hpp"

namespace {

// sigmoid(a) - 1/2 for a >= 0, as polynomials of degree 4 by interpolation at Chebyshev's points, of each eighth of
// an octave of t = a / kLogisticUnit + 1 from 1 to 15.5, in what t exceeds the eighth's beginning by:
// [degree][eighth mod 32, by the digits of t]. Absolute error below 5e-8 where they are evaluated in float32. The
// last eighth is 1/2, for all that is beyond.
constexpr float kLogisticUnit = 1.25f, kLogisticLast = 15.5f;
constexpr std::size_t kLogisticDegree = 4;
constexpr float kLogistic[kLogisticDegree + 1][32] = {
    {0.277299851f, 0.326711774f, 0.367035747f, 0.399121374f, 0.424141824f, 0.443347573f,
     0.457912266f, 0.468856156f, 0.477022648f, 0.487568349f, 0.493307143f, 0.496406406f,
     0.49807328f, 0.498967767f, 0.499447227f, 0.499704033f, 0.499841571f, 0.499954611f,
     0.499987006f, 0.499996275f, 0.499998927f, 0.499999702f, 0.499999911f, 0.5f, 0.0f,
     0.0389832221f, 0.0774953663f, 0.115087859f, 0.151354864f, 0.18594946f, 0.218594387f,
     0.249087214f},
    {0.216382101f, 0.17907536f, 0.144106776f, 0.113378175f, 0.0876298994f, 0.066803731f,
     0.0503954105f, 0.0377172939f, 0.0280603804f, 0.0153453089f, 0.00830939133f, 0.00447546504f,
     0.0024035566f, 0.00128883577f, 0.000690525689f, 0.000369801535f, 0.0001977762f,
     5.66765048e-05f, 1.62391316e-05f, 4.65267431e-06f, 1.33302058e-06f, 3.81917346e-07f,
     1.09421201e-07f, 0.0f, 0.3125f, 0.310600251f, 0.304992974f, 0.295943409f, 0.283864588f,
     0.269278497f, 0.252770633f, 0.234944507f},
    {-0.0750387609f, -0.0731675848f, -0.0661420226f, -0.0565809868f, -0.0464673936f, -0.037023969f,
     -0.0288450327f, -0.022102695f, -0.0167104881f, -0.00933573581f, -0.00511329761f,
     -0.00277091074f, -0.00149299379f, -0.000801974849f, -0.000430080283f, -0.000230439007f,
     -0.000121773373f, -3.49033908e-05f, -1.00011994e-05f, -2.86549084e-06f, -8.20985065e-07f,
     -2.35216817e-07f, -6.73908005e-08f, 0.0f, 3.08386257e-06f, -0.0151265152f, -0.0295373984f,
     -0.0425695851f, -0.0537030287f, -0.0625902414f, -0.0690697655f, -0.0731554851f},
    {-0.00177960703f, 0.00694921194f, 0.0118760327f, 0.0136483926f, 0.0133159496f, 0.0118474085f,
     0.00994091388f, 0.00801829062f, 0.00619942322f, 0.00360389217f, 0.00201507076f, 0.0011039176f,
     0.000598246988f, 0.000322344335f, 0.000173150082f, 9.28561785e-05f, 4.57840215e-05f,
     1.31266634e-05f, 3.76161734e-06f, 1.07778419e-06f, 3.08795506e-07f, 8.84718148e-08f,
     2.53476351e-08f, 0.0f, -0.0408135615f, -0.0399020948f, -0.0370101184f, -0.0325189866f,
     -0.0268552788f, -0.0205158927f, -0.0139979934f, -0.007739814f},
    {0.00874168519f, 0.00499943271f, 0.00185468304f, -0.000266306452f, -0.00142506557f,
     -0.00188238127f, -0.00191183528f, -0.00172302336f, -0.0013088726f, -0.000806843396f,
     -0.000464314769f, -0.000258146232f, -0.000140981458f, -7.62736454e-05f, -4.10601169e-05f,
     -2.20450602e-05f, -8.7570852e-06f, -2.51149936e-06f, -7.19766206e-07f, -2.06233679e-07f,
     -5.90883502e-08f, -1.69292118e-08f, -4.85030993e-09f, 0.0f, 0.00158309436f, 0.00572710251f,
     0.00890891068f, 0.0112485532f, 0.0126047246f, 0.0129744075f, 0.012472054f, 0.0112910056f},
};

// sigmoid(x) - 1/2, within 5e-8, of a few vectors in step, because each waits for itself. NaN stays NaN.
template <class V, std::size_t kCount>
[[gnu::always_inline]] inline void logistic_less_half(const typename V::F (&x)[kCount], typename V::F (&h)[kCount]) {
  const auto each = [](const auto& use) INTACT_INLINE { for_each_index<kCount>(use); };
  typename V::F t[kCount], past[kCount];
  typename V::I at[kCount];
  each([&](auto v) INTACT_INLINE {
    t[v] = V::fma(V::abs(x[v]), V::broadcast(1.0f / kLogisticUnit), V::broadcast(1.0f));
  });
  each([&](auto v) INTACT_INLINE { t[v] = V::min(V::broadcast(kLogisticLast), t[v]); });
  each([&](auto v) INTACT_INLINE {
    at[v] = V::leading_digits(t[v]);
    past[v] = V::sub(t[v], V::leading(t[v]));
  });
  each([&](auto v) INTACT_INLINE { h[v] = V::lookup32(kLogistic[kLogisticDegree], at[v]); });
  for_each_index<kLogisticDegree>([&](auto i) INTACT_INLINE {
    each([&](auto v) INTACT_INLINE {
      h[v] = V::fma(h[v], past[v], V::lookup32(kLogistic[kLogisticDegree - 1 - i], at[v]));
    });
  });
  each([&](auto v) INTACT_INLINE { h[v] = V::copysign(h[v], x[v]); });
}
template <class V>
[[gnu::always_inline]] inline typename V::F logistic_less_half(typename V::F x) {
  const typename V::F of[1] = {x};
  typename V::F h[1];
  logistic_less_half<V>(of, h);
  return h[0];
}

}  // namespace
