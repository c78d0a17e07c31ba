"""Operators that work value by value: what QuantizeLinear leaves of the float result.

Source: ONNX operators between DequantizeLinear and QuantizeLinear.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from intact.core.arithmetic.rescale import centered, rescale
from intact.core.qparams import BOUNDS, QParams, dequantize, quantize

__all__ = [
    "FUNCTIONS",
    "Function",
    "add",
    "batch_normalization",
    "concat",
    "div",
    "lookup",
    "mul",
    "prelu",
    "requantize",
    "sub",
    "table",
]

Function = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def add(
    a_q: NDArray[np.generic],
    a: QParams,
    b_q: NDArray[np.generic],
    b: QParams,
    y: QParams | None = None,
) -> NDArray[np.generic]:
    """`a + b`, broadcasting: the float32 sum of the dequantized values, quantized to `y` if given.

    The scales differ, so there is no integer sum.
    """
    total = dequantize(a_q, a) + dequantize(b_q, b)
    return total if y is None else quantize(total, y)


def sub(
    a_q: NDArray[np.generic],
    a: QParams,
    b_q: NDArray[np.generic],
    b: QParams,
    y: QParams | None = None,
) -> NDArray[np.generic]:
    """`a - b`, broadcasting, as in `add`."""
    difference = dequantize(a_q, a) - dequantize(b_q, b)
    return difference if y is None else quantize(difference, y)


def div(
    a_q: NDArray[np.generic],
    a: QParams,
    b_q: NDArray[np.generic],
    b: QParams,
    y: QParams | None = None,
) -> NDArray[np.generic]:
    """`a / b`, broadcasting, as in `add`. No value of `b` may be zero."""
    quotient = dequantize(a_q, a) / dequantize(b_q, b)
    return quotient if y is None else quantize(quotient, y)


def prelu(
    a_q: NDArray[np.generic], a: QParams, slope: NDArray[np.float32], y: QParams | None = None
) -> NDArray[np.generic]:
    """`a`, or `slope * a` where that is negative; the float32 slope broadcasts against `a`."""
    x = dequantize(a_q, a)
    result = np.where(x < 0, slope * x, x)
    return result if y is None else quantize(result, y)


def batch_normalization(
    x_q: NDArray[np.generic],
    x: QParams,
    gamma: NDArray[np.float32],
    beta: NDArray[np.float32],
    mean: NDArray[np.float32],
    variance: NDArray[np.float32],
    y: QParams | None = None,
    *,
    epsilon: float = 1e-5,
) -> NDArray[np.generic]:
    """`gamma * (x - mean) / sqrt(variance + epsilon) + beta` per channel of `x_q` [N, C, ...].

    A normalization that no convolution precedes (DenseNet); others are folded into weights.
    """
    factor = gamma / np.sqrt(variance + np.float32(epsilon))
    shape = (-1, *[1] * (x_q.ndim - 2))
    result = dequantize(x_q, x) * factor.reshape(shape) + (beta - mean * factor).reshape(shape)
    return result if y is None else quantize(result, y)


def mul(
    a_q: NDArray[np.generic],
    a: QParams,
    b_q: NDArray[np.generic],
    b: QParams,
    y: QParams | None = None,
) -> NDArray[np.generic]:
    """`a * b`, broadcasting: an exact integer product at scale `a.scale * b.scale`, rescaled."""
    return rescale(centered(a_q, a) * centered(b_q, b), a.scale * b.scale, y)


def requantize(q: NDArray[np.generic], x: QParams, y: QParams) -> NDArray[np.generic]:
    """The integers of `x` as integers of `y`; the same integers where the two are equal."""
    return quantize(dequantize(q, x), y)


def concat(
    parts: Sequence[tuple[NDArray[np.generic], QParams]], axis: int, y: QParams
) -> NDArray[np.generic]:
    """The parts one after another along `axis`, each requantized to `y`."""
    return np.concatenate([requantize(q, x, y) for q, x in parts], axis=axis)


def table(function: Function, x: QParams, y: QParams) -> NDArray[np.generic]:
    """`function` of each of the 256 integers of `x`, ascending, as integers of `y`.

    The function is computed in float64 and rounded to float32 once.
    """
    low, high = BOUNDS[x.dtype]
    real = dequantize(np.arange(low, high + 1), x).astype(np.float64)
    return quantize(function(real).astype(np.float32), y)


def lookup(q: NDArray[np.generic], values: NDArray[np.generic]) -> NDArray[np.generic]:
    """The entry of `values` (from `table`) for each 8-bit integer of `q`."""
    lowest = -128 if q.dtype == np.int8 else 0
    return values[q.astype(np.intp) - lowest]


def relu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(x, 0)


def leaky_relu(x: NDArray[np.float64], alpha: float = 0.01) -> NDArray[np.float64]:
    return np.where(x < 0, alpha * x, x)


def clip(
    x: NDArray[np.float64], low: float = -math.inf, high: float = math.inf
) -> NDArray[np.float64]:
    return np.clip(x, low, high)


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    # 1 / (1 + exp(-x)), in the form that does not overflow.
    return 0.5 + 0.5 * np.tanh(0.5 * x)


def hard_sigmoid(
    x: NDArray[np.float64], alpha: float = 0.2, beta: float = 0.5
) -> NDArray[np.float64]:
    return np.clip(alpha * x + beta, 0, 1)


def hard_swish(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x * hard_sigmoid(x, 1 / 6, 0.5)


def silu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x * sigmoid(x)


def elu(x: NDArray[np.float64], alpha: float = 1.0) -> NDArray[np.float64]:
    return np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


def softplus(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.logaddexp(0, x)


def mish(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x * np.tanh(softplus(x))


def gelu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    erf = np.vectorize(math.erf, otypes=[np.float64])
    return np.asarray(0.5 * x * (1 + erf(x / math.sqrt(2))))


def gelu_tanh(x: NDArray[np.float64]) -> NDArray[np.float64]:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return np.asarray(0.5 * x * (1 + np.tanh(inner)))


# By ONNX operator (Swish is SiLU); attributes are bound with functools.partial.
FUNCTIONS: Final[dict[str, Callable[..., NDArray[np.float64]]]] = {
    "Clip": clip,
    "Elu": elu,
    "Gelu": gelu,
    "GeluTanh": gelu_tanh,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "LeakyRelu": leaky_relu,
    "Mish": mish,
    "Relu": relu,
    "Sigmoid": sigmoid,
    "Softplus": softplus,
    "Swish": silu,
    "Tanh": np.tanh,
}
