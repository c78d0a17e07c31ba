#pragma once

// Depthwise convolutions to bytes whose scale and zero point were found by the extremes of their floats; see
// FoundSteps.

#include "depthwise_rolling.hpp"
#include "product_real.hpp"

namespace {

// Vectors of sums that lie near a half, to be done again.
template <class V>
struct NearSums {
  static constexpr std::size_t kMost = 64;
  struct At {
    std::size_t output, vector;
  };
  std::size_t count = 0;
  At at[kMost];
  alignas(64) std::int32_t sums[kMost][V::kInts];

  [[gnu::always_inline]] void note(std::size_t output, std::size_t vector, typename V::I of) {
    if (count < kMost) {
      at[count] = {output, vector};
      V::store(sums[count], of);
    }
    ++count;
  }
};

// A step of channels: FixedSteps for parameters that were found.
template <class V>
struct FoundOfStep {
  typename V::I bias[4];
  typename V::F factor[4], offset[4], near_half;
  typename V::B low, high, zero_point;
  NearSums<V>* near;
  bool possible;
  // What floats are made of, for sums that are done again.
  typename V::F scale[4], shift[4];

  FoundOfStep(const intact::Depthwise& d, const intact::Finish& f, std::size_t channel, NearSums<V>& near_sums)
      : near(&near_sums) {
    const auto image = V::broadcast(f.scales[0]);
    const auto minus_zero = V::sub(V::zero(), V::broadcast(f.zero_points[0]));
    for (std::size_t i = 0; i < 4; ++i) {
      const std::size_t at = channel + i * V::kInts;
      bias[i] = V::mul(V::load(d.output.bias + at), minus_zero);
      scale[i] = V::mul(image, V::load(d.output.scale + at));
      shift[i] = d.shift ? V::load(d.shift + at) : V::broadcast(0.0f);
    }
    constexpr float kMostProduct = 2 * 255.0f * 128.0f;
    const FoundRange<V> range(f);
    possible = range.template factors<4>(scale, shift, static_cast<float>(d.kernel_h * d.kernel_w) * kMostProduct,
                                         factor, offset, near_half);
    low = range.low;
    high = range.high;
    zero_point = V::broadcast_words(f.q_zero_point);
  }
  template <std::size_t kFirst, std::size_t kCount>
  [[gnu::always_inline]] void whole(const typename V::I (&sums)[kCount], std::size_t at,
                                    typename V::I (&steps)[kCount]) const {
    auto most = V::broadcast(0.0f);
    for_each_index<kCount>([&](auto i) INTACT_INLINE {
      const auto step = V::fma(V::to_float(sums[i]), factor[kFirst + i], offset[kFirst + i]);
      most = V::greater_fraction(most, step);
      steps[i] = V::round(step);
    });
    if (__builtin_expect(V::any_greater(most, near_half), 0)) {
      for_each_index<kCount>([&](auto i) INTACT_INLINE { near->note(at, kFirst + i, sums[i]); });
    }
  }
  [[gnu::always_inline]] typename V::B clamp(typename V::B bytes) const {
    return V::min_u8(V::max_u8(bytes, low), high);
  }
  struct OfVector {
    typename V::F factor, offset, near_half;
    typename V::B low, high, zero_point;
    NearSums<V>* near;
    std::size_t vector;

    [[gnu::always_inline]] typename V::I whole(typename V::I sum, std::size_t at) const {
      const auto step = V::fma(V::to_float(sum), factor, offset);
      if (__builtin_expect(V::any_greater(V::greater_fraction(V::broadcast(0.0f), step), near_half), 0)) {
        near->note(at, vector, sum);
      }
      return V::round(step);
    }
    [[gnu::always_inline]] typename V::B clamp(typename V::B bytes) const {
      return V::min_u8(V::max_u8(bytes, low), high);
    }
  };
  OfVector of_vector(std::size_t i) const {
    return {factor[i], offset[i], near_half, low, high, zero_point, near, i};
  }

  // The bytes of what lay near a half, by way of floats; whether none was forgotten. y: of the step's first
  // channel and the first output, `n` channels each, channels apart.
  bool redo(const intact::Finish& f, std::size_t n, std::size_t channels, std::uint8_t* y) const {
    if (near->count > NearSums<V>::kMost) return false;
    float least, most;
    clamp_of(f, least, most);
    const auto at_least = V::broadcast(least), at_most = V::broadcast(most), divisor = V::broadcast(f.q_scale);
    for (std::size_t k = 0; k < near->count; ++k) {
      const std::size_t i = near->at[k].vector;
      auto x = V::add(V::mul(V::to_float(V::load(near->sums[k])), scale[i]), shift[i]);
      x = V::min(at_most, V::max(at_least, x));
      alignas(64) std::int32_t whole[V::kInts];
      V::store(whole, V::add(V::round(V::div(x, divisor)), V::broadcast(f.q_zero_point)));
      for (std::size_t j = 0; j < V::kInts; ++j) {
        const std::size_t channel = intact::depthwise_order(V::kBytes, i * V::kInts + j);
        const std::int32_t byte = whole[j] < 0 ? 0 : whole[j] > 255 ? 255 : whole[j];
        if (channel < n) y[near->at[k].output * channels + channel] = static_cast<std::uint8_t>(byte);
      }
    }
    return true;
  }
};

}  // namespace
