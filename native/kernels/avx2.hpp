#pragma once

// AVX2, with or without VNNI: 16 registers of 32 bytes.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace {

struct Avx2Base {
  using I = __m256i;
  using F = __m256;
  using B = __m256i;
  static constexpr std::size_t kInts = 8;
  static constexpr std::size_t kBytes = 32;

  static I load(const std::int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static B load_bytes(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  static B load_bytes(const void* p, std::size_t n) {
    if (n >= kBytes) return load_bytes(p);
    alignas(32) std::uint8_t copy[kBytes] = {};
    std::memcpy(copy, p, n);
    return load_bytes(copy);
  }
  static F load(const float* p, std::size_t n) {
    if (n >= kInts) return load(p);
    alignas(32) float copy[kInts] = {};
    std::memcpy(copy, p, 4 * n);
    return load(copy);
  }
  static I load(const std::int32_t* p, std::size_t n) {
    if (n >= kInts) return load(p);
    alignas(32) std::int32_t copy[kInts] = {};
    std::memcpy(copy, p, 4 * n);
    return load(copy);
  }
  static void store(std::int32_t* p, I v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
  }
  static void store(float* p, F v) { _mm256_storeu_ps(p, v); }
  static void store(float* p, F v, std::size_t n) {
    if (n >= kInts) return store(p, v);
    alignas(32) float copy[kInts];
    store(copy, v);
    std::memcpy(p, copy, 4 * n);
  }
  static void store_bytes(void* p, B v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
  static void store_bytes(void* p, B v, std::size_t n) {
    if (n >= kBytes) return store_bytes(p, v);
    alignas(32) std::uint8_t copy[kBytes];
    store_bytes(copy, v);
    std::memcpy(p, copy, n);
  }
  static I load_u8(const std::uint8_t* p, std::size_t n) {
    std::uint64_t v = 0;
    if (n >= kInts) {
      std::memcpy(&v, p, 8);
    } else {
      std::memcpy(&v, p, n);
    }
    return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(v)));
  }
  static void store_u8(std::uint8_t* p, I v, std::size_t n) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    const auto bytes =
        static_cast<std::uint64_t>(_mm_cvtsi128_si64(_mm_packus_epi16(words, words)));
    std::memcpy(p, &bytes, n >= kInts ? 8 : n);
  }

  static I broadcast(std::int32_t v) { return _mm256_set1_epi32(v); }
  static F broadcast(float v) { return _mm256_set1_ps(v); }
  static B broadcast_byte(std::uint8_t v) { return _mm256_set1_epi8(static_cast<char>(v)); }
  static B broadcast4(const std::uint8_t* p) {
    std::int32_t v;
    std::memcpy(&v, p, 4);
    return _mm256_set1_epi32(v);
  }
  // Into the L2 cache. GCC 12 drops the intrinsic together with a function that does nothing else.
  static void prefetch(const std::int8_t* p) { asm volatile("prefetcht1 %0" : : "m"(*p)); }
  static void pin(I& v) { asm("" : "+x"(v)); }
  static I zero() { return _mm256_setzero_si256(); }

