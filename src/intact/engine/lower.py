"""From the nodes of a quantized graph to instructions, for inputs of known shapes.

Rules, in order:

1. What depends on constants and shapes alone is computed here.
2. DequantizeLinear, and every operator between it and QuantizeLinear, only describes a value.
3. QuantizeLinear, and every operator that reads floats, finishes what it reads (see `finish`).

An operator, attribute or layout that is not known raises Unsupported, which names it.
"""

from collections.abc import Callable, Mapping
from functools import partial
from math import inf, prod
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intact.core.arithmetic import FUNCTIONS
from intact.engine.finish import quantize, realize
from intact.engine.values import (
    Constant,
    Dequantized,
    Function,
    Gated,
    Instruction,
    Joined,
    Maximum,
    Mean,
    Product,
    Quantization,
    Stored,
    Sum,
    Tensor,
    Unsupported,
    Value,
    Windows,
    new_tensor,
)

__all__ = ["lower"]

# float32 functions that the native part has.
_REAL_FUNCTIONS: Final = frozenset(
    {"Clip", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Sigmoid", "Swish", "Tanh"}
)


def lower(
    graph: ir.Graph, inputs: Mapping[str, Tensor]
) -> tuple[list[Instruction], list[Tensor]]:
    """The instructions that compute the graph's outputs, and the tensors of those.

    inputs: the graph's inputs in memory. Raises Unsupported.
    """
    program: list[Instruction] = []
    values: dict[str, Value] = {name: Stored(tensor) for name, tensor in inputs.items()}
    for name, initializer in graph.initializers.items():
        if initializer.const_value is None:
            raise Unsupported(f"'{name}' is an initializer without a value")
        values[name] = Constant(initializer.const_value.numpy())
    for node in graph:
        lowering = _LOWERINGS.get(node.op_type) if node.domain == "" else None
        if lowering is None:
            kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise Unsupported(f"operator '{node.name}' is a {kind}")
        read = [None if v is None else values[str(v.name)] for v in node.inputs]
        values[str(node.outputs[0].name)] = lowering(node, read, program)
    results = []
    for output in graph.outputs:
        value = values[str(output.name)]
        tensor = realize(value, program)
        if tensor.images and prod(tensor.shape[2:]) > 1 and tensor.shape[1] > 1:
            raise Unsupported(f"output '{output.name}' is an image of floats")
        if tensor.storage.place is not None or any(tensor.storage is r.storage for r in results):
            raise Unsupported(f"output '{output.name}' is an input, or another output")
        results.append(tensor)
    return program, results


Lowering = Callable[[ir.Node, list[Value | None], list[Instruction]], Value]


def _known(value: Value | None, node: ir.Node) -> Constant:
    if not isinstance(value, Constant):
        raise Unsupported(f"operator '{node.name}' ({node.op_type}) reads what is not constant")
    return value


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


def _quantization(node: ir.Node, scale: Value | None, point: Value | None) -> Quantization:
    """Of an activation: one scale and zero point."""
    known = _known(scale, node).array
    points = np.zeros((), np.uint8) if point is None else _known(point, node).array
    if known.size != 1 or points.size != 1 or _attribute(node, "block_size", 0):
        raise Unsupported(f"operator '{node.name}' has more than one scale")
    if points.dtype not in (np.uint8, np.int8):
        raise Unsupported(f"operator '{node.name}' has a zero point of {points.dtype}")
    if known.dtype != np.float32 or not (np.isfinite(known).all() and (known > 0).all()):
        raise Unsupported(f"operator '{node.name}' has a scale that is not a positive float32")
    raised = 128 if points.dtype == np.int8 else 0
    return Quantization(np.float32(known.reshape(())), int(points.reshape(())) + raised)


def _quantize_linear(
    node: ir.Node, read: list[Value | None], program: list[Instruction]
) -> Value:
    x, scale, point = (*read, None)[:3]
    if x is None or isinstance(x, Constant):
        raise Unsupported(f"operator '{node.name}' quantizes a constant")
    to = _quantization(node, scale, point)
    return Dequantized(quantize(x, to, str(node.name), program), to)


def _dequantize_linear(
    node: ir.Node, read: list[Value | None], program: list[Instruction]
) -> Value:
    x, scale, point = (*read, None)[:3]
    if isinstance(x, Constant):
        scales = _known(scale, node).array
        points = None if point is None else _known(point, node).array
        axis = _attribute(node, "axis", 1) % max(x.array.ndim, 1) if scales.ndim else None
        if _attribute(node, "block_size", 0):
            raise Unsupported(f"operator '{node.name}' has scales of blocks")
        return Constant(x.array, scales, points, axis)
    if not isinstance(x, Dequantized) or _quantization(node, scale, point) != x.quantization:
        raise Unsupported(f"operator '{node.name}' reads integers in a scale not theirs")
    return x


def _weights(node: ir.Node, value: Value | None) -> tuple[NDArray[np.int8], NDArray[np.float32], int | None]:
    """int8 weights around zero, their scale, and the axis that it belongs to."""
    constant = _known(value, node)
    if constant.scale is None or constant.array.dtype not in (np.int8, np.uint8):
        raise Unsupported(f"operator '{node.name}' has weights that are not 8-bit")
    middle = 128 if constant.array.dtype == np.uint8 else 0
    if constant.zero_point is not None and (constant.zero_point != middle).any():
        raise Unsupported(f"operator '{node.name}' has weights that are not symmetric")
    return (
        (constant.array.astype(np.int16) - middle).astype(np.int8),
        constant.scale,
        constant.axis,
    )


def _columns(
    node: ir.Node, scale: NDArray[np.float32], axis: int | None, wanted: int, count: int
) -> NDArray[np.float32]:
    """A scale per column from one per index of `axis`, which must be `wanted`."""
    if scale.ndim and scale.size > 1 and (axis != wanted or scale.size != count):
        raise Unsupported(f"operator '{node.name}' has scales of another axis than its outputs")
    return np.broadcast_to(scale.reshape(-1), (count,))


def _bias(
    node: ir.Node, value: Value | None, scale: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
    """The integer bias at `scale`, and the float bias: one of them is nothing."""
    nothing = np.zeros(scale.size, np.int64)
    if value is None:
        return nothing, None
    constant = _known(value, node)
    if constant.array.size not in (1, scale.size):
        raise Unsupported(f"operator '{node.name}' has a bias of another size than its output")
    if constant.scale is None:
        return nothing, np.broadcast_to(
            constant.array.astype(np.float32).reshape(-1), scale.shape
        )
    point = constant.zero_point
    if not np.array_equal(np.broadcast_to(constant.scale.reshape(-1), scale.shape), scale) or (
        point is not None and point.any()
    ):
        raise Unsupported(f"operator '{node.name}' has a bias at a scale not its own")
    return np.broadcast_to(constant.array.astype(np.int64).reshape(-1), scale.shape), None


def _spatial(node: ir.Node, spatial: tuple[int, ...], kernel: tuple[int, ...]) -> dict[str, Any]:
    """Kernel, stride, dilation and padding in two dimensions; a single one is the width."""
    n = len(kernel)
    if n not in (1, 2):
        raise Unsupported(f"operator '{node.name}' has {n} spatial dimensions")
    if _attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", ""):
        raise Unsupported(f"operator '{node.name}' pads automatically")
    stride = tuple(_attribute(node, "strides", (1,) * n))
    dilation = tuple(_attribute(node, "dilations", (1,) * n))
    pads = tuple(_attribute(node, "pads", (0,) * 2 * n))
    if min(*stride, *dilation, *kernel) < 1 or min(pads) < 0:
        raise Unsupported(f"operator '{node.name}' has a kernel, stride or padding out of range")
    ends = pads[n:]
    if _attribute(node, "ceil_mode", 0):
        from intact.core.arithmetic.windows import ceil_extension

        ends = tuple(np.add(ends, ceil_extension(spatial, kernel, stride, pads, dilation)).tolist())
    out = [
        (spatial[i] + pads[i] + ends[i] - (kernel[i] - 1) * dilation[i] - 1) // stride[i] + 1
        for i in range(n)
    ]
    if min(out) < 1:
        raise Unsupported(f"operator '{node.name}' has no output")
    one, zero = (1,) * (2 - n), (0,) * (2 - n)
    return {
        "spatial": one + tuple(spatial), "out": one + tuple(out), "kernel": one + tuple(kernel),
        "stride": one + stride, "dilation": one + dilation, "padding": zero + pads[:n],
        "shape": tuple(out), "ends": zero + tuple(pads[n:]),
    }  # fmt: skip


def _windows(n: int, c: int, s: dict[str, Any]) -> Windows:
    return Windows(
        n, *s["spatial"], c, *s["out"], s["kernel"], s["stride"], s["dilation"], s["padding"]
    )


def _conv(node: ir.Node, read: list[Value | None], program: list[Instruction]) -> Value:
    x, w, bias = (*read, None)[:3]
    if isinstance(x, (Stored, Function, Mean)) and len(x.shape) > 2 and prod(x.shape[2:]) == 1:
        return _real_pointwise_conv(node, x, w, bias, program)
    if not isinstance(x, Dequantized):
        raise Unsupported(f"operator '{node.name}' convolves floats")
    weights, scale, axis = _weights(node, w)
    n, c, *spatial = x.shape
    m, per_group, *kernel = weights.shape
    group = _attribute(node, "group", 1)
    if c != per_group * group or m % group:
        raise Unsupported(f"operator '{node.name}' has weights that do not fit its input")
    s = _spatial(node, tuple(spatial), tuple(kernel))
    # [M, C / group, *kernel] to [group, kernel * C / group, M / group]
    shaped = weights.reshape(group, m // group, per_group, -1)
    packed = np.ascontiguousarray(shaped.transpose(0, 3, 2, 1)).reshape(group, -1, m // group)
    step = x.quantization.scale * _columns(node, scale, axis, 0, m)
    whole, shift = _bias(node, bias, step)
    return Product(
        str(node.name), x.tensor, x.quantization.zero_point, _windows(n, c, s), packed, whole,
        step, (n, m, *s["shape"]), str(node.inputs[1].name), shift=shift,  # type: ignore[union-attr]
    )  # fmt: skip


def _real_pointwise_conv(
    node: ir.Node, x: Value, w: Value | None, bias: Value | None, program: list[Instruction]
) -> Value:
    """A 1×1 convolution of one float per channel, as in squeeze-and-excite."""
    weights = _known(w, node).real.astype(np.float32)
    m, c, *kernel = weights.shape
    if prod(kernel) != 1 or _attribute(node, "group", 1) != 1 or c != x.shape[1]:
        raise Unsupported(f"operator '{node.name}' convolves floats")
    if any(_attribute(node, "pads", ())):
        raise Unsupported(f"operator '{node.name}' pads one float per channel")
    tensor = realize(x, program)
    y = new_tensor((x.shape[0], m, *x.shape[2:]), "float32", True)
    parameters = {
        "rows": x.shape[0], "k": c, "n": m,
        "weights": np.ascontiguousarray(weights.reshape(m, c).T).reshape(-1),
        "bias": None if bias is None else _known(bias, node).real.astype(np.float32).reshape(-1),
    }  # fmt: skip
    program.append(Instruction("float_product", str(node.name), y, (tensor,), parameters))
    return Stored(y)


def _gemm(node: ir.Node, read: list[Value | None], program: list[Instruction]) -> Value:
    x, w, bias = (*read, None)[:3]
    plain = _attribute(node, "alpha", 1.0) == 1.0 and _attribute(node, "beta", 1.0) == 1.0
    if not plain or _attribute(node, "transA", 0):
        raise Unsupported(f"operator '{node.name}' scales or transposes its input")
    return _matrix_product(node, x, w, bias, bool(_attribute(node, "transB", 0)))


def _matmul(node: ir.Node, read: list[Value | None], program: list[Instruction]) -> Value:
    return _matrix_product(node, read[0], read[1], None, False)


def _matrix_product(
    node: ir.Node, x: Value | None, w: Value | None, bias: Value | None, transposed: bool
) -> Value:
    if not isinstance(x, Dequantized) or x.tensor.images:
        raise Unsupported(f"operator '{node.name}' multiplies floats")
    weights, scale, axis = _weights(node, w)
    if weights.ndim != 2:
        raise Unsupported(f"operator '{node.name}' has weights of {weights.ndim} dimensions")
    k, n = weights.shape[::-1] if transposed else weights.shape
    if k != x.shape[-1]:
        raise Unsupported(f"operator '{node.name}' has weights that do not fit its input")
    matrix = np.ascontiguousarray(weights.T if transposed else weights)
    step = x.quantization.scale * _columns(node, scale, axis, 0 if transposed else 1, n)
    whole, shift = _bias(node, bias, step)
    rows = x.tensor.size // k
    return Product(
        str(node.name), x.tensor, x.quantization.zero_point, Windows(1, rows, 1, k, rows, 1),
        matrix[None], whole, step, (*x.shape[:-1], n), str(node.inputs[1].name), shift=shift,  # type: ignore[union-attr]
    )  # fmt: skip


def _unary(node: ir.Node, read: list[Value | None], program: list[Instruction]) -> Value:
    x, op_type = read[0], node.op_type
    attributes = {
        key: float(attribute.value)
        for key, attribute in node.attributes.items()
        if key in ("alpha", "beta")
    }
    if op_type == "Gelu" and _attribute(node, "approximate", "none") != "none":
        op_type = "GeluTanh"
    if op_type == "Clip":
        ends = [
            default if end is None else float(_known(end, node).array.reshape(()))
            for end, default in zip((*read[1:], None, None), (-inf, inf), strict=False)
        ]
        attributes = {"low": ends[0], "high": ends[1]}
    if isinstance(x, (Product, Sum)) and op_type in ("Relu", "Clip"):
        shifted = isinstance(x, Product) and x.shift is not None
        if not shifted:
            return x.clamped(attributes.get("low", 0.0), attributes.get("high", inf))
    function = partial(FUNCTIONS[op_type], **attributes)
    if isinstance(x, Dequantized):
        return Function(str(node.name), x, op_type, function)
    if isinstance(x, Function) and isinstance(x.x, Dequantized):
        inner = x.function
        return Function(str(node.name), x.x, "Composed", lambda v: function(inner(v)))
    if x is None or op_type not in _REAL_FUNCTIONS:
        raise Unsupported(f"operator '{node.name}' is a {op_type} of floats")
    alpha, beta = (*attributes.values(), 0.0, 0.0)[:2]
    if op_type == "HardSigmoid":
        alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    elif op_type == "LeakyRelu":
        alpha = attributes.get("alpha", 0.01)
    stored = Stored(realize(x, program))
    return Function(str(node.name), stored, op_type, function, alpha, beta)


def _add(node: ir.Node, read: list[Value | None], program: list[Instruction]) -> Value:
    a, b = read
    if isinstance(a, Dequantized) and isinstance(b, Dequantized) and a.shape == b.shape:
        return Sum(str(node.name), a, b)
    raise Unsupported(f"operator '{node.name}' adds {_describe(a)} and {_describe(b)}")


def _mul(node: ir.Node, read: list[Value | None], program: list[Instruction]) -> Value:
    for a, b in (read, read[::-1]):
        if isinstance(b, Function) and _same(a, b.x):
            if b.op_type == "Sigmoid" and isinstance(b.x, Stored):
                return Function(str(node.name), b.x, "Swish", FUNCTIONS["Swish"])
            if isinstance(b.x, Dequantized):
                inner = b.function
                return Function(str(node.name), b.x, "Composed", lambda v, f=inner: v * f(v))  # type: ignore[misc]
        if (
            isinstance(a, Dequantized)
            and isinstance(b, Dequantized)
            and len(a.shape) == len(b.shape) > 2
            and a.shape[:2] == b.shape[:2]
            and prod(b.shape[2:]) == 1
        ):
            return Gated(str(node.name), a, b)
    raise Unsupported(
        f"operator '{node.name}' multiplies {_describe(read[0])} and {_describe(read[1])}"
    )


def _same(a: Value | None, b: Value) -> bool:
    return isinstance(a, (Dequantized, Stored)) and isinstance(b, type(a)) and a.tensor is b.tensor


def _describe(value: Value | None) -> str:
    if value is None:
        return "nothing"
    return f"{type(value).__name__.lower()} [{', '.join(map(str, value.shape))}]"


def _pool(node: ir.Node, read: list[Value | None], program: list[Instruction]) -> Value:
    x = read[0]
    if not isinstance(x, Dequantized):
        raise Unsupported(f"operator '{node.name}' pools floats")
    n, c, *spatial = x.shape
    global_pool = node.op_type.startswith("Global")
    kernel = tuple(spatial) if global_pool else tuple(_attribute(node, "kernel_shape", ()))
    s = _spatial(node, tuple(spatial), kernel)
    shape = (n, c, *s["shape"])
    if "Max" in node.op_type:
        return Maximum(str(node.name), x, _windows(n, c, s), shape)
    counts = _counts(s, bool(_attribute(node, "count_include_pad", 0)))
    return Mean(str(node.name), x, _windows(n, c, s), counts, shape)


def _counts(s: dict[str, Any], with_padding: bool) -> NDArray[np.float32]:
    """What each window's sum is divided by."""
    axes = []
    for i in range(2):
        reach = np.arange(s["kernel"][i]) * s["dilation"][i]
        at = np.arange(s["out"][i])[:, None] * s["stride"][i] - s["padding"][i] + reach
        begin = -s["padding"][i] if with_padding else 0
        end = s["spatial"][i] + (s["ends"][i] if with_padding else 0)
        axes.append(((at >= begin) & (at < end)).sum(axis=1))
    counts = np.multiply.outer(*axes)
    if not counts.all():
        raise Unsupported("a pool has an empty window")
    return counts.astype(np.float32)


def _reduce_mean(node: ir.Node, read: list[Value | None], program: list[Instruction]) -> Value:
    x, axes = (*read, None)[:2]
    if not isinstance(x, Dequantized) or len(x.shape) != 4 or axes is None:
        raise Unsupported(f"operator '{node.name}' reduces what is no image")
    if sorted(a % 4 for a in _known(axes, node).array.reshape(-1).tolist()) != [2, 3]:
        raise Unsupported(f"operator '{node.name}' reduces other axes than an image's")
    n, c, h, w = x.shape
    kept = (1, 1) if _attribute(node, "keepdims", 1) else ()
    windows = Windows(n, h, w, c, 1, 1, (h, w))
    return Mean(str(node.name), x, windows, np.full(1, h * w, np.float32), (n, c, *kept))


def _concat(node: ir.Node, read: list[Value | None], program: list[Instruction]) -> Value:
    parts = [part for part in read if isinstance(part, Dequantized)]
    rank = len(parts[0].shape) if parts else 0
    if len(parts) != len(read) or rank < 3 or _attribute(node, "axis", 0) % rank != 1:
        raise Unsupported(f"operator '{node.name}' joins other than quantized channels")
    return Joined(str(node.name), tuple(parts))


def _reshape(node: ir.Node, read: list[Value | None], program: list[Instruction]) -> Value:
    x = read[0]
    if x is None:
        raise Unsupported(f"operator '{node.name}' reads nothing")
    size = prod(x.shape)
    if node.op_type == "Flatten":
        axis = _attribute(node, "axis", 1)
        shape = (prod(x.shape[:axis]), prod(x.shape[axis:]))
    elif node.op_type == "Reshape":
        wanted = [int(d) for d in _known(read[1], node).array.reshape(-1)]
        if not _attribute(node, "allowzero", 0):
            wanted = [x.shape[i] if d == 0 else d for i, d in enumerate(wanted)]
        known = prod(d for d in wanted if d != -1)
        shape = tuple(size // max(known, 1) if d == -1 else d for d in wanted)
    elif node.op_type == "Squeeze":
        axes = None if len(read) < 2 else _known(read[1], node).array.reshape(-1).tolist()
        rank = len(x.shape)
        gone = {i for i, d in enumerate(x.shape) if d == 1} if axes is None else {a % rank for a in axes}
        shape = tuple(d for i, d in enumerate(x.shape) if i not in gone)
    else:
        shape = x.shape
    if prod(shape) != size:
        raise Unsupported(f"operator '{node.name}' reshapes {x.shape} to {shape}")
    return _viewed(node, x, shape, program)


def _viewed(
    node: ir.Node, x: Value, shape: tuple[int, ...], program: list[Instruction]
) -> Value:
    if shape == x.shape:
        return x
    if isinstance(x, Constant):
        return Constant(x.real.reshape(shape))
    if not isinstance(x, Dequantized):
        x = Stored(realize(x, program))
    tensor = x.tensor
    # With one pixel an image, the channels last or not is the same order.
    if tensor.images and prod(tensor.shape[2:]) > 1 and tensor.shape[1] > 1:
        raise Unsupported(f"operator '{node.name}' reshapes an image")
    images = len(shape) > 2 and prod(shape[2:]) == 1
    view = Tensor(tensor.storage, shape, tensor.dtype, images)
    return Dequantized(view, x.quantization) if isinstance(x, Dequantized) else Stored(view)


_LOWERINGS: Final[dict[str, Lowering]] = {
    "Add": _add,
    "AveragePool": _pool,
    "Concat": _concat,
    "Conv": _conv,
    "DequantizeLinear": _dequantize_linear,
    "Flatten": _reshape,
    "Gemm": _gemm,
    "GlobalAveragePool": _pool,
    "GlobalMaxPool": _pool,
    "Identity": _reshape,
    "MatMul": _matmul,
    "MaxPool": _pool,
    "Mul": _mul,
    "QuantizeLinear": _quantize_linear,
    "ReduceMean": _reduce_mean,
    "Reshape": _reshape,
    "Squeeze": _reshape,
    **{
        name: _unary
        for name in (
            "Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Relu",
            "Sigmoid", "Softplus", "Tanh",
        )
    },
}  # fmt: skip
