#pragma once

// uint8 multiplied by a uint8 of each channel, as in squeeze-and-excite.

#include "../kernels.hpp"
#include "quad.hpp"

namespace {

// `width` columns, of kVectors vectors, of rows that are `stride` apart. kSmall: no product leaves int32, so
// that the bytes can be compared with the greatest instead.
template <class V, std::size_t kVectors, bool kSmall>
void gate_columns(const std::uint8_t* a, const std::uint8_t* gate, std::size_t rows, std::size_t width,
                  std::size_t stride, const intact::Product& p, std::uint8_t* y) {
  using Q = Quad<V, kVectors>;
  const auto a_zero = V::broadcast(static_cast<float>(-p.a_zero_point));
  const auto scale = V::broadcast(p.scale), high = V::broadcast(p.high);
  const std::int32_t zero_point = p.zero_point;
  const auto byte = [&](float bound) {
    return V::broadcast_byte(static_cast<std::uint8_t>(static_cast<std::int32_t>(bound) + zero_point));
  };
  const auto lowest = byte(p.low), highest = byte(p.high);
  typename V::F factor[kVectors], shift[kVectors];
  for (std::size_t v = 0; v < kVectors; ++v) {
    const auto whole = V::load_u8(gate + v * V::kInts, width - v * V::kInts);
    factor[v] = V::to_float(V::sub(whole, V::broadcast(p.b_zero_point)));
    shift[v] = V::mul(factor[v], a_zero);
  }
  for (std::size_t i = 0; i < rows; i += Q::kRows) {
    const std::size_t last = least_of(rows - i, Q::kRows) - 1;
    typename V::I steps[4];
    for_each_index<4>([&](auto v) {
      constexpr std::size_t of = Q::vector(v);
      const std::uint8_t* from = a + (i + least_of(Q::row(v), last)) * stride + of * V::kInts;
      const auto whole = V::load_u8(from, width - of * V::kInts);
      // (a - a_zero) * factor, exactly: at most 255 * 255, well below 2**24.
      auto product = V::mul(V::fma(V::to_float(whole), factor[of], shift[of]), scale);
      if constexpr (!kSmall) product = V::min(product, high);
      steps[v] = V::round(product);
    });
    auto bytes = V::max_u8(V::in_order(V::narrow(steps, zero_point)), lowest);
    if constexpr (kSmall) bytes = V::min_u8(bytes, highest);
    Q::store(y + i * stride, stride, 0, last, width, bytes);
  }
}

template <class V>
void gate(const std::uint8_t* a, const std::uint8_t* gate, std::size_t rows, std::size_t columns,
          const intact::Product& p, std::uint8_t* y) {
  constexpr float kSmallScale = 1 << 15;  // 255 * 255 times as much is below 2**31
  for (std::size_t j = 0; j < columns; j += V::kBytes) {
    const std::size_t width = least_of(columns - j, V::kBytes);
    const std::size_t whole = (width + V::kInts - 1) / V::kInts * V::kInts;
    with_vectors<V, 4>(whole, [&](auto vectors) {
      if (p.scale < kSmallScale) {
        gate_columns<V, vectors, true>(a + j, gate + j, rows, width, columns, p, y + j);
      } else {
        gate_columns<V, vectors, false>(a + j, gate + j, rows, width, columns, p, y + j);
      }
    });
  }
}

}  // namespace
