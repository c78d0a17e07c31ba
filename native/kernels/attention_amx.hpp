#pragma once

// Attention of one head with AMX's products of bfloat16. Each float32 is the sum of two bfloat16, and
// of their four products the three larger ones are added: relative errors stay near 2**-16.

#include <immintrin.h>

#include <cstring>

#include "../kernels.hpp"
#include "attention.hpp"
#include "avx512.hpp"
#include "real.hpp"
#include "transpose.hpp"

namespace {

// A float32 as two bfloat16; matrices of them lie apart.
struct Halves {
  std::uint16_t *high, *low;
  Halves operator+(std::size_t i) const { return {high + i, low + i}; }
};

constexpr std::size_t kTileValues = 16 * 32;  // of bfloat16: 16 rows of 32
constexpr std::size_t kQueryRows = 32;

inline std::size_t whole(std::size_t n) { return (n + 31) / 32 * 32; }

// 32 float32 as bfloat16, and what that leaves.
struct Split {
  __m512i high, low;
  Split(__m512 first, __m512 second) {
    high = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
    const auto real = [](__m256i halves) {
      return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
    };
    const __m512 a = _mm512_sub_ps(first, real(_mm512_castsi512_si256(high)));
    const __m512 b = _mm512_sub_ps(second, real(_mm512_extracti64x4_epi64(high, 1)));
    low = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a));
  }
  void store(Halves to) const {
    _mm512_storeu_si512(to.high, high);
    _mm512_storeu_si512(to.low, low);
  }
};

// The values of `row` from `from` on, 32 of them, zeros beyond `width`.
inline Split split_row(const float* row, std::size_t from, std::size_t width, __m512 factor) {
  const auto part = [&](std::size_t at) {
    const std::size_t n = at >= width ? 0 : width - at < 16 ? width - at : 16;
    const __m512 x = n == 16 ? _mm512_loadu_ps(row + at)
                             : _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), row + at);
    return _mm512_mul_ps(x, factor);
  };
  return {part(from), part(from + 16)};
}

// Keys as tiles [keys / 16][width / 32] of pairs: [width / 2][key][2].
inline void split_keys(const intact::Attention& a, Halves to) {
  const std::size_t keys = whole(a.keys), width = whole(a.width);
  const __m512 factor = _mm512_set1_ps(a.scale * kLog2E);
  for (std::size_t j = 0; j < keys; j += 16) {
    for (std::size_t i = 0; i < width; i += 32, to = to + kTileValues) {
      __m512i high[16], low[16];
      for (std::size_t r = 0; r < 16; ++r) {
        const bool there = j + r < a.keys;
        const Split split = split_row(a.k + (there ? j + r : 0) * a.k_stride, i, there ? a.width : 0, factor);
        high[r] = split.high;
        low[r] = split.low;
      }
      transpose16(high);
      transpose16(low);
      for (std::size_t r = 0; r < 16; ++r) {
        _mm512_storeu_si512(to.high + r * 32, high[r]);
        _mm512_storeu_si512(to.low + r * 32, low[r]);
      }
    }
  }
}

// Values as tiles [v_width / 16][keys / 32] of pairs: [keys / 2][column][2].
inline void split_values(const intact::Attention& a, Halves to) {
  const std::size_t keys = whole(a.keys), width = whole(a.v_width);
  const __m512i mask = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  const auto rounded = [&](__m512 x) {  // to bfloat16, half to even
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    return _mm512_and_si512(
        _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), mask);
  };
  for (std::size_t i = 0; i < width; i += 16) {
    const std::size_t n = i >= a.v_width ? 0 : a.v_width - i < 16 ? a.v_width - i : 16;
    const auto columns = static_cast<__mmask16>((1u << n) - 1);
    for (std::size_t j = 0; j < keys; j += 2, to = to + 32) {
      __m512i high[2], low[2];
      for (std::size_t r = 0; r < 2; ++r) {
        const bool there = j + r < a.keys;
        const __m512 x = _mm512_maskz_loadu_ps(there ? columns : __mmask16{0},
                                               a.v + (there ? j + r : 0) * a.v_stride + i);
        high[r] = rounded(x);
        low[r] = rounded(_mm512_sub_ps(x, _mm512_castsi512_ps(high[r])));
      }
      _mm512_storeu_si512(to.high, _mm512_or_si512(high[1], _mm512_srli_epi32(high[0], 16)));
      _mm512_storeu_si512(to.low, _mm512_or_si512(low[1], _mm512_srli_epi32(low[0], 16)));
    }
  }
}

