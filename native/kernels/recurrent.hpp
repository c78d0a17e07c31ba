#pragma once

// One time step of recurrent cells, once the products are there. Every operation is rounded by
// itself, in the order of the reference (core/arithmetic/recurrent.py).

#include "../kernels.hpp"
#include "real.hpp"

namespace {

// The new state `f(x, h, at, n)` of `n` units at `at`; x(g) and h(g) are the shares of gate g.
template <class V, class Function>
void for_cells(const intact::Cells& s, std::size_t count, std::size_t columns, const Function& f) {
  for (std::size_t r = 0; r < count; ++r) {
    for (std::size_t j = 0; j < columns; j += V::kInts) {
      const std::size_t n = columns - j < V::kInts ? columns - j : V::kInts;
      const auto from_x = [&](std::size_t g) {
        return V::load(s.from_x + r * s.x_stride + g * s.x_gate + j, n);
      };
      const auto from_h = [&](std::size_t g) {
        return V::load(s.from_h + g * s.h_gate + r * s.h_stride + j, n);
      };
      const std::size_t at = r * s.stride + j;
      const auto next = f(from_x, from_h, at, n);
      V::store(s.h + at, next, n);
      V::store(s.y + r * s.y_stride + j, next, n);
    }
  }
}

// Gates in ONNX's order: input, output, forget, cell.
template <class V>
void lstm_cells(const intact::Cells& s, std::size_t count, std::size_t columns) {
  for_cells<V>(s, count, columns, [&](const auto& x, const auto& h, std::size_t at, std::size_t n) {
    const auto in = sigmoid<V>(V::add(x(0), h(0))), out = sigmoid<V>(V::add(x(1), h(1)));
    const auto forget = sigmoid<V>(V::add(x(2), h(2))), cell = tanh<V>(V::add(x(3), h(3)));
    const auto c = V::add(V::mul(forget, V::load(s.c + at, n)), V::mul(in, cell));
    V::store(s.c + at, c, n);
    return V::mul(out, tanh<V>(c));
  });
}

// Gates in ONNX's order: update, reset, hidden; the reset gate multiplies the product.
template <class V>
void gru_cells(const intact::Cells& s, std::size_t count, std::size_t columns) {
  for_cells<V>(s, count, columns, [&](const auto& x, const auto& h, std::size_t at, std::size_t n) {
    const auto update = sigmoid<V>(V::add(x(0), h(0))), reset = sigmoid<V>(V::add(x(1), h(1)));
    const auto hidden = tanh<V>(V::add(x(2), V::mul(reset, h(2))));
    const auto kept = V::mul(update, V::sub(V::load(s.h + at, n), hidden));
    return V::add(hidden, kept);
  });
}

// The first half of a GRU whose reset gate multiplies the state: update gate, and reset times h.
template <class V>
void gru_gates(const intact::Cells& s, std::size_t count, std::size_t columns) {
  for (std::size_t r = 0; r < count; ++r) {
    for (std::size_t j = 0; j < columns; j += V::kInts) {
      const std::size_t n = columns - j < V::kInts ? columns - j : V::kInts;
      const auto gate = [&](std::size_t g) {
        const auto x = V::load(s.from_x + r * s.x_stride + g * s.x_gate + j, n);
        return sigmoid<V>(V::add(x, V::load(s.from_h + g * s.h_gate + r * s.h_stride + j, n)));
      };
      const std::size_t at = r * s.stride + j;
      V::store(s.c + at, gate(0), n);
      V::store(s.y + r * s.y_stride + j, V::mul(gate(1), V::load(s.h + at, n)), n);
    }
  }
}

// The second half: the new state from the update gate and the product with reset times h.
template <class V>
void gru_state(const intact::Cells& s, std::size_t count, std::size_t columns) {
  for_cells<V>(s, count, columns, [&](const auto& x, const auto& h, std::size_t at, std::size_t n) {
    const auto hidden = tanh<V>(V::add(x(2), h(2)));
    const auto kept = V::mul(V::load(s.c + at, n), V::sub(V::load(s.h + at, n), hidden));
    return V::add(hidden, kept);
  });
}

}  // namespace
