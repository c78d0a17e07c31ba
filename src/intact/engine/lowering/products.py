"""Convolutions and matrix products, static and dynamic; QuantizeLinear and DequantizeLinear."""

from math import prod
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intact.core.arithmetic.windows import ceil_extension
from intact.core.native import native
from intact.engine.arrange import settled
from intact.engine.finish import finished, quantize, realize
from intact.engine.lowering.common import Lowering, attribute, known, quantization
from intact.engine.lowering.lookup import dequantized
from intact.engine.lowering.volumes import for_slices, padded_in_depth, unrolled
from intact.engine.program import Quantization, Tensor, Unfinished, Unsupported, Windows, new_tensor
from intact.engine.rows import Ordered, Scattered, in_memory, ordered, turned
from intact.engine.state import State
from intact.engine.values import (
    Constant,
    Dequantized,
    Function,
    Looked,
    Mean,
    Product,
    Seen,
    Stored,
    Value,
)
from intact.engine.view import View

__all__ = [
    "IMAGE_READERS",
    "LOWERINGS",
    "ROW_READERS",
    "bias_of",
    "columns_of",
    "dynamic_matmul",
    "dynamic_weights_of",
    "name_of",
    "spatial_of",
    "weights_of",
    "windows_of",
]

# Readers that want the channels of an image last.
IMAGE_READERS: Final = frozenset(
    {
        "AveragePool",
        "Conv",
        "ConvTranspose",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "MaxPool",
        "Resize",
    }
)
_LARGEST: Final = 2**20  # of a size along one axis, or of an attribute
ROW_READERS: Final = frozenset({"Gemm", "MatMul"})
_PLANES: Final = 4  # channels