// y[32][columns] = a[32][depth] b, with b as tiles [columns / 16][depth / 32]. Four tiles of sums, two
// of either operand: ten loads for twelve products.
inline void split_product(Halves a, Halves b, std::size_t depth, std::size_t columns, float* y) {
  const std::size_t a_row = depth * sizeof(std::uint16_t), y_row = columns * sizeof(float);
  const std::size_t steps = depth / 32, lower = 16 * depth;
  for (std::size_t j = 0; j < columns; j += 32) {
    const Halves left = b + j / 16 * steps * kTileValues, right = left + steps * kTileValues;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (std::size_t s = 0; s < steps; ++s) {
      const std::size_t at = s * 32, of = s * kTileValues;
      _tile_loadd(4, a.high + at, a_row);
      _tile_loadd(6, left.low + of, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, a.high + lower + at, a_row);
      _tile_dpbf16ps(2, 5, 6);
      _tile_loadd(7, right.low + of, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
      _tile_loadd(6, left.high + of, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(2, 5, 6);
      _tile_loadd(7, right.high + of, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
      _tile_loadd(4, a.low + at, a_row);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, a.low + lower + at, a_row);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, y + j, y_row);
    _tile_stored(1, y + j + 16, y_row);
    _tile_stored(2, y + 16 * columns + j, y_row);
    _tile_stored(3, y + 16 * columns + j + 16, y_row);
  }
}

// e**(score - the greatest) of a row, split; returns the reciprocal of their sum. Scores are in units
// of ln 2; there is room for `keys`.
inline float exponentials(const intact::Attention& a, const float* mask, float* scores,
                          std::size_t keys, Halves to) {
  const auto first = [&](std::size_t j) {
    const std::size_t n = j >= a.keys ? 0 : a.keys - j < 16 ? a.keys - j : 16;
    return static_cast<__mmask16>((1u << n) - 1);
  };
  const __m512 nothing = _mm512_set1_ps(-__builtin_inff()), units = _mm512_set1_ps(kLog2E);
  __m512 most = nothing;
  for (std::size_t j = 0; j < keys; j += 16) {
    __m512 x = _mm512_mask_loadu_ps(nothing, first(j), scores + j);
    if (mask) x = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(first(j), mask + j), units, x);
    _mm512_storeu_ps(scores + j, x);
    most = _mm512_max_ps(most, x);
  }
  const float greatest = _mm512_reduce_max_ps(most);
  if (greatest == -__builtin_inff()) {
    std::memset(to.high, 0, keys * sizeof(std::uint16_t));
    std::memset(to.low, 0, keys * sizeof(std::uint16_t));
    return a.empty_is_zero ? 0.0f : __builtin_nanf("");
  }
  const __m512 shift = _mm512_set1_ps(greatest);
  __m512 sum = _mm512_setzero_ps();
  for (std::size_t j = 0; j < keys; j += 32) {
    const __m512 e = power_of_two<Avx512>(_mm512_sub_ps(_mm512_loadu_ps(scores + j), shift));
    const __m512 f = power_of_two<Avx512>(_mm512_sub_ps(_mm512_loadu_ps(scores + j + 16), shift));
    sum = _mm512_add_ps(sum, _mm512_add_ps(e, f));
    Split(e, f).store(to + j);
  }
  return 1.0f / _mm512_reduce_add_ps(sum);
}

// Bytes in the order in which `attention_amx` lays them out.
struct AttentionMemory {
  std::size_t keys, width, v_width;
  explicit AttentionMemory(const intact::Attention& a)
      : keys(whole(a.keys)), width(whole(a.width)), v_width(whole(a.v_width)) {}
  std::size_t halves() const {  // of one of the two
    return keys * width + keys * v_width + kQueryRows * (width + keys);
  }
  std::size_t floats() const { return kQueryRows * (keys + v_width); }
};

inline std::size_t attention_scratch_amx(const intact::Attention& a) {
  const AttentionMemory memory(a);
  return memory.halves() + memory.floats();  // two halves are as large as a float
}

inline void attention_amx(const intact::Attention& a, float* scratch) {
  const AttentionMemory m(a);
  float* scores = scratch;                         // [kQueryRows][keys]
  float* rows = scores + kQueryRows * m.keys;      // [kQueryRows][v_width]
  auto* high = reinterpret_cast<std::uint16_t*>(rows + kQueryRows * m.v_width);
  const Halves k{high, high + m.halves()}, v = k + m.keys * m.width, q = v + m.keys * m.v_width;
  const Halves p = q + kQueryRows * m.width;
  split_keys(a, k);
  split_values(a, v);
  const __m512 one = _mm512_set1_ps(1.0f);
  for (std::size_t first = 0; first < a.queries; first += kQueryRows) {
    const std::size_t n = a.queries - first < kQueryRows ? a.queries - first : kQueryRows;
    for (std::size_t r = 0; r < n; ++r) {
      for (std::size_t i = 0; i < m.width; i += 32) {
        split_row(a.q + (first + r) * a.q_stride, i, a.width, one).store(q + r * m.width + i);
      }
    }
    split_product(q, k, m.width, m.keys, scores);
    float factors[kQueryRows];
    for (std::size_t r = 0; r < n; ++r) {
      const float* mask = a.mask ? a.mask + (first + r) * a.mask_stride : nullptr;
      factors[r] = exponentials(a, mask, scores + r * m.keys, m.keys, p + r * m.keys);
    }
    split_product(p, v, m.keys, m.v_width, rows);
    for (std::size_t r = 0; r < n; ++r) {
      float* y = a.y + (first + r) * a.y_stride;
      const __m512 factor = _mm512_set1_ps(factors[r]);
      for (std::size_t i = 0; i < a.v_width; i += 16) {
        const std::size_t left = a.v_width - i < 16 ? a.v_width - i : 16;
        const __m512 x = _mm512_mul_ps(_mm512_loadu_ps(rows + r * m.v_width + i), factor);
        Avx512::store(y + i, x, left);
      }
    }
    bytes_of_rows<Avx512>(a, first, n);
  }
}

}  // namespace