  // acc[i] += sum over 2 of a[2 i + j] * b[2 i + j], of int16, modulo 2**32.
  static I dot2(I acc, B a, B b) { return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b)); }
  static B add16(B a, B b) { return _mm256_add_epi16(a, b); }
  static B sub16(B a, B b) { return _mm256_sub_epi16(a, b); }
  static B mul16(B a, B b) { return _mm256_mullo_epi16(a, b); }
  template <int kBits>
  static B shift16(B v) { return _mm256_slli_epi16(v, kBits); }
  static B broadcast_words(std::int32_t v) { return _mm256_set1_epi16(static_cast<short>(v)); }
  // As many uint8 as int16 fit a vector.
  static B words_of(const std::uint8_t* p) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  // The first or the last two of each four int8, as int16.
  template <std::size_t kLast>
  static B pairs(B v) {
    return _mm256_srai_epi16(_mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(pair_bytes<kLast>())), 8);
  }
  // Indices of those bytes, each behind one that is zero.
  template <std::size_t kLast>
  static __m128i pair_bytes() {
    constexpr int kOf = kLast ? 2 : 0;
    const auto of = [](int quad) { return ((4 * quad + kOf + 1) << 24) | 0x80'0080 | ((4 * quad + kOf) << 8); };
    return _mm_setr_epi32(of(0), of(1), of(2), of(3));
  }
  static I bits_of_both(I a, I b) { return _mm256_and_si256(a, b); }
  static bool any_up_to(I v, I most) { return _mm256_movemask_epi8(_mm256_cmpgt_epi32(v, most)) != -1; }
  template <int kBits>
  static I shift_left(I v) { return _mm256_slli_epi32(v, kBits); }
  template <int kBits>
  static I shift_right(I v) { return _mm256_srai_epi32(v, kBits); }  // of a sign

  static I add(I a, I b) { return _mm256_add_epi32(a, b); }
  static I sub(I a, I b) { return _mm256_sub_epi32(a, b); }
  static I mul(I a, I b) { return _mm256_mullo_epi32(a, b); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static I min(I a, I b) { return _mm256_min_epi32(a, b); }
  static I max(I a, I b) { return _mm256_max_epi32(a, b); }
  // Of values seen as unsigned.
  static I min_unsigned(I a, I b) { return _mm256_min_epu32(a, b); }
  static I max_unsigned(I a, I b) { return _mm256_max_epu32(a, b); }
  static B max_u8(B a, B b) { return _mm256_max_epu8(a, b); }
  static B min_u8(B a, B b) { return _mm256_min_epu8(a, b); }
  static F to_float(I v) { return _mm256_cvtepi32_ps(v); }
  static I round(F v) { return _mm256_cvtps_epi32(v); }
  static F rounded(F v) {
    return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static bool any_greater(F a, F b) {
    return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0;
  }
  static F abs(F v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }
  static F select_less(F a, F b, F yes, F no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
  }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }  // a * b + c
  static F copysign(F magnitude, F sign) {
    const auto mask = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_andnot_ps(mask, magnitude), _mm256_and_ps(mask, sign));
  }
  // v * 2**n for whole n; 2**n must be a normal float32.
  static F scale_by_power(F v, F n) {
    const I exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(v, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
  }
  // v * 2**n, where the last digits of `shifted` are n; see power_to_126.
  static F add_to_exponent(F v, F shifted) {
    const I n = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), n));
  }
  template <class Function>
  static float reduce(F v, const Function& f) {
    alignas(32) float lanes[kInts];
    store(lanes, v);
    float result = lanes[0];
    for (std::size_t i = 1; i < kInts; ++i) result = f(result, lanes[i]);
    return result;
  }
  static float sum(F v) { return reduce(v, [](float a, float b) { return a + b; }); }
  static float greatest(F v) { return reduce(v, [](float a, float b) { return a > b ? a : b; }); }
  static float least(F v) { return reduce(v, [](float a, float b) { return a < b ? a : b; }); }

  static void interleave(const B (&t)[4], B (&out)[4]) {
    const B low01 = _mm256_unpacklo_epi8(t[0], t[1]), high01 = _mm256_unpackhi_epi8(t[0], t[1]);
    const B low23 = _mm256_unpacklo_epi8(t[2], t[3]), high23 = _mm256_unpackhi_epi8(t[2], t[3]);
    out[0] = _mm256_unpacklo_epi16(low01, low23);
    out[1] = _mm256_unpackhi_epi16(low01, low23);
    out[2] = _mm256_unpacklo_epi16(high01, high23);
    out[3] = _mm256_unpackhi_epi16(high01, high23);
  }
  static void channel_order(const I (&v)[4], I (&out)[4]) {
    out[0] = _mm256_permute2x128_si256(v[0], v[1], 0x20);
    out[1] = _mm256_permute2x128_si256(v[2], v[3], 0x20);
    out[2] = _mm256_permute2x128_si256(v[0], v[1], 0x31);
    out[3] = _mm256_permute2x128_si256(v[2], v[3], 0x31);
  }
  static B narrow(const I (&v)[4], std::int32_t zero_point) {
    const B point = _mm256_set1_epi16(static_cast<short>(zero_point));
    const B low = _mm256_adds_epi16(_mm256_packs_epi32(v[0], v[1]), point);
    const B high = _mm256_adds_epi16(_mm256_packs_epi32(v[2], v[3]), point);
    return _mm256_packus_epi16(low, high);
  }
  static B in_order(B v) {
    return _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }
  static void store_low(void* p, B v, std::size_t n) { store_half(p, _mm256_castsi256_si128(v), n); }
  static void store_high(void* p, B v, std::size_t n) {
    store_half(p, _mm256_extracti128_si256(v, 1), n);
  }
  static void store_quarter(void* p, B v, std::size_t i, std::size_t n) {
    const __m128i half = i < 2 ? _mm256_castsi256_si128(v) : _mm256_extracti128_si256(v, 1);
    const auto bytes = static_cast<std::uint64_t>(i % 2 ? _mm_extract_epi64(half, 1) : _mm_cvtsi128_si64(half));
    std::memcpy(p, &bytes, n >= 8 ? 8 : n);
  }
  static void store_half(void* p, __m128i v, std::size_t n) {
    if (n >= 16) {
      _mm_storeu_si128(static_cast<__m128i*>(p), v);
    } else {
      std::memcpy(p, &v, n);
    }
  }
  static F reciprocal(F v) { return div(broadcast(1.0f), v); }
  static F fraction(F v) { return sub(v, rounded(v)); }
  static F greater_fraction(F most, F v) { return max(most, abs(fraction(v))); }
  static F first_values(F v, std::size_t n) {
    alignas(32) float lanes[kInts];
    store(lanes, v);
    return load(lanes, n);
  }
};

struct Avx2 : Avx2Base {
  static constexpr std::size_t kMostVectors = 2;
  static constexpr std::size_t kBlockRows[] = {4, 4};
  static constexpr std::size_t kTileRows = 6;
  static constexpr double kCostOfBytes = 3;

  // Without VNNI two products of u8 and s8 are added in 16 bits, which saturates from 2 * 128 * 128
  // on. The low seven bits and the highest bit of u8 are multiplied apart: neither can.
  static I dot4(I acc, B u, B s) {
    const B seven = _mm256_set1_epi8(0x7f);
    const I low = _mm256_maddubs_epi16(_mm256_and_si256(u, seven), s);
    const B highest = _mm256_and_si256(_mm256_srli_epi16(u, 7), _mm256_set1_epi8(1));
    const I high = _mm256_maddubs_epi16(highest, s);
    const I sum = _mm256_add_epi32(_mm256_madd_epi16(low, _mm256_set1_epi16(1)),
                                   _mm256_madd_epi16(high, _mm256_set1_epi16(128)));
    return _mm256_add_epi32(acc, sum);
  }
};

#ifdef __AVXVNNI__
struct AvxVnni : Avx2Base {
  static constexpr std::size_t kMostVectors = 2;
  static constexpr std::size_t kBlockRows[] = {8, 6};
  static constexpr std::size_t kTileRows = 6;
  static constexpr double kCostOfBytes = 1;

  static I dot4(I acc, B u, B s) { return _mm256_dpbusd_avx_epi32(acc, u, s); }
  static I dot2(I acc, B a, B b) { return _mm256_dpwssd_avx_epi32(acc, a, b); }
};
#endif

}  // namespace
