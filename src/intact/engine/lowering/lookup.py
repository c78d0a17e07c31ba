"""Values at indices: embeddings of ids that are known at run time, and parts of tensors."""

from dataclasses import replace
from math import prod
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intact.engine.lowering.common import Lowering, attribute, describe, known
from intact.engine.lowering.elementwise import stored
from intact.engine.lowering.moves import movable, reshape, taken
from intact.engine.program import Dtype, Tensor, Unsupported, new_tensor, row_major
from intact.engine.state import State
from intact.engine.values import Constant, Looked, Stored, Value

__all__ = ["LOWERINGS", "dequantized", "scaled"]


def _gather(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x, indices = read
    if isinstance(x, Constant) and isinstance(indices, Stored):
        return _rows(node, x, indices, state)
    index = known(indices, node).array
    if isinstance(x, Constant):
        if x.scale is None:
            raise Unsupported(f"operator '{node.name}' gathers {describe(x)}")
        return Constant(np.take(x.real, index, axis=attribute(node, "axis", 0)))
    held, label = movable(x, state), str(node.name)
    axis = attribute(node, "axis", 0) % max(len(held.shape), 1)
    rows = taken(held, axis, index.reshape(-1), label, state)
    return reshape(rows, held.shape[:axis] + index.shape + held.shape[axis + 1 :], label, state)


def _chosen(
    node: ir.Node, table: Tensor, indices: Tensor, shape: tuple[int, ...],
    sizes: tuple[int, int, int, int], state: State,
) -> Stored:  # fmt: skip
    """Rows of a table in memory as they are. sizes: outer, rows, indices, values of a row."""
    y = new_tensor(shape, table.dtype)
    state.add(
        "gather", str(node.name), y, (table, indices), sizes=sizes, type=table.dtype, scales=False,
        scale=1.0, zero_point=0,
    )  # fmt: skip
    return Stored.of(y)


def _rows(node: ir.Node, table: Constant, indices: Stored, state: State) -> Value:
    if indices.tensor.dtype != "int64":
        raise Unsupported(f"operator '{node.name}' gathers by floats")
    array, label = table.array, str(node.name)
    if array.ndim < 1 or attribute(node, "axis", 0) % array.ndim or not array.size:
        raise Unsupported(f"operator '{node.name}' gathers other than rows of a table")
    plain = array.dtype in (np.int32, np.int64)
    plain |= array.ndim == 1 and array.dtype in (np.float32, np.int8, np.uint8, np.bool_)
    if table.scale is None and plain:
        return _plain_rows(node, array, indices, state)
    if array.dtype not in (np.float32, np.int8, np.uint8):
        raise Unsupported(f"operator '{node.name}' gathers from a table of {array.dtype}")
    looked = Looked(label, array, indices, array.dtype == np.float32)
    if table.scale is None:
        return looked
    if table.scale.size > 1 and table.axis != 0:
        raise Unsupported(f"operator '{node.name}' has scales of another axis than its rows")
    points = np.zeros(1, np.int64) if table.zero_point is None else table.zero_point
    return _with_scale(node, looked, table.scale, points)


def _plain_rows(node: ir.Node, table: NDArray[Any], indices: Stored, state: State) -> Stored:
    """Of a table of whole numbers, or of single values."""
    dtype: Dtype = "float32" if table.dtype.kind == "f" else "int64"
    held = state.constant(table, dtype).tensor
    flat = state.contiguous(indices, str(node.name))
    sizes = (1, table.shape[0], prod(indices.shape), prod(table.shape[1:]))
    return _chosen(node, held, flat, (*indices.shape, *table.shape[1:]), sizes, state)


def _gather_elements(node: ir.Node, read: list[Value | None], state: State) -> Value:
    """By known indices; or from a table that is the same along all axes but the one indexed."""
    table, indices = read
    if isinstance(indices, Constant):
        return _gather_known(node, read, state)
    if not isinstance(indices, Stored) or indices.tensor.dtype != "int64":
        raise Unsupported(f"operator '{node.name}' gathers by {describe(indices)}")
    array = known(table, node).real
    axis = attribute(node, "axis", 0) % max(array.ndim, 1)
    line = array[tuple(slice(None) if i == axis else 0 for i in range(array.ndim))]
    aligned = line.reshape([-1 if i == axis else 1 for i in range(array.ndim)])
    fits = all(n <= m for i, (n, m) in enumerate(zip(indices.shape, array.shape, strict=True))
               if i != axis)  # fmt: skip
    if not fits or array.dtype not in (np.float32, np.int64) or (array != aligned).any():
        raise Unsupported(f"operator '{node.name}' gathers from a table of several rows")
    return _plain_rows(node, line, indices, state)


def _gather_known(node: ir.Node, read: list[Value | None], state: State) -> Value:
    """Values or rows, each at a place that is known: GatherElements and GatherND."""
    x, label = movable(read[0], state), str(node.name)
    index = known(read[1], node).array.astype(np.int64)
    if node.op_type == "GatherElements":
        indices = list(np.ix_(*map(np.arange, index.shape)))
        indices[attribute(node, "axis", 0)] = index
    else:
        indices = list(np.moveaxis(index, -1, 0))
    depth = len(indices)
    if attribute(node, "batch_dims", 0) or not 0 < depth <= len(x.shape) or not index.size:
        raise Unsupported(f"operator '{node.name}' gathers in a way that is not known")
    inner, rows = x.shape[:depth], x.shape[depth:]
    if any((i < -n).any() or (i >= n).any() for i, n in zip(indices, inner, strict=True)):
        raise Unsupported(f"operator '{node.name}' gathers beyond its input")

    def places(strides: tuple[int, ...]) -> NDArray[np.int64]:
        walked = zip(indices, inner, strides[:depth], strict=True)
        return np.asarray(sum(np.where(i < 0, i + n, i) * s for i, n, s in walked))

    if isinstance(x, Stored):
        seen = places(x.strides)
        strides = _steps(seen)
        if strides is not None:
            offset = x.offset + int(seen.reshape(-1)[0])
            return Stored(x.tensor, seen.shape + rows, strides + x.strides[depth:], offset)
    which = places(row_major(inner))
    flat = reshape(x, (prod(inner), *rows), label, state)
    return reshape(
        taken(flat, 0, which.reshape(-1), label, state), which.shape + rows, label, state
    )


def _steps(places: NDArray[Any]) -> tuple[int, ...] | None:
    """The strides with which the places are walked, if there are such."""
    first = places.reshape(-1)[0]
    strides = []
    expected = first
    for axis, size in enumerate(places.shape):
        start = [0] * places.ndim
        start[axis] = min(1, size - 1)
        step = int(places[tuple(start)] - first)
        shape = [1] * places.ndim
        shape[axis] = size
        expected = expected + step * np.arange(size).reshape(shape)
        strides.append(step)
    regular = min(strides, default=0) >= 0 and np.array_equal(places, expected)
    return tuple(strides) if regular else None


def _running_sum(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x, axis = stored(read[0], state), known(read[1], node).array
    if attribute(node, "exclusive", 0) or attribute(node, "reverse", 0) or axis.size != 1:
        raise Unsupported(f"operator '{node.name}' sums in another order than forwards")
    tensor = state.contiguous(x, str(node.name))
    y = new_tensor(x.shape, tensor.dtype)
    at = int(axis.reshape(())) % max(len(x.shape), 1)
    state.add(
        "running_sum", str(node.name), y, (tensor,), whole=tensor.dtype == "int64",
        sizes=(prod(x.shape[:at]), x.shape[at], prod(x.shape[at + 1 :])),
    )  # fmt: skip
    return Stored.of(y)


def _with_scale(
    node: ir.Node, x: Looked, scale: NDArray[np.float32],
    points: NDArray[Any],
) -> Looked:  # fmt: skip
    point = int(points.reshape(-1)[0])
    if x.scale is not None or x.table.dtype == np.float32 or (points != point).any():
        raise Unsupported(f"operator '{node.name}' has zero points of rows")
    if scale.size not in (1, x.table.shape[0]) or scale.dtype != np.float32:
        raise Unsupported(f"operator '{node.name}' has scales that do not fit its table")
    return replace(x, real=True, scale=scale, zero_point=point)


def dequantized(node: ir.Node, x: Looked, scale: Value | None, point: Value | None) -> Value:
    """DequantizeLinear of rows of 8-bit integers, by one scale."""
    scales = known(scale, node).array
    points = np.zeros(1, np.int64) if point is None else known(point, node).array
    if scales.size != 1 or points.size != 1 or x.real or attribute(node, "block_size", 0):
        raise Unsupported(f"operator '{node.name}' has more than one scale")
    return _with_scale(node, x, scales, points)


def scaled(node: ir.Node, a: Value | None, b: Value | None) -> Value | None:
    """Rows of integers times a scale, or the rows of a table of scales; None if they are not."""
    if not isinstance(a, Looked) or not a.real or a.scale is not None:
        return None
    if a.table.dtype == np.float32:
        return None
    nothing = np.zeros(1, np.int64)
    if isinstance(b, Constant) and b.array.size == 1 and len(b.shape) <= len(a.shape):
        return _with_scale(node, a, b.real.astype(np.float32), nothing)
    if isinstance(b, Looked) and b.table.dtype == np.float32 and b.scale is None:
        same = a.indices.tensor.storage is b.indices.tensor.storage
        wide = (a.table.shape[0], *(1,) * (a.table.ndim - 1))
        if same and a.indices.lies_as(b.indices) and b.table.shape == wide:
            return _with_scale(node, a, b.table, nothing)
    return None


LOWERINGS: Final[dict[tuple[str, str], Lowering]] = {
    ("", "CumSum"): _running_sum,
    ("", "Gather"): _gather,
    ("", "GatherElements"): _gather_elements,
    ("", "GatherND"): _gather_known,
}
