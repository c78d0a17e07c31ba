"""Operators that work value by value."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import inf
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intact.core.arithmetic import FUNCTIONS
from intact.engine.finish import realize
from intact.engine.lowering.channels import integers
from intact.engine.lowering.common import Lowering, attribute, describe, known, table_of
from intact.engine.lowering.elementwise import apply, arithmetic, choose, is_whole
from intact.engine.lowering.lookup import scaled
from intact.engine.lowering.masks import forbidden, masked
from intact.engine.lowering.moves import expanded
from intact.engine.program import Tensor, Unsupported, new_tensor
from intact.engine.state import State
from intact.engine.values import (
    Channelwise,
    Constant,
    Dequantized,
    Function,
    Grouped,
    NotANumber,
    Probabilities,
    Product,
    Scaled,
    Scores,
    Spread,
    Stored,
    Sum,
    Value,
)

__all__ = ["LOWERINGS"]

# float32 functions that the native part has.
_REAL_FUNCTIONS: Final = frozenset(
    {
        "Clip", "Gelu", "GeluTanh", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Sigmoid",
        "Swish", "Tanh",
    }
)  # fmt: skip

# Those that few models have: one value at a time there, and here where integers are read.
_MAPPED: Final[dict[str, Callable[..., NDArray[np.float64]]]] = {
    "Abs": np.abs,
    "Elu": FUNCTIONS["Elu"],
    "Erf": np.vectorize(math.erf, otypes=[np.float64]),
    "Exp": np.exp,
    "Log": np.log,
    "Mish": FUNCTIONS["Mish"],
    "Neg": np.negative,
    "Reciprocal": np.reciprocal,
    "Softplus": FUNCTIONS["Softplus"],
    "Sqrt": np.sqrt,
}


def _unary(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x, op_type = read[0], node.op_type
    arguments = {
        key: float(found.value)
        for key, found in node.attributes.items()
        if key in ("alpha", "beta")
    }
    if op_type == "Gelu" and attribute(node, "approximate", "none") != "none":
        op_type = "GeluTanh"
    if op_type == "Clip":
        low, high = (*read[1:], None, None)[:2]
        arguments = {
            "low": -inf if low is None else float(known(low, node).array.reshape(())),
            "high": inf if high is None else float(known(high, node).array.reshape(())),
        }
    function = partial(_MAPPED.get(op_type) or FUNCTIONS[op_type], **arguments)
    if isinstance(x, Dequantized):
        return Function(str(node.name), x, op_type, function)
    if isinstance(x, Function) and isinstance(x.x, Dequantized):
        inner = x.function
        return Function(str(node.name), x.x, "Composed", lambda v: function(inner(v)))
    if op_type in ("Relu", "Clip"):
        clamped = _clamped(x, arguments.get("low", 0.0), arguments.get("high", inf))
        if clamped is not None:
            return clamped
    if op_type in _MAPPED:
        return _map(op_type, arguments.get("alpha", 1.0), x, str(node.name), state)
    alpha, beta = _ends(op_type, arguments)
    if isinstance(x, Product) and not x.clamps and x.bounds is None:
        if x.function is None and x.other is None:
            return replace(x, function=(op_type, alpha, beta))
        if x.other is not None and op_type in ("Relu", "Clip"):
            return replace(x, bounds=(alpha, beta) if op_type == "Clip" else (0.0, inf))
    if isinstance(x, Spread) and not x.product.clamps and x.product.function is None:
        return replace(x, product=replace(x.product, function=(op_type, alpha, beta)))
    if isinstance(x, Channelwise) and isinstance(x.x, Stored) and x.function is None:
        return replace(x, function=(op_type, alpha, beta))
    return Function(str(node.name), realize(x, state), op_type, function, alpha, beta)


def _clamped(x: Value | None, low: float, high: float) -> Value | None:
    """x clamped while it is quantized, if that can be."""
    match x:
        case Sum() | Channelwise(x=Dequantized()):
            return x.clamped(low, high)
        case Product() if x.integer:
            return x.clamped(low, high)
        case Spread() if x.product.integer:
            return x.clamped(low, high)
    return None


def _map(op_type: str, alpha: float, x: Value | None, label: str, state: State) -> Value:
    stored = realize(x, state)
    images = stored.lies_as_images
    tensor = state.images(stored, label) if images else state.contiguous(stored, label)
    y = new_tensor(stored.shape, "float32", images)
    return Stored.of(
        state.add("map", label, y, (tensor,), size=y.size, function=op_type, alpha=alpha)
    )


def _ends(op_type: str, arguments: dict[str, float]) -> tuple[float, float]:
    """alpha and beta, as the native function takes them."""
    if op_type == "Clip":
        return arguments["low"], arguments["high"]
    defaults = {"HardSigmoid": (0.2, 0.5), "LeakyRelu": (0.01, 0.0)}.get(op_type, (0.0, 0.0))
    return arguments.get("alpha", defaults[0]), arguments.get("beta", defaults[1])


def _add(node: ir.Node, read: list[Value | None], state: State) -> Value:
    a, b = read
    if is_whole(a) or is_whole(b):
        return arithmetic(node, read, state)
    found = integers(node, a, b, state)
    if found is not None:
        return found
    for x, y in ((a, b), (b, a)):
        if isinstance(x, (Scores, Grouped)):
            return masked(node, x, y, state)
        if isinstance(x, Spread) and isinstance(y, Constant) and _takes_shift(x.product, x, y):
            shift = np.broadcast_to(y.real.astype(np.float32).reshape(-1), (x.shape[1],))
            return replace(x, product=replace(x.product, shift=x.columns(shift)))
        if isinstance(x, Product) and not x.clamps and not x.other:
            if isinstance(y, Constant) and _takes_shift(x, x, y):
                shift = np.broadcast_to(y.real.astype(np.float32).reshape(-1), (x.scale.size,))
                return replace(x, shift=shift)
            if isinstance(y, (Stored, Product)) and x.shape == y.shape:
                stored = realize(y, state)
                tensor = (state.images if x.images else state.contiguous)(stored, x.label)
                return replace(x, other=tensor)
    return Stored.of(_binary(node, a, b, "Add", state))


def _sub(node: ir.Node, read: list[Value | None], state: State) -> Value:
    a, b = read
    if is_whole(a) or is_whole(b):
        return arithmetic(node, read, state)
    found = integers(node, a, b, state)
    if found is not None:
        return found
    if isinstance(b, Constant) and isinstance(a, (Product, Spread)):
        return _add(node, [a, Constant(-b.real)], state)
    return Stored.of(_binary(node, a, b, "Sub", state))


def _takes_shift(product: Product, x: Product | Spread, y: Constant) -> bool:
    """Whether y is one number for each column of x, and the product can add it."""
    if product.function is not None or product.shift is not None or product.clamps or product.other:
        return False
    axis = 1 if product.images else len(x.shape) - 1
    wide = (1,) * (len(x.shape) - y.array.ndim) + y.array.shape
    return len(wide) == len(x.shape) and all(
        n == 1 or (i == axis and n == x.shape[axis]) for i, n in enumerate(wide)
    )


def _mul(node: ir.Node, read: list[Value | None], state: State) -> Value:
    if is_whole(read[0]) or is_whole(read[1]):
        return arithmetic(node, read, state)
    for a, b in (read, read[::-1]):
        looked = scaled(node, a, b)
        if looked is not None:
            return looked
        if isinstance(a, Product) and isinstance(b, Product) and a.weights is b.weights:
            # The only product that is read twice unfinished; see `is_swish`.
            return replace(a, function=("Swish", 0.0, 0.0))
        if isinstance(b, Function) and _same(a, b.x):
            if isinstance(b.x, Dequantized):
                inner = b.function
                return Function(str(node.name), b.x, "Composed", lambda v, f=inner: v * f(v))  # type: ignore[misc]
            if b.op_type == "Sigmoid":
                return Function(str(node.name), b.x, "Swish", FUNCTIONS["Swish"])
        if (
            isinstance(b, Constant)
            and b.array.size == 1
            and len(b.shape) <= len(a.shape if a else ())
        ):
            factor = float(b.real.reshape(()))
            if isinstance(a, Scores) and a.mask is None:
                return replace(a, factor=a.factor * factor)
            if isinstance(a, (Stored, Product)):
                return Scaled(realize(a, state), factor)
    found = integers(node, read[0], read[1], state)
    if found is not None:
        return found
    return Stored.of(_binary(node, read[0], read[1], "Mul", state))


def _div(node: ir.Node, read: list[Value | None], state: State) -> Value:
    a, b = read
    if isinstance(a, Scores) and a.mask is None and isinstance(b, Constant) and b.array.size == 1:
        return replace(a, factor=a.factor / float(b.real.reshape(())))
    if is_whole(a) or is_whole(b):
        raise Unsupported(f"operator '{node.name}' divides whole numbers")
    found = integers(node, a, b, state)
    return found if found is not None else Stored.of(_binary(node, a, b, "Div", state))


def _pow(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x, exponent = read
    if not isinstance(exponent, Constant) or exponent.array.size != 1:
        pair = (realize(x, state), realize(exponent, state))
        return apply("Pow:float32", pair, "float32", str(node.name), state)
    found = integers(node, x, exponent, state)
    if found is not None:
        return found
    return _map("Pow", float(exponent.real.reshape(())), x, str(node.name), state)


def _same(a: Value | None, b: Value) -> bool:
    if isinstance(a, Dequantized) and isinstance(b, Dequantized):
        return a.tensor is b.tensor
    return (
        isinstance(a, Stored)
        and isinstance(b, Stored)
        and a.tensor.storage is b.tensor.storage
        and a.lies_as(b)
    )


def _binary(
    node: ir.Node, a: Value | None, b: Value | None, operation: str, state: State
) -> Tensor:
    """a + b (or "Sub", "Mul", "Div") of floats, broadcast by three strides, or copied for it."""
    left, right = realize(a, state), realize(b, state)
    shape = tuple(np.broadcast_shapes(left.shape, right.shape))
    images = any(_lies_as_images(x) and x.shape == shape for x in (left, right))
    y = new_tensor(shape, "float32", images)
    order = [0, *range(2, len(shape)), 1] if images else list(range(len(shape)))
    axes = [
        (shape[i], *(_stride(x, shape, i) for x in (left, right))) for i in order if shape[i] > 1
    ]
    # Axes that both walk without a gap are one axis.
    merged: list[tuple[int, int, int]] = []
    for size, a_stride, b_stride in axes:
        if merged and merged[-1][1:] == (a_stride * size, b_stride * size):
            merged[-1] = (merged[-1][0] * size, a_stride, b_stride)
        else:
            merged.append((size, a_stride, b_stride))
    merged = [(1, 0, 0)] * (3 - len(merged)) + merged
    if len(merged) > 3 or max(merged[-1][1:]) > 1 or left.offset or right.offset:
        label = str(node.name)
        wide = [expanded(x, shape, label, state) for x in (left, right)]
        p, q = (Stored.of(state.contiguous(x, label)) for x in wide if isinstance(x, Stored))
        return _binary(node, p, q, operation, state)
    return state.add(
        "binary", str(node.name), y, (left.tensor, right.tensor), operation=operation,
        a_strides=tuple(m[1] for m in merged), b_strides=tuple(m[2] for m in merged),
        sizes=tuple(m[0] for m in merged), extremes=None,
    )  # fmt: skip


def _stride(x: Stored, shape: tuple[int, ...], axis: int) -> int:
    at = axis - (len(shape) - len(x.shape))
    return 0 if at < 0 or x.shape[at] == 1 else x.strides[at]


def _lies_as_images(x: Stored) -> bool:
    return len(x.shape) > 2 and x.lies_as(
        Stored.of(Tensor(x.tensor.storage, x.shape, "float32", True))
    )


def _layer_norm(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x, gamma, beta = (*read, None)[:3]
    stored = realize(x, state)
    axis = attribute(node, "axis", -1)
    weights = known(gamma, node).real.astype(np.float32).reshape(-1)
    if axis % len(stored.shape) != len(stored.shape) - 1 or weights.size != stored.shape[-1]:
        raise Unsupported(f"operator '{node.name}' normalizes other than the last axis")
    tensor = state.contiguous(stored, str(node.name))
    y = new_tensor(tensor.shape, "float32")
    shift = None if beta is None else known(beta, node).real.astype(np.float32).reshape(-1)
    return Stored.of(
        state.add(
            "layer_norm", str(node.name), y, (tensor,), rows=y.size // weights.size,
            gamma=weights, beta=shift, epsilon=float(attribute(node, "epsilon", 1e-5)),
            quantized=None,
        )
    )  # fmt: skip


def _softmax(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x, logarithm = read[0], node.op_type == "LogSoftmax"
    rank = 0 if x is None else len(x.shape)
    axis = attribute(node, "axis", -1) % max(rank, 1)
    if isinstance(x, Scores):
        if axis != rank - 1 or logarithm:
            raise Unsupported(f"operator '{node.name}' is no softmax of the last axis")
        return Probabilities(x)
    seen = _swapped(realize(x, state), axis)
    tensor = state.contiguous(seen, str(node.name))
    y = new_tensor(tensor.shape, "float32")
    size = tensor.shape[-1]
    state.add(
        "softmax", str(node.name), y, (tensor,), rows=y.size // size, size=size, logarithm=logarithm
    )
    return _swapped(Stored.of(y), axis)


def _swapped(x: Stored, axis: int) -> Stored:
    """x with this axis and the last one in each other's place."""
    shape, strides = list(x.shape), list(x.strides)
    for values in (shape, strides):
        values[axis], values[-1] = values[-1], values[axis]
    return Stored(x.tensor, tuple(shape), tuple(strides), x.offset)