def _quantize_linear(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x, scale, point = (*read, None)[:3]
    if x is None or isinstance(x, Constant):
        raise Unsupported(f"operator '{node.name}' quantizes a constant")
    to = quantization(node, scale, point)
    if isinstance(x, Seen) and x.quantization == to:
        return x
    images = _wants_images(node, x)
    try:
        if not images and isinstance(x, (Stored, Scattered, Ordered)):
            in_rows = _quantize_rows(x, to, str(node.name), state)
            if in_rows is not None:
                return in_rows
        tensor = quantize(x, to, images, str(node.name), state)
    except Unsupported as error:
        raise Unfinished(str(error)) from None
    return Dequantized(tensor, to)


def _quantize_rows(
    x: Stored | Scattered | Ordered, to: Quantization, label: str, state: State
) -> Value | None:
    """x quantized as its rows lie in memory, where their readers see another order."""
    if isinstance(x, Ordered):
        return settled(Seen(View(quantize(x.product, to, False, label, state), x.view.axes), to))
    rows = turned(x)
    if rows is None:
        return None
    return settled(Seen(View(quantize(Stored.of(rows), to, False, label, state), x.view.axes), to))


def _wants_images(node: ir.Node, x: Value) -> bool:
    """Whether the integers are an image to their readers."""
    readers = {
        use.node.op_type
        for dequantize in node.outputs[0].uses()
        for use in (*dequantize.node.outputs[0].uses(), dequantize)
    }
    if readers & ROW_READERS or len(x.shape) < 3:
        return False
    return bool(readers & IMAGE_READERS) or len(x.shape) == 4


def _dequantize_linear(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x, scale, point = (*read, None)[:3]
    if isinstance(x, Constant):
        scales = known(scale, node).array
        points = None if point is None else known(point, node).array
        axis = attribute(node, "axis", 1) % max(x.array.ndim, 1) if scales.ndim else None
        if attribute(node, "block_size", 0):
            raise Unsupported(f"operator '{node.name}' has scales of blocks")
        if points is not None and points.shape != scales.shape:
            raise Unsupported(f"operator '{node.name}' has scales and zero points of two shapes")
        if scales.ndim > 1 or (scales.ndim and scales.size != x.array.shape[axis or 0]):
            raise Unsupported(f"operator '{node.name}' has scales that do not fit its axis")
        return Constant(x.array, scales, points, axis)
    if isinstance(x, Looked):
        return dequantized(node, x, scale, point)
    if not isinstance(x, (Dequantized, Seen)) or (
        quantization(node, scale, point) != x.quantization
    ):
        raise Unsupported(f"operator '{node.name}' reads integers in a scale not theirs")
    return x


def weights_of(
    node: ir.Node, value: Value | None
) -> tuple[NDArray[np.int8], NDArray[np.float32], int | None]:
    """int8 weights around zero, their scale, and the axis that it belongs to."""
    constant = known(value, node)
    if constant.scale is None or constant.array.dtype not in (np.int8, np.uint8):
        raise Unsupported(f"operator '{node.name}' has weights that are not 8-bit")
    middle = 128 if constant.array.dtype == np.uint8 else 0
    if constant.zero_point is not None and (constant.zero_point != middle).any():
        raise Unsupported(f"operator '{node.name}' has weights that are not symmetric")
    integers = constant.array
    if middle:
        integers = (integers.astype(np.int16) - middle).astype(np.int8)
    return integers, constant.scale, constant.axis


def columns_of(
    node: ir.Node, scale: NDArray[np.float32], axis: int | None, wanted: int, count: int
) -> NDArray[np.float32]:
    """A scale per column from one per index of `axis`, which must be `wanted`."""
    if scale.size > 1 and (axis != wanted or scale.size != count):
        raise Unsupported(f"operator '{node.name}' has scales of another axis than its outputs")
    return np.broadcast_to(scale.reshape(-1), (count,))


def bias_of(
    node: ir.Node, value: Value | None, scale: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
    """The integer bias at `scale`, and the float bias, if that is what it is."""
    nothing = np.zeros(scale.size, np.int64)
    if value is None:
        return nothing, None
    constant = known(value, node)
    if constant.array.size not in (1, scale.size):
        raise Unsupported(f"operator '{node.name}' has a bias of another size than its output")
    flat = constant.array.reshape(-1)
    if constant.scale is None:
        return nothing, np.broadcast_to(flat.astype(np.float32), scale.shape)
    point = constant.zero_point
    own = np.array_equal(np.broadcast_to(constant.scale.reshape(-1), scale.shape), scale)
    if not own or (point is not None and point.any()):
        raise Unsupported(f"operator '{node.name}' has a bias at a scale not its own")
    return np.broadcast_to(flat.astype(np.int64), scale.shape), None


def spatial_of(node: ir.Node, spatial: tuple[int, ...], kernel: tuple[int, ...]) -> dict[str, Any]:
    """Kernel, stride, dilation, padding in two dimensions or three; a single one is the width."""
    n = len(kernel)
    if n not in (1, 2, 3) or len(spatial) != n:
        raise Unsupported(f"operator '{node.name}' has {len(spatial)} spatial dimensions")
    stride = tuple(attribute(node, "strides", (1,) * n))
    dilation = tuple(attribute(node, "dilations", (1,) * n))
    pads = tuple(attribute(node, "pads", (0,) * 2 * n))
    if len(pads) == 2 * (n + 2):  # intact's functions pad explicitly: all axes, of which two not
        pads = pads[2 : 2 + n] + pads[4 + n :]
    if (len(stride), len(dilation), len(pads)) != (n, n, 2 * n):
        raise Unsupported(f"operator '{node.name}' has attributes of another rank than its input")
    everything = (*stride, *dilation, *kernel, *pads, *spatial)
    if min(*stride, *dilation, *kernel) < 1 or min(pads) < 0 or max(everything) > _LARGEST:
        raise Unsupported(f"operator '{node.name}' has a kernel, stride or padding out of range")
    auto = attribute(node, "auto_pad", "NOTSET")
    if auto not in ("NOTSET", ""):
        pads = _automatic_pads(auto, spatial, kernel, stride, dilation)
    ends = pads[n:]
    if attribute(node, "ceil_mode", 0):
        extension = ceil_extension(spatial, kernel, stride, pads, dilation)
        ends = tuple(np.add(ends, extension).tolist())
    out = [
        (spatial[i] + pads[i] + ends[i] - (kernel[i] - 1) * dilation[i] - 1) // stride[i] + 1
        for i in range(n)
    ]
    if min(out) < 1 or max(out) > _LARGEST:
        raise Unsupported(f"operator '{node.name}' has no output")
    one, zero = (1,) * (2 - n), (0,) * (2 - n)
    return {
        "spatial": one + tuple(spatial), "out": one + tuple(out), "kernel": one + tuple(kernel),
        "stride": one + stride, "dilation": one + dilation, "padding": zero + pads[:n],
        "shape": tuple(out), "ends": zero + pads[n:],
    }  # fmt: skip


def _automatic_pads(
    mode: str,
    spatial: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[int, ...]:
    """What `auto_pad` means here. Source: ONNX Conv."""
    if mode == "VALID":
        return (0,) * 2 * len(kernel)
    totals = [
        max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        for size, k, s, d in zip(spatial, kernel, stride, dilation, strict=True)
    ]
    fewer, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return (*more, *fewer) if mode == "SAME_LOWER" else (*fewer, *more)


def windows_of(shape: tuple[int, ...], s: dict[str, Any]) -> Windows:
    """The windows that `spatial_of` describes in two dimensions, over images [N, C, ...]."""
    n, c = shape[:2]
    if len(s["out"]) > 2:
        raise Unsupported("windows in three dimensions")
    (height, width), (out_height, out_width) = s["spatial"], s["out"]
    return Windows(
        n, height, width, c, out_height, out_width, s["kernel"], s["stride"], s["dilation"],
        s["padding"],
    )  # fmt: skip


def _packed(
    node: ir.Node, weights: NDArray[np.int8], channels: int
) -> tuple[NDArray[np.int8], tuple[int, ...]]:
    """[M, C / group, *kernel] as [group, kernel * C / group, M / group], and the kernel."""
    if weights.ndim < 3:
        raise Unsupported(f"operator '{node.name}' has weights of {weights.ndim} dimensions")
    m, per_group, *kernel = weights.shape
    group = attribute(node, "group", 1)
    if group < 1 or channels != per_group * group or m % group or not weights.size:
        raise Unsupported(f"operator '{node.name}' has weights that do not fit its input")
    if len(kernel) == 3:  # the slices of a volume are channels
        weights = weights.swapaxes(1, 2).reshape(m, kernel[0] * per_group, *kernel[1:])
        per_group *= kernel[0]
    shaped = weights.reshape(group, m // group, per_group, -1)
    assert native is not None
    return native.reordered(np.ascontiguousarray(shaped)), tuple(kernel)


def name_of(node: ir.Node, index: int) -> str:
    value = node.inputs[index]
    return "" if value is None else str(value.name)


def _conv(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x, w, bias = (*read, None)[:3]
    if isinstance(x, (Stored, Function, Mean)) and len(x.shape) > 2 and prod(x.shape[2:]) == 1:
        return _real_pointwise_conv(node, x, w, bias, state)
    if not isinstance(x, Dequantized) or not x.tensor.images:
        raise Unsupported(f"operator '{node.name}' convolves floats")
    weights, scale, axis = weights_of(node, w)
    packed, kernel = _packed(node, weights, x.shape[1])
    s = spatial_of(node, x.shape[2:], kernel)
    point = x.quantization.zero_point
    q, windows = images_of(node, x.tensor, s, point, state)
    step = x.quantization.scale * columns_of(node, scale, axis, 0, weights.shape[0])
    whole, shift = bias_of(node, bias, step)
    shape = (x.shape[0], weights.shape[0], *s["shape"])
    return Product(
        str(node.name), q, point, windows, packed, whole, step, shape, name_of(node, 1), True,
        shift=shift,
    )  # fmt: skip


def images_of(
    node: ir.Node, x: Tensor, s: dict[str, Any], fill: int, state: State
) -> tuple[Tensor, Windows]:
    """x as images for a two-dimensional convolution; of a volume, its slices side by side."""
    if len(s["out"]) == 3:
        return unrolled(x, s, attribute(node, "group", 1), fill, str(node.name), state)
    return x, windows_of(x.shape, s)


def _real_pointwise_conv(
    node: ir.Node, x: Value, w: Value | None, bias: Value | None, state: State
) -> Value:
    """A convolution of one float per channel, as in squeeze-and-excite."""
    matrix = _at_pixel(node, known(w, node).real.astype(np.float32), x.shape)
    n = matrix.shape[1]
    tensor = state.contiguous(realize(x, state), str(node.name))
    y = new_tensor((x.shape[0], n, *x.shape[2:]), "float32", True)
    flat = None if bias is None else known(bias, node).real.astype(np.float32).reshape(-1)
    return Stored.of(
        state.add(
            "float_product", str(node.name), y, (tensor,), rows=x.shape[0], name=name_of(node, 1),
            weights=matrix[None], bias=flat,
        )
    )  # fmt: skip


def _at_pixel(
    node: ir.Node, weights: NDArray[np.float32], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """[C, M] of weights [M, C / group, *kernel] where they meet the only pixel of an image."""
    if weights.ndim != len(shape):
        raise Unsupported(f"operator '{node.name}' has weights of {weights.ndim} dimensions")
    m, per_group, *kernel = weights.shape
    group = attribute(node, "group", 1)
    s = spatial_of(node, shape[2:], tuple(kernel))
    if prod(s["shape"]) != 1 or shape[1] != per_group * group or m % group:
        raise Unsupported(f"operator '{node.name}' convolves floats")
    place = [p // d for p, d in zip(s["padding"], s["dilation"], strict=True)]
    # Where no place of the kernel meets it, all that is left is the bias.
    met = all(
        p % d == 0 and i < k
        for p, d, i, k in zip(s["padding"], s["dilation"], place, s["kernel"], strict=True)
    )
    matrix = np.zeros((group, per_group, group, m // group), np.float32)
    if met:
        here = weights.reshape(group, m // group, per_group, *s["kernel"])[..., place[0], place[1]]
        for g in range(group):
            matrix[g, :, g] = here[g].T
    return matrix.reshape(shape[1], m)


def _gemm(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x, w, bias = (*read, None)[:3]
    plain = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0
    if not plain or attribute(node, "transA", 0):
        raise Unsupported(f"operator '{node.name}' scales or transposes its input")
    return _matrix_product(node, x, w, bias, bool(attribute(node, "transB", 0)))


def _matrix_product(
    node: ir.Node, x: Value | None, w: Value | None, bias: Value | None, transposed: bool
) -> Value:
    """Of an activation and a weight, which is [N, K] where `transposed`."""
    rows = in_memory(x.view) if isinstance(x, Seen) else None
    if rows is None and (not isinstance(x, Dequantized) or x.tensor.images):
        raise Unsupported(f"operator '{node.name}' multiplies floats")
    assert isinstance(x, (Dequantized, Seen))
    weights, scale, axis = weights_of(node, w)
    if weights.ndim != 2 or not weights.size:
        raise Unsupported(f"operator '{node.name}' has weights of {weights.ndim} dimensions")
    k, n = weights.shape[::-1] if transposed else weights.shape
    if k != x.shape[-1]:
        raise Unsupported(f"operator '{node.name}' has weights that do not fit its input")
    matrix = np.ascontiguousarray(weights.T if transposed else weights)[None]
    step = x.quantization.scale * columns_of(node, scale, axis, 0 if transposed else 1, n)
    whole, shift = bias_of(node, bias, step)
    tensor = x.view.tensor if rows is None else rows
    count = tensor.size // k
    product = Product(
        str(node.name), tensor, x.quantization.zero_point, Windows(1, count, 1, k, count, 1),
        matrix, whole, step, (*tensor.shape[:-1], n), name_of(node, 1), False, shift=shift,
    )  # fmt: skip
    return product if rows is None else ordered(product, x.view)


def dynamic_weights_of(
    node: ir.Node, read: list[Value | None]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    weights, scale = known(read[1], node).array, known(read[2], node).array
    if weights.dtype != np.int8 or scale.dtype != np.float32:
        raise Unsupported(f"operator '{node.name}' has weights that are not int8")
    return weights, scale.reshape(-1)


def _dynamic_rows(node: ir.Node, read: list[Value | None], state: State) -> Value:
    """dynamic_matmul of rows as they lie in memory, where they are seen in another order."""
    x = read[0]
    if isinstance(x, (Stored, Scattered, Ordered)):
        held = finished(x, state)
        rows = turned(held)
        if rows is not None:
            product = dynamic_matmul(node, [Stored.of(rows), *read[1:]], state)
            return ordered(product, held.view)
        read = [held, *read[1:]]
    return dynamic_matmul(node, read, state)


def dynamic_matmul(node: ir.Node, read: list[Value | None], state: State) -> Product:
    """x times int8 weights [K, N]; `read` and the node begin with x, weights and their scale."""
    weights, scale = dynamic_weights_of(node, read)
    x = state.contiguous(realize(read[0], state), str(node.name))
    if weights.ndim != 2 or weights.shape[0] != x.shape[-1] or not weights.size:
        raise Unsupported(f"operator '{node.name}' has weights that do not fit its input")
    k, n = weights.shape
    rows = x.size // k
    q, parameters = state.quantized_rows(x, rows, str(node.name))
    return Product(
        str(node.name), q, 0, Windows(rows, 1, 1, k, 1, 1), weights[None], np.zeros(n, np.int64),
        columns_of(node, scale, 0, 0, n), (*x.shape[:-1], n), name_of(node, 1), False, parameters,
    )  # fmt: skip


def _dynamic_conv(node: ir.Node, read: list[Value | None], state: State) -> Value:
    weights, scale = dynamic_weights_of(node, read)
    stored, label = realize(read[0], state), str(node.name)
    in_order = stored.lies_as(Stored.of(Tensor(stored.tensor.storage, stored.shape, "float32")))
    volume = len(stored.shape) == 5
    # Few channels in the order of the graph, as inputs have them, are moved as they are quantized.
    planes = in_order and 2 < len(stored.shape) < 5 and stored.shape[1] <= _PLANES
    x = (state.contiguous if planes else state.images)(stored, label)
    packed, kernel = _packed(node, weights, x.shape[1])
    s = spatial_of(node, x.shape[2:], kernel)
    m = weights.shape[0]
    if volume:
        x = padded_in_depth(x, s, label, state)
    q, parameters = state.quantized_rows(x, x.shape[0], label, images=True)
    q, windows = images_of(node, q, s, 0, state)
    if volume:
        parameters = for_slices(parameters, s, label, state)
    return Product(
        str(node.name), q, 0, windows, packed, np.zeros(m, np.int64),
        columns_of(node, scale, 0, 0, m), (x.shape[0], m, *s["shape"]), name_of(node, 1), True,
        parameters,
    )  # fmt: skip


LOWERINGS: Final[dict[tuple[str, str], Lowering]] = {
    ("", "Conv"): _conv,
    ("", "DequantizeLinear"): _dequantize_linear,
    ("", "Gemm"): _gemm,
    ("", "QuantizeLinear"): _quantize_linear,
    ("intact", "DynamicConv"): _dynamic_conv,
    ("intact", "DynamicMatMul"): _dynamic_rows,
}


def weight_product(node: ir.Node, x: Value | None, w: Value | None) -> Value:
    """MatMul of an activation and a weight."""
    return _matrix_product(node, x, w, None, False)
