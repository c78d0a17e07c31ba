#pragma once

// AVX-512 with VBMI: a table of 256 bytes in four registers, read 64 bytes at a time.

#include "avx512.hpp"

namespace {

struct Avx512Vbmi : Avx512 {
  struct Table {
    __m512i quarters[4];
    explicit Table(const std::uint8_t* table) {
      for (std::size_t i = 0; i < 4; ++i) quarters[i] = _mm512_loadu_si512(table + 64 * i);
    }
  };
  static B lookup(B x, const Table& t) {
    const B low = _mm512_permutex2var_epi8(t.quarters[0], x, t.quarters[1]);
    const B high = _mm512_permutex2var_epi8(t.quarters[2], x, t.quarters[3]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high);
  }
};

}  // namespace
