#pragma once

// Products whose sums are finished while the next ones come to be, in what dots leave free of the vector
// units: for AVX-512, which has registers left beside the sums of a block.

#include "finish.hpp"

namespace {

// The sums of the block before, which lie in memory, Finish::kParts parts for Finish::kRows rows.
// finish(sums, part, at, last): of rows whose output begins at byte `at`, up to number `last` of them.
template <class V, std::size_t kVectors, std::size_t kRows, class Finish>
struct Beside {
  static constexpr std::size_t kParts = Finish::kParts, kOfRows = Finish::kRows;
  const Finish& finish;
  const std::size_t stride;  // of the output, in bytes
  alignas(64) std::int32_t sums[kRows * kVectors * V::kInts];
  std::size_t done = 0, at = 0, left = 0;  // parts
  std::size_t rows = 0;

  Beside(const Finish& use, std::size_t stride) : finish(use), stride(stride) {}
  // The next part; `left` is for whoever calls.
  [[gnu::always_inline]] void part() {
    const std::size_t row = done / kParts * kOfRows;
    finish(sums + row * kVectors * V::kInts, done % kParts, at, least_of(kOfRows, rows - row) - 1);
    ++done;
    if (done % kParts == 0) at += kOfRows * stride;
  }
  // As many as it takes for all to be done after so many times.
  [[gnu::always_inline]] void parts(std::size_t times) {
    for (std::size_t n = (left + times - 1) / times; n > 0; --n, --left) part();
  }
  [[gnu::always_inline]] void drain() { parts(1); }
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
    rows = count;
    left = (count + kOfRows - 1) / kOfRows * kParts;
  }
};

// All rows, each block's sums finished beside the next ones.
template <class V, std::size_t kVectors, class Finish>
void gemm_beside(const intact::Multiplication& m, std::size_t stride, const Finish& finish) {
  constexpr std::size_t kRows = V::kBlockRows[kVectors - 1];
  Beside<V, kVectors, kRows, Finish> beside(finish, stride);
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

// Finishes a quad of rows at a time by what takes (at, last, sum).
template <class V, std::size_t kVectors, class Use>
struct InQuads {
  static constexpr std::size_t kRows = Quad<V, kVectors>::kRows, kParts = 1;
  const Use& use;
  const std::int32_t* bias;

  [[gnu::always_inline]] void operator()(const std::int32_t* sums, std::size_t, std::size_t at,
                                         std::size_t last) const {
    use(at, last, [&](std::size_t row, std::size_t v) INTACT_INLINE {
      return V::add(V::load(sums + (row * kVectors + v) * V::kInts), V::load(bias + v * V::kInts));
    });
  }
};

// With HasTables of bytes that are looked up in one, otherwise of all others.
template <class V, std::size_t kVectors>
void product_beside(const intact::Multiplication& m, const intact::Bytes& b) {
  const intact::Requantize& r = b.requantize;
  const auto each = [&](const auto& quad) {
    gemm_beside<V, kVectors>(m, b.stride, InQuads<V, kVectors, std::decay_t<decltype(quad)>>{quad, r.bias});
  };
  const auto requantized = [&](const auto& look_up) {
    const auto by = [&](const auto& to) {
      each([&](std::size_t at, std::size_t last, const auto& sum) INTACT_INLINE {
        in_memory(to).quad(0, last, b.width, sum, b.y + at, b.stride, look_up);
      });
    };
    if (r.small) return by(Requantizer<V, kVectors, true>(r));
    by(Requantizer<V, kVectors, false>(r));
  };
  if constexpr (HasTables<V>) {
    const typename V::Table table(r.table);
    requantized([&](typename V::B bytes) { return V::lookup(bytes, table); });
  } else if (b.other) {
    with_adder<V, kVectors>(r, b.sum, [&](const auto& adder) {
      each([&](std::size_t at, std::size_t last, const auto& sum) INTACT_INLINE {
        in_memory(adder).quad(0, last, b.width, sum, b.other + at, b.y + at, b.stride);
      });
    });
  } else {
    requantized([](typename V::B bytes) { return bytes; });
  }
}

// Panels of 2 to 4 vectors.
template <class V>
void product_beside(const intact::Multiplication& m, const intact::Bytes& b) {
  switch (m.columns / V::kInts) {
    case 2:
      return product_beside<V, 2>(m, b);
    case 3:
      return product_beside<V, 3>(m, b);
    default:
      product_beside<V, 4>(m, b);
  }
}

// Finishes a vector of a row at a time by use(sums of the row, vector, at).
template <std::size_t kVectors, class Use>
struct InVectors {
  static constexpr std::size_t kRows = 1, kParts = kVectors;
  const Use& use;

  [[gnu::always_inline]] void operator()(const std::int32_t* sums, std::size_t v, std::size_t at,
                                         std::size_t) const {
    use(sums, v, at);
  }
};

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
    const auto sum = V::to_float(V::add(V::load(sums + j), V::load(c.bias + j)));
    return gelu<V>(V::add(V::mul(sum, V::load(c.scale + j)), V::load(c.shift + j)));
  };
  const auto each = [&](const auto& use) {
    gemm_beside<V, kVectors>(m, f.stride, InVectors<kVectors, std::decay_t<decltype(use)>>{use});
  };
  if (!f.q) {
    return each([&](const std::int32_t* sums, std::size_t v, std::size_t at) INTACT_INLINE {
      V::store(f.y + at + v * V::kInts, value(in_memory(constants), sums, v));
    });
  }
  each([&](const std::int32_t* sums, std::size_t v, std::size_t at) INTACT_INLINE {
    const auto& c = in_memory(constants);
    // GELU is further off than the reciprocal.
    const auto steps = V::round(V::min(V::mul(value(c, sums, v), c.reciprocal), c.high));
    V::store_u8(f.q + at + v * V::kInts, V::max(V::add(steps, c.zero_point), V::zero()), V::kInts);
  });
}

}  // namespace
