"""LSTM and GRU with int8 weights. Source: ONNX LSTM and GRU, default activations, layout 0.

Inputs and hidden states are quantized row by row as they come. Gates and states are float32.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from intact.core.arithmetic.dynamic import dynamic_matmul
from intact.core.arithmetic.pointwise import sigmoid

__all__ = ["Direction", "gru", "lstm"]

Direction = Literal["forward", "reverse", "bidirectional"]
Floats = NDArray[np.float32]


class _Weights(NamedTuple):
    """One direction's input and recurrent weights, int8 [gates * H, I] and [gates * H, H]."""

    w_q: NDArray[np.int8]
    w_scale: Floats
    r_q: NDArray[np.int8]
    r_scale: Floats
    w_bias: Floats
    r_bias: Floats

    def of_input(self, x: Floats, bias: Floats) -> Floats:
        """The input's share of every gate, [..., I] to [..., gates * H]."""
        return dynamic_matmul(x, self.w_q.T, self.w_scale, bias)

    def of_hidden(self, h: Floats, gates: slice = slice(None)) -> Floats:
        """The hidden state's share of some gates, [B, H] to [B, gates * H], without bias."""
        return dynamic_matmul(h, self.r_q[gates].T, self.r_scale[gates])


def lstm(
    x: Floats,
    w_q: NDArray[np.int8],
    w_scale: Floats,
    r_q: NDArray[np.int8],
    r_scale: Floats,
    bias: Floats,
    initial_h: Floats,
    initial_c: Floats,
    direction: Direction = "forward",
) -> tuple[Floats, Floats, Floats]:
    """ONNX LSTM over `x` [T, B, I], all D directions: y [T, D, B, H], last h and c [D, B, H].

    w_q: [D, 4H, I], r_q: [D, 4H, H], gates in ONNX's order i, o, f, c; w_scale, r_scale: [D, 4H];
    bias: [D, 8H], the input's before the hidden state's; initial_h, initial_c: [D, B, H].
    """
    outputs, hidden, cells = [], [], []
    for d, weights in enumerate(_directions(w_q, w_scale, r_q, r_scale, bias)):
        shares = weights.of_input(x, weights.w_bias + weights.r_bias)
        h, c, y = initial_h[d], initial_c[d], np.zeros((*x.shape[:2], r_q.shape[2]), np.float32)
        for t in _times(len(x), d, direction):
            i, o, f, g = np.split(shares[t] + weights.of_hidden(h), 4, axis=-1)
            c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
            h = _sigmoid(o) * np.tanh(c)
            y[t] = h
        outputs.append(y)
        hidden.append(h)
        cells.append(c)
    return np.stack(outputs, axis=1), np.stack(hidden), np.stack(cells)


def gru(
    x: Floats,
    w_q: NDArray[np.int8],
    w_scale: Floats,
    r_q: NDArray[np.int8],
    r_scale: Floats,
    bias: Floats,
    initial_h: Floats,
    direction: Direction = "forward",
    *,
    linear_before_reset: bool = False,
) -> tuple[Floats, Floats]:
    """ONNX GRU over `x` [T, B, I], all D directions: y [T, D, B, H] and the last h [D, B, H].

    w_q: [D, 3H, I], r_q: [D, 3H, H], gates in ONNX's order z, r, h; w_scale, r_scale: [D, 3H];
    bias: [D, 6H], the input's before the hidden state's; initial_h: [D, B, H].
    linear_before_reset: the reset gate multiplies the product (as PyTorch does), not the state.
    """
    size = r_q.shape[2]
    gates, candidate = slice(0, 2 * size), slice(2 * size, 3 * size)
    outputs, hidden = [], []
    for d, weights in enumerate(_directions(w_q, w_scale, r_q, r_scale, bias)):
        shares = weights.of_input(x, weights.w_bias)
        h, y = initial_h[d], np.zeros((*x.shape[:2], size), np.float32)
        for t in _times(len(x), d, direction):
            from_h = weights.of_hidden(h, gates) + weights.r_bias[gates]
            z, r = np.split(_sigmoid(shares[t][:, gates] + from_h), 2, axis=-1)
            if linear_before_reset:
                recurrent = r * (weights.of_hidden(h, candidate) + weights.r_bias[candidate])
            else:
                recurrent = weights.of_hidden(r * h, candidate) + weights.r_bias[candidate]
            n = np.tanh(shares[t][:, candidate] + recurrent)
            h = n + z * (h - n)
            y[t] = h
        outputs.append(y)
        hidden.append(h)
    return np.stack(outputs, axis=1), np.stack(hidden)


def _directions(
    w_q: NDArray[np.int8], w_scale: Floats, r_q: NDArray[np.int8], r_scale: Floats, bias: Floats
) -> Iterable[_Weights]:
    w_bias, r_bias = np.split(bias, 2, axis=1)
    return map(_Weights, w_q, w_scale, r_q, r_scale, w_bias, r_bias)


def _times(length: int, d: int, direction: Direction) -> range:
    """The time steps in the order in which direction `d` sees them."""
    backward = direction == "reverse" or d == 1
    return range(length - 1, -1, -1) if backward else range(length)


def _sigmoid(x: Floats) -> Floats:
    return sigmoid(x.astype(np.float64)).astype(np.float32)
