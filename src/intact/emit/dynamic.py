"""Dynamic decisions: calls of intact's functions, or what ONNX Runtime itself is fast with.

Rules, in order:

1. Weights become int8 constants with a scale per output channel, laid out as `MatMulInteger`
   ([K, N]) and `ConvInteger` take them, and with each channel's sum for the zero point's share.
2. target "portable": the operator becomes a call of its function in domain `intact` and, where it
   has a bias, an addition.
3. target "onnxruntime": matrix products become DynamicQuantizeLinear and MatMulInteger (one scale a
   tensor: fused there, but then results depend on the rest of the batch), an LSTM becomes
   com.microsoft.DynamicQuantizeLSTM; convolutions and GRUs keep float arithmetic on weights stored
   as int8, because ONNX Runtime's integer form of them is slower than float.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intact.core.plan import Plan
from intact.core.qparams import QParams
from intact.emit.builder import Builder, integers
from intact.emit.functions import DOMAIN
from intact.emit.qdq import replace
from intact.emit.recurrent import call_recurrent, onnxruntime_lstm
from intact.graph.walk import input_name

__all__ = ["emit_dynamic"]


def emit_dynamic(graph: ir.Graph, plan: Plan, *, native: bool, unsigned: bool) -> set[str]:
    """Carry out the plan's dynamic decisions on `graph`, in place; the functions that it calls.

    native: rule 3 instead of rule 2.
    unsigned: matrix weights as uint8 with zero point 128 (rule 3 only).
    """
    builder, used = Builder(graph), set[str]()
    nodes = [n for n in graph if n.name in plan.decisions and plan[str(n.name)].mode == "dynamic"]
    for node in nodes:
        qparams = plan.tensors
        weight = input_name(node, 1)
        if node.op_type in ("MatMul", "Gemm"):
            matrix = _matrix(node)
            if native:
                _dynamic_quantize_matmul(builder, node, matrix, qparams[weight], unsigned)
            else:
                _call_matmul(builder, node, matrix, qparams[weight])
                used.add("DynamicMatMul")
        elif node.op_type in ("LSTM", "GRU"):
            if native and node.op_type == "LSTM":
                onnxruntime_lstm(builder, node, qparams)
            elif native:
                for i in (1, 2):
                    _store_only(builder, node, i, qparams)
            else:
                call_recurrent(builder, node, qparams)
                used |= {"DynamicMatMul", f"Dynamic{node.op_type}"}
        elif native:
            _store_only(builder, node, 1, qparams)
        else:
            used.add(_call_conv(builder, node, qparams[weight]))
    return used


def _matrix(node: ir.Node) -> NDArray[np.float32]:
    """The weight as [K, N]."""
    weight = _array(node.inputs[1])
    attr = node.attributes.get("transB")
    return weight.T if attr is not None and attr.as_int() else weight


def _array(value: ir.Value | None) -> NDArray[np.float32]:
    assert value is not None and value.const_value is not None
    return value.const_value.numpy()


def _call_matmul(
    builder: Builder, node: ir.Node, matrix: NDArray[np.float32], qparams: QParams
) -> None:
    """Rule 2 for MatMul and Gemm."""
    name = input_name(node, 1)
    stored = integers(matrix, QParams(qparams.scale, qparams.zero_point, "int8", 1), False)
    call = ir.node(
        "DynamicMatMul",
        [
            node.inputs[0],
            builder.constant(f"{name}_quantized", stored),
            builder.constant(f"{name}_scale", qparams.scale),
            builder.constant(f"{name}_sum", stored.astype(np.int32).sum(axis=0, dtype=np.int32)),
        ],
        domain=DOMAIN,
    )
    bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
    finish(builder, node, call, bias)


def _dynamic_quantize_matmul(
    builder: Builder, node: ir.Node, matrix: NDArray[np.float32], qparams: QParams, unsigned: bool
) -> None:
    """Rule 3 for MatMul and Gemm, in the form that ONNX Runtime fuses."""
    x, name, label = node.inputs[0], input_name(node, 1), str(node.name)
    stored = integers(matrix, QParams(qparams.scale, qparams.zero_point, "int8", 1), unsigned)
    q, scale, zero_point = _dynamic_quantize_linear(builder, x, node)
    weight = builder.constant(f"{name}_quantized", stored)
    weight_scale = builder.constant(f"{name}_scale", qparams.scale)
    point = builder.constant(
        f"{name}_zero_point", np.full(qparams.scale.shape, 128 if unsigned else 0, stored.dtype)
    )
    total = builder.node("MatMulInteger", [q, weight, zero_point, point], f"{label}.integer",
                         before=node, dtype=ir.DataType.INT32)  # fmt: skip
    real = builder.node("Cast", [total], f"{label}.real", before=node, dtype=ir.DataType.FLOAT,
                        attributes={"to": int(ir.DataType.FLOAT)})  # fmt: skip
    step = builder.node("Mul", [scale, weight_scale], f"{label}.scale", before=node,
                        dtype=ir.DataType.FLOAT)  # fmt: skip
    bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
    finish(builder, node, ir.node("Mul", [real, step]), bias)


def _dynamic_quantize_linear(
    builder: Builder, x: ir.Value | None, before: ir.Node
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """DynamicQuantizeLinear of `x`, shared by all its consumers."""
    assert x is not None
    for use in x.uses():
        if use.node.op_type == "DynamicQuantizeLinear":
            q, scale, zero_point = use.node.outputs
            return q, scale, zero_point
    stem = str(x.name)
    node = ir.node("DynamicQuantizeLinear", [x], num_outputs=3)
    node.name = builder.unique(f"{stem}_quantize")
    kinds = (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8)
    for value, part, kind in zip(node.outputs, ("q", "scale", "zero_point"), kinds, strict=True):
        value.name, value.type = builder.unique(f"{stem}_{part}"), ir.TensorType(kind)
    builder.graph.insert_before(before, node)
    q, scale, zero_point = node.outputs
    return q, scale, zero_point


def _call_conv(builder: Builder, node: ir.Node, qparams: QParams) -> str:
    """Rule 2 for Conv and ConvTranspose; the function's name."""
    weight = _array(node.inputs[1])
    name, spatial = input_name(node, 1), weight.ndim - 2
    stored = integers(weight, qparams, False)
    group = node.attributes["group"].as_int() if "group" in node.attributes else 1
    scale = qparams.scale if node.op_type == "Conv" else np.tile(qparams.scale, group)
    shape = (-1,) + (1,) * spatial

    def listed(attribute: str, default: int, count: int) -> list[int]:
        attr = node.attributes.get(attribute)
        return [default] * count if attr is None else list(attr.as_ints())

    pads = listed("pads", 0, 2 * spatial)
    attributes: dict[str, int | list[int]] = {
        "axes": list(range(1, weight.ndim)),
        "strides": listed("strides", 1, spatial),
        "dilations": listed("dilations", 1, spatial),
        "group": group,
        "pads": pads,
    }
    inputs = [
        node.inputs[0],
        builder.constant(f"{name}_quantized", stored),
        builder.constant(f"{name}_scale", scale.reshape(shape)),
    ]
    if node.op_type == "Conv":
        # The function pads explicitly: batch and channel axes take no padding.
        attributes["pads"] = [0, 0, *pads[:spatial], 0, 0, *pads[spatial:]]
        axes = tuple(range(1, weight.ndim))
        sums = stored.astype(np.int32).sum(axis=axes, dtype=np.int32).reshape(shape)
        inputs.append(builder.constant(f"{name}_sum", sums))
    else:
        attributes["output_padding"] = listed("output_padding", 0, spatial)
    call = ir.node(f"Dynamic{node.op_type}", inputs, attributes=attributes, domain=DOMAIN)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        bias = builder.constant(f"{bias.name}_shaped", _array(bias).reshape(shape))
    finish(builder, node, call, bias)
    return f"Dynamic{node.op_type}"


