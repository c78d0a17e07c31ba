"""LSTM and GRU: intact's dynamic functions, and ONNX's operators in float32.

The input's share of all gates is one matrix product for all time steps; the recurrence is one
instruction for all time steps and, where an operator has two, both directions.
"""

from dataclasses import replace
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intact.engine.finish import realize
from intact.engine.lowering.common import Lowering, attribute, known, table_of
from intact.engine.lowering.products import dynamic_matmul
from intact.engine.program import Instruction, Unsupported, new_tensor, row_major
from intact.engine.state import State
from intact.engine.values import Direction, Stored, Value

__all__ = ["LOWERINGS"]

Floats = NDArray[np.float32]

_GATES: Final = {"LSTM": 4, "GRU": 3}
_ACTIVATIONS: Final = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"]}
# Whether each direction runs backwards.
_DIRECTIONS: Final = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}


def _dynamic(node: ir.Node, read: list[Value | None], state: State) -> Value | list[Value]:
    """One direction with int8 weights [K, gates * hidden]."""
    kind = node.op_type.removeprefix("Dynamic")
    biases = 1 if kind == "LSTM" else 2
    if len(read) != 7 + biases + (2 if kind == "LSTM" else 1):
        raise Unsupported(f"operator '{node.name}' has {len(read)} inputs")
    reverse = list(attribute(node, "directions", ()))
    if reverse not in ([0], [1]):
        raise Unsupported(f"operator '{node.name}' has more than one direction")
    x = realize(read[0], state)
    stored = known(read[4], node).array
    hidden = stored.shape[0]
    columns = _GATES[kind] * hidden
    if stored.dtype != np.int8 or stored.shape != (hidden, columns) or not hidden:
        raise Unsupported(f"operator '{node.name}' has recurrent weights that are not of its gates")
    if len(x.shape) != 3 or known(read[1], node).array.shape != (x.shape[-1], columns):
        raise Unsupported(f"operator '{node.name}' has weights that do not fit its input")
    shift, *recurrent = (_floats(node, v, (columns,)) for v in read[7 : 7 + biases])
    from_x = realize(replace(dynamic_matmul(node, [x, *read[1:]], state), shift=shift), state)
    time, batch, _ = x.shape
    results = _results(kind, (time, 1, batch, hidden))
    direction = Direction(
        inputs=(from_x, *(_state(node, v, (batch, hidden), state) for v in read[7 + biases :])),
        outputs=tuple(_direction_of(result, 0) for result in results),
        reverse=reverse == [1],
        name="/".join(str(v.name) for v in node.inputs[4 : 7 + biases] if v is not None),
        weights=_by_gate(stored, hidden),
        scale=_floats(node, read[5], (columns,)),
        bias=recurrent[0] if recurrent else None,
    )
    _add(node, kind.lower(), (time, batch, hidden), [direction], state)
    return list(direction.outputs)


def _real(node: ir.Node, read: list[Value | None], state: State) -> Value | list[Value]:
    """ONNX's operator: W [directions, gates * hidden, K], R with the state in place of K."""
    kind = node.op_type
    x, w, r, bias, lengths, h0, c0, peepholes = (*read, *[None] * 8)[:8]
    stored = realize(x, state)
    weights, recurrent = (known(v, node).real.astype(np.float32) for v in (w, r))
    backwards = _checked_attributes(node)
    directions, columns, hidden = recurrent.shape
    time, batch, width = stored.shape
    if not hidden or columns != _GATES[kind] * hidden or directions != len(backwards):
        raise Unsupported(f"operator '{node.name}' has recurrent weights that are not of its gates")
    if weights.shape != (directions, columns, width) or not weights.size:
        raise Unsupported(f"operator '{node.name}' has weights that do not fit its input")
    if lengths is not None and (known(lengths, node).array != time).any():
        raise Unsupported(f"operator '{node.name}' has sequences of several lengths")
    if peepholes is not None:
        raise Unsupported(f"operator '{node.name}' has peepholes")
    shape = (directions, 2, columns)
    biases = np.zeros(shape, np.float32)
    if bias is not None:
        biases = _floats(node, bias, (directions, 2 * columns)).reshape(shape)
    # An LSTM adds both biases to the same sum.
    shift = biases.sum(axis=1) if kind == "LSTM" else biases[:, 0]
    y = new_tensor((time, batch, directions * columns), "float32")
    from_x = state.add(
        "float_product", str(node.name), y, (state.contiguous(stored, str(node.name)),),
        rows=time * batch, name=_name(node, 1),
        weights=np.ascontiguousarray(weights.reshape(1, -1, width).transpose(0, 2, 1)),
        bias=np.ascontiguousarray(shift.reshape(-1)),
    )  # fmt: skip
    states = [
        _state(node, v, (directions, batch, hidden), state)
        for v in ((h0, c0) if kind == "LSTM" else (h0,))
    ]
    results = _results(kind, (time, directions, batch, hidden))
    parts = []
    for d, reverse in enumerate(backwards):
        shares = Stored(from_x, (time, batch, columns), row_major(y.shape), d * columns)
        by_unit = np.ascontiguousarray(recurrent[d].T)
        parts.append(
            Direction(
                inputs=(shares, *(_part(s, 0, d) for s in states)),
                outputs=tuple(_direction_of(result, d) for result in results),
                reverse=reverse,
                name=f"{_name(node, 2)}/{_name(node, 3)}/{d}",
                weights=_by_gate(by_unit, hidden),
                scale=None,
                bias=None if kind == "LSTM" else np.ascontiguousarray(biases[d, 1]),
            )
        )
    cell = kind.lower()
    if kind == "GRU" and not attribute(node, "linear_before_reset", 0):
        cell = "gru_reset_first"
    _add(node, cell, (time, batch, hidden), parts, state)
    return list(results)


