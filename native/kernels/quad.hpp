#pragma once

// Sums on their way to bytes: four vectors at a time, because their bytes fill one vector.

#include "../kernels.hpp"
#include "gemm.hpp"

namespace {

// Four vectors that become the bytes of one: of one row (three are filled up), of two rows, or of four.
template <class V, std::size_t kVectors>
struct Quad {
  static_assert(kVectors >= 1 && kVectors <= 4);
  static constexpr std::size_t kRows = 4 / kVectors, kColumns = kVectors * V::kInts;
  static constexpr std::size_t kRowVectors = kVectors == 3 ? 4 : kVectors;

  // Vector v is one of row `first` + row(v), its last one standing in for one that it does not have.
  static constexpr std::size_t row(std::size_t v) { return v / kRowVectors; }
  static constexpr std::size_t vector(std::size_t v) {
    const std::size_t of = v % kRowVectors;
    return of < kVectors ? of : kVectors - 1;
  }

  // The bytes of the quad from row `first` on, `columns` of each row.
  static void store(std::uint8_t* y, std::size_t stride, std::size_t first, std::size_t last,
                    std::size_t columns, typename V::B bytes) {
    if constexpr (kVectors >= 3) {
      V::store_bytes(y + first * stride, bytes, columns);
    } else if constexpr (kVectors == 2) {
      V::store_low(y + first * stride, bytes, columns);
      if (first < last) V::store_high(y + (first + 1) * stride, bytes, columns);
    } else {
      for (std::size_t i = 0; i < kRows && first + i <= last; ++i) {
        V::store_quarter(y + (first + i) * stride, bytes, i, columns);
      }
    }
  }
};

// The sums of rows that lie in memory, a panel wide, with their bias; the last stands in for rows beyond.
template <class V, std::size_t kVectors>
struct StoredSums {
  const std::int32_t* sums;
  std::size_t last;
  typename V::I bias[kVectors];

  StoredSums(const std::int32_t* sums, std::size_t last, const std::int32_t* of_columns)
      : sums(sums), last(last) {
    for (std::size_t v = 0; v < kVectors; ++v) bias[v] = V::load(of_columns + v * V::kInts);
  }
  typename V::I operator()(std::size_t row, std::size_t v) const {
    return V::add(V::load(sums + (least_of(row, last) * kVectors + v) * V::kInts), bias[v]);
  }
};

// What the compiler has to read again from memory, so that no register holds it during a product.
template <class T>
[[gnu::always_inline]] inline const T& in_memory(const T& value) {
  const T* place = &value;
  asm volatile("" : "+r"(place)::"memory");
  return *place;
}

}  // namespace
