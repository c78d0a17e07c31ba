"""From the nodes of a quantized graph to instructions, for inputs of known shapes.

Rules, in order:

1. What depends on constants and shapes alone is computed here.
2. DequantizeLinear, and every operator between it and QuantizeLinear, only describes a value.
3. QuantizeLinear, and every operator that reads floats, finishes what it reads (see `finish`).
4. A described float value that several operators read is finished where it is described, so that
   it is computed once.

An operator, attribute or layout that is not known raises Unsupported, which names it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intact.engine.arrange import dequantize, plain
from intact.engine.finish import finished, realize
from intact.engine.lowering import (
    attention,
    channels,
    elementwise,
    lookup,
    moves,
    pointwise,
    pools,
    products,
    recurrent,
    resize,
    transposed,
    views,
)
from intact.engine.lowering.common import Lowering, attribute
from intact.engine.lowering.folds import fold
from intact.engine.program import BYTES, Tensor, Unfinished, Unsupported, new_tensor
from intact.engine.rows import (
    ALONG_ROWS,
    VIEWERS,
    Ordered,
    Scattered,
    in_memory,
    seen,
    settled,
)
from intact.engine.state import State
from intact.engine.values import (
    Channelwise,
    Constant,
    Dequantized,
    Function,
    Looked,
    Maximum,
    Mean,
    Opaque,
    Product,
    Resampled,
    Seen,
    Spread,
    Stored,
    Value,
)
from intact.engine.view import View

__all__ = ["LOWERINGS", "Lowered", "Refused", "lower"]

# What a node of an untrusted file may raise where it says what no exporter writes.
_FAULTS: Final = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, TypeError, ValueError
)  # fmt: skip

# Readers that take integers in any order.
_MOVERS: Final = frozenset(
    {
        "Concat", "DepthToSpace", "DequantizeLinear", "Expand", "Flatten", "Gather",
        "GatherElements", "GatherND", "Identity", "Pad", "QuantizeLinear", "Reshape", "Resize",
        "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
    }
)  # fmt: skip

LOWERINGS: Final[Mapping[tuple[str, str], Lowering]] = {
    **products.LOWERINGS,
    **pointwise.LOWERINGS,
    **pools.LOWERINGS,
    **views.LOWERINGS,
    **recurrent.LOWERINGS,
    **moves.LOWERINGS,
    **resize.LOWERINGS,
    **transposed.LOWERINGS,
    **channels.LOWERINGS,
    **attention.LOWERINGS,
    **elementwise.LOWERINGS,
    **lookup.LOWERINGS,
}


class Refused(Unsupported):
    """An operator that the engine does not know, or not in this form. node: which."""

    def __init__(self, message: str, node: ir.Node) -> None:
        super().__init__(message)
        self.node = node


@dataclass(frozen=True, eq=False)
class Lowered:
    """outputs: memory of what was asked for. known: constants, and the shapes of everything."""

    state: State
    outputs: list[Tensor]
    known: dict[str, Value]


def lower(
    nodes: Sequence[ir.Node],
    constants: Mapping[str, Constant],
    given: Mapping[str, Tensor | Value],
    wanted: Sequence[ir.Value],
) -> Lowered:
    """The instructions that compute `wanted`.

    nodes: of the graph, in order. constants: the graph's own. given: tensors in memory before the
        program runs, and what is known of other values. Raises Refused or Unsupported.
    """
    state = State(sum(isinstance(value, Tensor) for value in given.values()))
    values: dict[str, Value] = {
        name: Stored.of(value) if isinstance(value, Tensor) else value
        for name, value in given.items()
    }
    values.update(constants)
    absent: dict[str, Unsupported] = {}
    for node in nodes:
        if all(str(output.name) in values for output in node.outputs):
            continue  # known from an earlier stage
        try:
            _lower_node(node, values, absent, state)
        except Refused:
            raise
        except Unfinished as error:
            raise Refused(str(error), _describer(node)) from None
        except Unsupported as error:
            raise Refused(str(error), node) from None
        except _FAULTS as error:
            message = f"operator '{node.name}' ({node.op_type}): {error}"
            raise Refused(message, node) from None
    outputs = _outputs(wanted, values, absent, state)
    known: dict[str, Value] = {
        name: value if isinstance(value, (Constant, Opaque)) else Opaque(value.shape)
        for name, value in values.items()
        if name not in constants
    }
    return Lowered(state, outputs, known)


def _describer(reader: ir.Node) -> ir.Node:
    """The node that described what cannot be computed."""
    producer = reader.inputs[0].producer() if reader.inputs and reader.inputs[0] else None
    return reader if producer is None else producer


def _lower_node(
    node: ir.Node, values: dict[str, Value], absent: dict[str, Unsupported], state: State
) -> None:
    """Adds the node's outputs to `values`, or to `absent` with a reason.

    Constants that cannot be computed here matter only if something else reads them.
    """
    names = [None if v is None else str(v.name) for v in node.inputs]
    missing = [name for name in names if name is not None and name not in values]
    if missing:
        message = f"'{missing[0]}' is not computed before '{node.name}'"
        reason = absent.get(missing[0], Unsupported(message))
        absent.update((str(output.name), reason) for output in node.outputs)
        return
    read = [None if name is None else values[name] for name in names]
    if node.op_type == "Shape" and read[0] is not None:
        results: list[Value] = [Constant(_shape(node, read[0]))]
    elif node.op_type != "DequantizeLinear" and all(
        value is None or (isinstance(value, Constant) and value.scale is None) for value in read
    ):
        try:
            results = [Constant(array) for array in fold(node, read)]
        except Unsupported as error:
            refused = Refused(str(error), node)
            absent.update((str(output.name), refused) for output in node.outputs)
            return
    else:
        lowering = LOWERINGS.get((node.domain, node.op_type))
        if lowering is None:
            kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise Unsupported(f"operator '{node.name}' is a {kind}")
        lowered: Value | list[Value] | None = _along_rows(node, read, lowering, state)
        if lowered is None:
            arranged = [_arranged(node, value, read, state) for value in read]
            lowered = lowering(node, arranged, state)
        results = lowered if isinstance(lowered, list) else [lowered]
    for output, value in zip(node.outputs, results, strict=False):
        if len(output.uses()) > 1 and _costs(value) and not _is_swish(value, output):
            value = finished(value, state)
        values[str(output.name)] = value


def _along_rows(
    node: ir.Node, read: list[Value | None], lowering: Lowering, state: State
) -> Value | None:
    """What works value by value on a product's rows as they lie; None if that is not it."""
    x, *rest = read
    if node.op_type not in ALONG_ROWS or not isinstance(x, Ordered):
        return None
    columns = x.product.shape[-1]
    if x.shape[-1] != columns:
        return None
    given: list[Value | None] = []
    for value in rest:
        if value is None:
            given.append(None)
            continue
        if not isinstance(value, Constant) or len(value.shape) > len(x.shape):
            return None
        # One number, or one a column.
        if value.array.size not in (1, columns) or value.array.size != prod(value.shape[-1:]):
            return None
        given.append(Constant(value.real.reshape(-1)))
    result = lowering(node, [x.product, *given], state)
    assert not isinstance(result, list)
    if isinstance(result, Product) and result.shape == x.product.shape:
        return settled(Ordered(result, x.view))
    return seen(View(state.contiguous(realize(result, state), str(node.name)), x.view.axes))