def _checked_attributes(node: ir.Node) -> list[bool]:
    """Whether each direction runs backwards. Raises Unsupported for what changes the cell."""
    backwards = _DIRECTIONS.get(attribute(node, "direction", "forward"))
    if backwards is None:
        raise Unsupported(f"operator '{node.name}' has an unknown direction")
    for name in ("clip", "input_forget", "layout"):
        if attribute(node, name, 0) or (name == "clip" and name in node.attributes):
            raise Unsupported(f"operator '{node.name}' has {name}={attribute(node, name, 0)}")
    functions = [str(f).lower() for f in attribute(node, "activations", ())]
    if functions and functions != _ACTIVATIONS[node.op_type] * len(backwards):
        raise Unsupported(f"operator '{node.name}' has activations {', '.join(functions)}")
    return backwards


def _add(
    node: ir.Node, cell: str, sizes: tuple[int, int, int], parts: list[Direction], state: State
) -> None:
    time, batch, hidden = sizes
    state.program.append(
        Instruction(
            "recurrence", str(node.name),
            tuple(s.tensor for part in parts for s in part.outputs),
            tuple(s.tensor for part in parts for s in part.inputs),
            {"cell": cell, "time": time, "batch": batch, "hidden": hidden, "directions": parts},
        )
    )  # fmt: skip


def _results(kind: str, shape: tuple[int, int, int, int]) -> list[Stored]:
    """All states h [time, directions, batch, hidden]; the last h and, of an LSTM, c."""
    time, directions, batch, hidden = shape
    # Directions side by side in memory: what follows nearly always joins them.
    y = new_tensor((time, batch, directions, hidden), "float32")
    by_time, by_batch, by_direction, _ = row_major(y.shape)
    last = [new_tensor(shape[1:], "float32") for _ in range(2 if kind == "LSTM" else 1)]
    return [Stored(y, shape, (by_time, by_direction, by_batch, 1)), *map(Stored.of, last)]


def _direction_of(result: Stored, d: int) -> Stored:
    """The part of one of `_results` that belongs to direction `d`."""
    return _part(result, len(result.shape) - 3, d)


def _part(x: Stored, axis: int, index: int) -> Stored:
    """x at one index of an axis, which goes."""
    shape, strides = ((*values[:axis], *values[axis + 1 :]) for values in (x.shape, x.strides))
    return Stored(x.tensor, shape, strides, x.offset + index * x.strides[axis])


def _state(node: ir.Node, value: Value | None, shape: tuple[int, ...], state: State) -> Stored:
    """An initial state; zeros if none is given."""
    if value is None:
        zero = state.constant(np.zeros(1, np.float32)).tensor
        return Stored(zero, shape, (0,) * len(shape))
    if value.shape != shape:
        raise Unsupported(f"operator '{node.name}' has a state of {value.shape}, not of {shape}")
    return realize(value, state)


def _floats(node: ir.Node, value: Value | None, shape: tuple[int, ...]) -> Floats:
    array = known(value, node).real.astype(np.float32)
    if array.shape != shape:
        raise Unsupported(f"operator '{node.name}' has a bias or scale of {array.shape}")
    return np.ascontiguousarray(array)


def _by_gate(weights: NDArray[Any], hidden: int) -> NDArray[Any]:
    """[hidden, gates * hidden] as [gates, hidden, hidden]."""
    return np.ascontiguousarray(weights.reshape(hidden, -1, hidden).transpose(1, 0, 2))


def _name(node: ir.Node, index: int) -> str:
    value: ir.Value | None = (*node.inputs, *[None] * 4)[index]
    return "" if value is None else str(value.name)


LOWERINGS: Final[dict[tuple[str, str], Lowering]] = {
    ("intact", "DynamicGRU"): _dynamic,
    ("intact", "DynamicLSTM"): _dynamic,
    **table_of(("GRU", "LSTM"), _real),
}
