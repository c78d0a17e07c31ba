#pragma once

// GELU: x times the normal distribution's Phi(x) = 1/2 + erf(x / sqrt 2) / 2.

#include "pointwise.hpp"

namespace {

// erf(t / sqrt 2) / 2 at t = (i + u) / 6 for u in [-1/2, 1/2], as polynomials of degree 3 in u by least
// squares: [degree][i]. Absolute error below 2e-7. The last is 1/2, for all that is beyond.
constexpr float kHalfErf[4][32] = {
    {0.0f, 0.0661837831f, 0.130558565f, 0.191462338f, 0.247507319f, 0.297671497f, 0.341344625f,
     0.378327399f, 0.408788711f, 0.43319276f, 0.452209651f, 0.466623515f, 0.477249891f,
     0.484869897f, 0.490184695f, 0.493790358f, 0.496169657f, 0.497696757f, 0.498650134f,
     0.499229044f, 0.499570936f, 0.499767393f, 0.499877125f, 0.499936789f, 0.49996832f,
     0.499984533f, 0.499992669f, 0.499996603f, 0.49999848f, 0.499999315f, 0.499999702f, 0.5f},
    {0.0664903522f, 0.0655732602f, 0.062897183f, 0.058677543f, 0.0532413311f, 0.046985317f,
     0.0403284654f, 0.0336664617f, 0.0273350272f, 0.0215862803f, 0.0165795349f, 0.0123852035f,
     0.00899850018f, 0.00635877298f, 0.004370315f, 0.00292138173f, 0.00189932843f, 0.00120101369f,
     0.000738638628f, 0.000441826909f, 0.000257044565f, 0.000145445665f, 8.00440685e-05f,
     4.28443564e-05f, 2.23045809e-05f, 1.12935504e-05f, 5.56164014e-06f, 2.66385905e-06f,
     1.24095345e-06f, 5.62257981e-07f, 2.47771652e-07f, 0.0f},
    {2.09575526e-16f, -0.000909175258f, -0.00174422667f, -0.00244101114f, -0.00295348139f,
     -0.00325851911f, -0.00335681741f, -0.00327002374f, -0.0030350755f, -0.00269711134f,
     -0.00230241404f, -0.00189257611f, -0.00150061527f, -0.00114923576f, -0.000850984536f,
     -0.000609765586f, -0.000423077436f, -0.000284398411f, -0.000185301673f, -0.000117068259f,
     -7.17372022e-05f, -4.26493862e-05f, -2.46062482e-05f, -1.37793859e-05f, -7.49105084e-06f,
     -3.95413144e-06f, -2.02681531e-06f, -1.00898421e-06f, -4.87875013e-07f, -2.2915458e-07f,
     -1.04563931e-07f, 0.0f},
    {-0.000307425362f, -0.00029477413f, -0.000258540007f, -0.000203557371f, -0.000136880757f,
     -6.65303087e-05f, -1.61846089e-07f, 5.60599838e-05f, 9.81812555e-05f, 0.000124684826f,
     0.000136258823f, 0.000135237366f, 0.00012488864f, 0.000108719789f, 8.9923873e-05f,
     7.10325548e-05f, 5.37777596e-05f, 3.91227695e-05f, 2.74015911e-05f, 1.85048866e-05f,
     1.20634086e-05f, 7.59862996e-06f, 4.62824164e-06f, 2.72765169e-06f, 1.55627401e-06f,
     8.60011539e-07f, 4.60481402e-07f, 2.38976355e-07f, 1.20242888e-07f, 5.86727289e-08f,
     2.77704739e-08f, 0.0f},
};

// Absolute error below 2e-7. Source: Eigen, generic erf: x P(x^2) / Q(x^2) on [-4, 4], beyond which
// float32 holds nothing but -1 and 1.
template <class V>
typename V::F erf(typename V::F x) {
  const auto limit = V::broadcast(4.0f);
  const auto v = V::max(V::min(x, limit), V::sub(V::broadcast(0.0f), limit));
  const auto s = V::mul(v, v);
  auto p = V::broadcast(-2.72614225801306e-10f);
  p = V::fma(p, s, V::broadcast(2.77068142495902e-08f));
  p = V::fma(p, s, V::broadcast(-2.10102402082508e-06f));
  p = V::fma(p, s, V::broadcast(-5.69250639462346e-05f));
  p = V::fma(p, s, V::broadcast(-7.34990630326855e-04f));
  p = V::fma(p, s, V::broadcast(-2.95459980854025e-03f));
  p = V::fma(p, s, V::broadcast(-1.60960333262415e-02f));
  auto q = V::broadcast(-1.45660718464996e-05f);
  q = V::fma(q, s, V::broadcast(-2.13374055278905e-04f));
  q = V::fma(q, s, V::broadcast(-1.68282697438203e-03f));
  q = V::fma(q, s, V::broadcast(-7.37332916720468e-03f));
  q = V::fma(q, s, V::broadcast(-1.42647390514189e-02f));
  return V::div(V::mul(v, p), q);
}

// Within 1e-6, or 2e-6 of it.
template <class V>
typename V::F gelu(typename V::F x) {
  const auto half_x = V::mul(V::broadcast(0.5f), x);
  if constexpr (HasLookup32<V>) {
    const auto t = V::min(V::mul(V::abs(x), V::broadcast(6.0f)), V::broadcast(31.49f));
    const auto i = V::round(t);
    const auto u = V::fraction(t);
    auto h = V::lookup32(kHalfErf[3], i);
    h = V::fma(h, u, V::lookup32(kHalfErf[2], i));
    h = V::fma(h, u, V::lookup32(kHalfErf[1], i));
    h = V::fma(h, u, V::lookup32(kHalfErf[0], i));
    return V::fma(x, V::copysign(h, x), half_x);
  } else {
    const auto e = erf<V>(V::mul(x, V::broadcast(0.70710678f)));
    return V::mul(half_x, V::add(V::broadcast(1.0f), e));
  }
}

}  // namespace