def _store_only(builder: Builder, node: ir.Node, index: int, qparams: dict[str, QParams]) -> None:
    """Rule 3: int8 storage, float arithmetic.

    Cast and Mul rather than DequantizeLinear: ONNX Runtime folds them once, when it loads the
    model, while it would run a DequantizeLinear on every call.
    """
    weight = node.inputs[index]
    assert weight is not None
    parameters = qparams[str(weight.name)]
    scale, _ = parameters.broadcast(_array(weight).ndim)
    stored = builder.constant(
        f"{weight.name}_quantized", integers(_array(weight), parameters, False)
    )
    real = builder.node("Cast", [stored], f"{weight.name}_real", before=node, like=weight,
                        attributes={"to": int(ir.DataType.FLOAT)})  # fmt: skip
    factor = builder.constant(f"{weight.name}_scale", scale)
    scaled = builder.node("Mul", [real, factor], f"{weight.name}_scaled", before=node, like=weight)
    node.replace_input_with(index, scaled)


def finish(builder: Builder, node: ir.Node, call: ir.Node, bias: ir.Value | None) -> None:
    """Put `call`, and the addition of the bias if there is one, in the place of `node`."""
    output = node.outputs[0]
    call.outputs[0].type, call.outputs[0].shape = output.type, output.shape
    if bias is None:
        replace(builder.graph, node, call)
        return
    name = str(node.name)
    builder.graph.insert_before(node, call)
    call.metadata_props.update(node.metadata_props)
    call.outputs[0].name = builder.unique(f"{name}.product")
    total = ir.node("Add", [call.outputs[0], bias])
    total.outputs[0].type, total.outputs[0].shape = output.type, output.shape
    replace(builder.graph, node, total)
    call.name, total.name = name, builder.unique(f"{name}.bias")
