"""What happens before the engine, in another runtime: indices, masks, embeddings, preprocessing.

Rules, in order:

1. Integer and boolean inputs of a model (token ids, attention masks) lead to a few lookups and
   comparisons, and from there to floats; those nodes come before the engine.
2. So does an operator that the engine does not know, with all that it reads, as long as no
   convolution, matrix product or recurrence is among that: then the engine is left out altogether.

The nodes run as a model of their own, whose outputs are inputs of the engine's program.
"""

from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from intact.engine.lowering import LOWERINGS
from intact.engine.program import Unsupported

__all__ = ["Prelude", "find_prelude"]

# Where all that they read comes from the prelude, these belong to it too.
_CHEAP: Final = frozenset(
    {"Add", "Cast", "Div", "Expand", "Identity", "Mul", "Reshape", "Sub", "Unsqueeze", "Where"}
)

_PRODUCTS: Final = frozenset(
    {
        "Conv", "ConvTranspose", "DynamicConv", "DynamicConvTranspose", "DynamicGRU",
        "DynamicLSTM", "DynamicMatMul", "GRU", "Gemm", "LSTM", "MatMul",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Prelude:
    """nodes: that the engine leaves out. outputs: the floats that it reads of them.

    model: computes `outputs` from the model's inputs; None if there is nothing to compute.
    """

    nodes: frozenset[ir.Node]
    outputs: tuple[str, ...]
    model: ir.Model | None


def find_prelude(model: ir.Model) -> Prelude:
    """The prelude of a model. Raises Unsupported if it needs what the engine computes."""
    graph = model.graph
    given = set(graph.inputs)
    shapes = _shape_nodes(graph)
    found: dict[ir.Node, None] = {}
    ours: set[ir.Value] = set()
    for node in graph:
        if node in shapes:
            continue
        read = [
            v for v in node.inputs
            if v is not None and v.const_value is None and v.producer() not in shapes
        ]  # fmt: skip
        if not read or not all(v in ours or v in given for v in read):
            continue
        # A type that the file leaves out is a float's, or the engine will not know the operator.
        floats = all(v.dtype in (None, ir.DataType.FLOAT) for v in (*read, *node.outputs))
        if not floats or (node.op_type in _CHEAP and all(v in ours for v in read)):
            if node.op_type == "QuantizeLinear":
                continue
            found[node] = None
            ours.update(node.outputs)
    _add_unknown(graph, shapes, found)
    results = set(graph.outputs)
    outputs = [
        value for node in found for value in node.outputs
        if value in results
        or any(use.node not in found and use.node not in shapes for use in value.uses())
    ]  # fmt: skip
    for value in outputs:
        if value.dtype not in (None, ir.DataType.FLOAT) or value in results:
            raise Unsupported(f"'{value.name}' is not computed from floats")
    extracted = _extract(model, outputs, set(found) | shapes) if outputs else None
    return Prelude(frozenset(found), tuple(str(v.name) for v in outputs), extracted)


def _add_unknown(graph: ir.Graph, shapes: set[ir.Node], found: dict[ir.Node, None]) -> None:
    """Rule 2."""
    for node in graph:
        if node in found or node in shapes or (node.domain, node.op_type) in LOWERINGS:
            continue
        todo = [node]
        while todo:
            needed = todo.pop()
            if needed in found or needed in shapes:
                continue
            if needed.op_type in _PRODUCTS:
                kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
                raise Unsupported(f"operator '{node.name}' is a {kind}")
            found[needed] = None
            todo.extend(p for v in needed.inputs if v is not None and (p := v.producer()))


def _shape_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Nodes that depend on shapes and constants alone."""
    found: set[ir.Node] = set()
    for node in graph:
        if node.op_type == "Shape" or all(
            v is None or v.const_value is not None or v.producer() in found for v in node.inputs
        ):
            found.add(node)
    return found


def _extract(model: ir.Model, outputs: list[ir.Value], allowed: set[ir.Node]) -> ir.Model:
    """A copy of the part of the model that computes `outputs`."""
    needed: set[ir.Node] = set()
    todo = [value.producer() for value in outputs]
    while todo:
        node = todo.pop()
        if node is None or node in needed:
            continue
        if node not in allowed:
            raise Unsupported(f"operator '{node.name}' is needed before the engine runs")
        needed.add(node)
        todo.extend(v.producer() for v in node.inputs if v is not None)
    names = [str(value.name) for value in outputs]
    nodes = [index for index, node in enumerate(model.graph) if node in needed]
    copy = ir.from_proto(ir.to_proto(model))
    kept = list(copy.graph)
    produced = {str(v.name): v for node in kept for v in node.outputs}
    del copy.graph.outputs[:]
    copy.graph.outputs.extend(produced[name] for name in names)
    chosen = {kept[i] for i in nodes}
    copy.graph.remove([node for node in reversed(kept) if node not in chosen], safe=True)
    used = {v for node in copy.graph for v in node.inputs if v is not None}
    for name in [n for n, v in copy.graph.initializers.items() if v not in used]:
        del copy.graph.initializers[name]
    copy.functions.clear()
    return copy
