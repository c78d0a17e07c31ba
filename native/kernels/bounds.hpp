#pragma once

// The sums that become the extremes of floats which nobody writes.

#include "../kernels.hpp"
#include "quad.hpp"

namespace {

// The least and the greatest sum of a vector of columns, and those on either side of where a function
// turns.
template <class V>
struct Bounds {
  typename V::I least = V::broadcast(INT32_MAX), most = V::broadcast(INT32_MIN);
  typename V::I below = most, above = least;

  [[gnu::always_inline]] void add(typename V::I sum) {
    least = V::min(least, sum);
    most = V::max(most, sum);
  }
  [[gnu::always_inline]] void add(typename V::I sum, typename V::I turn) {
    add(sum);
    below = V::max_up_to(below, sum, turn);
    above = V::min_beyond(above, sum, turn);
  }
  // Rows 0 and 1 at y, or 0 to 3, `stride` apart.
  void store(std::int32_t* y, std::size_t stride, bool turns) const {
    V::store(y, least);
    V::store(y + stride, most);
    if (!turns) return;
    // Where there is none on a side, the bound stands on the other one.
    V::store(y + 2 * stride, V::max(below, least));
    V::store(y + 3 * stride, V::min(above, most));
  }
};

template <class V>
void bounds(const std::int32_t* sums, std::size_t panel, std::size_t count,
            const std::int32_t* turns, std::int32_t* y) {
  for (std::size_t j = 0; j < panel; j += V::kInts) {
    Bounds<V> found;
    for (std::size_t i = 0; i < count; ++i) {
      const auto sum = V::load(sums + i * panel + j);
      turns ? found.add(sum, V::load(turns + j)) : found.add(sum);
    }
    found.store(y + j, panel, turns != nullptr);
  }
}

template <class V>
void product_bounds(const intact::Multiplication& m, const std::int32_t* turns, std::int32_t* y) {
  with_vectors<V>(m.columns, [&](auto vectors) {
    constexpr std::size_t kVectors = vectors;
    Bounds<V> found[kVectors];
    const auto each = [&](const auto& add) {
      gemm_panel<V, kVectors>(m, ZeroStart<V>(), [&]<std::size_t kRows>(
                                     std::size_t, const typename V::I (&acc)[kRows][kVectors])
                                     INTACT_INLINE {
        // Rows beyond the last repeat it.
        auto* of = &found[0];
        asm volatile("" : "+r"(of)::"memory");
#pragma GCC unroll 4
        for (std::size_t v = 0; v < kVectors; ++v) {
#pragma GCC unroll 8
          for (std::size_t r = 0; r < kRows; ++r) add(of[v], acc[r][v], v);
        }
      });
    };
    if (turns) {
      each([&](Bounds<V>& of, typename V::I sum, std::size_t v) INTACT_INLINE {
        of.add(sum, V::load(turns + v * V::kInts));
      });
    } else {
      each([](Bounds<V>& of, typename V::I sum, std::size_t) INTACT_INLINE { of.add(sum); });
    }
    for (std::size_t v = 0; v < kVectors; ++v) {
      found[v].store(y + v * V::kInts, m.columns, turns != nullptr);
    }
  });
}

}  // namespace
