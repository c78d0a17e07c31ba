"""A stage that runs elsewhere, as an ONNX model of its own; and how much work stages are."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir

from intact.engine.program import Instruction
from intact.engine.segments import PRODUCTS, Segments, Stage, reads

__all__ = ["Extract", "extract", "macs_of_instructions", "macs_of_model"]

_TRUTHS: Final = frozenset(
    {
        "And", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Not",
        "Or", "Xor",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Extract:
    """proto: the model. constants: its inputs that are known when programs are compiled."""

    proto: onnx.ModelProto
    constants: tuple[str, ...]


def extract(model: ir.Model, parts: Segments, stage: Stage) -> Extract:
    """The stage as a model, with all the constants that it needs.

    What depends on the shapes of values that are not in the stage is an input of it.
    """
    graph, inside = model.graph, set(stage.nodes)
    near = {*stage.reads, *(value for node in stage.nodes for value in node.outputs)}
    kept: set[ir.Node] = set(stage.nodes)
    constants: dict[str, ir.Value] = {}
    initializers: dict[str, ir.Value] = {}
    todo = [value for node in stage.nodes for value in reads(node)]
    while todo:
        value = todo.pop()
        producer = value.producer()
        if value.const_value is not None and producer is None:
            initializers[str(value.name)] = value
        elif producer in parts.free and producer not in kept:
            if _computable(producer, parts, near):
                kept.add(producer)
                todo += reads(producer)
            else:
                constants[str(value.name)] = value
    assert inside <= kept
    inputs = [_info(value) for value in (*stage.reads, *constants.values())]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            [ir.to_proto(node) for node in graph if node in kept],
            "elsewhere",
            inputs,
            # The other runtime infers the types.
            [onnx.ValueInfoProto(name=str(value.name)) for value in stage.writes],
            [_tensor(value) for value in initializers.values()],
        ),
        opset_imports=[
            onnx.helper.make_opsetid(domain, version)
            for domain, version in model.opset_imports.items()
        ],
        ir_version=model.ir_version or 10,
    )
    proto.functions.extend(ir.to_proto(function) for function in model.functions.values())
    return Extract(proto, tuple(constants))


def _computable(node: ir.Node, parts: Segments, near: set[ir.Value]) -> bool:
    """Whether the stage can compute a node that depends on shapes alone."""
    if node in parts.fixed:
        return True
    if node.op_type == "Shape" and node.inputs[0] in near:
        return True
    return node.op_type != "Shape" and all(
        v.const_value is not None
        or ((p := v.producer()) is not None and p in parts.free and _computable(p, parts, near))
        for v in reads(node)
    )


def _info(value: ir.Value) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(str(value.name), int(element_type(value)), None)


def element_type(value: ir.Value) -> ir.DataType:
    """The type of a value that crosses a border, which the file may leave out."""
    producer = value.producer()
    if value.dtype is not None:
        return value.dtype
    if producer is None:
        return ir.DataType.FLOAT
    if producer.op_type in _TRUTHS:
        return ir.DataType.BOOL
    if producer.op_type == "Cast" and "to" in producer.attributes:
        return ir.DataType(producer.attributes["to"].value)
    return ir.DataType.INT64 if producer.op_type == "Shape" else ir.DataType.FLOAT


def _tensor(value: ir.Value) -> onnx.TensorProto:
    assert value.const_value is not None
    proto = ir.to_proto(value.const_value)
    proto.name = str(value.name)
    return proto


def macs_of_instructions(program: list[Instruction]) -> int:
    """Multiply-accumulates of the engine's products, and of attention."""
    total = 0
    for instruction in program:
        given = instruction.parameters
        if "weights" in given and "windows" in given:
            images, _, _, _, height, width, *_ = given["windows"]
            total += images * height * width * prod(given["weights"])
        elif instruction.kind == "float_product":
            total += given["rows"] * int(np.size(given["weights"]))
        elif instruction.kind == "recurrence":
            gates = 4 if given["cell"] == "LSTM" else 3
            each = given["time"] * given["batch"] * given["hidden"] ** 2
            total += gates * each * len(given["directions"])
        elif instruction.kind == "attention":
            batch, heads, queries, keys, width, v_width = given["sizes"]
            total += batch * heads * queries * keys * (width + v_width)
    return total


def macs_of_model(proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Multiply-accumulates of an extracted model for inputs of these shapes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for value in copy.graph.input:
        for size in shapes.get(value.name, ()):
            value.type.tensor_type.shape.dim.add().dim_value = size
    # onnx's errors share no base; what is known without it counts.
    with contextlib.suppress(Exception):
        copy = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    known = {tensor.name: tuple(tensor.dims) for tensor in copy.graph.initializer}
    for value in (*copy.graph.input, *copy.graph.value_info, *copy.graph.output):
        known[value.name] = tuple(d.dim_value or 1 for d in value.type.tensor_type.shape.dim)
    return sum(_macs(node, known) for node in copy.graph.node if node.op_type in PRODUCTS)


def _macs(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    x, w = (shapes.get(name, ()) for name in node.input[:2])
    y = shapes.get(node.output[0], ())
    if node.op_type.endswith("ConvTranspose"):
        return prod(x) * prod(w[1:])
    if node.op_type.endswith("Conv"):
        return prod(y) * prod(w[1:])
    if node.op_type.endswith(("LSTM", "GRU")):
        recurrence = shapes.get(node.input[4 if node.domain else 2], ())
        return prod(x[:2]) * (prod(w) + prod(recurrence))
    return prod(y) * (x[-1] if x else 1)
