"""From integers to exact sums, and from exact sums to the next integers or to floats."""

import numpy as np
from numpy.typing import NDArray

from intact.core.errors import PlanError
from intact.core.qparams import BOUNDS, QParams

__all__ = ["accumulator_bounds", "centered", "require_int32", "rescale"]


def centered(q: NDArray[np.generic], qparams: QParams) -> NDArray[np.int64]:
    """`q - zero_point`: the whole number of steps that `q` stands for."""
    _, zero_point = qparams.broadcast(q.ndim)
    return q.astype(np.int64) - zero_point


def rescale(
    acc: NDArray[np.int64], scale: NDArray[np.float32], y: QParams | None
) -> NDArray[np.generic]:
    """Exact sums at `scale` (it broadcasts against `acc`) as integers of `y`, or as float32.

    y given: `clamp(rne(float32(acc) * (scale / y.scale)) + y.zero_point)`, every operation in
        float32; y has one scale for the tensor.
    y None: `float32(acc) * scale`.
    Raises PlanError if a sum does not fit int32.
    """
    require_int32(acc)
    if y is None:
        return acc.astype(np.float32) * scale
    steps = np.rint(acc.astype(np.float32) * (scale / y.scale))
    low, high = BOUNDS[y.dtype]
    # In float64, where steps + zero_point is exact.
    return np.clip(steps.astype(np.float64) + y.zero_point, low, high).astype(y.dtype)


def require_int32(acc: NDArray[np.int64]) -> None:
    """Raise PlanError if a sum lies outside int32."""
    low, high = BOUNDS["int32"]
    if acc.size and (acc.min() < low or acc.max() > high):
        raise PlanError(
            f"a sum of products reaches [{acc.min()}, {acc.max()}], outside int32; "
            "keep this operator in float"
        )


def accumulator_bounds(
    w_q: NDArray[np.generic], w: QParams, x: QParams, bias_q: NDArray[np.int32] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The least and the greatest sum that any input can give, per index of `w_q`'s axis 0.

    w_q: the weights of one output value in each index of axis 0, as a convolution has them and a
    matrix product has them once transposed.
    """
    weights = centered(w_q, w).reshape(len(w_q), -1)
    # The largest and the smallest step of x; each weight pairs with what drives the sum furthest.
    least, most = (bound - int(x.zero_point) for bound in BOUNDS[x.dtype])
    products = np.stack([weights * least, weights * most])
    bias = 0 if bias_q is None else bias_q.astype(np.int64)
    return products.min(axis=0).sum(axis=1) + bias, products.max(axis=0).sum(axis=1) + bias