def _is_nan(node: ir.Node, read: list[Value | None], state: State) -> Value:
    if not isinstance(read[0], Probabilities):
        raise Unsupported(f"operator '{node.name}' looks for NaN in {describe(read[0])}")
    return NotANumber(read[0])


def _where(node: ir.Node, read: list[Value | None], state: State) -> Value:
    condition, yes, no = read
    if (
        isinstance(condition, NotANumber)
        and condition.of is no
        and isinstance(yes, Constant)
        and not yes.array.any()
        and isinstance(no, Probabilities)
    ):
        return replace(no, empty_is_zero=True)
    if isinstance(yes, (Scores, Grouped)) or isinstance(no, (Scores, Grouped)):
        return forbidden(node, read, state)
    return choose(node, read, state)


LOWERINGS: Final[dict[tuple[str, str], Lowering]] = {
    ("", "Add"): _add,
    ("", "Div"): _div,
    ("", "IsNaN"): _is_nan,
    ("", "LayerNormalization"): _layer_norm,
    ("", "Mul"): _mul,
    ("", "Pow"): _pow,
    ("", "Sub"): _sub,
    ("", "Where"): _where,
    **table_of(("LogSoftmax", "Softmax"), _softmax),
    **table_of(sorted((_REAL_FUNCTIONS | set(_MAPPED)) - {"GeluTanh", "Swish"}), _unary),
}