def _arranged(
    node: ir.Node, value: Value | None, read: list[Value | None], state: State
) -> Value | None:
    """The value in the order in which the operator takes integers."""
    if isinstance(value, (Ordered, Scattered)) and node.op_type not in VIEWERS:
        return realize(value, state)
    if not isinstance(value, (Dequantized, Seen)) or node.op_type in _MOVERS:
        return value
    if node.op_type in products.IMAGE_READERS:
        return plain(value, True, str(node.name), state)
    if node.op_type in products.ROW_READERS:
        if isinstance(value, Seen) and in_memory(value.view) is not None:
            return value
        return plain(value, False, str(node.name), state)
    if isinstance(value, Dequantized):
        return value
    others = [other for other in read if isinstance(other, Dequantized)]
    images = any(x.tensor.images for x in others) if others else len(value.shape) == 4
    return plain(value, images, str(node.name), state)


def _costs(value: Value) -> bool:
    """Whether finishing the value twice would compute it twice."""
    match value:
        case Product():
            return not value.integer
        case Ordered():
            return not value.product.integer
        case Function(x=Stored()):
            return value.op_type != "Sigmoid"  # which only Swish reads twice
        case Looked():
            return value.real
        case Spread():
            return not value.product.integer
        case (
            Channelwise(x=Stored()) | Maximum(x=Stored()) | Mean(x=Stored()) | Resampled(x=Stored())
        ):
            return True
    return False


def _is_swish(value: Value, output: ir.Value) -> bool:
    """Whether only a sigmoid and the product with it read a convolution that is not finished."""
    if not isinstance(value, Product) or value.function or value.other or value.clamps:
        return False
    readers = [use.node for use in output.uses()]
    if sorted(reader.op_type for reader in readers) != ["Mul", "Sigmoid"]:
        return False
    sigmoid, mul = sorted(readers, key=lambda reader: reader.op_type, reverse=True)
    alone = len(sigmoid.outputs[0].uses()) == 1 and len(mul.inputs) == 2
    return alone and set(mul.inputs) == {output, sigmoid.outputs[0]}


def _shape(node: ir.Node, value: Value) -> NDArray[np.int64]:
    rank = len(value.shape)
    start, end = (attribute(node, key, default) for key, default in (("start", 0), ("end", rank)))
    return np.asarray(value.shape[slice(start, end)], np.int64)


def _outputs(
    wanted: Sequence[ir.Value],
    values: dict[str, Value],
    absent: dict[str, Unsupported],
    state: State,
) -> list[Tensor]:
    results: list[Tensor] = []
    for output in wanted:
        name = str(output.name)
        if name not in values:
            raise absent.get(name, Unsupported(f"output '{name}' is not computed"))
        value, producer = values[name], output.producer()
        try:
            if isinstance(value, Dequantized):
                value = Stored.of(dequantize(value, False, state))
            held = elementwise.stored(value, state)
        except Unsupported as error:
            raise error if producer is None else Refused(str(error), producer) from None
        tensor = state.contiguous(held, name)
        shared = any(tensor.storage is result.storage for result in results)
        part = tensor.storage.bytes != BYTES[tensor.dtype] * tensor.size
        if tensor.storage.place is not None or shared or part:
            copy = new_tensor(tensor.shape, tensor.dtype)
            state.move(held.view, copy, name)
            tensor = copy
        results.append(tensor)
    return results
