#pragma once

// LSTM and GRU: the recurrence, once the input's share of all gates is computed.

#include <cstdint>
#include <memory>
#include <vector>

#include "steps.hpp"

namespace intact {

// The state's weights of one direction, gate by gate, shared by the programs of all shapes.
struct RecurrentWeights {
  // w[gates][hidden][hidden], state by unit; scale: [gates * hidden]; bias: that, or none.
  RecurrentWeights(const Kernels& kernels, Store& store, const std::int8_t* w, std::size_t gates,
                   std::size_t hidden, const std::vector<float>& scale,
                   const std::vector<float>& bias);
  RecurrentWeights(const float* w, std::size_t gates, std::size_t hidden,
                   const std::vector<float>& bias);

  std::size_t gates, hidden, panel;  // columns of one panel
  std::size_t padded;                // units of one gate in whole panels
  std::shared_ptr<const Packed> integers;  // or else:
  std::shared_ptr<const PackedReals> reals;
  std::vector<std::int32_t> sums;  // of each column of the integers: [gates][padded], as what follows
  std::vector<float> scale, bias;
};

// gru_reset_first: the reset gate multiplies the state instead of the product; float32 alone.
enum class Cell { kLstm, kGru, kGruResetFirst };

// Tensors of float32 by [time, batch, values] or [batch, values]. Final states have no gaps.
struct Direction {
  std::shared_ptr<const RecurrentWeights> weights;
  View from_x;             // [time, batch, gates * hidden], values adjacent
  View h0;                 // [batch, hidden]
  std::optional<View> c0;  // of an LSTM
  View y;                  // [time, batch, hidden], values adjacent
  View h;
  std::optional<View> c;
  bool reverse = false;
};

std::unique_ptr<Step> make_recurrence(const Program& program, Cell cell, std::size_t time,
                                      std::size_t batch, std::size_t hidden,
                                      std::vector<Direction> directions);

}  // namespace intact
