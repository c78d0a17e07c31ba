"""Matrix products of integers. Source: ONNX MatMul and Gemm in QDQ form."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from intact.core.arithmetic.rescale import centered, rescale
from intact.core.qparams import QParams

__all__ = ["gemm", "matmul", "per_column"]


def matmul(
    a_q: NDArray[np.generic],
    a: QParams,
    b_q: NDArray[np.generic],
    b: QParams,
    bias_q: NDArray[np.int32] | None = None,
    y: QParams | None = None,
) -> NDArray[np.generic]:
    """`a_q` [..., M, K] times `b_q` [..., K, N], two activations or an activation and a weight.

    a: one scale for the tensor. b: the same, or one per column (the last axis).
    bias_q: int32 [N] at scale `a.scale * b.scale`.
    y: the output's parameters; None for float32.
    """
    acc = centered(a_q, a) @ centered(b_q, b)
    if bias_q is not None:
        acc = acc + bias_q
    return rescale(acc, a.scale * per_column(b, b_q.ndim), y)


def gemm(
    x_q: NDArray[np.generic],
    x: QParams,
    w_q: NDArray[np.generic],
    w: QParams,
    bias_q: NDArray[np.int32] | None = None,
    y: QParams | None = None,
    *,
    trans_b: bool = False,
) -> NDArray[np.generic]:
    """`x_q` [M, K] times `w_q` [K, N], or its transpose where `w_q` is [N, K] (`trans_b`).

    w: one scale for the tensor or one per output, which is axis 1, or axis 0 with `trans_b`.
    The rest as in `matmul`. ONNX's alpha and beta must be 1.
    """
    if trans_b:
        w_q = w_q.T
        w = w if w.axis is None else replace(w, axis=1 - w.axis % 2)
    return matmul(x_q, x, w_q, w, bias_q, y)


def per_column(b: QParams, ndim: int) -> NDArray[np.float32]:
    """The scale of a right-hand matrix: 0-d, or one per column. Raises ValueError otherwise."""
    if b.axis is not None and b.axis % ndim != ndim - 1:
        raise ValueError(
            f"the scale belongs to axis {b.axis} of {ndim}; only the last axis, the columns, can "
            "have scales of its own, since the others are summed over or shared"
        )
    return b.scale
