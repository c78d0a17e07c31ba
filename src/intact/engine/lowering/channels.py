"""Sums and products of integers, with each other and with constants; what differs by channel."""

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intact.core.arithmetic import FUNCTIONS
from intact.engine.arrange import plain
from intact.engine.finish import realize
from intact.engine.lowering.common import Lowering, attribute, describe, known
from intact.engine.lowering.moves import expanded
from intact.engine.program import Unsupported, new_tensor
from intact.engine.state import State
from intact.engine.values import (
    Channelwise,
    Constant,
    Dequantized,
    Function,
    Gated,
    Product,
    Seen,
    Stored,
    Sum,
    Value,
)

__all__ = ["LOWERINGS", "integers"]

Array = NDArray[Any]

_OPERATIONS: Final[dict[str, Callable[[Array, Array], Array]]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power
}  # fmt: skip


def integers(node: ir.Node, a: Value | None, b: Value | None, state: State) -> Value | None:
    """What the node makes of integers; None if they have to become floats for it."""
    if isinstance(a, Dequantized) and isinstance(b, Dequantized):
        return _of_two(node, a, b, state)
    for x, y, swapped in ((a, b, False), (b, a, True)):
        if isinstance(y, Constant):
            if y.array.size == 1 and len(y.shape) <= len(x.shape if x else ()):
                found = _of_number(node, x, float(y.real.reshape(())), swapped)
            else:
                found = _of_numbers(node, x, y, swapped, state)
            if found is not None:
                return found
    return None


def _of_two(node: ir.Node, a: Dequantized, b: Dequantized, state: State) -> Value | None:
    label = str(node.name)
    if node.op_type == "Mul":
        for x, gate in ((a, b), (b, a)):
            if _is_gate(x, gate):
                return Gated(label, x, gate)
    elif node.op_type not in ("Add", "Sub"):
        return None
    shape = tuple(np.broadcast_shapes(a.shape, b.shape))
    images = any(x.tensor.images and x.shape == shape for x in (a, b))
    a, b = (_whole(x, shape, images, label, state) for x in (a, b))
    if node.op_type == "Mul":
        return Gated(label, a, b)
    return Sum(label, a, b, 1.0 if node.op_type == "Add" else -1.0)


def _is_gate(x: Dequantized, gate: Dequantized) -> bool:
    """Whether `gate` has a value for each image and channel of x, or x has a single pixel."""
    same = len(x.shape) == len(gate.shape) > 2 and x.shape[:2] == gate.shape[:2]
    return same and prod(gate.shape[2:]) == 1 and x.tensor.images


def _whole(
    x: Dequantized, shape: tuple[int, ...], images: bool, label: str, state: State
) -> Dequantized:
    wide = x if x.shape == shape else expanded(x, shape, label, state)
    assert isinstance(wide, (Dequantized, Seen))
    return plain(wide, images, label, state)


