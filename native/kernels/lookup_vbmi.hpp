#pragma once

// A table of 256 bytes in four registers, read 64 bytes at a time (AVX-512 VBMI).

#include "avx512.hpp"

namespace {

inline void lookup_vbmi(std::uint8_t* y, std::size_t rows, std::size_t columns, std::size_t stride,
                        const std::uint8_t* table) {
  const __m512i t0 = _mm512_loadu_si512(table), t1 = _mm512_loadu_si512(table + 64);
  const __m512i t2 = _mm512_loadu_si512(table + 128), t3 = _mm512_loadu_si512(table + 192);
  if (stride == columns) {
    columns *= rows;
    rows = 1;
  }
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t j = 0; j < columns; j += 64) {
      std::uint8_t* p = y + i * stride + j;
      const __m512i x = Avx512::load_bytes(p, columns - j);
      const __m512i low = _mm512_permutex2var_epi8(t0, x, t1);
      const __m512i high = _mm512_permutex2var_epi8(t2, x, t3);
      Avx512::store_bytes(p, _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high), columns - j);
    }
  }
}

}  // namespace
