"""Dynamic LSTM and GRU: one call of intact's function for each direction.

ONNX keeps both directions in one operator (W [directions, gates*hidden, input]); the functions take
one direction at a time, so a bidirectional operator becomes two calls whose results are joined.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intact.core.qparams import QParams
from intact.emit.builder import Builder, integers
from intact.emit.functions import DOMAIN

__all__ = ["call_recurrent", "onnxruntime_lstm"]

_GATES = {"LSTM": 4, "GRU": 3}


def call_recurrent(builder: Builder, node: ir.Node, tensors: dict[str, QParams]) -> None:
    """Replace an LSTM or GRU by calls of `intact.DynamicLSTM` or `intact.DynamicGRU`."""
    label = str(node.name)
    directions, rows, _ = _array(node.inputs[1]).shape
    hidden = rows // _GATES[node.op_type]
    reverse = _string(node, "direction") == "reverse"
    bias = node.inputs[3] if len(node.inputs) > 3 else None
    biases = np.zeros((directions, 2 * rows), np.float32) if bias is None else _array(bias)
    calls = []
    for d in range(directions):
        # The input's projections share one function with matrix products: weights lie as [K, N].
        w = _stored(builder, node, 1, d, tensors)
        r = _stored(builder, node, 2, d, tensors)
        w_bias, r_bias = biases[d, :rows], biases[d, rows:]
        if node.op_type == "LSTM":
            extra = [builder.constant(f"{label}.bias", w_bias + r_bias)]
        else:
            extra = [
                builder.constant(f"{label}.bias", w_bias),
                builder.constant(f"{label}.recurrence_bias", r_bias),
            ]
        state = [
            _initial_state(builder, node, i, d, hidden)
            for i in ((5, 6) if node.op_type == "LSTM" else (5,))
        ]
        call = ir.node(
            f"Dynamic{node.op_type}",
            [node.inputs[0], *w, *r, *extra, *state],
            attributes={"directions": [int(reverse or d == 1)]},
            domain=DOMAIN,
            num_outputs=len(state) + 1,
        )
        call.name = label if directions == 1 else builder.unique(f"{label}.direction_{d}")
        call.metadata_props.update(node.metadata_props)
        for value, part in zip(call.outputs, ("y", "y_h", "y_c"), strict=False):
            value.name = builder.unique(f"{label}.{part}.{d}")
            value.type = ir.TensorType(ir.DataType.FLOAT)
        builder.graph.insert_before(node, call)
        calls.append(call)
    _join(builder, node, calls)


def _join(builder: Builder, node: ir.Node, calls: list[ir.Node]) -> None:
    """Give the calls' results the shape that the ONNX operator's results have."""
    for i, output in enumerate(node.outputs):
        if not output.uses() and not output.is_graph_output():
            continue
        axis = 1 if i == 0 else 0  # Y [time, directions, batch, hidden], Y_h [directions, ...]
        axes = builder.constant(f"{output.name}_axes", np.array([axis], np.int64))
        parts = [
            builder.node("Unsqueeze", [call.outputs[i], axes], f"{output.name}_{d}", before=node,
                         dtype=ir.DataType.FLOAT)
            for d, call in enumerate(calls)
        ]  # fmt: skip
        joined = ir.node("Concat", parts, attributes={"axis": axis})
        joined.name = builder.unique(f"{output.name}_joined")
        joined.outputs[0].type, joined.outputs[0].shape = output.type, output.shape
        builder.graph.insert_before(node, joined)
        ir.convenience.replace_all_uses_with(output, joined.outputs[0], replace_graph_outputs=True)
        name = output.name
        output.name = builder.unique(f"{name}_replaced")
        joined.outputs[0].name = name
    builder.graph.remove(node, safe=True)


def _stored(
    builder: Builder, node: ir.Node, index: int, direction: int, tensors: dict[str, QParams]
) -> list[ir.Value]:
    """Constants of one direction's weight: integers [K, N], scales [N], sums [N]."""
    value = node.inputs[index]
    assert value is not None
    qparams = tensors[str(value.name)]
    row_wise = QParams(qparams.scale, qparams.zero_point, "int8", 0)
    stored = integers(_array(value)[direction], row_wise, False).T
    return [
        builder.constant(f"{value.name}_quantized", stored),
        builder.constant(f"{value.name}_scale", qparams.scale),
        builder.constant(f"{value.name}_sum", stored.astype(np.int32).sum(0, dtype=np.int32)),
    ]


def _initial_state(
    builder: Builder, node: ir.Node, index: int, direction: int, hidden: int
) -> ir.Value:
    """The initial hidden or cell state [batch, hidden] of one direction; zeros if none is given."""
    given = node.inputs[index] if len(node.inputs) > index else None
    label = str(node.name)
    if given is not None:
        which = builder.constant(f"{label}.direction", np.int64(direction))
        return builder.node("Gather", [given, which], f"{label}.state", before=node,
                            dtype=ir.DataType.FLOAT, attributes={"axis": 0})  # fmt: skip
    x = node.inputs[0]
    batch = builder.node("Shape", [x], f"{label}.batch", before=node, dtype=ir.DataType.INT64,
                         attributes={"start": 1, "end": 2})  # fmt: skip
    width = builder.constant(f"{label}.hidden", np.array([hidden], np.int64))
    shape = builder.node("Concat", [batch, width], f"{label}.shape", before=node,
                         dtype=ir.DataType.INT64, attributes={"axis": 0})  # fmt: skip
    zero = builder.constant(f"{label}.zero", np.float32(0))
    return builder.node("Expand", [zero, shape], f"{label}.zeros", before=node,
                        dtype=ir.DataType.FLOAT)  # fmt: skip


def onnxruntime_lstm(builder: Builder, node: ir.Node, tensors: dict[str, QParams]) -> None:
    """Replace an LSTM by com.microsoft.DynamicQuantizeLSTM, which wants W and R transposed."""
    inputs = list(node.inputs) + [None] * (8 - len(node.inputs))
    parameters: list[ir.Value | None] = []
    for i in (1, 2):
        value = inputs[i]
        assert value is not None
        qparams = tensors[str(value.name)]
        stored = integers(_array(value), qparams, False).transpose(0, 2, 1)
        directions = stored.shape[0]
        inputs[i] = builder.constant(f"{value.name}_quantized", stored)
        scale = np.tile(qparams.scale, (directions, 1))
        parameters += [
            builder.constant(f"{value.name}_scale", scale),
            builder.constant(f"{value.name}_zero_point", np.zeros(scale.shape, np.int8)),
        ]
    call = ir.Node(
        "com.microsoft",
        "DynamicQuantizeLSTM",
        [*inputs, *parameters],
        attributes=[a for k, a in node.attributes.items() if k != "layout"],
        num_outputs=len(node.outputs),
    )
    builder.graph.insert_before(node, call)
    call.metadata_props.update(node.metadata_props)
    for old, new in zip(node.outputs, call.outputs, strict=True):
        new.type, new.shape = old.type, old.shape
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    names = [v.name for v in node.outputs]
    label = node.name
    builder.graph.remove(node, safe=True)
    call.name = label
    for new, name in zip(call.outputs, names, strict=True):
        new.name = name


def _array(value: ir.Value | None) -> NDArray[np.float32]:
    assert value is not None and value.const_value is not None
    return value.const_value.numpy()


def _string(node: ir.Node, attribute: str) -> str:
    attr = node.attributes.get(attribute)
    return "" if attr is None else attr.as_string()
