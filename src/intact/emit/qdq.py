"""Static decisions as standard QDQ: QuantizeLinear and DequantizeLinear around float operators.

Rules, in order:

1. Every quantized activation is followed by QuantizeLinear and DequantizeLinear. Where an integer
   operator produced it, all its consumers read the dequantized value; otherwise only the static
   operators do, and the rest go on with the float value (a transformer's residual stream).
2. Weights are stored as integers behind a DequantizeLinear, biases as int32 at
   `scale_x * scale_w[c]`, as the integer accumulator needs them. An operator whose activation is
   not quantized keeps its bias, and computes in float.
3. An embedding's table is stored as int8 with a scale per row, and only the rows that are read are
   multiplied out.

Source: ONNX operator specification, QuantizeLinear and DequantizeLinear (opset 21).
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intact.core.errors import PlanError
from intact.core.plan import Decision, Plan
from intact.core.qparams import BOUNDS, QParams
from intact.emit.builder import Builder, integers
from intact.graph.operators import OPERATORS
from intact.graph.walk import input_name

__all__ = ["emit_static"]


@dataclass(frozen=True)
class _Context:
    builder: Builder
    plan: Plan
    unsigned: bool
    weights: dict[str, ir.Value]


def emit_static(graph: ir.Graph, plan: Plan, unsigned: bool) -> None:
    """Carry out the plan's static decisions on `graph`, in place.

    unsigned: store weights as uint8 with zero point 128 (see target "onnxruntime-no-vnni").
    Raises PlanError if a bias does not fit int32.
    """
    context = _Context(Builder(graph), plan, unsigned, {})
    nodes = [node for node in graph if _decision(plan, node).mode == "static"]
    for node in nodes:
        operator = OPERATORS[node.op_type]
        if node.op_type == "Gather":
            _store_table(context, node)
        elif operator.kind == "recurrent":
            for i in (1, 2):
                _store_weight(context, node, i)
        elif operator.kind == "weighted" and input_name(node, 1) in plan.tensors:
            integer = input_name(node, 0) in plan[str(node.name)].tensors
            if integer and operator.bias is not None and operator.bias < len(node.inputs):
                _store_bias(context, node, operator.bias)
            _store_weight(context, node, 1)
    _quantize_activations(context)


def _decision(plan: Plan, node: ir.Node | None) -> Decision:
    if node is None or node.name not in plan.decisions:
        return Decision("float", "", "")
    return plan[str(node.name)]


def _quantize_activations(context: _Context) -> None:
    """Rule 1."""
    graph, plan = context.builder.graph, context.plan
    values = [*graph.inputs, *(v for node in graph for v in node.outputs)]
    for value in values:
        name = str(value.name)
        if name not in plan.tensors:
            continue
        produced = name in _decision(plan, value.producer()).tensors
        uses = [
            use
            for use in value.uses()
            if produced or (name in (d := _decision(plan, use.node)).tensors and d.mode == "static")
        ]
        if uses:
            dequantized = _quantize_dequantize(context, value, plan.tensors[name])
            for use in uses:
                use.node.replace_input_with(use.idx, dequantized)


def _quantize_dequantize(context: _Context, value: ir.Value, qparams: QParams) -> ir.Value:
    builder = context.builder
    scale, zero_point = _parameters(builder, str(value.name), qparams)
    attributes = {} if qparams.axis is None else {"axis": qparams.axis}
    quantized = builder.node(
        "QuantizeLinear", [value, scale, zero_point], f"{value.name}_quantized",
        after=value.producer(), like=value, dtype=zero_point.dtype, attributes=attributes,
    )  # fmt: skip
    return builder.node(
        "DequantizeLinear", [quantized, scale, zero_point], f"{value.name}_dequantized",
        after=quantized.producer(), like=value, attributes=attributes,
    )  # fmt: skip


def _parameters(builder: Builder, name: str, qparams: QParams) -> tuple[ir.Value, ir.Value]:
    return (
        builder.constant(f"{name}_scale", qparams.scale),
        builder.constant(f"{name}_zero_point", qparams.zero_point.astype(qparams.dtype)),
    )


def _store_weight(context: _Context, node: ir.Node, index: int) -> None:
    """Rule 2, weights."""
    builder, weight = context.builder, node.inputs[index]
    assert weight is not None and weight.const_value is not None
    name = str(weight.name)
    if name not in context.weights:
        qparams = context.plan.tensors[name]
        stored = integers(weight.const_value.numpy(), qparams, context.unsigned)
        if context.unsigned:
            middle = np.full(qparams.scale.shape, 128, np.int32)
            qparams = QParams(qparams.scale, middle, "uint8", qparams.axis)
        scale, zero_point = _parameters(builder, name, qparams)
        quantized = builder.constant(f"{name}_quantized", stored)
        context.weights[name] = builder.node(
            "DequantizeLinear", [quantized, scale, zero_point], f"{name}_dequantized",
            like=weight,
            attributes={} if qparams.axis is None else {"axis": qparams.axis},
        )  # fmt: skip
    node.replace_input_with(index, context.weights[name])


def _store_bias(context: _Context, node: ir.Node, index: int) -> None:
    """Rule 2, biases: int32 at `scale_x * scale_w[c]`."""
    bias, builder, tensors = node.inputs[index], context.builder, context.plan.tensors
    if bias is None or bias.const_value is None:
        return
    step = _bias_step(tensors[input_name(node, 0)], tensors[input_name(node, 1)])
    values = bias.const_value.numpy()
    if values.size not in (1, step.size):
        return  # a two-dimensional Gemm bias belongs to no accumulator column
    values = np.broadcast_to(values.reshape(-1), step.shape)
    whole = np.rint(values.astype(np.float64) / step)
    low, high = BOUNDS["int32"]
    if not ((whole >= low) & (whole <= high)).all():
        worst = int(np.argmax(np.abs(whole)))
        raise PlanError(
            f"operator '{node.name}': the bias {values[worst]:g} of output channel {worst} does "
            f"not fit int32 at scale {step[worst]:g}; raise the weight's or the input's scale in "
            "the plan, or leave the operator in float with exclude="
        )
    qparams = QParams(step, np.zeros(step.shape, np.int32), "int32", 0)
    scale, zero_point = _parameters(builder, f"{bias.name}_{node.name}", qparams)
    quantized = builder.constant(f"{bias.name}_quantized", whole.astype(np.int32))
    dequantized = builder.node(
        "DequantizeLinear", [quantized, scale, zero_point], f"{bias.name}_dequantized",
        before=node, like=bias, attributes={"axis": 0},
    )  # fmt: skip
    node.replace_input_with(index, dequantized)


def _bias_step(x: QParams, weight: QParams) -> NDArray[np.float32]:
    return (x.scale * weight.scale).astype(np.float32).reshape(-1)


def _store_table(context: _Context, node: ir.Node) -> None:
    """Rule 3."""
    builder, (table, rows) = context.builder, node.inputs[:2]
    assert table is not None and table.const_value is not None and rows is not None
    output, name = node.outputs[0], str(table.name)
    qparams = context.plan.tensors[name]
    if name not in context.weights:
        stored = integers(table.const_value.numpy(), qparams, unsigned=False)
        context.weights[name] = builder.constant(f"{name}_quantized", stored)
        context.weights[f"{name}/scale"] = builder.constant(
            f"{name}_scale", qparams.scale.reshape(-1, 1)
        )
    label = str(node.name)
    read = builder.node("Gather", [context.weights[name], rows], f"{label}.rows", before=node,
                        like=output, dtype=ir.DataType.INT8)  # fmt: skip
    scale = builder.node("Gather", [context.weights[f"{name}/scale"], rows], f"{label}.scale",
                         before=node, dtype=ir.DataType.FLOAT)  # fmt: skip
    real = builder.node("Cast", [read], f"{label}.real", before=node, like=output,
                        attributes={"to": int(ir.DataType.FLOAT)})  # fmt: skip
    product = ir.node(
        "Mul", [real, scale], outputs=[ir.Value(type=output.type, shape=output.shape)]
    )
    replace(builder.graph, node, product)


def replace(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    """Put `new` in the place of `old`; it takes over the name, the metadata and the output."""
    graph.insert_before(old, new)
    name, output = old.name, old.outputs[0].name
    new.metadata_props.update(old.metadata_props)
    ir.convenience.replace_all_uses_with(old.outputs[0], new.outputs[0], replace_graph_outputs=True)
    graph.remove(old, safe=True)
    new.name, new.outputs[0].name = name, output
