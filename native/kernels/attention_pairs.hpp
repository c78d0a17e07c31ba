#pragma once

// Attention of one head with AVX-512's products of 16-bit pairs, twice as many as of float32. Each query
// and each key becomes integers by its own length, the powers of a row by their sum, and each column of
// values by its largest, so that no sum exceeds 32 bits.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../kernels.hpp"
#include "attention.hpp"
#include "avx512.hpp"
#include "transpose.hpp"

namespace {

// A query or key has this length as integers, so that a product of two is at most its square
// (Cauchy-Schwarz) with what rounding adds to it.
constexpr float kLength = 32767.0f;
// The greatest power and value as integers.
constexpr float kMostPower = 32767.0f, kMostValue = 16383.0f;
// What the integers of a row's powers may sum up to, of which rounding may add half a step each: times the
// greatest value it is below 2**31.
constexpr std::size_t kMostPowers = 131072;
constexpr std::size_t kMostKeys = 8192;
constexpr std::size_t kMostWidth = 8192;
constexpr std::size_t kFewestQueries = 8;  // below which it does not pay to convert keys and values

inline std::size_t up16(std::size_t n) { return (n + 15) / 16 * 16; }

// Two vectors as pairs of 16 bits: the first value in the lower half.
inline __m512i pairs(__m512 first, __m512 second) {
  const __m512i high = _mm512_slli_epi32(_mm512_cvtps_epi32(second), 16);
  return _mm512_mask_blend_epi16(0x55555555, high, _mm512_cvtps_epi32(first));
}

// Where a head's operands lie in scratch; sizes are those of whole vectors.
struct PairedHead {
  std::size_t keys, width, v_width;
  std::int32_t *k, *v, *q, *p;  // [keys / 16][width / 2][16], [v_width / 16][keys / 2][16], [kQueries] rows
  float *key_scales, *value_scales, *bias, *scores;
  std::size_t bias_stride;

