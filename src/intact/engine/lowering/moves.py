"""Values that move: as views wherever strides can say it, else copied once; padding."""

from collections.abc import Sequence
from math import prod
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intact.engine.arrange import plain, settled, take
from intact.engine.finish import finished, realize
from intact.engine.lowering.common import Lowering, attribute, known
from intact.engine.lowering.elementwise import broadcast, stored
from intact.engine.program import Unsupported
from intact.engine.rows import Ordered, Scattered, seen
from intact.engine.state import State, reshaped
from intact.engine.values import Dequantized, Seen, Stored, Value

__all__ = [
    "LOWERINGS", "Viewable", "expanded", "movable", "part", "reshape", "taken", "transpose",
    "viewable",
]  # fmt: skip

_LONGEST: Final = 2**24  # of an axis of values that are seen repeatedly: indices of it are listed

Movable = Dequantized | Seen | Stored
Viewable = Movable | Scattered


def viewable(value: Value | None, state: State) -> Viewable:
    """As `movable`, but for floats that lie in whatever order."""
    if isinstance(value, (Ordered, Scattered)):
        return finished(value, state)
    return movable(value, state)


def movable(value: Value | None, state: State) -> Movable:
    """Integers as they are, everything else in memory, as floats or whole numbers."""
    return value if isinstance(value, (Dequantized, Seen)) else stored(value, state)


def reshape(x: Viewable, shape: tuple[int, ...], label: str, state: State) -> Viewable:
    """The same values in another shape."""
    if prod(shape) != prod(x.shape) or prod(shape) == 0:
        raise Unsupported(f"a reshape of {x.shape} to {shape}")
    if isinstance(x, Stored):
        whole = reshaped(x, shape)
        if whole is not None:
            return whole
    view = x.view.reshaped(shape)
    if isinstance(x, (Dequantized, Seen)):
        if view is None:
            view = plain(x, False, label, state).view.reshaped(shape)
        assert view is not None
        return settled(Seen(view, x.quantization))
    if view is not None and x.view.tensor.dtype == "float32":
        return seen(view)
    whole = reshaped(Stored.of(state.copied(x.view, False, label)), shape)
    assert whole is not None  # what lies in order can take any shape
    return whole


def transpose(x: Viewable, order: Sequence[int]) -> Viewable:
    """The axes in another order."""
    if isinstance(x, Stored):
        shape, strides = (tuple(of[i] for i in order) for of in (x.shape, x.strides))
        return Stored(x.tensor, shape, strides, x.offset)
    view = x.view.transposed(tuple(order))
    return seen(view) if isinstance(x, Scattered) else settled(Seen(view, x.quantization))


def part(x: Viewable, axis: int, start: int, count: int, label: str, state: State) -> Viewable:
    """`count` indices of an axis."""
    if isinstance(x, Stored):
        shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
        return Stored(x.tensor, shape, x.strides, x.offset + start * x.strides[axis])
    view = x.view.part(axis, start, count)
    if isinstance(x, Scattered):
        return seen(view) if view else part(realize(x, state), axis, start, count, label, state)
    if view is None:
        view = plain(x, len(x.shape) == 4, label, state).view.part(axis, start, count)
    assert view is not None
    return settled(Seen(view, x.quantization))


def taken(x: Viewable, axis: int, index: NDArray[Any], label: str, state: State) -> Viewable:
    """Any indices of an axis."""
    size = x.shape[axis]
    if index.size == 0 or index.min() < -size or index.max() >= size:
        raise Unsupported(f"'{label}' reads indices that are not there")
    places = np.where(index < 0, index + size, index).astype(np.int64)
    steps = np.diff(places)
    if (steps == 1).all():
        return part(x, axis, int(places[0]), places.size, label, state)
    if isinstance(x, Scattered):
        x = realize(x, state)
    if isinstance(x, Stored) and steps[0] >= 0 and (steps == steps[0]).all():
        strides = (*x.strides[:axis], x.strides[axis] * int(steps[0]), *x.strides[axis + 1 :])
        shape = (*x.shape[:axis], places.size, *x.shape[axis + 1 :])
        return Stored(x.tensor, shape, strides, x.offset + int(places[0]) * x.strides[axis])
    return take(x, {axis: places}, 0, label, state)


