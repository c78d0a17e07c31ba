#pragma once

// The sums that become the extremes of floats which nobody writes.

#include "../kernels.hpp"
#include "quad.hpp"

namespace {

// The least and the greatest sum of a vector of columns, and those on either side of where a function
// turns: by how far they are below that, as an unsigned number, of which those above it are the greatest.
template <class V>
struct Bounds {
  typename V::I least = V::broadcast(INT32_MAX), most = V::broadcast(INT32_MIN);
  typename V::I below = V::broadcast(-1), above = V::zero();

  [[gnu::always_inline]] void add(typename V::I sum) {
    least = V::min(least, sum);
    most = V::max(most, sum);
  }
  [[gnu::always_inline]] void add(typename V::I sum, typename V::I turn) {
    add(sum);
    const auto distance = V::sub(turn, sum);
    below = V::min_unsigned(below, distance);
    above = V::max_unsigned(above, distance);
  }
  void join(const Bounds& other) {
    least = V::min(least, other.least);
    most = V::max(most, other.most);
    below = V::min_unsigned(below, other.below);
    above = V::max_unsigned(above, other.above);
  }
  // Rows 0 and 1 at y, `stride` apart.
  void store(std::int32_t* y, std::size_t stride) const {
    V::store(y, least);
    V::store(y + stride, most);
  }
  // Rows 0 to 3. Where there is none on a side it is the furthest on the other.
  void store(std::int32_t* y, std::size_t stride, typename V::I turn) const {
    store(y, stride);
    V::store(y + 2 * stride, V::sub(turn, below));
    V::store(y + 3 * stride, V::sub(turn, above));
  }
};

template <class V>
void bounds(const std::int32_t* sums, std::size_t panel, std::size_t count,
            const std::int32_t* turns, std::int32_t* y) {
  for (std::size_t j = 0; j < panel; j += V::kInts) {
    Bounds<V> found;
    if (turns) {
      const auto turn = V::load(turns + j);
      for (std::size_t i = 0; i < count; ++i) found.add(V::load(sums + i * panel + j), turn);
      found.store(y + j, panel, turn);
    } else {
      for (std::size_t i = 0; i < count; ++i) found.add(V::load(sums + i * panel + j));
      found.store(y + j, panel);
    }
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
      std::int32_t* to = y + v * V::kInts;
      turns ? found[v].store(to, m.columns, V::load(turns + v * V::kInts)) : found[v].store(to, m.columns);
    }
  });
}

}  // namespace
