#pragma once

// The row of the table of kernels for the vectors V.

#include "attention.hpp"
#include "channelwise.hpp"
#include "depthwise.hpp"
#include "finish.hpp"
#include "gate.hpp"
#include "gemm.hpp"
#ifdef __SSSE3__
#include "interleave_ssse3.hpp"
#endif
#include "pointwise.hpp"
#include "product_real.hpp"
#include "real.hpp"
#include "real_product.hpp"
#include "recurrent.hpp"
#include "requantize.hpp"
#include "winograd.hpp"

namespace {

inline void nothing_to_ready() {}

template <class V>
constexpr std::size_t half_lanes() {
  if constexpr (HasHalf<V>) {
    return V::Half::kBytes;
  } else {
    return 0;
  }
}

template <class V>
constexpr std::size_t most_block_rows() {
  std::size_t most = 0;
  for (const std::size_t rows : V::kBlockRows) most = rows > most ? rows : most;
  return most;
}

template <class V>
constexpr const intact::Winograd* winograd_for() {
  if constexpr (requires { V::kTileRows; }) {
    return &kWinograd<V>;
  } else {
    return nullptr;
  }
}

template <class V>
constexpr intact::Kernels kernels_of(const char* name) {
  return {
      .name = name,
      .rows = most_block_rows<V>(),
      .columns = V::kMostVectors * V::kInts,
      .column_step = V::kInts,
      .k_step = 4,
      .lanes = V::kBytes,
      .half_lanes = half_lanes<V>(),
      .begin = nothing_to_ready,
      .gemm = gemm<V>,
      .block_rows = block_rows<V>,
      .product = product<V>,
      .product_real = product_real<V>,
      .product_bounds = product_bounds<V>,
      .product_gelu = nullptr,
      .gather = gather<V>,
#ifdef __SSSE3__
      .interleave3 = interleave3_ssse3,
#else
      .interleave3 = interleave3_bytes,
#endif
      .requantize = requantize<V>,
      .requantize_add = requantize_add<V>,
      .bounds = bounds<V>,
      .turns = turns<V>,
      .finish = finish<V>,
      .lookup = lookup<V>,
      .add = add<V>,
      .gate = gate<V>,
      .depthwise_lines = depthwise_lines<V>,
      .depthwise = depthwise<V>,
      .depthwise_real = depthwise_real<V>,
      .depthwise_bounds = depthwise_bounds<V>,
      .maximum = maximum<V>,
      .accumulate = accumulate<V>,
      .pool_real = pool_real<V>,
      .winograd = winograd_for<V>(),
      .unary = unary<V>,
      .add_real = add_real<V>,
      .mul_real = mul_real<V>,
      .sub_real = sub_real<V>,
      .div_real = div_real<V>,
      .scale_real = scale_real<V>,
      .add_scaled = add_scaled<V>,
      .channelwise = channelwise<V>,
      .channelwise_real = channelwise_real<V>,
      .dequantize_bytes = dequantize_bytes<V>,
      .quantize = quantize<V>,
      .quantize_scaled = quantize_scaled<V>,
      .extremes = extremes<V>,
      .layer_norm = layer_norm<V>,
      .softmax = softmax<V>,
      .real_product = real_product<V>,
      .lstm_cells = lstm_cells<V>,
      .gru_cells = gru_cells<V>,
      .gru_gates = gru_gates<V>,
      .gru_state = gru_state<V>,
      .attention_scratch = attention_scratch,
      .attention = attention<V>,
  };
}

}  // namespace
