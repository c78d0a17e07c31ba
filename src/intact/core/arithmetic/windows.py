"""The windows that convolutions and pools slide along any number of spatial axes."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

__all__ = ["ceil_extension", "padded", "windows"]

T = TypeVar("T", bound=np.generic)


def padded(x: NDArray[T], pads: Sequence[int], fill: int) -> NDArray[T]:
    """`x` [N, C, *spatial] with `fill` around it; pads are ONNX's [*begins, *ends]."""
    n = x.ndim - 2
    around = [(0, 0), (0, 0), *zip(pads[:n], pads[n:], strict=True)]
    return np.pad(x, around, constant_values=fill)


def windows(
    x: NDArray[T], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> NDArray[T]:
    """Every window of `x` [N, C, *spatial] as a view [N, C, *positions, *kernel]."""
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    view = sliding_window_view(x, extent, axis=tuple(range(2, x.ndim)))
    steps = [slice(None, None, step) for step in (*strides, *dilations)]
    result: NDArray[T] = view[(slice(None), slice(None), *steps)]
    return result


def ceil_extension(
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:
    """How many values beyond the padding the last window of each axis reaches in `ceil_mode`.

    A last window that would start beyond the input and its leading padding does not exist.
    Source: ONNX AveragePool and MaxPool, opset 22.
    """
    n = len(spatial)
    extension = []
    for axis in range(n):
        extent = (kernel[axis] - 1) * dilations[axis] + 1
        length = pads[axis] + spatial[axis] + pads[n + axis]
        last = -(-(length - extent) // strides[axis])
        if last * strides[axis] >= pads[axis] + spatial[axis]:
            last -= 1
        extension.append(max(last * strides[axis] + extent - length, 0))
    return extension
