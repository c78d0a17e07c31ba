#pragma once

// AVX-512 with VNNI: 32 registers of 64 bytes.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "avx2.hpp"

namespace {

// Half a vector, with the masks and products of AVX-512.
struct Avx512Half : Avx2Base {
  static __mmask32 first_bytes(std::size_t n) { return ~std::uint32_t{0} >> (32 - n); }
  static __mmask8 first(std::size_t n) { return static_cast<__mmask8>(0xff >> (8 - n)); }
  using Avx2Base::load;
  using Avx2Base::load_bytes;
  using Avx2Base::store;
  using Avx2Base::store_bytes;
  static F load(const float* p, std::size_t n) { return _mm256_maskz_loadu_ps(first(n), p); }
  static void store(float* p, F v, std::size_t n) { _mm256_mask_storeu_ps(p, first(n), v); }
  static B load_bytes(const void* p, std::size_t n) {
    return n >= kBytes ? load_bytes(p) : _mm256_maskz_loadu_epi8(first_bytes(n), p);
  }
  static void store_bytes(void* p, B v, std::size_t n) {
    if (n >= kBytes) {
      store_bytes(p, v);
    } else {
      _mm256_mask_storeu_epi8(p, first_bytes(n), v);
    }
  }
  static F first_values(F v, std::size_t n) { return _mm256_maskz_mov_ps(first(n), v); }
  static B next_byte(B v) { return _mm256_slli_epi32(v, 8); }
  static B next_byte(B v, B before) {
    return _mm256_or_si256(next_byte(v), _mm256_srli_epi32(before, 24));
  }
  static I dot4(I acc, B u, B s) { return _mm256_dpbusd_epi32(acc, u, s); }
  template <std::size_t kHalf>
  static void interleave_half(const B (&t)[4], B (&out)[2]) {
    const B a = kHalf ? _mm256_unpackhi_epi8(t[0], t[1]) : _mm256_unpacklo_epi8(t[0], t[1]);
    const B b = kHalf ? _mm256_unpackhi_epi8(t[2], t[3]) : _mm256_unpacklo_epi8(t[2], t[3]);
    out[0] = _mm256_unpacklo_epi16(a, b);
    out[1] = _mm256_unpackhi_epi16(a, b);
  }
  static B narrow_half(const I (&v)[2], B zero_point) {
    return _mm256_adds_epi16(_mm256_packs_epi32(v[0], v[1]), zero_point);
  }
  static B bytes_of_words(B low, B high) { return _mm256_packus_epi16(low, high); }
};

struct Avx512 {
  using Half = Avx512Half;
  using I = __m512i;  // 16 int32
  using F = __m512;   // 16 float32
  using B = __m512i;  // 64 bytes
  static constexpr std::size_t kInts = 16;
  static constexpr std::size_t kBytes = 64;
  // Of one block of a product: vectors of columns at most, and rows for so many vectors of them.
  static constexpr std::size_t kMostVectors = 4;
  static constexpr std::size_t kBlockRows[] = {8, 8, 8, 6};
  static constexpr std::size_t kTileRows = 12;  // likewise, of two vectors
  static constexpr double kCostOfBytes = 1;     // of dot4, in dot2

  static __mmask64 first_bytes(std::size_t n) { return ~std::uint64_t{0} >> (64 - n); }
  static __mmask16 first(std::size_t n) { return static_cast<__mmask16>(0xffff >> (16 - n)); }

