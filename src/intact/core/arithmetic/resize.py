"""Resizing of integers. Source: ONNX Resize, modes nearest and linear, opset 19."""

import math
from collections.abc import Callable, Sequence
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from intact.core.arithmetic.pointwise import requantize
from intact.core.qparams import QParams, dequantize, quantize

__all__ = ["resize"]

Coordinates = Literal["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]
Rounding = Literal["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]

_ROUND: Final[dict[Rounding, Callable[[float], int]]] = {
    "round_prefer_floor": lambda x: math.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: math.floor(x + 0.5),
    "floor": math.floor,
    "ceil": math.ceil,
}


def resize(
    x_q: NDArray[np.generic],
    x: QParams,
    y: QParams,
    *,
    scales: Sequence[float],
    mode: Literal["nearest", "linear"] = "nearest",
    coordinates: Coordinates = "half_pixel",
    rounding: Rounding = "round_prefer_floor",
) -> NDArray[np.generic]:
    """`x_q` [N, C, *spatial] with each spatial axis `scales` times as long, rounded down.

    nearest copies integers (requantized to `y`); linear mixes the dequantized values of two
    neighbours along one axis after another in float32, then quantizes to `y`.
    """
    if mode == "nearest":
        for axis, scale in enumerate(scales, 2):
            length = x_q.shape[axis]
            nearest = [_ROUND[rounding](p) for p in _places(length, scale, coordinates)]
            x_q = np.take(x_q, np.clip(nearest, 0, length - 1), axis)
        return requantize(x_q, x, y)
    real = dequantize(x_q, x)
    for axis, scale in enumerate(scales, 2):
        length = real.shape[axis]
        places = np.clip(_places(length, scale, coordinates), 0, length - 1)
        left = np.floor(places).astype(np.intp)
        right = np.minimum(left + 1, length - 1)
        share = (places - left).astype(np.float32).reshape(-1, *[1] * (real.ndim - 1 - axis))
        real = np.take(real, left, axis) * (1 - share) + np.take(real, right, axis) * share
    return quantize(real, y)


def _places(length: int, scale: float, coordinates: Coordinates) -> list[float]:
    """Where in the input, in units of its values, each output value of an axis lies."""
    size = math.floor(length * scale)
    if coordinates == "asymmetric":
        return [i / scale for i in range(size)]
    if coordinates == "align_corners":
        return [i * (length - 1) / (size - 1) if size > 1 else 0.0 for i in range(size)]
    if coordinates == "pytorch_half_pixel" and size == 1:
        return [0.0]
    return [(i + 0.5) / scale - 0.5 for i in range(size)]