  static std::size_t size(const intact::Attention& a) {
    const std::size_t keys = up16(a.keys), width = up16(a.width), v_width = up16(a.v_width);
    return keys * width / 2 + v_width * keys / 2 + kQueries * (width + keys) / 2 + keys + v_width +
           2 * kQueries * keys + 16 * width;
  }
  PairedHead(const intact::Attention& a, float* scratch)
      : keys(up16(a.keys)), width(up16(a.width)), v_width(up16(a.v_width)),
        bias_stride(a.mask && a.mask_stride != 0 ? keys : 0) {
    k = reinterpret_cast<std::int32_t*>(scratch);
    v = k + keys * width / 2;
    q = v + v_width * keys / 2;
    p = q + kQueries * width / 2;
    key_scales = reinterpret_cast<float*>(p + kQueries * keys / 2);
    value_scales = key_scales + keys;
    bias = value_scales + v_width;
    scores = bias + kQueries * keys;
  }
  float* columns() const { return scores + kQueries * keys; }  // [width][16], while keys are converted
};

// The first n of 16 values, and zeros.
inline __m512 load_first(const float* x, std::size_t n) {
  return _mm512_maskz_loadu_ps(n >= 16 ? __mmask16{0xffff} : static_cast<__mmask16>((1u << n) - 1), x);
}

inline std::size_t left_of(std::size_t all, std::size_t done) { return done < all ? all - done : 0; }

// Keys from number j on. kWhole: sixteen whole vectors of them.
template <bool kWhole>
void pair_some_keys(const intact::Attention& a, const PairedHead& h, std::size_t j) {
  const __m512 length = _mm512_set1_ps(kLength);
  const __m512 factor = _mm512_set1_ps(a.scale * kLog2E / (kLength * kLength));
  float* columns = h.columns();
  if (a.far) {
    Avx512::prefetch_rows(a.k, a.k_stride, a.width, j + 16, std::min(a.keys, j + 32));
    Avx512::prefetch_rows(a.v, a.v_stride, a.v_width, j, std::min(a.keys, j + 16));
  }
  __m512 squares = _mm512_setzero_ps();
  for (std::size_t i = 0; i < h.width; i += 16) {
    __m512i r[16];
#pragma GCC unroll 16
    for (std::size_t n = 0; n < 16; ++n) {
      const bool there = kWhole || j + n < a.keys;
      const float* row = a.k + (there ? j + n : 0) * a.k_stride + i;
      r[n] = _mm512_castps_si512(kWhole ? _mm512_loadu_ps(row) : load_first(row, there ? left_of(a.width, i) : 0));
    }
    transpose16(r);
#pragma GCC unroll 16
    for (std::size_t n = 0; n < 16; ++n) {
      const __m512 x = _mm512_castsi512_ps(r[n]);
      squares = _mm512_fmadd_ps(x, x, squares);
      _mm512_storeu_ps(columns + (i + n) * 16, x);
    }
  }
  const __m512 norm = _mm512_sqrt_ps(squares), scale = _mm512_div_ps(length, norm);
  _mm512_storeu_ps(h.key_scales + j, _mm512_mul_ps(norm, factor));
  std::int32_t* to = h.k + j * h.width / 2;
  for (std::size_t i = 0; i < h.width; i += 2, to += 16) {
    const __m512 first = _mm512_loadu_ps(columns + i * 16), second = _mm512_loadu_ps(columns + i * 16 + 16);
    _mm512_storeu_si512(to, pairs(_mm512_mul_ps(first, scale), _mm512_mul_ps(second, scale)));
  }
}

inline void pair_keys(const intact::Attention& a, const PairedHead& h) {
  for (std::size_t j = 0; j < h.keys; j += 16) {
    if (a.width == h.width && j + 16 <= a.keys) {
      pair_some_keys<true>(a, h, j);
    } else {
      pair_some_keys<false>(a, h, j);
    }
  }
}

inline void pair_values(const intact::Attention& a, const PairedHead& h) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  for (std::size_t i = 0; i < h.v_width; i += 16) {
    const std::size_t n = left_of(a.v_width, i);
    // As integers, of which not-a-number is the greatest.
    __m512i most = _mm512_setzero_si512();
    for (std::size_t j = 0; j < a.keys; ++j) {
      const __m512i bits = _mm512_castps_si512(load_first(a.v + j * a.v_stride + i, n));
      most = _mm512_max_epi32(most, _mm512_and_si512(bits, magnitude));
    }
    const __m512 greatest = _mm512_castsi512_ps(most), value = _mm512_set1_ps(kMostValue);
    const __m512 scale = _mm512_div_ps(value, greatest);
    _mm512_storeu_ps(h.value_scales + i, _mm512_div_ps(greatest, value));
    std::int32_t* to = h.v + i * h.keys / 2;
    const auto row = [&](std::size_t j) { return _mm512_mul_ps(load_first(a.v + j * a.v_stride + i, n), scale); };
    std::size_t j = 0;
    for (; j + 2 <= a.keys; j += 2, to += 16) _mm512_storeu_si512(to, pairs(row(j), row(j + 1)));
    for (; j < h.keys; j += 2, to += 16) {
      _mm512_storeu_si512(to, j < a.keys ? pairs(row(j), _mm512_setzero_ps()) : _mm512_setzero_si512());
    }
  }
}

