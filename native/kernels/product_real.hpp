#pragma once

// Products that end as float32, or as the uint8 that those become, in the registers where their sums are.

#include <algorithm>

#include "finish.hpp"

namespace {

// The clamp after the function, or the function itself if it is one.
inline void clamp_of(const intact::Finish& f, float& low, float& high) {
  low = f.low;
  high = f.high;
  const auto within = [](float x, float least, float most) { return x < least ? least : x > most ? most : x; };
  if (f.function.function == intact::Unary::kRelu) {
    low = within(0.0f, f.low, f.high);
    high = within(high, low, f.high);
  } else if (f.function.function == intact::Unary::kClip) {
    low = within(f.function.alpha, f.low, f.high);
    high = within(f.function.beta, f.low, f.high);
  }
}

// What becomes of sums that hold their bias, whoever's parameters they have.
template <class V, std::size_t kVectors>
struct Ending {
  const intact::Finish& f;
  bool clamps;
  typename V::F scale[kVectors], shift[kVectors], low, high;
  BiasStart<V, kVectors> start;
  Quantizer<V> quantizer;

  explicit Ending(const intact::Finish& finish) : f(finish), start(finish.bias), quantizer(finish) {
    float least, most;
    clamp_of(f, least, most);
    clamps = least > -__builtin_inff() || most < __builtin_inff();
    low = V::broadcast(least);
    high = V::broadcast(most);
    for (std::size_t v = 0; v < kVectors; ++v) {
      const Columns<V> c = columns_of<V>(f, v * V::kInts, f.scales != nullptr);
      start.bias[v] = c.bias;
      scale[v] = c.scale;
      shift[v] = c.shift;
    }
  }

  [[gnu::always_inline]] typename V::F value(typename V::I sum, std::size_t v, const float* other,
                                             std::size_t n) const {
    auto x = V::mul(V::to_float(sum), scale[v]);
    if (f.shift) x = V::add(x, shift[v]);
    if (other) x = V::add(x, V::load(other, n));
    return clamps ? V::min(high, V::max(low, x)) : x;
  }
};

// Bytes whose scale and zero point were found by the extremes of their floats: what floats are clamped to, as
// bytes, and how near one product comes to a float that is divided by the scale.
template <class V>
struct FoundRange {
  typename V::F scale;
  typename V::B low, high;

  explicit FoundRange(const intact::Finish& f) : scale(V::broadcast(f.q_scale)) {
    float least, most;
    clamp_of(f, least, most);
    low = byte(least / f.q_scale, f.q_zero_point);
    high = byte(most / f.q_scale, f.q_zero_point);
  }
  static typename V::B byte(float steps, std::int32_t zero_point) {
    const float least = static_cast<float>(-zero_point), most = static_cast<float>(255 - zero_point);
    const float whole = __builtin_nearbyintf(steps < least ? least : steps > most ? most : steps);
    return V::broadcast_byte(static_cast<std::uint8_t>(static_cast<std::int32_t>(whole) + zero_point));
  }
  // Of sums whose magnitudes do not exceed most_sum: factor and offset of the product, and the fraction from
  // which on it may round otherwise. False where it comes not near enough.
  template <std::size_t kVectors>
  bool factors(const typename V::F (&of)[kVectors], const typename V::F (&shift)[kVectors], float most_sum,
               typename V::F (&factor)[kVectors], typename V::F (&offset)[kVectors],
               typename V::F& near_half) const {
    // Six roundings of at most 256 + |offset|: of the factor, the offset and their sum with the product, and
    // of the float by way of its product and sum, whose quotient is rounded too.
    constexpr float kRoundings = 6 * 0x1p-24f, kMostSteps = 0x1p30f;
    constexpr float kMostOffset = 1024;  // with more than that it is done again too often
    auto most_offset = V::broadcast(0.0f), most_steps = most_offset;
    for (std::size_t v = 0; v < kVectors; ++v) {
      factor[v] = V::div(of[v], scale);
      offset[v] = V::div(shift[v], scale);
      most_offset = V::max(most_offset, V::abs(offset[v]));
      most_steps = V::max(most_steps, V::mul(V::abs(factor[v]), V::broadcast(most_sum)));
    }
    const float greatest = V::greatest(most_offset);
    near_half = V::broadcast(0.5f - (256 + greatest) * kRoundings);
    return greatest < kMostOffset && V::greatest(most_steps) < kMostSteps;
  }
};

// The way of sums to such bytes: by one product. What lies near a half has to be done again by way of the
// float. For what ends without a function, or in a clamp.
template <class V, std::size_t kVectors>
struct FoundSteps {
  using Q = Quad<V, kVectors>;
  const Ending<V, kVectors>& ending;
  typename V::F factor[kVectors], offset[kVectors], near_half;
  typename V::B low, high;
  std::int32_t zero_point;
  bool possible = false;

