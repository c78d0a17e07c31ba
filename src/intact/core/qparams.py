"""Scale and zero point of one tensor, and the two functions that they define.

Source: ONNX operator specification, QuantizeLinear and DequantizeLinear (opset 21).
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BOUNDS",
    "SMALLEST_SCALE",
    "Dtype",
    "QParams",
    "asymmetric",
    "dequantize",
    "fake_quantize",
    "quantize",
    "quantize_weight",
    "symmetric",
]

Dtype = Literal["uint8", "int8", "int32"]

BOUNDS: Final[dict[Dtype, tuple[int, int]]] = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "int32": (-(2**31), 2**31 - 1),
}

# The smallest normal float32: runtimes may flush a smaller scale to zero and divide by it.
SMALLEST_SCALE: Final = float(np.finfo(np.float32).tiny)

# Ranges end at half of float32's largest value, so that no 8-bit level dequantizes to infinity.
_LARGEST_END: Final = float(np.finfo(np.float32).max) / 2


@dataclass(frozen=True, eq=False)
class QParams:
    """How one tensor is quantized: `real = (q - zero_point) * scale`.

    scale: float32, 0-d for one scale per tensor or 1-d for one per index of `axis`.
    zero_point: same shape as `scale`, integers within the bounds of `dtype`.
    dtype: the integer type that is stored.
    axis: the axis that a 1-d scale belongs to; None if the scale is 0-d.
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[np.int32]
    dtype: Dtype = "uint8"
    axis: int | None = None

    def __post_init__(self) -> None:
        scale = np.asarray(self.scale, np.float32)
        zero_point = np.asarray(self.zero_point, np.int32)
        low, high = BOUNDS[self.dtype]
        if scale.shape != zero_point.shape:
            raise ValueError(
                f"scale has shape {scale.shape} and zero_point has shape {zero_point.shape}; "
                "they must agree"
            )
        if scale.ndim != (0 if self.axis is None else 1):
            raise ValueError(f"scale has {scale.ndim} dimensions, but axis is {self.axis}")
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise ValueError(f"scale must be finite and positive, not {scale}")
        if (zero_point < low).any() or (zero_point > high).any():
            raise ValueError(f"zero_point {zero_point} lies outside {self.dtype}'s [{low}, {high}]")
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "zero_point", zero_point)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, QParams)
            and (self.dtype, self.axis) == (other.dtype, other.axis)
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )

    def __hash__(self) -> int:
        return hash((self.scale.tobytes(), self.zero_point.tobytes(), self.dtype, self.axis))

    def broadcast(self, ndim: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Scale and zero point, shaped to broadcast against a tensor of `ndim` dimensions."""
        if self.axis is None:
            return self.scale, self.zero_point
        shape = [1] * ndim
        shape[self.axis] = self.scale.size
        return self.scale.reshape(shape), self.zero_point.reshape(shape)


def quantize(x: NDArray[np.float32], qparams: QParams) -> NDArray[np.generic]:
    """`clamp(rne(x / scale) + zero_point)` in `qparams.dtype`; rne rounds half to even.

    x: float32, no NaN. The division is a float32 division. Source: ONNX QuantizeLinear.
    """
    low, high = BOUNDS[qparams.dtype]
    _, zero_point = qparams.broadcast(x.ndim)
    return np.clip(_steps(x, qparams) + zero_point, low, high).astype(qparams.dtype)


def quantize_weight(weight: NDArray[np.float32], qparams: QParams) -> NDArray[np.generic]:
    """As `quantize`, but clamped to 127 steps either side of the zero point: never -128 in int8.

    A range narrower than the weight (method "mse") would otherwise clip to -128 on one side.
    """
    _, zero_point = qparams.broadcast(weight.ndim)
    steps = np.clip(_steps(weight, qparams), -127, 127)
    return np.asarray(steps + zero_point).astype(qparams.dtype)


def _steps(x: NDArray[np.float32], qparams: QParams) -> NDArray[np.float64]:
    """`rne(x / scale)`: the float32 quotient in whole steps.

    As float64, since float32 could not add a zero point exactly above 2**24.
    """
    scale, _ = qparams.broadcast(x.ndim)
    with np.errstate(over="ignore"):  # a quotient beyond float32 is infinite, and clamps
        return np.asarray(np.rint(x / scale), np.float64)


def dequantize(q: NDArray[np.generic], qparams: QParams) -> NDArray[np.float32]:
    """`(q - zero_point) * scale` in float32. Source: ONNX DequantizeLinear."""
    scale, zero_point = qparams.broadcast(q.ndim)
    return np.multiply((q.astype(np.int64) - zero_point).astype(np.float32), scale)


def fake_quantize(x: NDArray[np.float32], qparams: QParams) -> NDArray[np.float32]:
    """What is left of `x` after quantize and dequantize."""
    return dequantize(quantize(x, qparams), qparams)


def asymmetric(low: float, high: float, dtype: Dtype = "uint8") -> QParams:
    """The parameters that map [low, high], widened to hold zero, onto all of `dtype`.

    Zero is exactly representable: `dequantize(zero_point) == 0`. An empty range gives scale 1.
    Raises ValueError if an end is not finite.
    Source: ONNX DynamicQuantizeLinear, which defines the same adjustment.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"the range [{low}, {high}] is not finite")
    low, high = max(min(float(low), 0.0), -_LARGEST_END), min(max(float(high), 0.0), _LARGEST_END)
    bottom, top = BOUNDS[dtype]
    scale = np.asarray((high - low) / (top - bottom), np.float32)
    if scale < SMALLEST_SCALE:
        return QParams(np.ones((), np.float32), np.zeros((), np.int32), dtype)
    zero_point = np.clip(np.rint(bottom - low / float(scale)), bottom, top)
    return QParams(scale, np.asarray(zero_point, np.int32), dtype)


def symmetric(
    absmax: float | NDArray[np.float32], dtype: Dtype = "int8", axis: int | None = None
) -> QParams:
    """The parameters that map [-absmax, absmax] symmetrically around the middle of `dtype`.

    The narrow range is used ([-127, 127] for int8), so that negation is exact. A zero `absmax`
    gives scale 1. The middle, and so the zero point, is 0 for int8 and 128 for uint8.
    Raises ValueError if `absmax` is not finite.
    """
    largest = np.asarray(absmax, np.float32)
    if not np.isfinite(largest).all():
        raise ValueError("the largest magnitude is not finite")
    scale = np.minimum(largest, np.float32(_LARGEST_END)) / np.float32(127)
    usable = np.where(scale < SMALLEST_SCALE, 1, scale).astype(np.float32)
    middle = 128 if dtype == "uint8" else 0
    return QParams(usable, np.full(usable.shape, middle, np.int32), dtype, axis)