// What `use` makes of each of eight vectors' values, one after another: it has to be associative.
template <class Use>
__m256 reduce8(const __m512 (&x)[kQueries], const Use& use) {
  const auto pairs_of = [&](std::size_t i) {
    return use(_mm512_unpacklo_ps(x[i], x[i + 1]), _mm512_unpackhi_ps(x[i], x[i + 1]));
  };
  const auto fours_of = [&](std::size_t i) {
    const __m512d a = _mm512_castps_pd(pairs_of(i)), b = _mm512_castps_pd(pairs_of(i + 2));
    return use(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  };
  const __m512 low = fours_of(0), high = fours_of(4);
  const __m512 halves = use(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
  const __m512 all = use(halves, _mm512_shuffle_f32x4(halves, halves, 0xb1));
  return _mm512_castps512_ps256(_mm512_shuffle_f32x4(all, all, 0x08));
}
inline __m256 sums8(const __m512 (&x)[kQueries]) {
  return reduce8(x, [](__m512 a, __m512 b) { return _mm512_add_ps(a, b); });
}
inline __m256 greatest8(const __m512 (&x)[kQueries]) {
  return reduce8(x, [](__m512 a, __m512 b) { return _mm512_max_ps(a, b); });
}

// Queries as integers, and what one of each is.
template <std::size_t kRows>
void pair_queries(const intact::Attention& a, std::size_t first, const PairedHead& h, float (&norms)[kQueries]) {
  const std::size_t whole = a.width / 16 * 16;
  __m512 squares[kQueries];
  for (std::size_t r = 0; r < kQueries; ++r) {
    squares[r] = _mm512_setzero_ps();
    if (r >= kRows) continue;
    const float* q = a.q + (first + r) * a.q_stride;
    __m512 square = _mm512_setzero_ps();
    const auto add = [&](__m512 x) { square = _mm512_fmadd_ps(x, x, square); };
    for (std::size_t i = 0; i < whole; i += 16) add(_mm512_loadu_ps(q + i));
    if (whole < a.width) add(load_first(q + whole, a.width - whole));
    squares[r] = square;
  }
  const __m256 norm = _mm256_sqrt_ps(sums8(squares));
  alignas(32) float scales[kQueries];
  _mm256_store_ps(scales, _mm256_div_ps(_mm256_set1_ps(kLength), norm));
  _mm256_storeu_ps(norms, norm);
  auto* halves = reinterpret_cast<std::int16_t*>(h.q);
  for (std::size_t r = 0; r < kRows; ++r, halves += h.width) {
    const float* q = a.q + (first + r) * a.q_stride;
    const __m512 scale = _mm512_set1_ps(scales[r]);
    const auto put = [&](std::size_t i, __m512 x) {
      const __m512i whole_steps = _mm512_cvtps_epi32(_mm512_mul_ps(x, scale));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(halves + i), _mm512_cvtepi32_epi16(whole_steps));
    };
    for (std::size_t i = 0; i < whole; i += 16) put(i, _mm512_loadu_ps(q + i));
    if (whole < a.width) put(whole, load_first(q + whole, a.width - whole));
  }
}

// kRows x kVectors sums of products of pairs, of which end(row, vector, sums) gets each row from vector
// number `vector` on. a: rows of `depth` pairs; b: vectors of [depth][16] pairs.
template <std::size_t kRows, std::size_t kVectors, class End>
[[gnu::noinline]] void pairs_block(const std::int32_t* a, const std::int32_t* b, std::size_t depth,
                                   std::size_t row, std::size_t vector, const End end) {
  a += row * depth;
  b += vector * depth * 16;
  __m512i acc[kRows][kVectors];
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) acc[r][v] = _mm512_setzero_si512();
  }
  for (std::size_t i = 0; i < depth; ++i) {
    __m512i of[kVectors];
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) of[v] = _mm512_loadu_si512(b + (v * depth + i) * 16);
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) {
      const __m512i x = _mm512_set1_epi32(a[r * depth + i]);
#pragma GCC unroll 8
      for (std::size_t v = 0; v < kVectors; ++v) acc[r][v] = _mm512_dpwssd_epi32(acc[r][v], x, of[v]);
    }
  }
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) Avx512::pin(acc[r][v]);
  }
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) end(row + r, vector, acc[r]);
}

