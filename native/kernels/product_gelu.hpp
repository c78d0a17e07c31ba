#pragma once

// Products whose floats go through GELU, which takes as long as some hundred values of K: sums are finished
// while the next ones come to be.

#include "finish.hpp"

namespace {

// The sums of the block before, which lie in memory and are finished while the next ones come to be, in what
// dots leave free of the vector units. finish(sums, v, at): a vector of columns, number v of its row, which
// belongs to byte `at` of the output.
template <class V, std::size_t kVectors, std::size_t kRows, class Finish>
struct Beside {
  const Finish& finish;
  const std::size_t stride, bytes;  // of a row of the output, and of a value
  alignas(64) std::int32_t sums[kRows * kVectors * V::kInts];
  std::size_t done = 0, at = 0, left = 0;  // vectors; where the row begins

  Beside(const Finish& use, std::size_t stride, std::size_t bytes)
      : finish(use), stride(stride), bytes(bytes) {}
  // The next part; `left` is for whoever calls.
  [[gnu::always_inline]] void part() {
    const std::size_t v = done % kVectors;
    finish(sums + done * V::kInts, v, at + v * V::kInts * bytes);
    ++done;
    if (done % kVectors == 0) at += stride;
  }
  [[gnu::always_inline]] void drain() {
    for (; left > 0; --left) part();
  }
  // Takes the sums of a block of `count` rows, whose first is number `row`.
  template <std::size_t kFewer>
  [[gnu::always_inline]] void take(std::size_t row, std::size_t count,
                                   const typename V::I (&acc)[kFewer][kVectors]) {
    drain();
    for_each_index<kFewer>([&](auto r) INTACT_INLINE {
      for_each_index<kVectors>([&](auto v) INTACT_INLINE {
        V::store(sums + (r * kVectors + v) * V::kInts, acc[r][v]);
      });
    });
    done = 0;
    at = row * stride;
    left = count * kVectors;
  }
};

// All rows, each block's sums finished beside the next ones.
template <class V, std::size_t kVectors, class Finish>
void gemm_beside(const intact::Multiplication& m, std::size_t stride, std::size_t bytes,
                 const Finish& finish) {
  constexpr std::size_t kRows = V::kBlockRows[kVectors - 1];
  Beside<V, kVectors, kRows, Finish> beside(finish, stride, bytes);
  const ZeroStart<V> zero;
  std::size_t row = 0;
  const auto blocks = [&](auto& ahead) INTACT_INLINE {
    for (; row + kRows <= m.count; row += kRows) {
      gemm_block<V, kRows, kVectors>(m, row, zero, ahead, beside, [&](const auto& acc) INTACT_INLINE {
        beside.take(row, kRows, acc);
      });
    }
  };
  if (m.next_bytes > 0 && m.count >= kRows) {
    Ahead<V> ahead(m, m.count / kRows);
    blocks(ahead);
  } else {
    NothingAhead nothing;
    blocks(nothing);
  }
  if (row < m.count) {
    gemm_rest<V, kRows, kVectors>(m, row, zero, [&](std::size_t first, const auto& acc) INTACT_INLINE {
      beside.take(first, m.count - first, acc);
    });
  }
  beside.drain();
}

// GELU of whole panels, without anything that is added or clamped.
template <class V>
void product_gelu(const intact::Multiplication& m, const intact::Finish& f) {
  constexpr std::size_t kVectors = V::kMostVectors;
  struct Constants {
    const std::int32_t* bias;
    const float *scale, *shift;
    typename V::F reciprocal, high;
    typename V::I zero_point;
  };
  const Quantizer<V> quantizer(f);
  alignas(64) static constexpr float kNothing[kVectors * V::kInts] = {};
  const Constants constants{f.bias, f.scale, f.shift ? f.shift : kNothing, quantizer.reciprocal,
                            quantizer.high, V::broadcast(quantizer.zero_point)};
  const auto value = [](const Constants& c, const std::int32_t* sums, std::size_t v) INTACT_INLINE {
    const std::size_t j = v * V::kInts;
    const auto sum = V::to_float(V::add(V::load(sums), V::load(c.bias + j)));
    return gelu<V>(V::add(V::mul(sum, V::load(c.scale + j)), V::load(c.shift + j)));
  };
  if (!f.q) {
    return gemm_beside<V, kVectors>(
        m, f.stride * sizeof(float), sizeof(float),
        [&](const std::int32_t* sums, std::size_t v, std::size_t at) INTACT_INLINE {
          V::store(f.y + at / sizeof(float), value(in_memory(constants), sums, v));
        });
  }
  gemm_beside<V, kVectors>(
      m, f.stride, 1, [&](const std::int32_t* sums, std::size_t v, std::size_t at) INTACT_INLINE {
        const auto& c = in_memory(constants);
        // GELU is further off than the reciprocal.
        const auto steps = V::round(V::min(V::mul(value(c, sums, v), c.reciprocal), c.high));
        V::store_u8(f.q + at, V::max(V::add(steps, c.zero_point), V::zero()), V::kInts);
      });
}

}  // namespace
