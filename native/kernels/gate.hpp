#pragma once

// uint8 multiplied by a uint8 of each channel, as in squeeze-and-excite.

#include "../kernels.hpp"
#include "quad.hpp"

namespace {

// `width` columns, of kVectors vectors, of rows that are `stride` apart.
template <class V, std::size_t kVectors>
void gate_columns(const std::uint8_t* a, const std::uint8_t* gate, std::size_t rows, std::size_t width,
                  std::size_t stride, const intact::Product& p, std::uint8_t* y) {
  using Q = Quad<V, kVectors>;
  const auto a_zero = V::broadcast(static_cast<float>(-p.a_zero_point));
  const auto scale = V::broadcast(p.scale), high = V::broadcast(p.high);
  const std::int32_t zero_point = p.zero_point;
  const auto low = V::broadcast_byte(static_cast<std::uint8_t>(static_cast<std::int32_t>(p.low) + zero_point));
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
      const auto product = V::fma(V::to_float(whole), factor[of], shift[of]);
      steps[v] = V::round(V::min(V::mul(product, scale), high));
    });
    const auto bytes = V::max_u8(V::in_order(V::narrow(steps, zero_point)), low);
    Q::store(y + i * stride, stride, 0, last, width, bytes);
  }
}

template <class V>
void gate(const std::uint8_t* a, const std::uint8_t* gate, std::size_t rows, std::size_t columns,
          const intact::Product& p, std::uint8_t* y) {
  for (std::size_t j = 0; j < columns; j += V::kBytes) {
    const std::size_t width = least_of(columns - j, V::kBytes);
    const std::size_t whole = (width + V::kInts - 1) / V::kInts * V::kInts;
    with_vectors<V, 4>(whole, [&](auto vectors) {
      gate_columns<V, vectors>(a + j, gate + j, rows, width, columns, p, y + j);
    });
  }
}

}  // namespace
