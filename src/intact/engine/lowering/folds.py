"""Operators of constants in numpy: those of shapes, masks and positions, of which there are many.

ONNX's own reference takes a millisecond for each, and knows all the others.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from intact.engine.lowering.common import attribute, known
from intact.engine.program import Unsupported
from intact.engine.values import Value

__all__ = ["fold"]

Array = NDArray[Any]

_MOST: Final = 2**28  # values of a constant: sizes come from a file


def _limited(node: ir.Node, shape: Sequence[int]) -> tuple[int, ...]:
    if prod(shape) > _MOST:
        raise Unsupported(f"operator '{node.name}' makes a constant of shape {tuple(shape)}")
    return tuple(shape)


def _elementwise(function: Callable[..., Any]) -> Callable[[ir.Node, Sequence[Any]], Array]:
    def fold(node: ir.Node, arrays: Sequence[Any]) -> Array:
        _limited(node, np.broadcast_shapes(*(array.shape for array in arrays)))
        with np.errstate(all="ignore"):
            return np.asarray(function(*arrays))

    return fold


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind not in "iu":
        return np.asarray(np.divide(a, b))
    if not b.all():
        raise Unsupported("a division by zero")
    # Towards zero, where numpy takes the lower.
    return np.asarray((np.abs(a) // np.abs(b)) * (np.sign(a) * np.sign(b)), a.dtype)


def _cast(node: ir.Node, arrays: Sequence[Any]) -> Array:
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(int(attribute(node, "to", 0))))
    with np.errstate(all="ignore"):
        return np.asarray(arrays[0].astype(dtype))


def _concat(node: ir.Node, arrays: Sequence[Any]) -> Array:
    return np.concatenate(arrays, axis=attribute(node, "axis", 0))


def _squeeze(node: ir.Node, arrays: Sequence[Any]) -> Array:
    x, axes = (*arrays, None)[:2]
    gone = None if axes is None else tuple(int(a) % x.ndim for a in axes.reshape(-1))
    return np.asarray(np.squeeze(x, gone))


def _unsqueeze(node: ir.Node, arrays: Sequence[Any]) -> Array:
    return np.expand_dims(arrays[0], tuple(int(a) for a in arrays[1].reshape(-1)))


def _slice(node: ir.Node, arrays: Sequence[Any]) -> Array:
    x, starts, ends, axes, steps = (*arrays, None, None)[:5]
    where = [slice(None)] * x.ndim
    which = range(len(starts)) if axes is None else axes.tolist()
    by = [1] * len(starts) if steps is None else steps.tolist()
    for axis, start, end, step in zip(which, starts.tolist(), ends.tolist(), by, strict=True):
        # ONNX clamps an end below the first index, from which numpy would count backwards.
        stop = None if step < 0 and end < -x.shape[axis] else end
        where[axis] = slice(start, stop, step)
    return np.asarray(x[tuple(where)])


def _gather(node: ir.Node, arrays: Sequence[Any]) -> Array:
    x, indices = arrays
    axis = attribute(node, "axis", 0)
    rest = (n for i, n in enumerate(x.shape) if i != axis % x.ndim)
    _limited(node, (*indices.shape, *rest))
    return np.asarray(np.take(x, indices, axis))


def _gather_elements(node: ir.Node, arrays: Sequence[Any]) -> Array:
    x, indices = arrays
    axis = attribute(node, "axis", 0) % x.ndim
    part = tuple(slice(None) if i == axis else slice(0, n) for i, n in enumerate(indices.shape))
    return np.take_along_axis(x[part], indices, axis)


def _range(node: ir.Node, arrays: Sequence[Any]) -> Array:
    start, limit, delta = (array.reshape(()) for array in arrays)
    if not delta:
        raise Unsupported(f"operator '{node.name}' is a range without steps")
    _limited(node, (max(0, int((float(limit) - float(start)) / float(delta)) + 1),))
    return np.arange(start, limit, delta, dtype=start.dtype)


def _expand(node: ir.Node, arrays: Sequence[Any]) -> Array:
    x, wanted = arrays
    shape = np.broadcast_shapes(x.shape, tuple(int(d) for d in wanted.reshape(-1)))
    return np.broadcast_to(x, _limited(node, shape))


def _reshape(node: ir.Node, arrays: Sequence[Any]) -> Array:
    x, wanted = arrays
    sizes = [int(d) for d in wanted.reshape(-1)]
    if not attribute(node, "allowzero", 0):
        sizes = [x.shape[i] if d == 0 else d for i, d in enumerate(sizes)]
    return np.asarray(x.reshape(sizes))


def _transpose(node: ir.Node, arrays: Sequence[Any]) -> Array:
    return np.transpose(arrays[0], attribute(node, "perm", None))


_FOLDS: Final[Mapping[str, Callable[[ir.Node, Sequence[Any]], Array]]] = {
    "Add": _elementwise(np.add),
    "And": _elementwise(np.logical_and),
    "Cast": _cast,
    "Concat": _concat,
    "Div": _elementwise(_divide),
    "Equal": _elementwise(np.equal),
    "Expand": _expand,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Greater": _elementwise(np.greater),
    "GreaterOrEqual": _elementwise(np.greater_equal),
    "Identity": _elementwise(lambda x: x),
    "Less": _elementwise(np.less),
    "LessOrEqual": _elementwise(np.less_equal),
    "Max": _elementwise(lambda *xs: np.maximum.reduce(np.broadcast_arrays(*xs))),
    "Min": _elementwise(lambda *xs: np.minimum.reduce(np.broadcast_arrays(*xs))),
    "Mul": _elementwise(np.multiply),
    "Not": _elementwise(np.logical_not),
    "Or": _elementwise(np.logical_or),
    "Range": _range,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _elementwise(np.subtract),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _elementwise(np.where),
}


def fold(node: ir.Node, read: list[Value | None]) -> list[NDArray[Any]]:
    """The outputs of a node that reads constants alone."""
    arrays = [None if value is None else known(value, node).array for value in read]
    if any(
        a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for a in node.attributes.values()
    ):
        raise Unsupported(f"operator '{node.name}' ({node.op_type}) is control flow")
    here = _FOLDS.get(node.op_type)
    try:
        if here is not None and node.domain == "" and len(node.outputs) == 1:
            return [here(node, arrays)]
        return [np.asarray(result) for result in _evaluate(node, arrays)]
    except Unsupported:
        raise
    except Exception as error:  # whatever the evaluator meets in an untrusted file
        raise Unsupported(f"operator '{node.name}' ({node.op_type}): {error}") from None


def _evaluate(node: ir.Node, arrays: list[NDArray[Any] | None]) -> Any:
    """What ONNX's own reference makes of the node."""
    names = ["" if array is None else f"i{i}" for i, array in enumerate(arrays)]
    feeds = {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
    proto = ir.to_proto(node)
    del proto.input[:], proto.output[:]
    proto.input.extend(names)
    proto.output.extend(f"o{i}" for i in range(len(node.outputs)))
    make_info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [proto],
        "constant",
        [make_info(name, _element_type(array), array.shape) for name, array in feeds.items()],
        [make_info(name, 0, None) for name in proto.output],
    )
    opset = node.graph.opset_imports.get("", 21) if node.graph is not None else 21
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    return ReferenceEvaluator(model).run(None, feeds)


def _element_type(array: NDArray[Any]) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
