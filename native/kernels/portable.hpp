#pragma once

// Any CPU: loops that the compiler may vectorize.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace {

struct Portable {
  struct I { std::int32_t v[4]; };
  struct F { float v[4]; };
  struct B { std::uint8_t v[16]; };
  static constexpr std::size_t kInts = 4;
  static constexpr std::size_t kBytes = 16;
  // Of one block of a product: vectors of columns at most, and rows for so many vectors of them.
  static constexpr std::size_t kMostVectors = 4;
  static constexpr std::size_t kBlockRows[] = {4, 4, 4, 4};

  template <class T, class Function>
  static T map(const Function& f) {
    T y;
    for (std::size_t i = 0; i < sizeof(y.v) / sizeof(y.v[0]); ++i) y.v[i] = f(i);
    return y;
  }
  template <class T>
  static T read(const void* p, std::size_t bytes = sizeof(T)) {
    T y{};
    std::memcpy(&y, p, bytes);
    return y;
  }
  static std::size_t most(std::size_t a, std::size_t b) { return a < b ? a : b; }

  static I load(const std::int32_t* p) { return read<I>(p); }
  static I load(const std::int32_t* p, std::size_t n) { return read<I>(p, 4 * most(n, kInts)); }
  static F load(const float* p) { return read<F>(p); }
  static F load(const float* p, std::size_t n) { return read<F>(p, 4 * most(n, kInts)); }
  static B load_bytes(const void* p) { return read<B>(p); }
  static B load_bytes(const void* p, std::size_t n) { return read<B>(p, most(n, kBytes)); }
  static void store(std::int32_t* p, I v) { std::memcpy(p, &v, sizeof v); }
  static void store(float* p, F v) { std::memcpy(p, &v, sizeof v); }
  static void store(float* p, F v, std::size_t n) { std::memcpy(p, &v, 4 * most(n, kInts)); }
  static void store_bytes(void* p, B v) { std::memcpy(p, &v, sizeof v); }
  static void store_bytes(void* p, B v, std::size_t n) { std::memcpy(p, &v, most(n, kBytes)); }
  static I load_u8(const std::uint8_t* p, std::size_t n) {
    return map<I>([&](std::size_t i) { return i < n ? std::int32_t{p[i]} : 0; });
  }
  static void store_u8(std::uint8_t* p, I v, std::size_t n) {
    for (std::size_t i = 0; i < most(n, kInts); ++i) p[i] = static_cast<std::uint8_t>(v.v[i]);
  }

  static I broadcast(std::int32_t v) { return map<I>([&](std::size_t) { return v; }); }
  static F broadcast(float v) { return map<F>([&](std::size_t) { return v; }); }
  static B broadcast_byte(std::uint8_t v) { return map<B>([&](std::size_t) { return v; }); }
  static B broadcast4(const std::uint8_t* p) {
    return map<B>([&](std::size_t i) { return p[i % 4]; });
  }
  static void pin(I&) {}
  static I zero() { return broadcast(0); }

  static I dot4(I acc, B u, B s) {
    for (std::size_t i = 0; i < 16; ++i) {
      acc.v[i / 4] += std::int32_t{u.v[i]} * static_cast<std::int8_t>(s.v[i]);
    }
    return acc;
  }