def expanded(x: Viewable, shape: tuple[int, ...], label: str, state: State) -> Viewable:
    """x repeated along axes of length 1 and new ones in front."""
    lead = len(shape) - len(x.shape)
    if lead < 0 or any(a not in (1, n) for a, n in zip(x.shape, shape[lead:], strict=True)):
        raise Unsupported(f"'{label}' expands {x.shape} to {shape}")
    if max(shape, default=1) > _LONGEST:
        raise Unsupported(f"'{label}' expands to {shape}, which is more than there can be")
    if isinstance(x, (Stored, Scattered)):
        return broadcast(realize(x, state) if isinstance(x, Scattered) else x, shape)
    wide = reshape(x, (1,) * lead + x.shape, label, state)
    assert isinstance(wide, (Dequantized, Seen))
    view = wide.view
    for axis, (old, new) in enumerate(zip(wide.shape, shape, strict=True)):
        if old != new:
            view = view.repeated(axis, new)
    return settled(Seen(view, x.quantization))


def _pad(node: ir.Node, read: list[Value | None], state: State) -> Value:
    pads, value, axes = (*read[1:], None, None, None)[:3]
    amounts = known(pads, node).array.reshape(-1).tolist()
    if read[0] is not None and not any(amounts):
        return read[0]
    x, label = movable(read[0], state), str(node.name)
    rank, mode = len(x.shape), attribute(node, "mode", "constant")
    which = range(rank) if axes is None else known(axes, node).array.reshape(-1).tolist()
    fill = 0 if value is None or mode != "constant" else known(value, node).real.item()
    if fill and not isinstance(x, Stored):
        x = realize(x, state)
    indices = {}
    for axis, begin, end in zip(which, amounts[: len(which)], amounts[len(which) :], strict=True):
        size = x.shape[axis % rank]
        outside = {"constant_values": -1} if mode == "constant" else {}
        if max(begin, end) > 2**20:
            raise Unsupported(f"operator '{node.name}' pads by more than there can be")
        index = np.pad(np.arange(size), (max(begin, 0), max(end, 0)), mode, **outside)
        index = index[max(-begin, 0) : index.size - max(-end, 0)]
        if index.size == 0:
            raise Unsupported(f"operator '{node.name}' leaves nothing")
        if begin or end:
            indices[axis % rank] = index
    return take(x, indices, fill, label, state) if indices else x


def _tile(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x, label = movable(read[0], state), str(node.name)
    counts = known(read[1], node).array.reshape(-1).tolist()
    if len(counts) != len(x.shape) or min(counts) < 1 or prod(counts) * prod(x.shape) > 2**31:
        raise Unsupported(f"operator '{node.name}' repeats {x.shape} {counts} times")
    apart = reshape(x, tuple(n for size in x.shape for n in (1, size)), label, state)
    wide = tuple(n for pair in zip(counts, x.shape, strict=True) for n in pair)
    whole = expanded(apart, wide, label, state)
    return reshape(whole, tuple(n * c for n, c in zip(x.shape, counts, strict=True)), label, state)


def _depth_to_space(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x, label = movable(read[0], state), str(node.name)
    n, c, h, w = x.shape
    b = int(attribute(node, "blocksize", 1))
    first = attribute(node, "mode", "DCR") == "DCR"
    split = (n, b, b, c // b**2, h, w) if first else (n, c // b**2, b, b, h, w)
    order = (0, 3, 4, 1, 5, 2) if first else (0, 1, 4, 2, 5, 3)
    moved = transpose(reshape(x, split, label, state), order)
    return reshape(moved, (n, c // b**2, h * b, w * b), label, state)


def _space_to_depth(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x, label = movable(read[0], state), str(node.name)
    n, c, h, w = x.shape
    b = int(attribute(node, "blocksize", 1))
    apart = reshape(x, (n, c, h // b, b, w // b, b), label, state)
    moved = transpose(apart, (0, 3, 5, 1, 2, 4))
    return reshape(moved, (n, c * b * b, h // b, w // b), label, state)


LOWERINGS: Final[dict[tuple[str, str], Lowering]] = {
    ("", "DepthToSpace"): _depth_to_space,
    ("", "Pad"): _pad,
    ("", "SpaceToDepth"): _space_to_depth,
    ("", "Tile"): _tile,
}
