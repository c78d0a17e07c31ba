"""Rows of tables: embeddings of ids that are known at run time, and parts of tensors."""

from dataclasses import replace
from math import prod
from typing import Final

import numpy as np
import onnx_ir as ir

from intact.engine.lowering.common import Lowering, attribute, describe, known
from intact.engine.lowering.elementwise import stored
from intact.engine.program import Unsupported, new_tensor
from intact.engine.state import State, reshaped
from intact.engine.values import Constant, Looked, Stored, Value

__all__ = ["LOWERINGS", "dequantized", "scaled"]


def _gather(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x, indices = read
    if isinstance(x, Constant) and isinstance(indices, Stored):
        return _rows(node, x, indices)
    index = known(indices, node).array
    if isinstance(x, Constant):
        if x.scale is None:
            raise Unsupported(f"operator '{node.name}' gathers {describe(x)}")
        return Constant(np.take(x.real, index, axis=attribute(node, "axis", 0)))
    part = stored(x, state)
    axis = attribute(node, "axis", 0) % max(len(part.shape), 1)
    size = part.shape[axis]
    if index.size == 0 or (index < -size).any() or (index >= size).any():
        raise Unsupported(f"operator '{node.name}' gathers beyond its input")
    places = np.where(index < 0, index + size, index).reshape(-1)
    steps = np.diff(places)
    before, after = part.shape[:axis], part.shape[axis + 1 :]
    if places.size == 1 or (steps[0] >= 0 and (steps == steps[0]).all()):
        # One after another: a view.
        step = int(steps[0]) if steps.size else 1
        walk = part.strides[axis] * step
        view = Stored(
            part.tensor, (*before, places.size, *after),
            (*part.strides[:axis], walk, *part.strides[axis + 1 :]),
            part.offset + int(places[0]) * part.strides[axis],
        )  # fmt: skip
        shaped = reshaped(view, (*before, *index.shape, *after))
        assert shaped is not None  # one axis that is walked evenly may become several, or none
        return shaped
    if part.tensor.dtype != "float32":
        raise Unsupported(f"operator '{node.name}' gathers several whole numbers")
    y = new_tensor((*before, *index.shape, *after), "float32")
    held = state.constant(places, "int64").tensor
    state.add(
        "gather", str(node.name), y, (state.contiguous(part, str(node.name)), held),
        sizes=(prod(before), size, places.size, prod(after)), type="float32", scales=False,
        scale=1.0, zero_point=0,
    )  # fmt: skip
    return Stored.of(y)


def _rows(node: ir.Node, table: Constant, indices: Stored) -> Value:
    if indices.tensor.dtype != "int64":
        raise Unsupported(f"operator '{node.name}' gathers by floats")
    array, label = table.array, str(node.name)
    if attribute(node, "axis", 0) % max(array.ndim, 1) or array.ndim < 2 or not array.size:
        raise Unsupported(f"operator '{node.name}' gathers other than rows of a table")
    if array.dtype not in (np.float32, np.int8, np.uint8):
        raise Unsupported(f"operator '{node.name}' gathers from a table of {array.dtype}")
    looked = Looked(label, array, indices, array.dtype == np.float32)
    if table.scale is None:
        return looked
    if table.scale.size > 1 and table.axis != 0:
        raise Unsupported(f"operator '{node.name}' has scales of another axis than its rows")
    points = np.zeros(1, np.int64) if table.zero_point is None else table.zero_point
    return _with_scale(node, looked, table.scale, points)


def _with_scale(
    node: ir.Node, x: Looked, scale: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]",
    points: "np.ndarray[tuple[int, ...], np.dtype[np.integer]]",
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


LOWERINGS: Final[dict[tuple[str, str], Lowering]] = {("", "Gather"): _gather}