  static I load(const std::int32_t* p) { return _mm512_loadu_si512(p); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static B load_bytes(const void* p) { return _mm512_loadu_si512(p); }
  // Half a vector in both of its halves.
  static B load_twice(const void* p) {
    return _mm512_broadcast_i64x4(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  }
  static F load_twice(const float* p) { return _mm512_castsi512_ps(load_twice(static_cast<const void*>(p))); }
  static B load_bytes(const void* p, std::size_t n) {
    return n >= kBytes ? load_bytes(p) : _mm512_maskz_loadu_epi8(first_bytes(n), p);
  }
  static void store(std::int32_t* p, I v) { _mm512_storeu_si512(p, v); }
  static void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static void store(float* p, F v, std::size_t n) { _mm512_mask_storeu_ps(p, first(n), v); }
  static F load(const float* p, std::size_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static I load(const std::int32_t* p, std::size_t n) {
    return _mm512_maskz_loadu_epi32(first(n), p);
  }
  static void store_bytes(void* p, B v) { _mm512_storeu_si512(p, v); }
  static void store_bytes(void* p, B v, std::size_t n) {
    if (n >= kBytes) {
      store_bytes(p, v);
    } else {
      _mm512_mask_storeu_epi8(p, first_bytes(n), v);
    }
  }
  // 16 uint8 as int32, and back (values in [0, 255]).
  static I load_u8(const std::uint8_t* p, std::size_t n) {
    const auto* from = reinterpret_cast<const __m128i*>(p);
    return _mm512_cvtepu8_epi32(n >= kInts ? _mm_loadu_si128(from)
                                           : _mm_maskz_loadu_epi8(first(n), p));
  }
  static void store_u8(std::uint8_t* p, I v, std::size_t n) {
    const __m128i bytes = _mm512_cvtepi32_epi8(v);
    if (n >= kInts) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
    } else {
      _mm_mask_storeu_epi8(p, first(n), bytes);
    }
  }

  static I broadcast(std::int32_t v) { return _mm512_set1_epi32(v); }
  static F broadcast(float v) { return _mm512_set1_ps(v); }
  static B broadcast_byte(std::uint8_t v) { return _mm512_set1_epi8(static_cast<char>(v)); }
  static B broadcast4(const std::uint8_t* p) {
    std::int32_t v;
    __builtin_memcpy(&v, p, 4);
    return _mm512_set1_epi32(v);
  }
  // Into the L2 cache. GCC 12 drops the intrinsic together with a function that does nothing else.
  static void prefetch(const std::int8_t* p) { asm volatile("prefetcht1 %0" : : "m"(*p)); }
  // Rows [first, end) into the L1 cache: their pieces lie too far apart for the processor to see them coming.
  static void prefetch_rows(const float* x, std::size_t stride, std::size_t width, std::size_t first,
                            std::size_t end) {
    for (std::size_t row = first; row < end; ++row) {
      for (std::size_t i = 0; i < width; i += kInts) asm volatile("prefetcht0 %0" : : "m"(x[row * stride + i]));
    }
  }
  // Keeps v in a register of its own up to here.
  static void pin(I& v) { asm("" : "+v"(v)); }
  static I zero() { return _mm512_setzero_si512(); }

  // acc[i] += sum over 4 of unsigned u[4 i + j] * signed s[4 i + j].
  static I dot4(I acc, B u, B s) { return _mm512_dpbusd_epi32(acc, u, s); }

  // acc[i] += sum over 2 of a[2 i + j] * b[2 i + j], of int16, modulo 2**32.
  static I dot2(I acc, B a, B b) { return _mm512_dpwssd_epi32(acc, a, b); }
  static B add16(B a, B b) { return _mm512_add_epi16(a, b); }
  static B sub16(B a, B b) { return _mm512_sub_epi16(a, b); }
  static B mul16(B a, B b) { return _mm512_mullo_epi16(a, b); }
  template <int kBits>
  static B shift16(B v) { return _mm512_slli_epi16(v, kBits); }
  // As many uint8 as int16 fit a vector.
  static B words_of(const std::uint8_t* p) {
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  // The first or the last two of each four int8, as int16.
  template <std::size_t kLast>
  static B pairs(B v) {
    const B order = _mm512_broadcast_i32x4(Half::pair_bytes<kLast>());
    return _mm512_srai_epi16(_mm512_shuffle_epi8(v, order), 8);
  }
  static I bits_of_both(I a, I b) { return _mm512_and_si512(a, b); }
  static bool any_up_to(I v, I most) { return _mm512_cmple_epi32_mask(v, most) != 0; }
  template <int kBits>
  static I shift_left(I v) { return _mm512_slli_epi32(v, kBits); }
  template <int kBits>
  static I shift_right(I v) { return _mm512_srai_epi32(v, kBits); }  // of a sign
  static I add(I a, I b) { return _mm512_add_epi32(a, b); }
  static I sub(I a, I b) { return _mm512_sub_epi32(a, b); }
  static I mul(I a, I b) { return _mm512_mullo_epi32(a, b); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static I min(I a, I b) { return _mm512_min_epi32(a, b); }
  static I max(I a, I b) { return _mm512_max_epi32(a, b); }
  // Of values seen as unsigned.
  static I min_unsigned(I a, I b) { return _mm512_min_epu32(a, b); }
  static I max_unsigned(I a, I b) { return _mm512_max_epu32(a, b); }
  static B max_u8(B a, B b) { return _mm512_max_epu8(a, b); }
  static B min_u8(B a, B b) { return _mm512_min_epu8(a, b); }
  static F to_float(I v) { return _mm512_cvtepi32_ps(v); }
  static I round(F v) { return _mm512_cvtps_epi32(v); }  // half to even
  static F rounded(F v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static bool any_greater(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }
  static F abs(F v) { return _mm512_abs_ps(v); }
  static F select_less(F a, F b, F yes, F no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
  }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }  // a * b + c
  static F copysign(F magnitude, F sign) {
    const auto mask = _mm512_set1_ps(-0.0f);
    return _mm512_or_ps(_mm512_andnot_ps(mask, magnitude), _mm512_and_ps(mask, sign));
  }
  // v * 2**n for whole n; 2**n must be a normal float32.
  static F scale_by_power(F v, F n) { return _mm512_scalef_ps(v, n); }
  // v * 2**n, where the last digits of `shifted` are n; see power_to_126.
  static F add_to_exponent(F v, F shifted) {
    const I n = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(v), n));
  }
  static float sum(F v) { return _mm512_reduce_add_ps(v); }
  static float greatest(F v) { return _mm512_reduce_max_ps(v); }
  static float least(F v) { return _mm512_reduce_min_ps(v); }

  // Each of four bytes in the place of the next one, and in the first zero, or the last of `before`.
  static B next_byte(B v) { return _mm512_slli_epi32(v, 8); }
  static B next_byte(B v, B before) {
    return _mm512_or_si512(next_byte(v), _mm512_srli_epi32(before, 24));
  }

  // Four rows of bytes as four vectors that hold [channel][row]; see depthwise_order.
  static void interleave(const B (&t)[4], B (&out)[4]) {
    const B low01 = _mm512_unpacklo_epi8(t[0], t[1]), high01 = _mm512_unpackhi_epi8(t[0], t[1]);
    const B low23 = _mm512_unpacklo_epi8(t[2], t[3]), high23 = _mm512_unpackhi_epi8(t[2], t[3]);
    out[0] = _mm512_unpacklo_epi16(low01, low23);
    out[1] = _mm512_unpackhi_epi16(low01, low23);
    out[2] = _mm512_unpacklo_epi16(high01, high23);
    out[3] = _mm512_unpackhi_epi16(high01, high23);
  }
  // The first two of them, or the last.
  template <std::size_t kHalf>
  static void interleave_half(const B (&t)[4], B (&out)[2]) {
    const B a = kHalf ? _mm512_unpackhi_epi8(t[0], t[1]) : _mm512_unpacklo_epi8(t[0], t[1]);
    const B b = kHalf ? _mm512_unpackhi_epi8(t[2], t[3]) : _mm512_unpacklo_epi8(t[2], t[3]);
    out[0] = _mm512_unpacklo_epi16(a, b);
    out[1] = _mm512_unpackhi_epi16(a, b);
  }
  // The same four vectors in the order of the channels.
  static void channel_order(const I (&v)[4], I (&out)[4]) {
    const I a = _mm512_shuffle_i32x4(v[0], v[1], 0x44), b = _mm512_shuffle_i32x4(v[0], v[1], 0xee);
    const I c = _mm512_shuffle_i32x4(v[2], v[3], 0x44), d = _mm512_shuffle_i32x4(v[2], v[3], 0xee);
    out[0] = _mm512_shuffle_i32x4(a, c, 0x88);
    out[1] = _mm512_shuffle_i32x4(a, c, 0xdd);
    out[2] = _mm512_shuffle_i32x4(b, d, 0x88);
    out[3] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
  // The bytes clamp(v + zero_point, 0, 255), as interleave leaves channels: four of each vector in turn.
  static B narrow(const I (&v)[4], std::int32_t zero_point) {
    const B point = broadcast_words(zero_point);
    return bytes_of_words(narrow_half({v[0], v[1]}, point), narrow_half({v[2], v[3]}, point));
  }
  // In two steps: 16 bits of two of the vectors, and the bytes of all four.
  static B narrow_half(const I (&v)[2], B zero_point) {
    return _mm512_adds_epi16(_mm512_packs_epi32(v[0], v[1]), zero_point);
  }
  static B broadcast_words(std::int32_t v) { return _mm512_set1_epi16(static_cast<short>(v)); }
  static B bytes_of_words(B low, B high) { return _mm512_packus_epi16(low, high); }
  // What `narrow` made, in the order of the vectors.
  static B in_order(B v) {
    const I order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, v);
  }
  // Up to 32 bytes of either half.
  static void store_low(void* p, B v, std::size_t n) { store_half(p, _mm512_castsi512_si256(v), n); }
  static void store_high(void* p, B v, std::size_t n) {
    store_half(p, _mm512_extracti64x4_epi64(v, 1), n);
  }
  // Up to 16 bytes of a quarter.
  static void store_quarter(void* p, B v, std::size_t i, std::size_t n) {
    const __m128i quarter = i == 0   ? _mm512_castsi512_si128(v)
                            : i == 1 ? _mm512_extracti32x4_epi32(v, 1)
                            : i == 2 ? _mm512_extracti32x4_epi32(v, 2)
                                     : _mm512_extracti32x4_epi32(v, 3);
    if (n >= 16) {
      _mm_storeu_si128(static_cast<__m128i*>(p), quarter);
    } else {
      _mm_mask_storeu_epi8(p, first(n), quarter);
    }
  }
  static void store_half(void* p, __m256i v, std::size_t n) {
    if (n >= 32) {
      _mm256_storeu_si256(static_cast<__m256i*>(p), v);
    } else {
      _mm256_mask_storeu_epi8(p, static_cast<__mmask32>(first_bytes(n)), v);
    }
  }
  // 1 / v for normal v whose reciprocal is normal; relative error below 2e-7 (one step of Newton's).
  static F reciprocal(F v) {
    const F r = _mm512_rcp14_ps(v);
    return _mm512_fmadd_ps(r, _mm512_fnmadd_ps(v, r, _mm512_set1_ps(1.0f)), r);
  }
  // v without its nearest whole number.
  static F fraction(F v) {
    constexpr int kNearest = 0x08;
    return _mm512_reduce_ps(v, kNearest);
  }
  // table[index mod 32].
  static F lookup32(const float (&table)[32], I index) {
    return _mm512_permutex2var_ps(load(table), index, load(table + 16));
  }
  // v > 0 with the first three digits of its mantissa alone; and these, behind the exponent, as a whole number.
  static F leading(F v) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(-1 << kDigitsLeft)));
  }
  static I leading_digits(F v) { return _mm512_srli_epi32(_mm512_castps_si512(v), kDigitsLeft); }
  static constexpr int kDigitsLeft = 20;
  // The greater of `most` and the distance of v from the nearest whole number.
  static F greater_fraction(F most, F v) {
    constexpr int kGreaterMagnitude = 0x0b;
    return _mm512_range_ps(most, fraction(v), kGreaterMagnitude);
  }
  // The first n values; zeros behind them.
  static F first_values(F v, std::size_t n) { return _mm512_maskz_mov_ps(first(n), v); }
};

}  // namespace
