"""Finishing what is described of images: instructions for integers, or for floats."""

from dataclasses import replace
from math import inf
from typing import Any, Final

import numpy as np

from intact.engine.arrange import dequantize, lookup_table, take
from intact.engine.program import Quantization, Tensor, new_tensor
from intact.engine.state import State
from intact.engine.values import (
    Channelwise,
    Dequantized,
    Function,
    Gated,
    Joined,
    Product,
    Resampled,
    Rows,
    Spread,
    Stored,
    Sum,
)
from intact.engine.view import View

__all__ = [
    "channelwise",
    "gate",
    "join_integers",
    "lookup_floats",
    "real_binary",
    "real_channelwise",
    "resample",
    "spread",
    "with_rows",
]

_ROW: Final = 4096  # values that are worth a job of their own


def gate(value: Gated, to: Quantization, state: State) -> Tensor:
    """The product's integers."""
    a, b = value.a, value.gate
    y = new_tensor(value.shape, "uint8", a.tensor.images)
    # Where every value has a factor of its own, there are as many images of one pixel.
    images, channels = _rows(y) if b.shape == a.shape else a.shape[:2]
    return state.add(
        "gate", value.label, y, (a.tensor, b.tensor), images=images, channels=channels,
        pixels=y.size // (images * channels),
        zero_points=(a.quantization.zero_point, b.quantization.zero_point),
        scale=float(a.quantization.scale * b.quantization.scale / to.scale), clamp=to.clamp(),
    )  # fmt: skip


def _rows(y: Tensor) -> tuple[int, int]:
    """The tensor as rows and columns, these as many as are worth a job."""
    columns = 1
    for i in sorted(range(len(y.shape)), key=lambda i: y.strides[i]):
        if columns < _ROW:
            columns *= y.shape[i]
    return y.size // columns, columns