// As pairs_block for `vectors` of them; see real_rows.
template <std::size_t kRows, class End>
void pairs_rows(const std::int32_t* a, const std::int32_t* b, std::size_t depth, std::size_t vectors,
                const End& end) {
  constexpr std::size_t kTall = kRows < 4 ? kRows : 4;
  std::size_t j = 0;
  for (; j + 4 <= vectors; j += 4) {
    for (std::size_t r = 0; r < kRows; r += kTall) pairs_block<kTall, 4>(a, b, depth, r, j, end);
  }
  for (; j + 2 <= vectors; j += 2) pairs_block<kRows, 2>(a, b, depth, 0, j, end);
  for (; j < vectors; ++j) pairs_block<kRows, 1>(a, b, depth, 0, j, end);
}

// Ends of a row's products: scores, and their greatest.
struct ScoresEnd {
  const float *key_scales, *bias;
  std::size_t bias_stride, keys;
  const float* norms;
  float* scores;
  __m512* most;

  template <std::size_t kVectors>
  void operator()(std::size_t row, std::size_t vector, const __m512i (&sums)[kVectors]) const {
    const __m512 norm = _mm512_set1_ps(norms[row]);
    const float *scale = key_scales + 16 * vector, *shift = bias + row * bias_stride + 16 * vector;
    float* to = scores + row * keys + 16 * vector;
    __m512 greatest = most[row];
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) {
      const __m512 of = _mm512_mul_ps(_mm512_loadu_ps(scale + 16 * v), norm);
      const __m512 x = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[v]), of, _mm512_loadu_ps(shift + 16 * v));
      greatest = _mm512_max_ps(greatest, x);
      _mm512_storeu_ps(to + 16 * v, x);
    }
    most[row] = greatest;
  }
};

// Values that are weighed by probabilities.
struct ValuesEnd {
  const float *value_scales, *factors;
  float* y;
  std::size_t stride, width;

  template <std::size_t kVectors>
  void operator()(std::size_t row, std::size_t vector, const __m512i (&sums)[kVectors]) const {
    const __m512 factor = _mm512_set1_ps(factors[row]);
    float* to = y + row * stride + 16 * vector;
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) {
      const __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(value_scales + 16 * (vector + v)), factor);
      const std::size_t n = left_of(width, 16 * (vector + v));
      Avx512::store(to + 16 * v, _mm512_mul_ps(_mm512_cvtepi32_ps(sums[v]), scale), n < 16 ? n : 16);
    }
  }
};

// 2**(score - the greatest) of rows as integers, and what makes their products those of probabilities.
template <std::size_t kRows>
void pair_powers(const intact::Attention& a, const PairedHead& h, const __m512 (&most)[kQueries],
                 float (&factors)[kQueries]) {
  alignas(32) float greatest[kQueries], scales[kQueries];
  _mm256_store_ps(greatest, greatest8(most));
  __m512 sums[kQueries];
  for (std::size_t r = 0; r < kQueries; ++r) {
    sums[r] = _mm512_setzero_ps();
    // Rows that the mask leaves no key have no power.
    if (r >= kRows || greatest[r] == -__builtin_inff()) continue;
    const __m512 row_most = _mm512_set1_ps(greatest[r]);
    float* scores = h.scores + r * h.keys;
    __m512 sum = _mm512_setzero_ps();
    for (std::size_t j = 0; j < h.keys; j += 16) {
      const __m512 e = power_to_126<Avx512>(_mm512_sub_ps(_mm512_loadu_ps(scores + j), row_most));
      _mm512_storeu_ps(scores + j, e);
      sum = _mm512_add_ps(sum, e);
    }
    sums[r] = sum;
  }
  const __m256 sum = sums8(sums), most_power = _mm256_set1_ps(kMostPower);
  const __m256 scale =
      _mm256_min_ps(_mm256_div_ps(_mm256_set1_ps(static_cast<float>(kMostPowers - h.keys)), sum), most_power);
  _mm256_store_ps(scales, scale);
  _mm256_storeu_ps(factors, _mm256_div_ps(_mm256_set1_ps(1.0f), _mm256_mul_ps(scale, sum)));
  auto* halves = reinterpret_cast<std::int16_t*>(h.p);
  for (std::size_t r = 0; r < kRows; ++r, halves += h.keys) {
    if (greatest[r] == -__builtin_inff()) {
      std::memset(halves, 0, h.keys * sizeof(std::int16_t));
      factors[r] = a.empty_is_zero ? 0.0f : __builtin_nanf("");
      continue;
    }
    const float* powers = h.scores + r * h.keys;
    const __m512 factor = _mm512_set1_ps(scales[r]);
    for (std::size_t j = 0; j < h.keys; j += 16) {
      const __m512i x = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(powers + j), factor));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(halves + j), _mm512_cvtepi32_epi16(x));
    }
  }
}

