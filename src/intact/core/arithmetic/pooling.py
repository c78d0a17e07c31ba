"""Pools of integers. Source: ONNX MaxPool, AveragePool and GlobalAveragePool, opset 22."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from intact.core.arithmetic.pointwise import requantize
from intact.core.arithmetic.rescale import centered, rescale
from intact.core.arithmetic.windows import ceil_extension, padded, windows
from intact.core.qparams import BOUNDS, QParams

__all__ = ["average_pool", "global_average_pool", "global_max_pool", "max_pool"]


def max_pool(
    x_q: NDArray[np.generic],
    x: QParams,
    y: QParams,
    *,
    kernel: Sequence[int],
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    ceil_mode: bool = False,
) -> NDArray[np.generic]:
    """The greatest integer of each window of `x_q` [N, C, *spatial], requantized to `y`.

    Padding never wins. strides, pads ([*begins, *ends]), dilations: default 1, 0, 1.
    """
    n = x_q.ndim - 2
    strides, dilations, pads = strides or [1] * n, dilations or [1] * n, pads or [0] * 2 * n
    extension = (
        ceil_extension(x_q.shape[2:], kernel, strides, pads, dilations) if ceil_mode else [0] * n
    )
    beyond = [*pads[:n], *np.add(pads[n:], extension).tolist()]
    around = padded(x_q, beyond, BOUNDS[x.dtype][0])
    greatest = windows(around, kernel, strides, dilations).max(axis=tuple(range(-n, 0)))
    return requantize(greatest, x, y)


def average_pool(
    x_q: NDArray[np.generic],
    x: QParams,
    y: QParams | None = None,
    *,
    kernel: Sequence[int],
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> NDArray[np.generic]:
    """The mean of each window of `x_q` [N, C, *spatial].

    The mean of n integers at scale s is their exact sum at scale s / n, rescaled. Padding counts
    toward n, as zeros, only with `count_include_pad`; what `ceil_mode` adds never does.
    y: the output's parameters; None for float32.
    """
    n = x_q.ndim - 2
    strides, dilations, pads = strides or [1] * n, dilations or [1] * n, pads or [0] * 2 * n
    extension = (
        ceil_extension(x_q.shape[2:], kernel, strides, pads, dilations) if ceil_mode else [0] * n
    )
    beyond = [0] * n + extension
    ones = padded(np.ones((1, 1, *x_q.shape[2:]), np.int64), pads, int(count_include_pad))
    steps = padded(centered(x_q, x), pads, 0)
    kernel_axes = tuple(range(-n, 0))
    count, acc = (
        windows(padded(values, beyond, 0), kernel, strides, dilations).sum(axis=kernel_axes)
        for values in (ones, steps)
    )
    return rescale(acc, x.scale / count.astype(np.float32), y)


def global_max_pool(x_q: NDArray[np.generic], x: QParams, y: QParams) -> NDArray[np.generic]:
    """The greatest integer of each channel of `x_q` [N, C, *spatial]: [N, C, 1, ...]."""
    return max_pool(x_q, x, y, kernel=x_q.shape[2:])


def global_average_pool(
    x_q: NDArray[np.generic], x: QParams, y: QParams | None = None
) -> NDArray[np.generic]:
    """The mean of each channel of `x_q` [N, C, *spatial]: [N, C, 1, ...]."""
    return average_pool(x_q, x, y, kernel=x_q.shape[2:])
