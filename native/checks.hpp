#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>

namespace intact {

// Raises std::invalid_argument with `what` unless `condition`.
inline void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

// a * b, or an error: sizes come from files.
inline std::size_t times(std::size_t a, std::size_t b) {
  std::size_t product;
  require(!__builtin_mul_overflow(a, b, &product) && product <= SIZE_MAX / 4, "a size is too large");
  return product;
}

inline std::size_t divide_up(std::size_t x, std::size_t by) { return (x + by - 1) / by; }
inline std::size_t round_up(std::size_t x, std::size_t step) { return (x + step - 1) / step * step; }

}  // namespace intact
