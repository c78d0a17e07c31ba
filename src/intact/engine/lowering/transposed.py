"""Transposed convolutions: one ordinary convolution, whose columns are spread over pixels.

An input pixel i adds its product with place k of the kernel to the output pixel
`i * stride + k * dilation - padding`. With `k * dilation = stride * reach + phase` that is pixel
`phase` of the `stride` pixels that stand for `i + reach`. So the output is seen as an image of
fewer pixels with stride² times the channels, each computed from the window of inputs that are up
to the largest `reach` before it.
"""

from math import gcd
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intact.engine.finish import realize
from intact.engine.lowering.common import Lowering, attribute
from intact.engine.lowering.products import (
    bias_of,
    columns_of,
    dynamic_weights_of,
    name_of,
    weights_of,
)
from intact.engine.program import PACKED_AS, Tensor, Unsupported, Windows
from intact.engine.state import State
from intact.engine.values import Dequantized, Product, Rows, Spread, Value, spread_columns

__all__ = ["LOWERINGS"]

_LARGEST: Final = 2**20  # of a size along one axis, or of an attribute
_LARGEST_WEIGHTS: Final = 2**28  # bytes, with the zeros between them


class _Axis:
    """One spatial axis. taps: inputs that a value is computed from; apart: the step between them.

    reach, phase: of each place of the kernel, as the module says; reach counts taps.
    """

    def __init__(
        self, size: int, kernel: int, stride: int, dilation: int, begin: int, out: int
    ) -> None:
        at = np.arange(kernel) * dilation
        reach = at // stride
        self.phase = at % stride
        self.apart = gcd(*reach.tolist()) or 1
        self.reach = reach // self.apart
        self.taps = int(self.reach.max()) + 1
        last = int(reach.max())
        # Whole pixels that padding leaves out are not computed, unless windows would have to begin
        # behind the image's beginning.
        skipped = min(begin // stride, last)
        self.padding = last - skipped
        self.begin = begin - skipped * stride
        self.pixels = -(-(self.begin + out) // stride)
        self.size, self.stride, self.out = size, stride, out


def _axes(node: ir.Node, spatial: tuple[int, ...], kernel: tuple[int, ...]) -> list[_Axis]:
    """The axes, as `core.arithmetic.conv_transpose` and ONNX's attributes have them."""
    n = len(kernel)
    if n not in (1, 2) or len(spatial) != n:
        raise Unsupported(f"operator '{node.name}' has {len(spatial)} spatial dimensions")
    strides, dilations, extra = (
        tuple(attribute(node, name, (default,) * n))
        for name, default in (("strides", 1), ("dilations", 1), ("output_padding", 0))
    )
    pads = tuple(attribute(node, "pads", (0,) * 2 * n))
    if (len(strides), len(dilations), len(extra), len(pads)) != (n, n, n, 2 * n):
        raise Unsupported(f"operator '{node.name}' has attributes of another rank than its input")
    everything = (*strides, *dilations, *kernel, *pads, *extra, *spatial)
    if min(*strides, *dilations, *kernel) < 1 or min(everything) < 0 or max(everything) > _LARGEST:
        raise Unsupported(f"operator '{node.name}' has a kernel, stride or padding out of range")
    full = [
        (spatial[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 + extra[i]
        for i in range(n)
    ]
    begins, outs = [], []
    wanted, auto = attribute(node, "output_shape", None), attribute(node, "auto_pad", "NOTSET")
    for i in range(n):
        begin, out = pads[i], full[i] - pads[i] - pads[n + i]
        if wanted is not None or auto.startswith("SAME"):
            out = int(wanted[i - n]) if wanted is not None else spatial[i] * strides[i]
            total = max(full[i] - out, 0)
            begin = total // 2 if auto == "SAME_UPPER" else total - total // 2
        if not 1 <= out <= _LARGEST:
            raise Unsupported(f"operator '{node.name}' has no output")
        begins.append(begin)
        outs.append(out)
    axes = [
        _Axis(*sizes)
        for sizes in zip(spatial, kernel, strides, dilations, begins, outs, strict=True)
    ]
    one = [_Axis(1, 1, 1, 1, 0, 1)]
    return one * (2 - n) + axes


def _packed(weights: NDArray[np.int8], group: int, rows: _Axis, columns: _Axis) -> NDArray[np.int8]:
    """[groups, taps * inputs, phases * outputs] of weights [C, M / group, *kernel]."""
    c, m, *kernel = weights.shape
    shaped = weights.reshape(group, c // group, m, *(1,) * (2 - len(kernel)), *kernel)
    packed = np.zeros(
        (group, rows.taps, columns.taps, c // group, rows.stride, columns.stride, m), np.int8
    )
    for i in range(shaped.shape[3]):
        for j in range(shaped.shape[4]):
            # A window begins with what reaches furthest.
            tap = rows.taps - 1 - rows.reach[i], columns.taps - 1 - columns.reach[j]
            packed[:, *tap, :, rows.phase[i], columns.phase[j]] = shaped[..., i, j]
    return packed.reshape(group, rows.taps * columns.taps * (c // group), -1)


def _spread(
    node: ir.Node,
    x: Tensor,
    weights: NDArray[np.int8],
    scale: NDArray[np.float32],
    bias: NDArray[np.int64],
    shift: NDArray[np.float32] | None = None,
    x_zero_point: int = 0,
    rows: Rows | None = None,
) -> Spread:
    """scale, bias, shift: for each channel of the result."""
    group = attribute(node, "group", 1)
    if weights.shape[0] != x.shape[1] or x.shape[1] % group:
        raise Unsupported(f"operator '{node.name}' has weights that do not fit its input")
    spatial = x.shape[2:]
    high, wide = _axes(node, spatial, weights.shape[2:])
    stride = (high.stride, wide.stride)
    spread_over = high.taps * wide.taps * high.stride * wide.stride
    if spread_over * weights.size > _LARGEST_WEIGHTS:
        raise Unsupported(f"operator '{node.name}' has strides out of range")
    packed = _packed(weights, group, high, wide)
    columns = packed.shape[0] * packed.shape[2]
    windows = Windows(
        x.shape[0], high.size, wide.size, x.shape[1], high.pixels, wide.pixels,
        (high.taps, wide.taps), (1, 1), (high.apart, wide.apart), (high.padding, wide.padding),
    )  # fmt: skip
    # The same weights may be packed for other strides elsewhere.
    packing = [tuple(attribute(node, name, ())) for name in ("strides", "dilations")]
    product = Product(
        str(node.name), x, x_zero_point, windows, packed,
        spread_columns(bias, group, stride), spread_columns(scale, group, stride),
        (x.shape[0], columns, *(high.pixels, wide.pixels)[-len(spatial) :]),
        f"{name_of(node, 1)}{PACKED_AS}{packing}", True, rows=rows,
        shift=None if shift is None else spread_columns(shift, group, stride),
    )  # fmt: skip
    shape = (x.shape[0], scale.size, *(high.out, wide.out)[-len(spatial) :])
    return Spread(product, group, stride, (high.begin, wide.begin), shape)


def _outputs(node: ir.Node, weights: NDArray[np.int8]) -> tuple[int, int]:
    """Channels of the result for each group, and groups."""
    group = attribute(node, "group", 1)
    if weights.ndim < 3 or not weights.size or group < 1:
        raise Unsupported(f"operator '{node.name}' has weights of {weights.ndim} dimensions")
    return weights.shape[1], group


def _conv_transpose(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x, w, bias = (*read, None)[:3]
    if not isinstance(x, Dequantized) or not x.tensor.images:
        raise Unsupported(f"operator '{node.name}' convolves floats")
    weights, scale, axis = weights_of(node, w)
    each, group = _outputs(node, weights)
    step = x.quantization.scale * np.tile(columns_of(node, scale, axis, 1, each), group)
    whole, shift = bias_of(node, bias, step)
    return _spread(node, x.tensor, weights, step, whole, shift, x.quantization.zero_point)


def _dynamic_conv_transpose(node: ir.Node, read: list[Value | None], state: State) -> Value:
    weights, scale = dynamic_weights_of(node, read)
    each, group = _outputs(node, weights)
    x = state.images(realize(read[0], state), str(node.name))
    q, parameters = state.quantized_rows(x, x.shape[0], str(node.name), images=True)
    columns = columns_of(node, scale, 0, 0, each * group)
    bias = np.zeros(columns.size, np.int64)
    return _spread(node, q, weights, columns, bias, rows=parameters)


LOWERINGS: Final[dict[tuple[str, str], Lowering]] = {
    ("", "ConvTranspose"): _conv_transpose,
    ("intact", "DynamicConvTranspose"): _dynamic_conv_transpose,
}
