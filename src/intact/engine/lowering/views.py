"""Operators that move values: most of them only change how memory is seen."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Final

import numpy as np
import onnx_ir as ir

from intact.engine.finish import realize
from intact.engine.lowering.common import Lowering, attribute, known, table_of
from intact.engine.lowering.elementwise import broadcast, stored
from intact.engine.lowering.masks import grouped
from intact.engine.program import Tensor, Unsupported, new_tensor
from intact.engine.state import State, reshaped
from intact.engine.values import Dequantized, Grouped, Joined, Scaled, Scores, Stored, Value

__all__ = ["LOWERINGS"]


def _reshape(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x = read[0]
    if x is None:
        raise Unsupported(f"operator '{node.name}' reads nothing")
    shape = _new_shape(node, x, read)
    if shape == x.shape:
        return x
    if isinstance(x, Dequantized):
        return _reshape_integers(node, x, shape)
    if isinstance(x, (Scores, Grouped)):
        return grouped(node, x, shape)
    if isinstance(x, Scaled):
        return replace(x, x=_reshape_floats(node, x.x, shape, state))
    return _reshape_floats(node, stored(x, state), shape, state)


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


def _reshape_integers(node: ir.Node, x: Dequantized, shape: tuple[int, ...]) -> Value:
    tensor = x.tensor
    if prod(shape) != tensor.size:
        raise Unsupported(f"operator '{node.name}' reshapes {x.shape} to {shape}")
    single = prod(tensor.shape[2:]) == 1 or tensor.shape[1] == 1
    if tensor.images and not single:
        raise Unsupported(f"operator '{node.name}' reshapes an image")
    # With one pixel an image, the channels come last or not in the same order.
    images = tensor.images and len(shape) > 2 and prod(shape[2:]) == 1
    return Dequantized(Tensor(tensor.storage, shape, "uint8", images), x.quantization)


def _reshape_floats(node: ir.Node, x: Stored, shape: tuple[int, ...], state: State) -> Stored:
    view = reshaped(x, shape)
    if view is not None:
        return view
    view = reshaped(Stored.of(state.contiguous(x, str(node.name))), shape)
    assert view is not None  # what lies in order can take any shape
    return view


def _transpose(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x = read[0]
    if isinstance(x, Dequantized):
        raise Unsupported(f"operator '{node.name}' transposes integers")
    held = x.x if isinstance(x, Scaled) else stored(x, state)
    rank = len(held.shape)
    order = tuple(attribute(node, "perm", tuple(reversed(range(rank)))))
    if sorted(order) != list(range(rank)):
        raise Unsupported(f"operator '{node.name}' has a perm of another rank than its input")
    moved = Stored(
        held.tensor,
        tuple(held.shape[i] for i in order),
        tuple(held.strides[i] for i in order),
        held.offset,
    )
    return replace(x, x=moved) if isinstance(x, Scaled) else moved


def _part(x: Stored, axis: int, start: int, count: int, step: int = 1) -> Stored:
    shape = tuple(count if i == axis else n for i, n in enumerate(x.shape))
    strides = tuple(s * step if i == axis else s for i, s in enumerate(x.strides))
    return Stored(x.tensor, shape, strides, x.offset + start * x.strides[axis])


def _slice(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x = stored(read[0], state)
    starts, ends = (known(value, node).array.reshape(-1).tolist() for value in read[1:3])
    axes, steps = (*read[3:], None, None)[:2]
    rank = len(x.shape)
    which = range(len(starts)) if axes is None else known(axes, node).array.reshape(-1).tolist()
    by = [1] * len(starts) if steps is None else known(steps, node).array.reshape(-1).tolist()
    for axis, start, end, step in zip(which, starts, ends, by, strict=True):
        if step < 1:
            raise Unsupported(f"operator '{node.name}' slices backwards")
        taken = range(*slice(start, end, step).indices(x.shape[axis % rank]))
        if not taken:
            raise Unsupported(f"operator '{node.name}' slices to nothing")
        x = _part(x, axis % rank, taken.start, len(taken), step)
    return x


def _split(node: ir.Node, read: list[Value | None], state: State) -> list[Value]:
    x = stored(read[0], state)
    axis = attribute(node, "axis", 0) % len(x.shape)
    size, count = x.shape[axis], len(node.outputs)
    if len(read) > 1 and read[1] is not None:
        sizes = [int(n) for n in known(read[1], node).array.reshape(-1)]
    else:
        each = -(-size // count)
        sizes = [min(each, size - i * each) for i in range(count)]
    if sum(sizes) != size or min(sizes) < 1:
        raise Unsupported(f"operator '{node.name}' splits {size} into {sizes}")
    return [_part(x, axis, sum(sizes[:i]), n) for i, n in enumerate(sizes)]


def _concat(node: ir.Node, read: list[Value | None], state: State) -> Value:
    rank = len(read[0].shape) if read[0] is not None else 0
    axis = attribute(node, "axis", 0) % max(rank, 1)
    integers = [part for part in read if isinstance(part, Dequantized)]
    if len(integers) == len(read):
        if axis != 1 or not all(part.tensor.images for part in integers):
            raise Unsupported(f"operator '{node.name}' joins integers not along channels")
        return Joined(str(node.name), tuple(integers))
    parts = [stored(part, state) for part in read]
    return _join(node, parts, axis, state)


def _join(node: ir.Node, parts: Sequence[Stored], axis: int, state: State) -> Value:
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    dtype = parts[0].tensor.dtype
    if any(part.tensor.dtype != dtype for part in parts):
        raise Unsupported(f"operator '{node.name}' joins tensors of two types")
    order = _order_of_reader(node.outputs[0], len(shape))
    y = new_tensor(tuple(shape[i] for i in order), dtype)
    strides, offset = [0] * len(shape), 0
    for i, stride in zip(order, Stored.of(y).strides, strict=True):
        strides[i] = stride
    for part in parts:
        if any(n != m for i, (n, m) in enumerate(zip(part.shape, shape, strict=True)) if i != axis):
            raise Unsupported(f"operator '{node.name}' joins tensors of two shapes")
        state.copy(part, y, tuple(strides), offset, str(node.name))
        offset += part.shape[axis] * strides[axis]
    return Stored(y, tuple(shape), tuple(strides))


def _order_of_reader(value: ir.Value, rank: int) -> list[int]:
    """The axes in the order in which the only reader wants them in memory."""
    readers = [use.node for use in value.uses()]
    if len(readers) == 1 and readers[0].op_type == "Transpose":
        order = list(attribute(readers[0], "perm", ()))
        if sorted(order) == list(range(rank)):
            return order
    return list(range(rank))


def _expand(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x = stored(read[0], state)
    wanted = tuple(int(d) for d in known(read[1], node).array.reshape(-1))
    rank = max(len(wanted), len(x.shape))
    shape = (1,) * (rank - len(x.shape)) + x.shape
    strides = (0,) * (rank - len(x.shape)) + x.strides
    wide = (1,) * (rank - len(wanted)) + wanted
    full = tuple(max(a, b) for a, b in zip(shape, wide, strict=True))
    if any(a not in (1, n) for a, n in zip(shape, full, strict=True)):
        raise Unsupported(f"operator '{node.name}' expands {x.shape} to {wanted}")
    repeated = tuple(0 if a == 1 else s for a, s in zip(shape, strides, strict=True))
    return Stored(x.tensor, full, repeated, x.offset)


def _pad(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x, pads, number, axes = (*read, None, None, None)[:4]
    if x is None or attribute(node, "mode", "constant") != "constant":
        raise Unsupported(f"operator '{node.name}' pads with other than a number")
    held_pads = attribute(node, "pads", ()) if pads is None else known(pads, node).array
    amounts = np.asarray(held_pads).reshape(-1).tolist()
    rank = len(x.shape)
    where = range(rank) if axes is None else known(axes, node).array.reshape(-1).tolist()
    wide = [0] * 2 * rank
    for i, axis in enumerate(where):
        wide[axis % rank], wide[rank + axis % rank] = amounts[i], amounts[i + len(where)]
    if not any(wide):
        return x
    if min(wide) < 0:
        raise Unsupported(f"operator '{node.name}' takes away instead of padding")
    held, label = realize(x, state), str(node.name)
    shape = tuple(n + wide[i] + wide[rank + i] for i, n in enumerate(held.shape))
    fill = np.zeros(1, np.float32) if number is None else known(number, node).real.reshape(-1)
    y = new_tensor(shape, "float32")
    strides = Stored.of(y).strides
    state.copy(broadcast(state.constant(fill[:1]), shape), y, strides, 0, label)
    offset = sum(wide[i] * s for i, s in enumerate(strides))
    state.copy(held, y, strides, offset, label)
    return Stored.of(y)


LOWERINGS: Final[dict[tuple[str, str], Lowering]] = {
    ("", "Concat"): _concat,
    ("", "Expand"): _expand,
    ("", "Pad"): _pad,
    ("", "Slice"): _slice,
    ("", "Split"): _split,
    ("", "Transpose"): _transpose,
    **table_of(("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"), _reshape),
}