  static I add(I a, I b) { return map<I>([&](std::size_t i) { return a.v[i] + b.v[i]; }); }
  // Whatever the difference, as on every processor.
  static I sub(I a, I b) {
    return map<I>([&](std::size_t i) {
      return static_cast<std::int32_t>(static_cast<std::uint32_t>(a.v[i]) - static_cast<std::uint32_t>(b.v[i]));
    });
  }
  static I mul(I a, I b) { return map<I>([&](std::size_t i) { return a.v[i] * b.v[i]; }); }
  static F add(F a, F b) { return map<F>([&](std::size_t i) { return a.v[i] + b.v[i]; }); }
  static F sub(F a, F b) { return map<F>([&](std::size_t i) { return a.v[i] - b.v[i]; }); }
  static F mul(F a, F b) { return map<F>([&](std::size_t i) { return a.v[i] * b.v[i]; }); }
  static F div(F a, F b) { return map<F>([&](std::size_t i) { return a.v[i] / b.v[i]; }); }
  static F max(F a, F b) {
    return map<F>([&](std::size_t i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static F min(F a, F b) {
    return map<F>([&](std::size_t i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  static B min_u8(B a, B b) {
    return map<B>([&](std::size_t i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  static I min(I a, I b) {
    return map<I>([&](std::size_t i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  static I max(I a, I b) {
    return map<I>([&](std::size_t i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  // Of values seen as unsigned.
  static I min_unsigned(I a, I b) {
    return map<I>([&](std::size_t i) {
      return static_cast<std::uint32_t>(a.v[i]) < static_cast<std::uint32_t>(b.v[i]) ? a.v[i] : b.v[i];
    });
  }
  static I max_unsigned(I a, I b) {
    return map<I>([&](std::size_t i) {
      return static_cast<std::uint32_t>(a.v[i]) > static_cast<std::uint32_t>(b.v[i]) ? a.v[i] : b.v[i];
    });
  }
  static B max_u8(B a, B b) {
    return map<B>([&](std::size_t i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static F to_float(I v) {
    return map<F>([&](std::size_t i) { return static_cast<float>(v.v[i]); });
  }
  static F rounded(F v) {
    return map<F>([&](std::size_t i) { return std::nearbyint(v.v[i]); });
  }
  static I round(F v) {
    return map<I>([&](std::size_t i) {
      constexpr float kLimit = 2147483648.0f;
      const float whole = std::nearbyint(v.v[i]);
      return whole > -kLimit && whole < kLimit ? static_cast<std::int32_t>(whole) : INT32_MIN;
    });
  }
  static bool any_greater(F a, F b) {
    for (std::size_t i = 0; i < kInts; ++i) {
      if (a.v[i] > b.v[i]) return true;
    }
    return false;
  }
  static F select_less(F a, F b, F yes, F no) {
    return map<F>([&](std::size_t i) { return a.v[i] < b.v[i] ? yes.v[i] : no.v[i]; });
  }
  static F fma(F a, F b, F c) { return add(mul(a, b), c); }
  static F copysign(F magnitude, F sign) {
    return map<F>([&](std::size_t i) { return std::copysign(magnitude.v[i], sign.v[i]); });
  }
  static F scale_by_power(F v, F n) {
    return map<F>([&](std::size_t i) { return std::ldexp(v.v[i], static_cast<int>(n.v[i])); });
  }
  // v * 2**n, where the last digits of `shifted` are n; see power_to_126.
  static F add_to_exponent(F v, F shifted) {
    return map<F>([&](std::size_t i) {
      std::uint32_t bits, n;
      std::memcpy(&bits, &v.v[i], sizeof bits);
      std::memcpy(&n, &shifted.v[i], sizeof n);
      bits += n << 23;
      float result;
      std::memcpy(&result, &bits, sizeof result);
      return result;
    });
  }
  static float sum(F v) { return (v.v[0] + v.v[1]) + (v.v[2] + v.v[3]); }
  static float greatest(F v) {
    float result = v.v[0];
    for (const float x : v.v) result = x > result ? x : result;
    return result;
  }
  static float least(F v) {
    float result = v.v[0];
    for (const float x : v.v) result = x < result ? x : result;
    return result;
  }
  static F abs(F v) { return map<F>([&](std::size_t i) { return std::fabs(v.v[i]); }); }

  static void interleave(const B (&t)[4], B (&out)[4]) {
    for (std::size_t i = 0; i < 64; ++i) out[i / 16].v[i % 16] = t[i % 4].v[i / 4];
  }
  static void channel_order(const I (&v)[4], I (&out)[4]) {
    for (std::size_t i = 0; i < 4; ++i) out[i] = v[i];
  }
  static B narrow(const I (&v)[4], std::int32_t zero_point) {
    return map<B>([&](std::size_t i) {
      const std::int64_t sum = std::int64_t{v[i / 4].v[i % 4]} + zero_point;
      return static_cast<std::uint8_t>(sum < 0 ? 0 : sum > 255 ? 255 : sum);
    });
  }
  static B in_order(B v) { return v; }
  static void store_low(void* p, B v, std::size_t n) { std::memcpy(p, v.v, most(n, 8)); }
  static void store_high(void* p, B v, std::size_t n) { std::memcpy(p, v.v + 8, most(n, 8)); }
  static void store_quarter(void* p, B v, std::size_t i, std::size_t n) {
    std::memcpy(p, v.v + 4 * i, most(n, 4));
  }
  static F reciprocal(F v) { return div(broadcast(1.0f), v); }
  static F fraction(F v) { return sub(v, rounded(v)); }
  static F greater_fraction(F most, F v) { return max(most, abs(fraction(v))); }
  static F first_values(F v, std::size_t n) {
    return map<F>([&](std::size_t i) { return i < n ? v.v[i] : 0.0f; });
  }
};

}  // namespace