def _of_number(node: ir.Node, x: Value | None, number: float, swapped: bool) -> Value | None:
    """A function of one integer, in a table."""
    operation = _OPERATIONS[node.op_type]
    constant = np.asarray(number)

    def apply(v: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(operation(constant, v) if swapped else operation(v, constant))

    if isinstance(x, Dequantized):
        return Function(str(node.name), x, "Composed", apply)
    if isinstance(x, Function) and isinstance(x.x, Dequantized):
        inner = x.function
        return Function(str(node.name), x.x, "Composed", lambda v: apply(inner(v)))
    return None


def _of_numbers(
    node: ir.Node, x: Value | None, y: Constant, swapped: bool, state: State
) -> Value | None:
    """With a number for each channel."""
    if node.op_type not in ("Add", "Sub", "Mul"):
        return None
    product, minus = node.op_type == "Mul", node.op_type == "Sub"
    if isinstance(x, Channelwise) and isinstance(x.x, Dequantized):
        found = _by_channel(x.x, y.real, state)
        if product or swapped or not _is_affine(x) or x.shift.any() or found is None:
            return None
        return replace(x, shift=-found[1] if minus else found[1])
    if not isinstance(x, Dequantized):
        return None
    found = _by_channel(x, y.real, state)
    if found is None:
        return None
    x, numbers = found
    one = np.ones_like(numbers)
    if product:
        return Channelwise(str(node.name), x, numbers, np.zeros_like(one), one)
    factor = -one if minus and swapped else one
    return Channelwise(
        str(node.name), x, factor, -numbers if minus and not swapped else numbers, one
    )


def _is_affine(x: Channelwise) -> bool:
    """Whether nothing comes behind the shift."""
    free = x.low == -np.inf and x.high == np.inf and x.function is None
    return free and bool((x.slope == 1).all())


def _by_channel(
    x: Dequantized, values: Array, state: State
) -> tuple[Dequantized, NDArray[np.float32]] | None:
    """x with its channels last, and a number for each; None if the numbers differ otherwise."""
    rank = len(x.shape)
    wide = (1,) * (rank - values.ndim) + values.shape
    varying = [i for i, n in enumerate(wide) if n > 1]
    if len(wide) != rank or len(varying) > 1:
        return None
    axis = varying[0] if varying else 1
    if wide[axis] != x.shape[axis] or axis not in (1, rank - 1):
        return None
    x = plain(x, axis == 1 and rank > 2, "channels", state)
    flat = np.ascontiguousarray(np.broadcast_to(values.reshape(-1), x.shape[axis]), np.float32)
    return x, flat


def _batch_normalization(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x, *parameters = read[:5]
    gamma, beta, mean, variance = (
        known(p, node).real.astype(np.float32).reshape(-1) for p in parameters
    )
    if attribute(node, "training_mode", 0):
        raise Unsupported(f"operator '{node.name}' normalizes by the batch")
    epsilon = np.float32(attribute(node, "epsilon", 1e-5))
    factor = gamma / np.sqrt(variance + epsilon)
    x = _with_channels_last(x, state)
    if x.shape[1] != factor.size:
        raise Unsupported(f"operator '{node.name}' has parameters of another size than channels")
    return Channelwise(str(node.name), x, factor, beta - mean * factor, np.ones_like(factor))


def _group_normalization(node: ir.Node, read: list[Value | None], state: State) -> Value:
    """Each group of channels of each image by itself; InstanceNormalization: each channel."""
    x = realize(read[0], state)
    gamma, beta = (known(p, node).real.astype(np.float32).reshape(-1) for p in read[1:3])
    channels = x.shape[1]
    groups = channels if node.op_type[0] == "I" else int(attribute(node, "num_groups", 1))
    if not gamma.size == beta.size == channels or groups < 1 or channels % groups:
        raise Unsupported(f"operator '{node.name}' has parameters of another size than channels")
    tensor, label = state.contiguous(x, str(node.name)), str(node.name)
    rows = x.shape[0] * groups
    one = np.ones(tensor.size // rows, np.float32)
    y = new_tensor(x.shape, "float32")
    state.add(
        "layer_norm", label, y, (tensor,), rows=rows, gamma=one, beta=None, quantized=None,
        epsilon=float(attribute(node, "epsilon", 1e-5)),
    )  # fmt: skip
    return Channelwise(label, Stored.of(y), gamma, beta, np.ones_like(gamma))


def _with_channels_last(x: Value | None, state: State) -> Dequantized | Stored:
    """x, of which axis 1 is the channels."""
    if isinstance(x, Dequantized):
        return plain(x, True, "channels", state)
    return realize(x, state)


def _prelu(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x, label = read[0], str(node.name)
    slope = known(read[1], node).real.astype(np.float32)
    if slope.size == 1:
        alpha = float(slope.reshape(()))
        if isinstance(x, Dequantized):
            return Function(label, x, "LeakyRelu", lambda v: FUNCTIONS["LeakyRelu"](v, alpha))
        if isinstance(x, Product) and not (x.clamps or x.function or x.other):
            return replace(x, function=("LeakyRelu", alpha, 0.0))
    if isinstance(x, Channelwise) and slope.size in (1, x.factor.size) and _is_affine(x):
        return replace(x, slope=np.broadcast_to(slope.reshape(-1), x.slope.shape).copy())
    x = _with_channels_last(x, state)
    axis = 1 - (len(x.shape) - slope.ndim)
    wide = slope.shape[axis] if 0 <= axis < slope.ndim else 1
    if slope.size != wide or wide not in (1, x.shape[1]):
        raise Unsupported(f"operator '{node.name}' has slopes {describe(read[1])} of no channel")
    slopes = np.ascontiguousarray(np.broadcast_to(slope.reshape(-1), x.shape[1]))
    one = np.ones_like(slopes)
    return Channelwise(label, x, one, np.zeros_like(one), slopes)


LOWERINGS: Final[dict[tuple[str, str], Lowering]] = {
    ("", "BatchNormalization"): _batch_normalization,
    ("", "GroupNormalization"): _group_normalization,
    ("", "InstanceNormalization"): _group_normalization,
    ("", "PRelu"): _prelu,
}
