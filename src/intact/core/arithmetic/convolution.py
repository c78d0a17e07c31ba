"""Convolutions of integers. Source: ONNX Conv and ConvTranspose in QDQ form."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from intact.core.arithmetic.rescale import centered, rescale
from intact.core.arithmetic.windows import padded, windows
from intact.core.qparams import QParams

__all__ = ["channels", "conv", "conv_transpose", "correlate", "correlate_transposed"]

T = TypeVar("T", bound=np.generic)


def conv(
    x_q: NDArray[np.generic],
    x: QParams,
    w_q: NDArray[np.generic],
    w: QParams,
    bias_q: NDArray[np.int32] | None = None,
    y: QParams | None = None,
    *,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    group: int = 1,
) -> NDArray[np.generic]:
    """The convolution of `x_q` [N, C, *spatial] with `w_q` [M, C / group, *kernel]: [N, M, *out].

    x: one scale for the tensor. w: the same, or one per output channel (axis 0).
    bias_q: int32 [M] at scale `x.scale * w.scale`.
    y: the output's parameters; None for float32.
    strides, pads ([*begins, *ends]), dilations: default 1, 0, 1. Padding stands for zero, so it
    holds `x`'s zero point.
    """
    acc = correlate(centered(x_q, x), centered(w_q, w), strides, pads, dilations, group)
    if bias_q is not None:
        acc = acc + channels(bias_q, acc.ndim)
    return rescale(acc, x.scale * channels(w.scale, acc.ndim), y)


def conv_transpose(
    x_q: NDArray[np.generic],
    x: QParams,
    w_q: NDArray[np.generic],
    w: QParams,
    bias_q: NDArray[np.int32] | None = None,
    y: QParams | None = None,
    *,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    group: int = 1,
) -> NDArray[np.generic]:
    """The transposed convolution of `x_q` [N, C, *spatial] with `w_q` [C, M / group, *kernel].

    w: one scale for the tensor, or M / group of them (axis 1), which every group uses.
    bias_q: int32 [M] at scale `x.scale * w.scale`. The rest as in `conv`; pads crop the output.
    """
    acc = correlate_transposed(
        centered(x_q, x), centered(w_q, w), strides, pads, dilations, output_padding, group
    )
    if bias_q is not None:
        acc = acc + channels(bias_q, acc.ndim)
    scale = w.scale if w.axis is None else np.tile(w.scale, group)
    return rescale(acc, x.scale * channels(scale, acc.ndim), y)


def correlate(
    x: NDArray[np.int64],
    w: NDArray[np.int64],
    strides: Sequence[int] | None,
    pads: Sequence[int] | None,
    dilations: Sequence[int] | None,
    group: int,
) -> NDArray[np.int64]:
    """The exact sums of a convolution of centered integers, padded with zero."""
    n = x.ndim - 2
    patches = windows(
        padded(x, pads or [0] * 2 * n, 0), w.shape[2:], strides or [1] * n, dilations or [1] * n
    )
    kernel_axes = range(2 + n, 2 + 2 * n)
    sums = [
        # [N, C/g, *out, *kernel] times [M/g, C/g, *kernel], summed to [N, *out, M/g].
        np.tensordot(part, weights, axes=([1, *kernel_axes], [1, *range(2, 2 + n)]))
        for part, weights in zip(
            np.split(patches, group, axis=1), np.split(w, group, axis=0), strict=True
        )
    ]
    return np.moveaxis(np.concatenate(sums, axis=-1), -1, 1)


def correlate_transposed(
    x: NDArray[np.int64],
    w: NDArray[np.int64],
    strides: Sequence[int] | None,
    pads: Sequence[int] | None,
    dilations: Sequence[int] | None,
    output_padding: Sequence[int] | None,
    group: int,
) -> NDArray[np.int64]:
    """The exact sums of a transposed convolution of centered integers.

    Every input value adds the kernel, times itself, to the output at `strides` times its place.
    """
    n = x.ndim - 2
    strides, dilations = strides or [1] * n, dilations or [1] * n
    pads, extra = pads or [0] * 2 * n, output_padding or [0] * n
    spatial, kernel = x.shape[2:], w.shape[2:]
    full = [
        (spatial[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 + extra[i]
        for i in range(n)
    ]
    acc = np.zeros((x.shape[0], group * w.shape[1], *full), np.int64)
    sources, targets = np.split(x, group, axis=1), np.split(acc, group, axis=1)
    for source, weights, target in zip(sources, np.split(w, group, axis=0), targets, strict=True):
        for place in np.ndindex(*kernel):
            # [N, C/g, *spatial] with [C/g, M/g] of one place in the kernel.
            product = np.tensordot(source, weights[:, :, *place], axes=([1], [0]))
            starts = [place[i] * dilations[i] for i in range(n)]
            stops = [starts[i] + (spatial[i] - 1) * strides[i] + 1 for i in range(n)]
            reached = map(slice, starts, stops, strides)
            target[:, :, *reached] += np.moveaxis(product, -1, 1)
    kept = (slice(pads[i], full[i] - pads[n + i]) for i in range(n))
    return acc[:, :, *kept]


def channels(values: NDArray[T], ndim: int) -> NDArray[T]:
    """One value for all, or one per channel, shaped to broadcast against [N, C, *spatial]."""
    return values if values.ndim == 0 else values.reshape(-1, *[1] * (ndim - 2))
