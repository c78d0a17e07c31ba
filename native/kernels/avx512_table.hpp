#pragma once

// The kernels of an instruction set of AVX-512: some are for it alone.

#include "attention_pairs.hpp"
#include "avx512_beside.hpp"
#include "few.hpp"
#include "table.hpp"

namespace {

template <class V>
void product_avx512(const intact::Multiplication& m, const intact::Bytes& b) {
  if (intact::finishes_beside_avx512(m, b, HasTables<V>)) {
    if constexpr (HasTables<V>) {
      if (b.requantize.table) return intact::product_beside_avx512_vbmi(m, b);
    }
    return intact::product_beside_avx512(m, b);
  }
  if (product_few<V>(m, b)) return;
  product<V>(m, b);
}

template <class V>
void product_real_avx512(const intact::Multiplication& m, std::size_t width, const intact::Finish& f) {
  if (!product_real_few<V>(m, width, f)) product_real<V>(m, width, f);
}

template <class V>
void product_bounds_avx512(const intact::Multiplication& m, const std::int32_t* turns, std::int32_t* y) {
  if (!product_bounds_few<V>(m, turns, y)) product_bounds<V>(m, turns, y);
}

template <class V>
constexpr intact::Kernels kernels_of_avx512(const char* name) {
  intact::Kernels kernels = kernels_of<V>(name);
  kernels.product = product_avx512<V>;
  kernels.product_real = product_real_avx512<V>;
  kernels.product_bounds = product_bounds_avx512<V>;
  kernels.product_gelu = intact::product_gelu_avx512;
  kernels.attention_scratch = paired_attention_scratch;
  kernels.attention = paired_attention;
  return kernels;
}

}  // namespace