def real_binary(value: Sum | Gated, state: State) -> Stored:
    """The sum or product of the dequantized values."""
    other = value.b if isinstance(value, Sum) else value.gate
    a, b = (dequantize(x, x.tensor.images, state) for x in (value.a, other))
    y = new_tensor(value.shape, "float32", value.a.tensor.images)
    sizes, b_strides = (1, 1, y.size), (0, 0, 1)
    if b.shape != a.shape:
        n, c = a.shape[:2]
        sizes, b_strides = (n, y.size // (n * c), c), (c, 0, 1)
    operation = "Mul" if isinstance(value, Gated) else "Add" if value.sign > 0 else "Sub"
    state.add(
        "binary", value.label, y, (a, b), operation=operation, sizes=sizes,
        a_strides=(sizes[1] * sizes[2], sizes[2], 1), b_strides=b_strides, extremes=None,
    )  # fmt: skip
    if isinstance(value, Sum) and (value.low > -inf or value.high < inf):
        clipped = new_tensor(y.shape, "float32", y.images)
        function = ("Clip", value.low, value.high)
        state.add("function", value.label, clipped, (y,), size=y.size, function=function)
        return Stored.of(clipped)
    return Stored.of(y)


def lookup_floats(value: Function, x: Dequantized, state: State) -> Stored:
    """The function of integers in float32."""
    steps = (np.arange(256) - x.quantization.zero_point).astype(np.float32)
    real = (steps * x.quantization.scale).astype(np.float64)
    y = new_tensor(value.shape, "float32", x.tensor.images)
    with np.errstate(all="ignore"):
        table = np.ascontiguousarray(value.function(real), np.float32)
    state.add("lookup_floats", value.label, y, (x.tensor,), size=y.size, table=table)
    return Stored.of(y)


def join_integers(value: Joined, to: Quantization, images: bool, state: State) -> Tensor:
    """The parts side by side. images: where no part says in which order its readers want it."""
    last = any(isinstance(part, Dequantized) and part.tensor.images for part in value.parts)
    y = new_tensor(value.shape, "uint8", len(value.shape) > 2 and (last or images))
    offset = 0
    for part in value.parts:
        same = part.quantization == to
        entries = None if same else lookup_table(lambda v: v, part.quantization, to)
        state.move(part.view, y, value.label, offset=offset, table=entries)
        offset += part.shape[value.axis] * y.strides[value.axis]
    return y


def spread(value: Spread, product: Tensor, state: State) -> Tensor:
    """The columns of a finished product, uint8 or float32, at the pixels that they belong to."""
    n, channels, *spatial = value.shape
    stride, padding = value.stride[-len(spatial) :], value.padding[-len(spatial) :]
    outer, _, *pixels = product.strides
    each = channels // value.groups
    # Columns are [group][row's phase][column's phase][channel of the group].
    phases = [each * int(np.prod(stride[i + 1 :])) for i in range(len(stride))]
    columns = ((value.groups, each * int(np.prod(stride))), (each, 1))
    axes = [
        ((size, pixel), (step, phase))
        for size, pixel, step, phase in zip(product.shape[2:], pixels, stride, phases, strict=True)
    ]
    view = View(product, (((n, outer),), columns, *axes))
    y, indices = new_tensor(value.shape, product.dtype, True), {}
    for axis, (begin, size) in enumerate(zip(padding, spatial, strict=True), 2):
        part = view.part(axis, begin, size)
        if part is None:
            indices[axis] = np.arange(begin, begin + size)
        view = part or view
    return state.move(view, y, value.product.label, indices=indices)


def channelwise(value: Channelwise, to: Quantization, state: State) -> Tensor:
    """The integers of what differs from channel to channel."""
    x = value.x
    assert isinstance(x, Dequantized)
    y = new_tensor(value.shape, "uint8", x.tensor.images)
    return state.add(
        "channelwise", value.label, y, (x.tensor,), pixels=y.size // value.factor.size,
        factor=value.factor, shift=value.shift, slope=value.slope,
        quantized=(float(x.quantization.scale), x.quantization.zero_point), scale=float(to.scale),
        clamp=to.clamp(value.low, value.high),
    )  # fmt: skip


def real_channelwise(value: Channelwise, state: State) -> Stored:
    """The same in float32."""
    x, function = value.x, value.function
    if isinstance(x, Dequantized):
        tensor = dequantize(x, x.tensor.images, state)
    else:
        tensor = state.images(x, value.label)
    if value.low > -inf or value.high < inf:
        function = ("Clip", value.low, value.high)
    y = new_tensor(value.shape, "float32", tensor.images)
    state.add(
        "real_channelwise", value.label, y, (tensor,), pixels=y.size // value.factor.size,
        factor=value.factor, shift=value.shift, slope=value.slope, function=function,
    )  # fmt: skip
    return Stored.of(y)


def resample(value: Resampled, to: Quantization | None, state: State) -> Tensor:
    """The mixed pixels, in float32 unless they are quantized."""
    x, quantized = value.x, None
    if isinstance(x, Dequantized):
        tensor = x.tensor
        quantized = (float(x.quantization.scale), x.quantization.zero_point)
    else:
        tensor = state.images(x, value.label)
    y = new_tensor(value.shape, "float32" if to is None else "uint8", True)
    height, width = (1, *x.shape[2:])[-2:]
    taps: list[Any] = [
        (index.shape[1], index.reshape(-1), weight.reshape(-1))
        for index, weight in (value.rows, value.columns)
    ]
    return state.add(
        "resample", value.label, y, (tensor,), rows=taps[0], columns=taps[1],
        sizes=(x.shape[0], height, width, x.shape[1], len(value.rows[0]), len(value.columns[0])),
        quantized=quantized, to=None if to is None else (float(to.scale), to.zero_point),
    )  # fmt: skip


def with_rows(value: Product, state: State) -> Product:
    """A static depthwise product as a dynamic one, the way that these are computed in floats.

    Each image has scale 1 and zero point -1, so that the bias (in the place of the sums of weights)
    is added to the sums. Padding would hold that zero point: it is written out.
    """
    w = value.windows
    sizes, indices = [], {}
    for i, (size, out) in enumerate(((w.height, w.out_height), (w.width, w.out_width))):
        reached = (out - 1) * w.stride[i] + (w.kernel[i] - 1) * w.dilation[i] + 1
        begin = w.padding[i]
        around = (begin, max(reached - begin - size, 0))
        sizes.append(size + sum(around))
        if any(around):
            indices[len(value.x.shape) - 2 + i] = np.pad(
                np.arange(size), around, constant_values=-1
            )
    x: Any = Dequantized(value.x, Quantization(np.float32(1), value.x_zero_point))
    if indices:
        x = take(x, indices, 0, value.label, state)
    count = x.shape[0]
    parameters = [np.ones(count, np.float32), np.full(count, -1, np.int32).view(np.float32)]
    scales, points = (
        state.move(state.constant(p).view, new_tensor((count,), "float32"), value.label)
        for p in parameters
    )
    windows = replace(w, height=sizes[0], width=sizes[1], padding=(0, 0))
    return replace(value, x=x.tensor, windows=windows, rows=Rows(scales, points))
