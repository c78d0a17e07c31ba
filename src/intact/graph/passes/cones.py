"""Cones: subgraphs with one input and one output, however many nodes lie between.

Exporters spell the same function in many ways. Instead of a list of spellings, a cone is evaluated
on numbers and compared with what it may be; two functions that agree on a fine grid and consist of
a few smooth operators are the same.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
from numpy.typing import NDArray

from intact.graph.passes.constants import array_of, scalar

__all__ = ["Cone", "cones", "evaluate"]

_DOUBLE = onnx.TensorProto.DOUBLE
_LARGEST = 16  # nodes; the longest spelling of a known function has 11


@dataclass(frozen=True)
class Cone:
    """Nodes from `source` (not included) to `sink` (included), in reverse order."""

    source: ir.Value
    sink: ir.Node
    nodes: tuple[ir.Node, ...]


def cones(sink: ir.Node, inner: Collection[str], vectors: bool = False) -> Iterator[Cone]:
    """The cones that end in `sink`, larger ones later.

    inner: operators that may lie within. Constants must be scalars, unless `vectors` admits
    others. Nothing within may be used outside.
    """
    order: dict[ir.Node | None, int] = {}
    nodes = [sink]
    while len(nodes) <= _LARGEST:
        if not _admits(nodes[-1], inner, vectors):
            return
        inside = set(nodes)
        frontier = {
            v for n in nodes for v in n.inputs if v is not None and v.const_value is None
        } - {v for n in nodes for v in n.outputs}
        if not frontier:
            return
        if len(frontier) == 1:
            yield Cone(next(iter(frontier)), sink, tuple(nodes))
        if len(frontier) > 1 and not order and sink.graph is not None:
            order = {node: i for i, node in enumerate(sink.graph)}
        # The frontier value that is computed last can only be the source or lie within.
        last = max(frontier, key=lambda v: order.get(v.producer(), -1))
        producer = last.producer()
        if producer is None or last.is_graph_output() or len(producer.outputs) != 1:
            return
        if any(use.node not in inside for use in last.uses()):
            return
        nodes.append(producer)


def _admits(node: ir.Node, inner: Collection[str], vectors: bool) -> bool:
    if node.domain not in ("", "ai.onnx") or node.op_type not in inner:
        return False
    constants = [v for v in node.inputs if v is not None and v.const_value is not None]
    return vectors or all(scalar(v) is not None for v in constants)


def evaluate(cone: Cone, x: NDArray[np.float64], opset: int) -> NDArray[np.float64] | None:
    """The cone's output for the input `x`, by ONNX's reference evaluator; None if it cannot.

    It computes in float64, so that what differs from the exact function is in the constants.
    """
    names = {v: f"v{i}" for i, v in enumerate(_values(cone))}
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [
                onnx.helper.make_node(
                    node.op_type,
                    ["" if v is None else names[v] for v in node.inputs],
                    [names[v] for v in node.outputs],
                    **_attributes(node),
                )
                for node in reversed(cone.nodes)
            ],
            "cone",
            [onnx.helper.make_tensor_value_info(names[cone.source], _DOUBLE, x.shape)],
            [onnx.helper.make_tensor_value_info(names[cone.sink.outputs[0]], _DOUBLE, None)],
            [
                onnx.numpy_helper.from_array(_exact(array), name)
                for v, name in names.items()
                if (array := array_of(v)) is not None
            ],
        ),
        opset_imports=[onnx.helper.make_opsetid("", opset)],
    )
    try:
        with np.errstate(all="ignore"):
            (y,) = onnx.reference.ReferenceEvaluator(model).run(None, {names[cone.source]: x})
    except Exception:  # the evaluator's errors are of every kind; such a cone is not recognized
        return None
    return np.asarray(y, np.float64)


def _exact(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float64) if array.dtype == np.float32 else array


def _values(cone: Cone) -> list[ir.Value]:
    values = [v for node in cone.nodes for v in (*node.inputs, *node.outputs) if v is not None]
    return list(dict.fromkeys(values))


def _attributes(node: ir.Node) -> dict[str, Any]:
    return {
        name: list(a.value) if isinstance(a.value, tuple) else a.value
        for name, a in node.attributes.items()
    }
