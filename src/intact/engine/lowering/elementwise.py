"""Small tensors value by value: masks, ids and comparisons.

Whole numbers and truth values are int64 in memory, whatever their type in the graph.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from intact.engine.finish import realize
from intact.engine.lowering.common import Lowering, attribute, describe, table_of
from intact.engine.program import Dtype, Unsupported, new_tensor
from intact.engine.state import State
from intact.engine.values import Constant, Looked, Stored, Value

__all__ = ["LOWERINGS", "apply", "arithmetic", "broadcast", "choose", "is_whole", "stored"]

_COMPARISONS: Final = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_LOGIC: Final = ("And", "Or", "Xor")


def is_whole(value: Value | None) -> bool:
    """Whether the value is of whole numbers or truth values, and not quantized."""
    match value:
        case Stored(tensor):
            return tensor.dtype == "int64"
        case Constant():
            return value.scale is None and value.array.dtype.kind in "biu"
    return False


def stored(value: Value | None, state: State) -> Stored:
    """The value in memory, in float32 or int64."""
    if isinstance(value, Stored):
        return value
    if isinstance(value, Constant) and is_whole(value):
        return state.constant(value.array, "int64")
    return realize(value, state)


def broadcast(x: Stored, shape: tuple[int, ...]) -> Stored:
    """x repeated to a shape that it can be broadcast to."""
    added = len(shape) - len(x.shape)
    sizes, strides = (1,) * added + x.shape, (0,) * added + x.strides
    repeated = tuple(0 if n == 1 else s for n, s in zip(sizes, strides, strict=True))
    return Stored(x.tensor, shape, repeated, x.offset)


def apply(
    operator: str, operands: Sequence[Stored], dtype: Dtype, label: str, state: State
) -> Stored:
    """The native operator on operands that are broadcast together; its type ends its name.

    What repeats along an axis other than the last is computed once, and seen repeated.
    """
    whole = tuple(np.broadcast_shapes(*(x.shape for x in operands)))
    repeated = zip(*(broadcast(x, whole).strides for x in operands), strict=True)
    once = [not any(strides) for strides in repeated]
    shape = tuple(1 if one else n for n, one in zip(whole[:-1], once, strict=False)) + whole[-1:]
    y = new_tensor(shape, dtype)
    views = [Stored(x.tensor, shape, broadcast(x, whole).strides, x.offset) for x in operands]
    wide = zip(shape, *(view.strides for view in views), Stored.of(y).strides, strict=True)
    # Axes that all walk without a gap are one axis.
    axes: list[tuple[int, ...]] = []
    for size, *strides in (axis for axis in wide if axis[0] > 1):
        if axes and axes[-1][1:] == tuple(size * stride for stride in strides):
            axes[-1] = (axes[-1][0] * size, *strides)
        else:
            axes.append((size, *strides))
    axes = axes or [(1,) * (len(views) + 2)]
    columns = list(zip(*axes, strict=True))
    computed = state.add(
        "elementwise", label, y, [view.tensor for view in views], operator=operator,
        shape=columns[0], y_view=(0, columns[-1]),
        x_views=tuple((v.offset, c) for v, c in zip(views, columns[1:-1], strict=True)),
    )  # fmt: skip
    return broadcast(Stored.of(computed), whole)


def _pair(node: ir.Node, read: list[Value | None], state: State) -> tuple[Stored, Stored]:
    """Both operands, of one type."""
    a, b = (stored(value, state) for value in read)
    if a.tensor.dtype != b.tensor.dtype:
        raise Unsupported(f"operator '{node.name}' has operands of two types")
    return a, b


def arithmetic(node: ir.Node, read: list[Value | None], state: State) -> Stored:
    """Add, Sub and Mul of whole numbers; Min and Max of any number of them, or of floats."""
    first, *rest = read
    for other in rest:
        a, b = _pair(node, [first, other], state)
        operator = f"{node.op_type}:{a.tensor.dtype}"
        first = apply(operator, (a, b), a.tensor.dtype, str(node.name), state)
    return stored(first, state)


def _compare(node: ir.Node, read: list[Value | None], state: State) -> Value:
    a, b = _pair(node, read, state)
    return apply(f"{node.op_type}:{a.tensor.dtype}", (a, b), "int64", str(node.name), state)


def _logic(node: ir.Node, read: list[Value | None], state: State) -> Value:
    for x, y in (read, read[::-1]):
        if node.op_type == "And" and isinstance(y, Constant) and y.array.all() and is_whole(x):
            # A mask that forbids nothing; to see it repeated costs nothing.
            seen = stored(x, state)
            return broadcast(seen, tuple(np.broadcast_shapes(seen.shape, y.shape)))
    if not all(is_whole(value) for value in read):
        raise Unsupported(f"operator '{node.name}' reads floats")
    pair = [stored(value, state) for value in read]
    return apply(f"{node.op_type}:int64", pair, "int64", str(node.name), state)


def _not(node: ir.Node, read: list[Value | None], state: State) -> Value:
    if not is_whole(read[0]):
        raise Unsupported(f"operator '{node.name}' reads {describe(read[0])}")
    return apply("Not:int64", (stored(read[0], state),), "int64", str(node.name), state)


def _cast(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x, to = read[0], attribute(node, "to", 0)
    if isinstance(x, Looked) and to == ir.DataType.FLOAT:
        return Looked(x.label, x.table, x.indices, True, x.scale, x.zero_point)
    whole = is_whole(x)
    match to:
        case ir.DataType.FLOAT if not whole:
            return realize(x, state)
        case ir.DataType.FLOAT:
            return apply("ToFloat:int64", (stored(x, state),), "float32", str(node.name), state)
        case ir.DataType.BOOL:
            held = stored(x, state)
            operator = f"ToTruth:{held.tensor.dtype}"
            return apply(operator, (held,), "int64", str(node.name), state)
        case ir.DataType.INT64 | ir.DataType.INT32 if whole:
            return stored(x, state)
        case ir.DataType.INT64 | ir.DataType.INT32:
            held = realize(x, state)
            return apply("ToInteger:float32", (held,), "int64", str(node.name), state)
    raise Unsupported(f"operator '{node.name}' casts to data type {to}")


def choose(node: ir.Node, read: list[Value | None], state: State) -> Value:
    """Where of a condition that is in memory."""
    condition = read[0]
    if not is_whole(condition):
        raise Unsupported(f"operator '{node.name}' chooses by {describe(condition)}")
    yes, no = _pair(node, read[1:], state)
    dtype = yes.tensor.dtype
    operands = (stored(condition, state), yes, no)
    return apply(f"Where:{dtype}", operands, dtype, str(node.name), state)


LOWERINGS: Final[dict[tuple[str, str], Lowering]] = {
    ("", "Cast"): _cast,
    ("", "Not"): _not,
    **table_of(("Max", "Min"), arithmetic),
    **table_of(_COMPARISONS, _compare),
    **table_of(_LOGIC, _logic),
}
