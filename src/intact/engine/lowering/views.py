"""Operators that move values: most of them only change how memory is seen."""

from dataclasses import replace
from math import prod
from typing import Final, TypeGuard

import numpy as np
import onnx_ir as ir

from intact.engine.arrange import join
from intact.engine.finish import realize
from intact.engine.lowering.common import Lowering, attribute, known, table_of
from intact.engine.lowering.elementwise import stored
from intact.engine.lowering.masks import grouped
from intact.engine.lowering.moves import (
    expanded,
    movable,
    part,
    reshape,
    taken,
    transpose,
    viewable,
)
from intact.engine.program import Unsupported, new_tensor
from intact.engine.rows import Ordered, settled
from intact.engine.state import State
from intact.engine.values import (
    Dequantized,
    Grouped,
    Joined,
    Product,
    Scaled,
    Scores,
    Seen,
    Stored,
    Value,
)
from intact.engine.view import View

__all__ = ["LOWERINGS"]


def _reshape(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x = read[0]
    if x is None:
        raise Unsupported(f"operator '{node.name}' reads nothing")
    shape = _new_shape(node, x, read)
    if shape == x.shape:
        return x
    label = str(node.name)
    if _is_rows(x) and shape[-1:] == x.shape[-1:] and prod(shape) == prod(x.shape):
        return replace(x, out_shape=shape)
    if isinstance(x, (Scores, Grouped)):
        return grouped(node, x, shape)
    if isinstance(x, Scaled):
        return replace(x, x=realize(reshape(x.x, shape, label, state), state))
    if isinstance(x, Ordered):
        view = x.view.reshaped(shape)
        if view is not None:
            return settled(Ordered(x.product, view))
    return reshape(viewable(x, state), shape, label, state)


def _is_rows(x: Value | None) -> TypeGuard[Product]:
    """Whether x is an unfinished product whose rows may be counted in any shape."""
    return isinstance(x, Product) and not x.images


def _new_shape(node: ir.Node, x: Value, read: list[Value | None]) -> tuple[int, ...]:
    size, rank = prod(x.shape), len(x.shape)
    match node.op_type:
        case "Flatten":
            axis = attribute(node, "axis", 1)
            return (prod(x.shape[:axis]), prod(x.shape[axis:]))
        case "Reshape":
            wanted = [int(d) for d in known(read[1], node).array.reshape(-1)]
            if not attribute(node, "allowzero", 0):
                wanted = [x.shape[i] if d == 0 else d for i, d in enumerate(wanted)]
            rest = prod(d for d in wanted if d != -1)
            return tuple(size // max(rest, 1) if d == -1 else d for d in wanted)
        case "Squeeze":
            if len(read) < 2 or read[1] is None:
                return tuple(d for d in x.shape if d != 1)
            gone = {int(a) % rank for a in known(read[1], node).array.reshape(-1)}
            return tuple(d for i, d in enumerate(x.shape) if i not in gone)
        case "Unsqueeze":
            axes = known(read[1], node).array.reshape(-1)
            wide = rank + axes.size
            new = {int(a) % wide for a in axes}
            if len(new) != axes.size:
                raise Unsupported(f"operator '{node.name}' adds an axis twice")
            old = iter(x.shape)
            return tuple(1 if i in new else next(old) for i in range(wide))
    return x.shape


def _transpose(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x = read[0]
    rank = 0 if x is None else len(x.shape)
    order = tuple(attribute(node, "perm", tuple(reversed(range(rank)))))
    if sorted(order) != list(range(rank)):
        raise Unsupported(f"operator '{node.name}' has a perm of another rank than its input")
    if _is_rows(x) and order[-1] == rank - 1:
        moving = [axis for axis in order if x.shape[axis] != 1]
        if moving == sorted(moving):  # rows stay in their order
            return replace(x, out_shape=tuple(x.shape[axis] for axis in order))
        if isinstance(x, Product):
            view = View.of(new_tensor(x.shape, "float32")).transposed(order)
            return settled(Ordered(replace(x, out_shape=(prod(x.shape[:-1]), x.shape[-1])), view))
    if isinstance(x, Ordered):
        return settled(Ordered(x.product, x.view.transposed(order)))
    inner = x.x if isinstance(x, Scaled) else viewable(x, state)
    moved = transpose(inner, order)
    return replace(x, x=moved) if isinstance(x, Scaled) and isinstance(moved, Stored) else moved


def _slice(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x, label = viewable(read[0], state), str(node.name)
    starts, ends = (known(value, node).array.reshape(-1).tolist() for value in read[1:3])
    axes, steps = (
        None if value is None else known(value, node).array.reshape(-1).tolist()
        for value in (*read[3:], None, None)[:2]
    )
    rank = len(x.shape)
    for axis, start, end, step in zip(
        axes or range(len(starts)), starts, ends, steps or [1] * len(starts), strict=True
    ):
        reached = range(x.shape[axis % rank])[slice(start, end, step)]
        if not reached:
            raise Unsupported(f"operator '{node.name}' slices to nothing")
        x = taken(
            x, axis % rank, np.arange(reached.start, reached.stop, reached.step), label, state
        )
    return x


def _split(node: ir.Node, read: list[Value | None], state: State) -> list[Value]:
    x = viewable(read[0], state)
    axis = attribute(node, "axis", 0) % len(x.shape)
    size, count = x.shape[axis], len(node.outputs)
    if len(read) > 1 and read[1] is not None:
        sizes = [int(n) for n in known(read[1], node).array.reshape(-1)]
    else:
        each = -(-size // count)
        sizes = [min(each, size - i * each) for i in range(count)]
    if sum(sizes) != size or min(sizes) < 1:
        raise Unsupported(f"operator '{node.name}' splits {size} into {sizes}")
    label = str(node.name)
    return [part(x, axis, sum(sizes[:i]), n, label, state) for i, n in enumerate(sizes)]


def _concat(node: ir.Node, read: list[Value | None], state: State) -> Value:
    rank = len(read[0].shape) if read[0] is not None else 0
    axis = attribute(node, "axis", 0) % max(rank, 1)
    integers = [x for x in read if isinstance(x, (Dequantized, Seen))]
    if len(integers) == len(read):
        return Joined(str(node.name), tuple(integers), axis)
    return join([stored(x, state) for x in read], axis, str(node.name), state)


def _expand(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x = movable(read[0], state)
    wanted = tuple(int(d) for d in known(read[1], node).array.reshape(-1))
    rank = max(len(wanted), len(x.shape))
    wide, shape = ((1,) * (rank - len(s)) + s for s in (wanted, x.shape))
    full = tuple(max(a, b) for a, b in zip(shape, wide, strict=True))
    return expanded(x, full, str(node.name), state)


LOWERINGS: Final[dict[tuple[str, str], Lowering]] = {
    ("", "Concat"): _concat,
    ("", "Expand"): _expand,
    ("", "Slice"): _slice,
    ("", "Split"): _split,
    ("", "Transpose"): _transpose,
    **table_of(("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"), _reshape),
}
