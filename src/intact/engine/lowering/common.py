"""What lowerings share."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from intact.engine.program import Quantization, Unsupported
from intact.engine.state import State
from intact.engine.values import Constant, Value

__all__ = ["Lowering", "attribute", "describe", "fold", "known", "quantization", "table_of"]

Lowering = Callable[[ir.Node, list[Value | None], State], Value | list[Value]]


def table_of(names: Sequence[str], lowering: Lowering) -> dict[tuple[str, str], Lowering]:
    """One lowering for several of ONNX's operators."""
    return {("", name): lowering for name in names}


def known(value: Value | None, node: ir.Node) -> Constant:
    """The value as a constant, which it must be."""
    if not isinstance(value, Constant):
        raise Unsupported(f"operator '{node.name}' ({node.op_type}) reads what is not constant")
    return value


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """An attribute's value, or the default."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def describe(value: Value | None) -> str:
    """A value in an error message."""
    if value is None:
        return "nothing"
    return f"{type(value).__name__.lower()} [{', '.join(map(str, value.shape))}]"


def quantization(node: ir.Node, scale: Value | None, point: Value | None) -> Quantization:
    """Of an activation: one scale and zero point."""
    scales = known(scale, node).array
    points = np.zeros((), np.uint8) if point is None else known(point, node).array
    if scales.size != 1 or points.size != 1 or attribute(node, "block_size", 0):
        raise Unsupported(f"operator '{node.name}' has more than one scale")
    if points.dtype not in (np.uint8, np.int8):
        raise Unsupported(f"operator '{node.name}' has a zero point of {points.dtype}")
    if scales.dtype != np.float32 or not (np.isfinite(scales).all() and (scales > 0).all()):
        raise Unsupported(f"operator '{node.name}' has a scale that is not a positive float32")
    raised = 128 if points.dtype == np.int8 else 0
    return Quantization(np.float32(scales.reshape(())), int(points.reshape(())) + raised)


def fold(node: ir.Node, read: list[Value | None]) -> list[NDArray[Any]]:
    """The outputs of a node that reads constants alone."""
    arrays = [None if value is None else known(value, node).array for value in read]
    if any(
        a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for a in node.attributes.values()
    ):
        raise Unsupported(f"operator '{node.name}' ({node.op_type}) is control flow")
    try:
        return [np.asarray(result) for result in _evaluate(node, arrays)]
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
