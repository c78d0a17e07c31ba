#pragma once

#include "../kernels.hpp"

namespace intact {

// Products that are finished beside the next ones, for AVX-512; see beside.hpp, and Kernels. Bytes that are
// looked up in a table need VBMI.
void product_beside_avx512(const Multiplication& m, const Bytes& b);
void product_beside_avx512_vbmi(const Multiplication& m, const Bytes& b);
void product_gelu_avx512(const Multiplication& m, const Finish& f);

// Values of K from which on it pays: with wide panels, and with those of two vectors, if what follows takes
// long; and up to which it does where sums are finished between taps alone.
constexpr std::size_t kFewestBeside = 64, kFewestBesideTwo = 80, kMostBetweenTaps = 384;

// Whether a product is finished beside the next one.
inline bool finishes_beside_avx512(const Multiplication& m, const Bytes& b, bool has_tables) {
  constexpr std::size_t kTwoVectors = 32;
  if (b.requantize.table && !has_tables) return false;
  const std::size_t k = m.taps * m.k;
  const bool in_time = m.starts ? m.taps > 1 && k <= kMostBetweenTaps : m.taps == 1;
  if (!in_time || m.columns < kTwoVectors) return false;
  if (m.columns > kTwoVectors) return k >= kFewestBeside;
  return k >= kFewestBesideTwo && (b.other || b.requantize.table);
}

}  // namespace intact