// What is added to scores of query `query`: the mask, in units of ln 2, and -infinity beyond the keys.
inline void fill_bias(const intact::Attention& a, const PairedHead& h, std::size_t query, float* bias) {
  const __m512 nothing = _mm512_set1_ps(-__builtin_inff()), units = _mm512_set1_ps(kLog2E);
  for (std::size_t j = 0; j < h.keys; j += 16) {
    const std::size_t n = left_of(a.keys, j);
    const auto there = static_cast<__mmask16>(n >= 16 ? 0xffffu : (1u << n) - 1);
    const __m512 x = a.mask ? load_first(a.mask + query * a.mask_stride + j, n) : _mm512_setzero_ps();
    _mm512_storeu_ps(bias + j, _mm512_mask_mul_ps(nothing, there, x, units));
  }
}

// kRows queries from number `first` on.
template <std::size_t kRows>
void paired_rows(const intact::Attention& a, const PairedHead& h, std::size_t first) {
  float norms[kQueries], factors[kQueries];
  __m512 most[kQueries];
  if (a.far) {
    Avx512::prefetch_rows(a.q, a.q_stride, a.width, first + kRows, std::min(a.queries, first + 2 * kRows));
  }
  for (std::size_t r = 0; r < kQueries; ++r) most[r] = _mm512_set1_ps(-__builtin_inff());
  pair_queries<kRows>(a, first, h, norms);
  if (h.bias_stride != 0) {
    for (std::size_t r = 0; r < kRows; ++r) fill_bias(a, h, first + r, h.bias + r * h.bias_stride);
  }
  pairs_rows<kRows>(h.q, h.k, h.width / 2, h.keys / 16,
                    ScoresEnd{h.key_scales, h.bias, h.bias_stride, h.keys, norms, h.scores, most});
  pair_powers<kRows>(a, h, most, factors);
  pairs_rows<kRows>(h.p, h.v, h.keys / 2, h.v_width / 16,
                    ValuesEnd{h.value_scales, factors, a.y + first * a.y_stride, a.y_stride, a.v_width});
  bytes_of_rows<Avx512>(a, first, kRows);
}

template <std::size_t kRows>
void paired_from(const intact::Attention& a, const PairedHead& h, std::size_t q) {
  for (; q + kRows <= a.queries; q += kRows) paired_rows<kRows>(a, h, q);
  if constexpr (kRows > 1) paired_from<kRows / 2>(a, h, q);
}

inline bool pays_in_pairs(const intact::Attention& a) {
  return a.queries >= kFewestQueries && a.keys <= kMostKeys && a.width <= kMostWidth;
}

inline std::size_t paired_attention_scratch(const intact::Attention& a) {
  return pays_in_pairs(a) ? PairedHead::size(a) : attention_scratch(a);
}

inline void paired_attention(const intact::Attention& a, float* scratch) {
  if (!pays_in_pairs(a)) return attention<Avx512>(a, scratch);
  const PairedHead h(a, scratch);
  pair_keys(a, h);
  pair_values(a, h);
  if (h.bias_stride == 0) fill_bias(a, h, 0, h.bias);
  paired_from<kQueries>(a, h, 0);
}

}  // namespace