  // No sum with its bias is greater than most_sum.
  FoundSteps(const Ending<V, kVectors>& of, const intact::Finish& f, float most_sum)
      : ending(of), zero_point(f.q_zero_point) {
    if (!f.q || !f.bounded || f.other) return;
    const FoundRange<V> range(f);
    possible = range.template factors<kVectors>(of.scale, of.shift, most_sum, factor, offset, near_half);
    low = range.low;
    high = range.high;
  }

  struct State {
    typename V::F steps[4];
    typename V::I whole[4];
    typename V::B bytes;
    bool near;
  };
  static constexpr std::size_t kStages = 5, kRounded = 2;
  // See Requantizer. After stage kRounded it is known whether some lie near a half.
  template <std::size_t kStage, class Sum>
  [[gnu::always_inline]] void stage(State& state, std::size_t i, const Sum& sum) const {
    const auto of_four = [&](const auto& use) INTACT_INLINE { for_each_index<4>(use); };
    if constexpr (kStage == 0) {
      of_four([&](auto v) INTACT_INLINE { state.steps[v] = V::to_float(sum(i + Q::row(v), Q::vector(v))); });
    } else if constexpr (kStage == 1) {
      of_four([&](auto v) INTACT_INLINE {
        state.steps[v] = V::fma(state.steps[v], factor[Q::vector(v)], offset[Q::vector(v)]);
      });
    } else if constexpr (kStage == kRounded) {
      auto most = V::broadcast(0.0f);
      of_four([&](auto v) INTACT_INLINE {
        most = V::greater_fraction(most, state.steps[v]);
        state.whole[v] = V::round(state.steps[v]);
      });
      state.near = V::any_greater(most, near_half);
    } else if constexpr (kStage == 3) {
      state.bytes = V::narrow(state.whole, zero_point);
    } else {
      state.bytes = V::min_u8(V::max_u8(V::in_order(state.bytes), low), high);
    }
  }
  // The same whole numbers by way of the float.
  template <class Sum>
  [[gnu::always_inline]] void exactly(State& state, std::size_t i, const Sum& sum) const {
    typename V::I sums[4];
    for_each_index<4>([&](auto v) INTACT_INLINE { sums[v] = sum(i + Q::row(v), Q::vector(v)); });
    round_floats(sums, state.whole);
  }
  // The bytes of a quad in memory.
  typename V::B exact_bytes(const std::int32_t (&sums)[4][V::kInts]) const {
    typename V::I of[4], whole[4];
    for (std::size_t v = 0; v < 4; ++v) of[v] = V::load(sums[v]);
    round_floats(of, whole);
    return V::min_u8(V::max_u8(V::in_order(V::narrow(whole, zero_point)), low), high);
  }
  [[gnu::noinline]] void round_floats(const typename V::I (&sums)[4], typename V::I (&whole)[4]) const {
    typename V::F x[4];
    for_each_index<4>([&](auto v) { x[v] = ending.value(sums[v], Q::vector(v), nullptr, V::kInts); });
    const auto& q = ending.quantizer;
    divide_round4<V, true>(x, q.scale, q.reciprocal, q.low, q.high, whole);
  }
};

// What no magnitude of a sum exceeds, its bias included, which is the zero point times the sum of weights
// where an image has parameters.
inline float most_sum_of(const intact::Multiplication& m, const intact::Finish& f) {
  constexpr float kMostProduct = 255.0f * 128.0f, kMostInt = 0x1p31f;
  return f.scales ? 2 * static_cast<float>(m.taps * m.k) * kMostProduct : kMostInt;
}

template <class V, std::size_t kVectors>
void product_found(const intact::Multiplication& m, std::size_t width, const intact::Finish& f,
                   const FoundSteps<V, kVectors>& found) {
  using Q = Quad<V, kVectors>;
  gemm_whole<V, kVectors>(m, found.ending.start, [&]<std::size_t kRows>(
                                 std::size_t row, const typename V::I (&acc)[kRows][kVectors])
                                 INTACT_INLINE {
    const auto& to = in_memory(found);
    const std::size_t last = least_of(kRows, m.count - row) - 1;
    for_each_index<(kRows + Q::kRows - 1) / Q::kRows>([&](auto quad) INTACT_INLINE {
      constexpr std::size_t i = quad * Q::kRows;
      if (i > last) return;
      typename FoundSteps<V, kVectors>::State state;
      const auto sum = [&](std::size_t of, std::size_t v) INTACT_INLINE { return acc[least_of(of, kRows - 1)][v]; };
      for_each_index<FoundSteps<V, kVectors>::kStages>([&](auto stage) INTACT_INLINE {
        to.template stage<stage>(state, i, sum);
        if constexpr (stage == FoundSteps<V, kVectors>::kRounded) {
          if (__builtin_expect(state.near, 0)) to.exactly(state, i, sum);
        }
      });
      Q::store(f.q + row * f.stride, f.stride, i, last, width, state.bytes);
    });
  });
}

template <class V, std::size_t kVectors>
void product_ending(const intact::Multiplication& m, std::size_t width, const intact::Finish& f) {
  using Q = Quad<V, kVectors>;
  const Ending<V, kVectors> ending(f);
  const auto columns = [&](std::size_t v) {
    return width <= v * V::kInts ? 0 : least_of(width - v * V::kInts, V::kInts);
  };
  typename V::F extremes[2] = {V::broadcast(0.0f), V::broadcast(0.0f)};
  gemm_whole<V, kVectors>(m, ending.start, [&]<std::size_t kRows>(
                                 std::size_t row, const typename V::I (&acc)[kRows][kVectors])
                                 INTACT_INLINE {
    const auto& e = in_memory(ending);
    if constexpr (requires { V::prefetch_rows(f.other, row, row, row, row); }) {
      // What the next rows will add, while their sums come to be.
      if (f.far && f.other) {
        V::prefetch_rows(f.other, f.stride, width, row + kRows, least_of(m.count, row + 2 * kRows));
      }
    }
    const std::size_t last = least_of(kRows, m.count - row) - 1;
    if (f.q) {
      for_each_index<(kRows + Q::kRows - 1) / Q::kRows>([&](auto quad) INTACT_INLINE {
        constexpr std::size_t i = quad * Q::kRows;
        if (i > last) return;
        typename V::F x[4];
        for_each_index<4>([&](auto v) INTACT_INLINE {
          constexpr std::size_t of = Q::vector(v), r = least_of(i + Q::row(v), kRows - 1);
          const std::size_t n = columns(of), at = (row + least_of(r, last)) * f.stride + of * V::kInts;
          x[v] = e.value(acc[r][of], of, f.other && n ? f.other + at : nullptr, n);
        });
        Q::store(f.q + row * f.stride, f.stride, i, last, width, e.quantizer.bytes(x));
      });
      return;
    }
    auto* found = &extremes[0];
    asm volatile("" : "+r"(found)::"memory");
    auto least = found[0], most = found[1];
    for_each_index<kRows>([&](auto r) INTACT_INLINE {
      if (r > last) return;
      for_each_index<kVectors>([&](auto v) INTACT_INLINE {
        const std::size_t n = columns(v), at = (row + r) * f.stride + v * V::kInts;
        if (n == 0) return;
        auto x = e.value(acc[r][v], v, f.other ? f.other + at : nullptr, n);
        if (f.y) V::store(f.y + at, x, n);
        // Zero, which every range holds, stands in for what is beyond the end.
        if (n < V::kInts) x = V::first_values(x, n);
        least = V::min(least, x);
        most = V::max(most, x);
      });
    });
    found[0] = least;
    found[1] = most;
  });
  if (!f.extremes) return;
  f.extremes[0] = std::min(f.extremes[0], V::least(extremes[0]));
  f.extremes[1] = std::max(f.extremes[1], V::greatest(extremes[1]));
}

template <class V>
void product_real(const intact::Multiplication& m, std::size_t width, const intact::Finish& f) {
  with_vectors<V>(m.columns, [&](auto vectors) {
    if (f.bounded) {
      const Ending<V, vectors> ending(f);
      const FoundSteps<V, vectors> found(ending, f, most_sum_of(m, f));
      if (found.possible) return product_found(m, width, f, found);
    }
    product_ending<V, vectors>(m, width, f);
  });
}

}  // namespace
