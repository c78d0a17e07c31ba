"""Operators whose activation parameters are computed as they run.

One scale and zero point per row of a matrix product and per sample of a convolution, never over
a batch, so a result does not depend on what else is in the batch. Weights are int8, symmetric.
Source: ONNX DynamicQuantizeLinear, applied to a row or a sample in place of a tensor.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from intact.core.arithmetic.convolution import channels, correlate, correlate_transposed
from intact.core.arithmetic.rescale import require_int32
from intact.core.qparams import SMALLEST_SCALE

__all__ = ["dynamic_conv", "dynamic_conv_transpose", "dynamic_matmul", "dynamic_quantize"]


def dynamic_quantize(
    x: NDArray[np.float32], axes: tuple[int, ...]
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """uint8 integers of `x` with scale and zero point of their own for each slice along `axes`.

    `low = min(slice, 0)`, `high = max(slice, 0)`, `scale = (high - low) / 255`, or 1 where that is
    below the smallest normal float32; `zero_point = clamp(rne(-low / scale))`;
    `q = clamp(rne(x / scale) + zero_point)`, every operation in float32.
    Returns q, and scale and zero point with the reduced axes kept as 1.
    """
    low = x.min(axis=axes, keepdims=True, initial=0)
    high = x.max(axis=axes, keepdims=True, initial=0)
    scale = (high - low) / np.float32(255)
    scale = np.where(scale < np.float32(SMALLEST_SCALE), np.float32(1), scale)
    zero_point = np.clip(np.rint(-low / scale), 0, 255)
    q = np.clip(np.rint(x / scale) + zero_point, 0, 255)
    return q.astype(np.uint8), scale, zero_point


def dynamic_matmul(
    x: NDArray[np.float32],
    w_q: NDArray[np.int8],
    w_scale: NDArray[np.float32],
    bias: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """`x` [..., K] times `w_q` [K, N], each row of `x` quantized by itself: [..., N].

    w_scale: 0-d, or [N]. bias: float32 [N], added last.
    """
    steps, scale = _centered(x, (x.ndim - 1,))
    return _finish(steps @ w_q.astype(np.int64), scale * w_scale, bias)


def dynamic_conv(
    x: NDArray[np.float32],
    w_q: NDArray[np.int8],
    w_scale: NDArray[np.float32],
    bias: NDArray[np.float32] | None = None,
    *,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    group: int = 1,
) -> NDArray[np.float32]:
    """The convolution of `x` [N, C, *spatial] with `w_q` [M, C / group, *kernel].

    Each sample is quantized by itself. w_scale: 0-d, or [M]. bias: float32 [M], added last.
    """
    steps, scale = _centered(x, tuple(range(1, x.ndim)))
    acc = correlate(steps, w_q.astype(np.int64), strides, pads, dilations, group)
    bias = None if bias is None else channels(bias, x.ndim)
    return _finish(acc, scale * channels(w_scale, x.ndim), bias)


def dynamic_conv_transpose(
    x: NDArray[np.float32],
    w_q: NDArray[np.int8],
    w_scale: NDArray[np.float32],
    bias: NDArray[np.float32] | None = None,
    *,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    group: int = 1,
) -> NDArray[np.float32]:
    """The transposed convolution of `x` [N, C, *spatial] with `w_q` [C, M / group, *kernel].

    Each sample is quantized by itself. w_scale: 0-d, or [M / group], which every group uses.
    bias: float32 [M], added last.
    """
    steps, scale = _centered(x, tuple(range(1, x.ndim)))
    weights = w_q.astype(np.int64)
    acc = correlate_transposed(steps, weights, strides, pads, dilations, output_padding, group)
    w_scale = w_scale if w_scale.ndim == 0 else np.tile(w_scale, group)
    bias = None if bias is None else channels(bias, x.ndim)
    return _finish(acc, scale * channels(w_scale, x.ndim), bias)


def _centered(
    x: NDArray[np.float32], axes: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    q, scale, zero_point = dynamic_quantize(x, axes)
    return q.astype(np.int64) - zero_point.astype(np.int64), scale


def _finish(
    acc: NDArray[np.int64], scale: NDArray[np.float32], bias: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """`float32(acc) * scale + bias`, each rounded to float32."""
    require_int32(acc)
    product = acc.astype(np.float32) * scale
    return product if bias is None else product + bias
