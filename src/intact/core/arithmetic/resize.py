"""Resizing of integers. Source: ONNX Resize, modes nearest and linear, opset 19."""

import math
from collections.abc import Callable, Sequence
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from intact.core.arithmetic.pointwise import requantize
from intact.core.qparams import QParams, dequantize, quantize

__all__ = ["linear_taps", "nearest", "places", "resize"]

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
            at = places(length, math.floor(length * scale), scale, coordinates)
            x_q = np.take(x_q, nearest(at, length, rounding), axis)
        return requantize(x_q, x, y)
    real = dequantize(x_q, x)
    for axis, scale in enumerate(scales, 2):
        length = real.shape[axis]
        at = places(length, math.floor(length * scale), scale, coordinates)
        index, weight = linear_taps(at, length)
        shaped = weight.reshape(2, -1, *[1] * (real.ndim - 1 - axis))
        real = np.take(real, index[0], axis) * shaped[0] + np.take(real, index[1], axis) * shaped[1]
    return quantize(real, y)


def places(length: int, size: int, scale: float, coordinates: Coordinates) -> list[float]:
    """Where in an axis of `length` values each of the `size` values lies, in units of its values.

    scale: how many times as long the axis becomes, which need not be a whole number of values.
    """
    if coordinates == "asymmetric":
        return [i / scale for i in range(size)]
    if coordinates == "align_corners":
        return [i * (length - 1) / (size - 1) if size > 1 else 0.0 for i in range(size)]
    if coordinates == "pytorch_half_pixel" and size == 1:
        return [0.0]
    return [(i + 0.5) / scale - 0.5 for i in range(size)]


def nearest(at: Sequence[float], length: int, rounding: Rounding) -> NDArray[np.intp]:
    """The value nearest to each place."""
    return np.clip(np.asarray([_ROUND[rounding](p) for p in at], np.intp), 0, length - 1)


def linear_taps(at: Sequence[float], length: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The two neighbours of each place, [2, places], and the share of each, which add up to 1."""
    clipped = np.clip(np.asarray(at, np.float64), 0, length - 1)
    left = np.floor(clipped).astype(np.intp)
    right = np.minimum(left + 1, length - 1)
    share = (clipped - left).astype(np.float32)
    return np.stack([left, right]), np.stack([1 - share, share])
