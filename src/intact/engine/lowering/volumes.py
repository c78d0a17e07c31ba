"""Volumes: convolutions and pools in three dimensions, by way of two.

A slice of the output reads `kernel` slices of the input. Side by side in the channels these are an
image, and the convolution is one of images.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from intact.engine.arrange import take
from intact.engine.program import Tensor, Windows, new_tensor
from intact.engine.state import State
from intact.engine.values import Rows, Stored
from intact.engine.view import View

__all__ = ["for_slices", "padded_in_depth", "unrolled"]


def unrolled(
    x: Tensor, s: dict[str, Any], group: int, fill: int, label: str, state: State
) -> tuple[Tensor, Windows]:
    """The images [N * depth of the output, kernel * C, H, W] of x [N, C, D, H, W], and the windows.

    s: of `spatial_of`. fill: what padding along the depth holds. Of each group, the channels of
    one slice come before those of the next.
    """
    n, c, depth, height, width = x.shape
    taps, out, each = s["kernel"][0], s["out"][0], c // group
    wide = taps * c
    y = new_tensor((n * out, wide, height, width), "uint8", True)
    view = View.of(x).reshaped((n, group, each, depth, height, width))
    assert view is not None  # channels lie last, so the groups of them do
    pixels = height * width * wide
    strides = (out * pixels, taps * each, 1, pixels, width * wide, wide)
    for tap in range(taps):
        index = np.arange(out) * s["stride"][0] - s["padding"][0] + tap * s["dilation"][0]
        inside: NDArray[np.int64] = np.where((index < 0) | (index >= depth), -1, index)
        state.move(
            view, y, label, offset=tap * each, strides=strides, indices={3: inside}, fill=fill
        )
    out_height, out_width = s["out"][1:]
    kernel, stride, dilation, padding = (
        s[key][1:] for key in ("kernel", "stride", "dilation", "padding")
    )
    windows = Windows(
        n * out, height, width, wide, out_height, out_width, kernel, stride, dilation, padding
    )
    return y, windows


def padded_in_depth(x: Tensor, s: dict[str, Any], label: str, state: State) -> Tensor:
    """x with zeros around its depth, of which `s` has no padding then.

    Where samples have zero points of their own, no integer is padding for all.
    """
    begin, end = s["padding"][0], s["ends"][0]
    s["padding"] = (0, *s["padding"][1:])
    if not begin and not end:
        return x
    index = np.pad(np.arange(x.shape[2]), (begin, end), constant_values=-1)
    padded = take(Stored.of(x), {2: index}, 0, label, state)
    assert isinstance(padded, Stored)
    return padded.tensor


def for_slices(rows: Rows, s: dict[str, Any], label: str, state: State) -> Rows:
    """The parameters of each sample, for each slice of its output."""
    out = s["out"][0]

    def repeated(x: Tensor) -> Tensor:
        view = View(x, (*View.of(x).axes, ((out, 0),)))
        return state.move(view, new_tensor((*x.shape, out), "float32"), label)

    return Rows(repeated(rows.scales), repeated(rows.zero_points))
