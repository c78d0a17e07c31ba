#pragma once

// Three planes of bytes side by side, 16 values of each at a time (SSSE3).

#include <immintrin.h>

#include "pointwise.hpp"

namespace {

// Where byte p of three vectors of output comes from: plane p % 3, value p / 3.
struct Interleave3 {
  alignas(16) std::uint8_t places[3][3][16];  // [output][plane]
};

constexpr Interleave3 interleave3_places() {
  Interleave3 result{};
  for (std::size_t p = 0; p < 48; ++p) {
    for (std::size_t plane = 0; plane < 3; ++plane) {
      result.places[p / 16][plane][p % 16] =
          p % 3 == plane ? static_cast<std::uint8_t>(p / 3) : std::uint8_t{0x80};
    }
  }
  return result;
}

inline void interleave3_ssse3(const std::uint8_t* const (&x)[3], std::size_t size,
                              std::uint8_t* y) {
  static constexpr Interleave3 kPlaces = interleave3_places();
  std::size_t i = 0;
  for (; i + 16 <= size; i += 16) {
    __m128i planes[3];
    for (std::size_t c = 0; c < 3; ++c) {
      planes[c] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x[c] + i));
    }
    for (std::size_t o = 0; o < 3; ++o) {
      __m128i out = _mm_setzero_si128();
      for (std::size_t c = 0; c < 3; ++c) {
        const auto* places = reinterpret_cast<const __m128i*>(kPlaces.places[o][c]);
        out = _mm_or_si128(out, _mm_shuffle_epi8(planes[c], _mm_load_si128(places)));
      }
      _mm_storeu_si128(reinterpret_cast<__m128i*>(y + 3 * i + 16 * o), out);
    }
  }
  const std::uint8_t* const rest[3] = {x[0] + i, x[1] + i, x[2] + i};
  interleave3_bytes(rest, size - i, y + 3 * i);
}

}  // namespace
